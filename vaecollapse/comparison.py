"""Sets of runs against one another: pairs of equal seeds, differences with intervals, and what else differs.

A difference between two runs is the seed's as much as the remedy's; only the mean over pairs of equal seeds, with its
interval, says something of the remedy, and only where nothing but the remedy differs.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy.special import stdtrit

from . import loading
from .refusal import Refused

# Of a run's directory, what must be alike in a fair comparison, and what it means where it is not.
CIRCUMSTANCES = {
    "data": "other data: no number of the two can be compared",
    "likelihood": "another likelihood: D, the bound and the gap are in other units",
    "steps": "another number of steps",
    "encoder_steps": "another number of encoder steps",
    "decoder_steps": "another number of decoder steps",
    "restarts": "another number of optimizer restarts, each a learning rate that starts again",
    "batch_size": "another batch size",
    "lr": "another learning rate",
    "parameters": "another number of parameters",
    "from": "other weights to start from",
    "precision": "another precision",
}


class Trial(NamedTuple):
    """A finished run as it is compared. `readings` are those of its verdict, and what was measured besides;
    `circumstances` as `CIRCUMSTANCES` names them, where the directory tells."""

    name: str
    seed: int
    verdict: str
    readings: Mapping[str, float]
    circumstances: Mapping[str, Any]
    directory: Path | None = None


class Difference(NamedTuple):
    """The mean over pairs of b − a, its 95 % interval by Student's t (infinite for a single pair), and their number."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def settled(self) -> bool:
        """Does the interval exclude 0?"""
        return self.low > 0 or self.high < 0


class Comparison(NamedTuple):
    """`differences` by reading; `unpaired` seeds that only one side has; `confounds` in words."""

    differences: dict[str, Difference]
    seeds: list[int]
    unpaired: list[int]
    confounds: list[str]


def trial(directory: Path | str, name: str | None = None, more: Mapping[str, float] | None = None) -> Trial:
    """What a run's directory says of it, with `more` readings taken of it since.

    Raises Refused where it holds no verdict (a run that has not ended).
    """
    place = loading.run_directory(directory)
    verdict, cfg = loading.read_json(place, "verdict.json"), loading.config_content(place)
    if not verdict:
        raise Refused(f"{place} holds no verdict.json: compare runs that have ended")
    provenance, ended = (loading.read_json(place, name) for name in ("provenance.json", "trained.json"))
    found = {key: each["value"] for key, each in verdict["readings"].items() if isinstance(each.get("value"), float)}
    if isinstance(ended.get("seconds"), float):
        found["seconds"] = ended["seconds"]
    seen = circumstances(cfg, provenance, ended)
    return Trial(name or place.name, int(cfg["seed"]), verdict["verdict"], found | dict(more or {}), seen, place)


def circumstances(cfg: Mapping, provenance: Mapping, ended: Mapping) -> dict[str, Any]:
    """What of a run's files must be alike in a fair comparison, by the names of `CIRCUMSTANCES`."""
    likelihood = cfg["model"].get("likelihood") or {}
    return {
        "data": (provenance.get("data") or {}).get("hash"),
        "likelihood": f"{likelihood.get('_target_', '')} {likelihood.get('scale_mode', '')}".strip(),
        "from": (provenance.get("init_from") or {}).get("sha256"),
        "precision": (cfg.get("trainer") or {}).get("precision"),
        **{name: cfg.get(name) for name in ("batch_size", "lr")},
        **{name: each for name, each in ended.items() if name in CIRCUMSTANCES},
    }


def difference(pairs: Sequence[tuple[float, float]]) -> Difference:
    """Of pairs (a, b) the mean of b − a with its interval.

    >>> difference([(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)])
    Difference(mean=1.0, low=1.0, high=1.0, pairs=3)
    """
    each = [b - a for a, b in pairs]
    mean, n = statistics.fmean(each), len(each)
    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(each) / math.sqrt(n) if n > 1 else math.inf
    return Difference(mean, mean - half, mean + half, n)


