"""What differs between runs: the knobs that vary, their levels, and the phase table of any two of them."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .series import is_number

MOST, LEVELS, BINS, OTHERS = 24, 24, 12, "others"
# what changes no number of a run
SILENT = ("resume", "trust", "fail_on", "preflight", "probe", "report", "logger", "search", "sweep")
UNSEEN = ("callback", "detector", "trainer", "hydra")  # shown only where they were typed


def varying(configs: Sequence[Mapping[str, Any]], typed: Sequence[Sequence[str]] = ()) -> list[str]:
    """The dotted keys in which configurations differ, of those that differ together the one people type: top-level
    knobs, then choices of groups, then what was typed, then what all of them have.

    >>> varying([{"beta": 1, "regularizer.weight": 1, "lr": 2}, {"beta": 8, "regularizer.weight": 8, "lr": 2}])
    ['beta']
    """
    lines = {line.lstrip("+~").partition("=")[0] for overrides in typed for line in overrides}
    found: list[str] = []
    partitions = set()
    keys = dict.fromkeys(key for config in configs for key in config)
    for key in sorted(keys, key=lambda key: rank(key, lines)):
        group = key.partition(".")[0]
        if group in SILENT or (key not in lines and (group in UNSEEN or any(key not in config for config in configs))):
            continue
        numbers: dict[Any, int] = {}
        parts = tuple(numbers.setdefault(repr(config.get(key)), len(numbers)) for config in configs)
        if len(numbers) > 1 and parts not in partitions:
            partitions.add(parts)
            found.append(key)
    return found[:MOST]


def rank(key: str, typed: set[str]) -> tuple[int, int]:
    """Where a key stands among those that differ together."""
    choice = key.endswith("._target_") and key.count(".") == 1
    return (0 if "." not in key else 1 if choice else 2 if key in typed else 3), key.count(".")


def label(key: str) -> str:
    """As people call it: `model` for `model._target_`."""
    return key.removesuffix("._target_")


def worded(key: str, value: Any) -> str:
    """A value as it is typed; of a class its name."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if is_number(value):
        return f"{value:g}"
    return str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)


def levels(key: str, values: Sequence[Any]) -> tuple[list[str], list[int]]:
    """The levels of a knob in order, and each run's. Numbers of more than `LEVELS` values go into `BINS` bins, on a
    logarithmic scale where they span more than a factor of fifty; of as many names the rarest are one level.

    >>> levels("beta", [8, 0.5, 8, None])
    (['0.5', '8', 'null'], [1, 0, 1, 2])
    """
    numbers = [value for value in values if is_number(value)]
    if len(set(numbers)) > LEVELS:
        return binned(key, values, numbers)
    words = [worded(key, value) for value in values]
    counts = Counter(words)
    if len(counts) > LEVELS:
        kept = {word for word, _ in counts.most_common(LEVELS - 1)}
        words = [word if word in kept else OTHERS for word in words]
    sizes = {worded(key, value): float(value) for value in numbers}
    order = sorted(set(words), key=lambda word: (word == OTHERS, sizes.get(word, math.inf), word))
    return order, [order.index(word) for word in words]


def binned(key: str, values: Sequence[Any], numbers: Sequence[float]) -> tuple[list[str], list[int]]:
    low, high = min(numbers), max(numbers)
    scale = math.log if low > 0 and high / low > 50 else float
    first, width = scale(low), (scale(high) - scale(low)) / BINS
    back = math.exp if scale is math.log else float
    edges = [back(first + i * width) for i in range(BINS + 1)]
    names = [f"{a:.3g} – {b:.3g}" for a, b in itertools.pairwise(edges)]
    rest = sorted({worded(key, value) for value in values if not is_number(value)})
    place = {word: BINS + i for i, word in enumerate(rest)}
    index = [
        min(BINS - 1, int((scale(value) - first) / width)) if is_number(value) else place[worded(key, value)]
        for value in values
    ]
    return [*names, *rest], index


def phase(across: Sequence[int], down: Sequence[int], verdicts: Sequence[str]) -> dict[tuple[int, int], Counter]:
    """How often each verdict was reached at each pair of levels.

    >>> phase([0, 0, 1], [0, 0, 0], ["healthy", "overfit", "healthy"])[0, 0]
    Counter({'healthy': 1, 'overfit': 1})
    """
    found: dict[tuple[int, int], Counter] = {}
    for x, y, verdict in zip(across, down, verdicts, strict=True):
        found.setdefault((x, y), Counter())[verdict] += 1
    return found
