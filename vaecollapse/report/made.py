"""What other verbs made of a run: directories of their own, which name it, and what an evaluation found there."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from .. import loading
from ..labels import FIGURES, number, written
from ..refusal import Refused
from .series import is_number

ROWS, TEXT = 200, 2000  # of a table, characters of a cell
FIGURE = ["figure", "value", "95 %", ""]


def made_of(root: Path) -> str | None:
    """The run that an evaluation or samples are of."""
    try:
        provenance = loading.read_json(root, "provenance.json")
    except (Refused, OSError, ValueError, RecursionError):
        return None
    told = provenance.get("evaluated") or provenance.get("sampled")
    source = told.get("run") if isinstance(told, Mapping) else None
    return loading.printable(source) if isinstance(source, str) else None


def found(root: Path) -> dict[str, Any] | None:
    """What an evaluation.json holds: `what` was measured, `tables` of its figures and scores (what they are of, the
    head, the rows), and `notes`; None where there is none."""
    try:
        content = loading.read_json(root, "evaluation.json")
    except Refused as error:
        return {"what": "nothing that can be read", "tables": [], "notes": [text(error)]}
    if not content:
        return None
    figures, scores = content.get("figures"), content.get("scores")
    tables = []
    if isinstance(figures, Mapping) and figures:
        rows = [figure(str(name), each) for name, each in figures.items() if isinstance(each, Mapping)]
        tables.append(["", FIGURE, rows[:ROWS]])
    if isinstance(scores, list) and scores:
        floor = "real against real" if "set" in content else "truth"
        rows = [score(each) for each in scores if isinstance(each, Mapping)]
        tables.append([text(content.get("scored")), ["score", "value", "95 %", floor, ""], rows[:ROWS]])
    return {"what": measured(content), "tables": tables, "notes": [*judged(content), *texts(content.get("notes"))]}


def measured(content: Mapping) -> str:
    """Which examples, at which checkpoint, and the verdict on them; without a run, which file or folders."""
    if "checkpoint" not in content:
        against = [text(content.get(name)) for name in ("generated", "real") if content.get(name)]
        return text(content.get("what")) or " against ".join(against) or "what is not told"
    examples, split, checkpoint, step = (text(content.get(k)) for k in ("examples", "split", "checkpoint", "step"))
    said = f"{examples} {split} examples, {checkpoint} of step {step}"
    return f"{said}: {text(content['verdict'])}" if "verdict" in content else said


def figure(name: str, entry: Mapping) -> list[str]:
    """A row: what it is called, its value, half its 95 % interval, and what it says."""
    value, se = (entry.get(key) if is_number(entry.get(key)) else None for key in ("value", "se"))
    _, shown, error, _, word = written(
        name, value, se, None, text(entry.get("status", "measured")), text(entry.get("note"))
    )
    return [FIGURES.get(name, name)[:TEXT], shown, error, word]


def score(entry: Mapping) -> list[str]:
    """A row: name, value, half its 95 % interval by Student's t over blocks, the same of what is real, what to know."""
    value, se, truth, blocks = (
        entry.get(k) if is_number(entry.get(k)) else None for k in ("value", "se", "truth", "blocks")
    )
    error = "" if se is None or not blocks or blocks < 2 else f"± {stdtrit(float(blocks - 1), 0.975) * se:.2g}"
    return [
        text(entry.get("name")),
        number(value),
        error,
        "" if truth is None else number(truth),
        text(entry.get("note")),
    ]


def judged(content: Mapping) -> list[str]:
    """What a set of sounds is, and why."""
    told = content.get("set")
    return [": ".join([text(told.get("word")), "; ".join(texts(told.get("why")))])] if isinstance(told, Mapping) else []


def text(value: object) -> str:
    return "" if value is None else str(value)[:TEXT]


def texts(value: object) -> Iterable[str]:
    return [text(each) for each in value[:ROWS]] if isinstance(value, list) else []
