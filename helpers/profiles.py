"""The sizes of a notebook: those of its profile, unless a parameter asks for another one."""

from numbers import Real


def is_quick(profile: str) -> bool:
    """Return whether a notebook's profile is the quick one.

    Args:
      profile: "quick" or "full".

    Raises:
      ValueError: it is neither of them.
    """
    if profile not in ("quick", "full"):
        raise ValueError(f'profile is {profile!r}, but a notebook has the profiles "quick" and "full"')
    return profile == "quick"


def whole(name: str, value: float | None, default: int, least: int = 1) -> int:
    """Return the whole number that a notebook's parameter gives, or the one of its profile.

    Args:
      name: of the parameter, for the error.
      value: of the parameter. None takes the default.
      default: what the profile takes.
      least: the smallest number with which the notebook works.

    Raises:
      ValueError: the number is no whole one, or smaller than `least`.
    """
    value = default if value is None else value
    if not isinstance(value, Real) or isinstance(value, bool) or not value >= least or value != value // 1:
        raise ValueError(f"{name} is {value!r}, but this notebook needs a whole number of at least {least}")
    return int(value)
