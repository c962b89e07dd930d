"""The rate–distortion plane: which runs may be compared there, which no other run betters, and which is the best."""

from collections.abc import Mapping, Sequence
from typing import Any

Point = tuple[int | float, int | float]


def frontier(points: Sequence[Point]) -> list[bool]:
    """Is a point on the frontier: does no other have at most its rate and its distortion, and less of one?

    >>> frontier([(0, 9), (2, 4), (3, 4), (5, 1)])
    [True, True, False, True]
    """
    kept = [False] * len(points)
    lowest = float("inf")
    for rate in sorted({point[0] for point in points}):
        here = [i for i, point in enumerate(points) if point[0] == rate]
        least = min(points[i][1] for i in here)
        if least < lowest:
            lowest = least
            for i in here:
                kept[i] = points[i][1] == least
    return kept


def groups(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[int | None]]:
    """The names of the sets of runs whose R and D are of one data set and one kind of distortion, and each run's."""
    keys: dict[tuple[str, str], int] = {}
    names: list[str] = []
    of: list[int | None] = []
    for record in records:
        kind = record.get("group")
        if kind is None:
            of.append(None)
            continue
        key = (kind[1], kind[2])
        if key not in keys:
            keys[key] = len(names)
            twin = sum(name.partition(" · ")[0] == kind[0] for name in names)
            names.append(f"{kind[0]} · {twin + 1}" if twin else kind[0])
        of.append(keys[key])
    return names, of


def best(records: Sequence[Mapping[str, Any]], of: Sequence[int | None], group: int) -> int | None:
    """The finished run of a group with the lowest selection value among the healthy ones."""
    sound = [
        (record["selection"][0], i)
        for i, record in enumerate(records)
        if of[i] == group and record["state"] == "finished" and record.get("selection")
        and (record.get("verdict") or {}).get("verdict") == "healthy"
    ]  # fmt: skip
    return min(sound)[1] if sound else None