def compare(ours: Iterable[Trial], theirs: Iterable[Trial], names: Iterable[str] | None = None) -> Comparison:
    """`theirs` minus `ours` over the seeds both have, for these readings (those of every pair, if none are named).

    Raises Refused where a side has a seed twice, or no seed is on both sides.
    """
    sides = [by_seed(side) for side in (ours, theirs)]
    both = sorted(sides[0].keys() & sides[1].keys())
    if not both:
        raise Refused("the two sets of runs share no seed, so nothing is paired: train both with the same seeds")
    pairs = [(sides[0][seed], sides[1][seed]) for seed in both]
    shared = set.intersection(*(set(each.readings) for pair in pairs for each in pair))
    found = {
        name: difference([(a.readings[name], b.readings[name]) for a, b in pairs])
        for name in (sorted(shared) if names is None else names)
        if name in shared
    }
    unpaired = sorted(sides[0].keys() ^ sides[1].keys())
    return Comparison(found, both, unpaired, confounds(pairs))


def by_seed(side: Iterable[Trial]) -> dict[int, Trial]:
    found: dict[int, Trial] = {}
    for each in side:
        if each.seed in found:
            raise Refused(f"seed {each.seed} is there twice ({found[each.seed].name} and {each.name}): keep one")
        found[each.seed] = each
    return found


def confounds(pairs: Sequence[tuple[Trial, Trial]]) -> list[str]:
    """What else differs within pairs, in words, with the numbers of the first pair that shows it."""
    said = []
    for key, meaning in CIRCUMSTANCES.items():
        seen = [(a.circumstances.get(key), b.circumstances.get(key)) for a, b in pairs]
        known = [pair for pair in seen if key == "from" or None not in pair]  # to start from nothing is known
        odd = next((pair for pair in known if pair[0] != pair[1]), None)
        if odd is not None:
            numbers = "" if key in ("data", "from") else f" ({shown(odd[0])} against {shown(odd[1])})"
            said.append(meaning + numbers)
    return said


def shown(value: Any) -> str:
    return value.rpartition(".")[2] if isinstance(value, str) else f"{value:g}"


def table(runs: Mapping[str, Sequence[Trial]], names: Mapping[str, str], baseline: str, digits: int = 3) -> list[str]:
    """Markdown: a row for each set of runs, with the mean over seeds of every reading and, beside the baseline's, the
    paired difference with its 95 % half-width; verdicts with their counts; confounds as footnotes.

    `names` maps readings to headings. A difference whose interval excludes 0 is bold.
    """
    head = ["", *names.values(), "verdicts"]
    lines, notes = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"], []
    for label, trials in runs.items():
        found = None if label == baseline else compare(runs[baseline], trials, names)
        mark = ""
        if found and found.confounds:
            notes.append("; ".join(found.confounds))
            mark = f" [{len(notes)}]"
        cells = [cell(trials, name, found, digits) for name in names]
        counts = {word: sum(each.verdict == word for each in trials) for word in sorted({t.verdict for t in trials})}
        verdicts = ", ".join(f"`{word}`" + (f" ×{n}" if n > 1 else "") for word, n in counts.items())
        lines.append("| " + " | ".join([f"{label}{mark}", *cells, verdicts]) + " |")
    return [*lines, *(["", *(f"[{i}] {note}.  " for i, note in enumerate(notes, 1))] if notes else [])]


def cell(trials: Sequence[Trial], name: str, found: Comparison | None, digits: int) -> str:
    values = [each.readings[name] for each in trials if name in each.readings]
    if not values:
        return "–"
    said = f"{statistics.fmean(values):.{digits}g}"
    if found is None or name not in found.differences:
        return said
    moved = found.differences[name]
    half = (moved.high - moved.low) / 2
    change = f"{moved.mean:+.{digits}g}" + (f" ± {half:.{max(1, digits - 1)}g}" if math.isfinite(half) else "")
    return f"{said} (**{change}**)" if moved.settled else f"{said} ({change})"
