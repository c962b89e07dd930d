"""The error a user sees as one sentence: what was given, why it cannot be, what to type instead."""

import difflib
from collections.abc import Sequence


class Refused(ValueError):
    """Raised before work starts (or at the first sign of bad input); the command line prints its text and no trace."""


def check_least(where: str, low: int, /, **values: int | float) -> None:
    """Refused unless every value is at least `low`; `where` is the thing they belong to, as it is typed.

    >>> check_least("detector.rate", 1, draws=0)
    Traceback (most recent call last):
    vaecollapse.refusal.Refused: detector.rate.draws must be at least 1, but got 0: type detector.rate.draws=1 or more
    """
    for name, value in values.items():
        if not value >= low:
            raise Refused(
                f"{where}.{name} must be at least {low:g}, but got {value:g}: type {where}.{name}={low:g} or more"
            )


def nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
