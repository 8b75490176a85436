"""The protocol by which notebook 11 compares methods: the same network, start, order, budget and number of trials.

    task = comparison.make_task("mnist", "full")
    settings = {"ivon": comparison.METHODS["ivon"].trials[0]}
    posterior = comparison.METHODS["ivon"].train(task, 0, settings, folder)
    row = comparison.scores(posterior, task)

A seed fixes the initial weights, the order of the examples, the augmentation and the noise. The last examples of the
training set are held out. They choose the setting of a method among its trials, and they fit the temperature. The
test set is used for `scores` and `shift_scores` alone.
"""

from helpers.train.comparison.methods import MEMBERS, METHODS, chosen, tried
from helpers.train.comparison.scores import held_out_scores, scores, shift_scores
from helpers.train.comparison.task import TASKS, Task, make_task

__all__ = [
    "MEMBERS",
    "METHODS",
    "TASKS",
    "Task",
    "chosen",
    "held_out_scores",
    "make_task",
    "scores",
    "shift_scores",
    "tried",
]
