"""A notebook's parameters: the profile's sizes, other ones, and what is refused by name."""

from helpers import profiles

import numpy as np
import pytest


def test_a_parameter_counts_more_than_the_profile():
    assert profiles.is_quick("quick") and not profiles.is_quick("full")
    assert profiles.whole("epochs", None, 3) == 3
    assert {profiles.whole("epochs", value, 3) for value in (7, 7.0, np.int64(7))} == {7}
    assert profiles.whole("seed", 0, 3, least=0) == 0


@pytest.mark.parametrize("profile", ["qiuck", "", None, "QUICK"])
def test_an_unknown_profile_is_refused(profile):
    with pytest.raises(ValueError, match='"quick" and "full"'):
        profiles.is_quick(profile)


@pytest.mark.parametrize("value", [0, -1, 2.5, float("nan"), float("inf"), "3", True, [3], 1])
def test_a_size_that_cannot_be_is_refused_by_its_name(value):
    with pytest.raises(ValueError, match="num_seeds is .* a whole number of at least 2"):
        profiles.whole("num_seeds", value, 3, least=2)


def test_a_default_that_the_environment_gives_is_checked_too():
    with pytest.raises(ValueError, match="ranks is 1, .* at least 2"):
        profiles.whole("ranks", None, 1, least=2)
