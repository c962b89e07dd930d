"""A run directory, finished or still training: the verdict it holds, read without running anything."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from .. import loading
from ..detectors.base import Finding
from ..diagnosis import Verdict
from ..prescriptions import STATES
from ..refusal import Refused

TAIL = 2**18  # bytes of a growing file that are read from its end
SHOWN = "val/latent/"
MARKS = (".running", ".lock")  # in a directory while a process trains in it


class Recorded(NamedTuple):
    """The verdict, and is it the last word?"""

    verdict: Verdict
    final: bool
    source: str
    notes: list[str]


def recorded(directory: Path | str) -> Recorded:
    """The verdict that a run has reached so far: the one it wrote at its end, else its latest partial one."""
    root = loading.run_directory(directory)
    events = [row for row in tail(root, "events.jsonl") if row.get("event") == "verdict"]
    rows = [row for row in tail(root, "metrics.jsonl") if isinstance(row.get("step"), int)]
    last = events[-1] if events else {}
    content = loading.read_json(root, "verdict.json")
    step = max((row["step"] for row in [*rows, *events] if isinstance(row.get("step"), int)), default=0)
    planned = loading.read_json(root, "preflight.json").get("steps")
    share = f"step {step} of {planned}" if isinstance(planned, int) else f"step {step}"
    if any((root / name).exists() for name in MARKS):
        notes = [f"the run is not finished ({share}): this is its latest partial verdict"]
    elif not content or (isinstance(planned, int) and step < planned - 1):
        notes = [f"the run is not finished and nothing trains it here ({share}): this is its latest partial verdict"]
    else:
        return Recorded(whole(content, root), True, f"the verdict recorded in {root}", [])
    if content and content.get("verdict") == last.get("to", content.get("verdict")):
        return Recorded(whole(content, root), False, f"the partial verdict in {root}", notes)
    return Recorded(partial(rows, last, root), False, f"the partial verdict in {root}", notes)


def partial(rows: list[dict], last: dict, root: Path) -> Verdict:
    """What a run that wrote no verdict yet has said last: the state of its last event, the numbers of its last row."""
    state = last.get("to", "too_early")
    if state not in STATES:
        raise Refused(f"{root / 'events.jsonl'} names a verdict that there is not: copy the run directory again")
    readings = {}
    for row in rows:
        for key, value in row.items():
            if str(key).startswith(SHOWN) and isinstance(value, int | float):
                name = loading.printable(str(key).removeprefix(SHOWN))
                readings[name] = Finding(name, float(value), note=f"step {row['step']}")
    said = [loading.printable(str(line)) for line in as_list(last.get("findings"))]
    return Verdict(
        state,
        "low",
        [],
        said or ["no reading of the latent has been taken yet"],
        [],
        ["the end of training, or its checkpoint measured now (measure=true)"],
        readings,
        [],
        [name for name in ("gap", "rate", "information_rank") if name in readings],
    )


def as_list(value: Any) -> list:
    return value if isinstance(value, list) else []


def whole(content: dict, root: Path) -> Verdict:
    """The verdict of a verdict.json; Refused where it is none."""
    try:
        verdict = Verdict.from_dict(clean(content))
        sound = verdict.verdict in STATES and verdict.confidence in ("high", "medium", "low")
        numbers = [each for f in verdict.readings.values() for each in (f.value, f.se, f.threshold)]
        sound &= all(each is None or isinstance(each, int | float) for each in numbers)
        texts = [*verdict.mechanisms, *verdict.findings, *verdict.refuted, *verdict.missing, *verdict.deciding]
        sound &= all(isinstance(text, str) for text in texts)
        sound &= all(isinstance(f.note, str) and isinstance(f.status, str) for f in verdict.readings.values())
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise unsound(root) from error
    if not sound:
        raise unsound(root)
    return verdict._replace(prescriptions=[p for p in verdict.prescriptions if loading.is_ours(p.command)])


def unsound(root: Path) -> Refused:
    return Refused(
        f"{root / 'verdict.json'} is no verdict as this version writes them: measure the run again with measure=true"
    )


def clean(value: Any) -> Any:
    """A stranger's JSON without what would steer a terminal."""
    if isinstance(value, str):
        return loading.printable(value)
    if isinstance(value, dict):
        return {loading.printable(str(key)): clean(part) for key, part in value.items()}
    return [clean(part) for part in value] if isinstance(value, list) else value


def tail(root: Path, name: str) -> list[dict]:
    """The last JSON objects of an append-only file; torn lines are left out."""
    if not (root / name).exists():
        return []
    file = loading.inside(root, name)
    with file.open("rb") as opened:
        size = file.stat().st_size
        opened.seek(max(0, size - TAIL))
        lines = opened.read(TAIL).decode("utf-8", "replace").splitlines()
    rows = []
    for line in lines[1:] if size > TAIL else lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        rows += [row] if isinstance(row, dict) else []
    return rows
