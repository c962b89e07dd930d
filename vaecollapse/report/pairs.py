"""Settings of a sweep against one another: runs alike but for the seed are one setting, equal seeds make pairs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..comparison import Comparison, Trial, compare
from ..refusal import Refused
from .knobs import label, worded

NAMES = {"gap": "value of z", "rate": "R", "information_rank": "rank", "distortion": "D", "selection": "selection"}
EVERY, MOST = 10, 60  # settings: so many against each other, beyond them so many against the baseline


class Setting(NamedTuple):
    """What its runs have in common, as it is typed, and one run for each seed (the last of several)."""

    name: str
    trials: list[Trial]


def settings(records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Setting]:
    """The settings of the finished runs with a verdict, in the order in which they come first."""
    own = [key for key in keys if key != "seed"]
    found: dict[str, dict[int, Trial]] = {}
    for record in records:
        if record["state"] != "finished" or not record.get("verdict") or not isinstance(record.get("seed"), int):
            continue
        name = " ".join(f"{label(key)}={worded(key, record['knobs'].get(key))}" for key in own) or "all runs"
        found.setdefault(name, {})[record["seed"]] = trial(record)
    return [Setting(name, list(trials.values())) for name, trials in found.items()]


def trial(record: Mapping[str, Any]) -> Trial:
    readings = dict(record["verdict"]["values"])
    if record.get("selection"):
        readings["selection"] = record["selection"][0]
    return Trial(record["name"], record["seed"], record["verdict"]["verdict"], readings, record["circumstances"])


def baseline(found: Sequence[Setting]) -> int:
    """The setting with the most healthy runs, of several the one with the lowest mean selection value."""

    def merit(setting: Setting) -> tuple[float, float]:
        values = [each.readings["selection"] for each in setting.trials if "selection" in each.readings]
        sound = sum(each.verdict == "healthy" for each in setting.trials) / len(setting.trials)
        return -sound, sum(values) / len(values) if values else float("inf")

    return min(range(len(found)), key=lambda i: merit(found[i]))


def compared(found: Sequence[Setting]) -> Iterator[tuple[int, int, Comparison]]:
    """Baseline, other, and the other minus the baseline; pairs of settings that share no seed are left out."""
    first = baseline(found)
    bases = range(len(found)) if len(found) <= EVERY else [first]
    for base in bases:
        others = [i for i in range(len(found)) if i != base][:MOST]
        for other in others:
            try:
                yield base, other, compare(found[base].trials, found[other].trials, NAMES)
            except Refused:
                continue
