"""What a screen can show of a series: fewer points with the same ends and extremes, and the KL of units as a table."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

Number = int | float
Numbers = list[Number | None]
MOST_ROWS = 128  # of a heat map


def rounded(value: Number | None, digits: int = 5) -> float | None:
    """To so many significant digits; what is not finite is None.

    >>> rounded(1234.5678), rounded(float("nan")), rounded(0.000123456, 3)
    (1234.6, None, 0.000123)
    """
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def thinned(steps: Sequence[Number], values: Sequence[Number], most: int) -> tuple[list[Number], list[Number]]:
    """At most `most` of the points, in order: both ends, and of each stretch between them its lowest and highest.

    >>> thinned([0, 1, 2, 3, 4, 5], [0, 9, 1, 1, -9, 0], 4)
    ([0, 1, 4, 5], [0, 9, -9, 0])
    """
    count = len(steps)
    if count <= most:
        return list(steps), list(values)
    stretches = max(1, (most - 2) // 2)
    kept = {0, count - 1}
    for part in range(stretches):
        inner = range(1 + part * (count - 2) // stretches, 1 + (part + 1) * (count - 2) // stretches)
        if inner:
            kept |= {min(inner, key=values.__getitem__), max(inner, key=values.__getitem__)}
    places = sorted(kept)
    return [steps[i] for i in places], [values[i] for i in places]


def of_rows(rows: Sequence[Mapping], most: int) -> dict[str, tuple[list[Number], Numbers]]:
    """Every finite number of metrics rows by its name, thinned."""
    found: dict[str, tuple[list[Number], list[Number]]] = {}
    for row in rows:
        step = row.get("step")
        if not is_number(step):
            continue
        for name, value in row.items():
            if name not in ("step", "epoch") and is_number(value):
                steps, values = found.setdefault(str(name), ([], []))
                steps.append(step)
                values.append(value)
    return {name: again(in_time(*pair), most) for name, pair in found.items()}


def is_number(value: Any) -> TypeGuard[int | float]:
    """Finite, and no whole number that is too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def in_time(steps: list[Number], values: list[Number]) -> tuple[list[Number], list[Number]]:
    """By step; of several readings at one step the last."""
    last = dict(zip(steps, values, strict=True))
    order = sorted(last)
    return order, [last[step] for step in order]


def again(pair: Sequence[Sequence[Number]], most: int) -> tuple[list[Number], Numbers]:
    """A series thinned further, its numbers short."""
    steps, values = thinned(pair[0], pair[1], most)
    return steps, [rounded(value) for value in values]


def heat(readings: Mapping[int, Mapping[int, Number]], rows: int = MOST_ROWS, columns: int = 200) -> dict[str, Any]:
    """Per-unit KL over time, of `readings` (step → unit → KL): `units` (highest final KL first), `steps`, `kl` (a row
    for each of `units` over `steps`, None where nothing was read), and `of`, how many units there are. Of more units
    than rows those at even distances in that order are shown, the first and last among them; of readings likewise."""
    steps = spread(sorted(step for step in readings if abs(step) <= sys.float_info.max), columns)
    if not steps:
        return {"units": [], "steps": [], "kl": [], "of": 0}
    final = readings[steps[-1]]
    order = sorted({unit for each in readings.values() for unit in each}, key=lambda u: (-final.get(u, -math.inf), u))
    units = spread(order, rows)
    table = [[rounded(readings[step].get(unit), 3) for step in steps] for unit in units]
    return {"units": units, "steps": steps, "kl": table, "of": len(order)}


def smaller(found: Mapping[str, Any], rows: int, columns: int) -> dict[str, Any]:
    """A heat map at fewer rows and columns."""
    r, c = spread(list(range(len(found["units"]))), rows), spread(list(range(len(found["steps"]))), columns)
    units, steps, kl = ([found[name][i] for i in at] for name, at in (("units", r), ("steps", c), ("kl", r)))
    return {**found, "units": units, "steps": steps, "kl": [[row[j] for j in c] for row in kl]}


def spread(items: Sequence[int], most: int) -> list[int]:
    """At most so many, at even distances, first and last among them.

    >>> spread([1, 2, 3, 4, 5], 3)
    [1, 3, 5]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, most - 1))] for i in range(most)]
