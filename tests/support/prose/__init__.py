"""Checks that keep the prose of the notebooks and documents readable.

`python -m tests.support.prose FILE...` prints what they find, and how long the sentences are. tests/unit/test_prose.py
runs them over every file. exceptions.yaml has the files that are not checked yet and the numbers that no cell prints,
each with a reason; words.txt has the words that the spelling checker does not know.

A check takes a `Text` and yields a sentence for each problem.
"""
