"""Deep ensembles: networks that were trained from different starts, and their training on many ranks."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from helpers.distributed import ALONE, World
from helpers.inference import Posterior, is_bayesian

import tf_keras as keras


class Ensemble:
    """The equal mixture of several networks or posteriors.

    The predictive distribution is the mean of the members' (Lakshminarayanan, Pritzel and Blundell 2017,
    arXiv:1612.01474, section 2.4). We do not use the adversarial training of their section 2.3.

    Deterministic models are the networks themselves, in order. If the members are posteriors whose draws never run out,
    such as IVON's or a model with Bayesian layers, network s is draw s of member s modulo M. So take a multiple of M
    draws, which gives all members the same weight. A model whose own layers draw numbers in their call counts as one
    network here. Wrap it in a posterior of your own, with `members` and `fixed`.

    Args:
      members: built Keras models or posteriors, at least one, that take the same inputs.

    Raises:
      ValueError: there is no member, two members have the same model, or the draws of some members run out and those
        of others do not.
      TypeError: a member is neither a model nor a posterior.
    """

    def __init__(self, members: Sequence[keras.Model | Posterior]):
        self._members = list(members)
        if not self._members:
            raise ValueError("expected at least one member, found none")
        if unknown := [type(m).__name__ for m in self._members if not isinstance(m, keras.Model | Posterior)]:
            raise TypeError(f"expected Keras models or posteriors, found {', '.join(unknown)}")
        models = [id(m) for m in (getattr(each, "model", each) for each in self._members) if isinstance(m, keras.Model)]
        if len(set(models)) < len(models):
            raise ValueError("two members have the same model. Build and train a new model for each member.")
        sizes = [_networks(member) for member in self._members]
        finite = [size for size in sizes if size is not None]
        if 0 < len(finite) < len(sizes):
            raise ValueError(
                f"expected members of one kind, found {sizes} networks (None: draws never run out). They cannot have "
                "equal weights. Make one ensemble of the networks and another one of the posteriors."
            )
        self.members: int | None = sum(finite) if finite else None
        self._places = [(member, draw) for member, size in zip(self._members, sizes, strict=True)
                        for draw in range(size or 0)]  # fmt: skip

    @contextmanager
    def fixed(self, seed: int, number: int) -> Iterator[keras.Model]:
        """Yield the model of network `number`."""
        member, draw = self._places[number] if self._places else (self._members[number % len(self._members)], number)
        if isinstance(member, keras.Model):
            yield member
        else:
            with member.fixed(seed, draw) as model:
                yield model


def _networks(member: keras.Model | Posterior) -> int | None:
    if isinstance(member, keras.Model):
        return None if is_bayesian(member) else 1
    return member.members


def train_members(train: Callable[[int], Any], members: int, world: World = ALONE) -> list:
    """Train the members of an ensemble on the ranks, each alone, and return what `train` gave for all of them.

    Member m is trained on rank m modulo the number of ranks, and no gradient is averaged. `train` gives each member a
    start, an order of examples and noise of its own, and lets it train in the world of one rank:

        def train(member):
            model = models.build("CNN_conv", seed=member)
            fit(model, x, y, seed=member)        # Run's world is ALONE, unless you say otherwise
            return model.get_weights()

        ensemble = Ensemble([with_weights(w) for w in train_members(train, 5, world)])

    After each round of as many members as there are ranks, the ranks wait for each other. So a failure ends all of them
    after one round. If a member takes longer than $HOROVOD_STALL_SHUTDOWN_TIME_SECONDS, which is 1,800 seconds unless
    you set it, and some ranks have none to train, raise this limit.

    Args:
      train: a function from the number of a member to its weights, or to anything else that can be pickled.
      members: the number of members, at least 1.
      world: the ranks. Every rank calls with the same arguments.

    Returns:
      The results of `train` in the order of the members, on every rank.

    Raises:
      ValueError: there is no member.
      Exception: what `train` raised, on the rank where it did.
      distributed.RankFailure: a member failed on another rank.
    """
    if members < 1:
        raise ValueError(f"expected at least 1 member, found {members}")
    results = []
    for first in range(0, members, world.size):
        failure = None
        try:
            if first + world.rank < members:
                results.append(train(first + world.rank))
                pickle.dumps(results[-1])  # what cannot be sent is an error here, where all ranks learn of it
        except Exception as error:
            failure = error
        world.agree(failure)
    everyone = world.gather_objects(results)
    return [everyone[member % world.size][member // world.size] for member in range(members)]
