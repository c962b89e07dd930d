"""How the value of z and the rate move from reading to reading: is a latent fading, has a training settled?"""

from collections.abc import Sequence
from itertools import pairwise
from math import hypot
from typing import NamedTuple

from scipy.special import ndtri

FADED = 0.75  # of the best value of z that there was at this price: what is left of one that fades
ERROR = 0.01  # false alarms from readings that scatter about one level: at most 4 % of runs of 30, 7 % of 300


class Row(NamedTuple):
    """One reading: the share of training that is done, the value of z with its standard error and the size that matters
    of it, and R."""

    share: float
    gap: float
    rate: float
    se: float
    size: float


def at_the_price(trend: Sequence[Row], settled_at: float | None) -> list[Row]:
    """The readings since the KL weight reached its end: while a price rises, a sound latent pays with some of z."""
    return [row for row in trend if settled_at is not None and row.share >= settled_at]


def best(rows: Sequence[Row]) -> tuple[float, float]:
    """The highest mean of two readings in a row, and the larger of their standard errors. (The highest single one is
    so by chance.)"""
    return max(((one.gap + other.gap) / 2, max(one.se, other.se)) for one, other in pairwise(rows))


def has_fallen(trend: Sequence[Row], settled_at: float | None) -> bool:
    """Is the last reading below `FADED` of the best before? One alone may be an accident of training: it is worth
    another at once."""
    rows = at_the_price(trend, settled_at)
    return len(rows) > 2 and rows[-1].gap < FADED * best(rows[:-1])[0]


def fading(trend: Sequence[Row], settled_at: float | None) -> bool:
    """Does z lose its value at a KL weight that no longer moves?

    Both of the last two readings lie below `FADED` of the best before them, and their mean by more than what matters
    and than the best of n levels explains: the normal limit at `ERROR`/n² for the n-th reading (Bonferroni over levels
    and readings), so that of runs whose readings only scatter at most `ERROR`·(1 + ln n) sound an alarm.

    >>> readings = [Row(0.1 * k, gap, 5.0, 0.2, 0.1) for k, gap in enumerate((8.0, 8.2, 7.9, 5.0, 4.8))]
    >>> fading(readings[:-1], 0.0), fading(readings, 0.0)
    (False, True)
    """
    rows = at_the_price(trend, settled_at)
    if len(rows) < 4:
        return False
    (level, se), last = best(rows[:-2]), rows[-2:]
    noise = hypot(se, max(row.se for row in last)) / 2**0.5  # both are means of two
    least = max(float(ndtri(1 - ERROR / len(rows) ** 2)) * noise, last[-1].size)
    fall = level - (last[0].gap + last[1].gap) / 2
    return level > last[-1].size and max(row.gap for row in last) < FADED * level and fall > least


def unsettled(trend: Sequence[Row]) -> float | None:
    """How far gap or R moved over the last fifth of training, relative, beyond what their noise explains; where fewer
    than two readings lie in it, from the last two of all, in proportion. What is too small to matter is taken off with
    the noise."""
    last = [row for row in trend if row.share >= 0.8]
    last = last if len(last) > 1 else trend[-2:]
    if len(last) < 2 or last[-1].share <= last[0].share:
        return None
    first, final = last[0], last[-1]
    part, noise = min(1.0, 0.2 / (final.share - first.share)), 2 * max(row.se for row in last)
    gap, rate = (
        max(0.0, abs(end - start) - slack) / max(abs(start), abs(end), 1e-9)
        for start, end, slack in ((first.gap, final.gap, max(noise, final.size)), (first.rate, final.rate, 0.1))
    )
    return part * max(gap, rate)
