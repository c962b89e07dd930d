"""Readings asked by name: their values, limits and intervals, and what several of them say together."""

import math
from collections.abc import Mapping

from scipy.special import stdtrit

from ..detectors.base import Z95, Finding
from .facts import Facts

Readings = Mapping[str, Finding]
MISSING = Finding("missing", None, status="undefined", note="not measured")


class _Values(dict):
    def __missing__(self, name: str) -> float:
        return float("nan")


def phrase(template: str, readings: Readings, **more: float | str) -> str:
    """A sentence with readings filled in by name."""
    known = {name: finding.value for name, finding in readings.items() if finding.value is not None}
    return template.format_map(_Values(known | more))


def value(readings: Readings, name: str, default: float = float("nan")) -> float:
    found = readings.get(name, MISSING).value
    return default if found is None else found


def status(readings: Readings, name: str) -> str:
    return readings.get(name, MISSING).status


def reached(readings: Readings, name: str) -> bool:
    """Is the reading at or above its own threshold?"""
    found = readings.get(name, MISSING)
    return found.value is not None and found.threshold is not None and found.value >= found.threshold


def interval(finding: Finding) -> tuple[float, float]:
    """The 95 % interval of a reading."""
    centre, half = finding.value or 0.0, Z95 * (finding.se or 0.0)
    return centre - half, centre + half


def directions(readings: Readings) -> float:
    """Informative directions: the rank, or 1 where I is present and the rank sees nothing (it is blind to σ)."""
    return max(value(readings, "information_rank", 0.0), float(status(readings, "mi") == "material"))


def counts_all(readings: Readings, facts: Facts) -> bool:
    """Does the rank see what there is? It takes enough examples, and most of I in the means: to what σ alone tells it
    is blind, and no direction that it misses may convict."""
    mi, means = readings.get("mi", MISSING), value(readings, "information_in_means")
    blind = mi.status == "material" and interval(mi)[0] > facts.bars.blind * means
    return readings.get("information_rank", MISSING).status == "measured" and not blind


def at_most(readings: Readings, facts: Facts) -> float | None:
    """The most directions that can carry information: the rank (times the positions of a spatial latent) where it sees
    all, and never more than there are live units. None where neither is known."""
    known = []
    if counts_all(readings, facts):
        known.append(value(readings, "directions_at_most", directions(readings)))
    if (dead := readings.get("dead_units", MISSING).value) is not None and "units" in readings:
        known.append(value(readings, "units") - dead)
    return max(min(known), float(status(readings, "mi") == "material")) if known else None


def small_interval(finding: Finding) -> tuple[float, float]:
    """The 95 % interval of a mean of few examples, by Student's t."""
    half = float(stdtrit(finding.n - 1, 0.975)) * (math.inf if finding.se is None else finding.se)
    return (finding.value or 0.0) - half, (finding.value or 0.0) + half
