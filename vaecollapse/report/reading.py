"""One run directory as plain values, finished or not, whole or broken; nothing of it is carried out."""

import fcntl
import json
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import __version__, loading
from ..comparison import circumstances
from ..refusal import Refused
from .folders import Place
from .made import found, made_of
from .series import Number, heat, is_number, of_rows
from .verdict import Record, event_row, partial, shown

FILES = ("config.yaml", "overrides.txt", "provenance.json", "preflight.json", "trained.json", "verdict.json",
         "metrics.jsonl", "units.csv", "events.jsonl", "job.json")  # fmt: skip
LOST = ("refused", "failed", "killed", "interrupted", "unfinished")  # what else than a verdict becomes of a sweep's job
HELD = (".running", ".lock")  # in a directory while a process trains in it
POINTS = 400  # of a series
LONGEST, WHOLE, MOST_UNITS = 2**18, 2**25, 2**28  # bytes: of a line, of what is read line by line, of a units.csv
EVENTS, TEXT = 300, 2000  # events that are shown, characters of a reason
HEAD = b"epoch,step,unit,reading,value"
# what hostile content may raise, whatever it is
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def read(place: Place, *, own: bool = False) -> Record:
    """What there is to show of a directory; what cannot be read is said in `note` and never raised.

    `own`: the process that trained it reads it, and it has ended.
    """
    record = {"name": place.name, "path": str(place.path), "state": "broken", "note": place.fault}
    if place.fault:
        return record | {"state": "foreign"}
    try:
        return record | _read(place.path, own)
    except Refused as error:
        source, content = made_of(place.path), found(place.path)
        if source is not None or content is not None:
            note = f"made of the run {source}: give that one too" if source else "names no run"
            return record | {"state": "foreign", "note": note, "of": source, "found": content}
        foreign = "describes no trained model" in str(error)
        return record | {"state": "foreign" if foreign else "broken", "note": str(error)}
    except UNREADABLE as error:
        return record | {"note": f"cannot be read ({type(error).__name__}: {loading.printable(str(error))[:200]})"}


def _read(root: Path, own: bool) -> Record:
    if not os.path.lexists(root / "config.yaml"):
        if job := lost(root):
            return dict(zip(("state", "note"), job, strict=True))
        raise Refused("has no config.yaml")
    cfg = loading.config_content(root)
    faults: list[str] = []

    def tried(what: Callable[..., Any], name: str, empty: Any) -> Any:
        try:
            return what(root, name) if os.path.lexists(root / name) else empty
        except (Refused, OSError, ValueError, RecursionError) as error:
            faults.append(str(error))
            return empty

    provenance, preflight, ended, verdict = (
        tried(loading.read_json, name, {})
        for name in ("provenance.json", "preflight.json", "trained.json", "verdict.json")
    )
    metrics, events = (tried(rows, name, []) for name in ("metrics.jsonl", "events.jsonl"))
    series = of_rows(metrics, POINTS)
    step = max((steps[-1] for steps, _ in series.values()), default=0)
    planned = preflight.get("steps")
    state, note = progress(root, bool(ended), step, planned, own)
    evidence = shown(verdict) if verdict else None
    if verdict and evidence is None:
        faults.append("verdict.json is no verdict as this version writes them")
    told = [event for event in events if event.get("event") == "verdict"]
    if evidence is None or (state != "finished" and told and told[-1].get("to") != evidence["verdict"]):
        evidence = partial(told[-1] if told else {}, series) if told or state != "finished" else evidence
    written_by = str(provenance.get("vaecollapse", __version__))
    if written_by != __version__:
        faults.append(f"written by vaecollapse {loading.printable(written_by)}, read by {__version__}")
    typed = tried(loading.read_text, "overrides.txt", "").splitlines()
    overrides = [loading.printable(line) for line in typed]  # they go to terminals, by way of a copy
    of_units = tried(units, "units.csv", heat({}) | {"exact": True})
    return {
        "state": state,
        "note": "; ".join(filter(None, [note, *faults])),
        "verdict": evidence,
        "knobs": flat(cfg),
        "seed": cfg.get("seed"),
        "overrides": overrides,
        "command": shlex.join(["vaecollapse-train", *overrides]),
        "series": series,
        "heat": of_units,
        "events": [event_row(event) for event in events[-EVENTS:]],
        "planned": planned if is_number(planned) else None,
        "step": step,
        "selection": selection(metrics),
        "plan": plan(preflight),
        "ended": {name: value for name, value in ended.items() if is_number(value)},
        "provenance": provenance,
        "circumstances": circumstances(cfg, provenance, ended),
        "group": kind(cfg, provenance),
    }


# ---- how far it is


def progress(root: Path, ended: bool, step: Number, planned: object, own: bool) -> tuple[str, str]:
    """finished, running or stopped, and in words."""
    far = f"step {step:g} of {planned}" if is_number(planned) else f"step {step:g}"
    marks = [] if own else [root / name for name in HELD if os.path.lexists(root / name)]
    if any(map(is_held, marks)):
        return "running", f"still training ({far})"
    if own or (not marks and (ended or (isinstance(planned, int) and step >= planned - 1))):
        return "finished", ""
    job = lost(root)
    return "stopped", f"not finished, and nothing trains it here ({far})" + (f", {': '.join(job)}" if job else "")


def lost(root: Path) -> tuple[str, ...]:
    """What became of a job that its sweep lost, and why; nothing of any other run."""
    try:
        job = loading.read_json(root, "job.json")
    except Refused:
        return ()
    outcome, reason = job.get("outcome"), job.get("reason") or "no reason is written"
    return (str(outcome), loading.printable(" ".join(str(reason)[:TEXT].split()))) if outcome in LOST else ()


def is_held(path: Path) -> bool:
    """Does a process of this machine hold the record lock on this file?"""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return False
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a file system without locks: the mark is all there is
        return True
    finally:
        os.close(handle)
    return False


# ---- the files


def rows(root: Path, name: str) -> list[dict]:
    """The objects of an append-only file; torn lines are left out. Of a file beyond `WHOLE` bytes all validations, and
    every n-th of the other lines."""
    file = loading.inside(root, name)
    each = max(1, file.stat().st_size // WHOLE)
    found = []
    for number, line in enumerate(lines(file)):
        if each > 1 and number % each and b'"val/' not in line:
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        found += [row] if isinstance(row, dict) else []
    return found


def lines(file: Path) -> Iterator[bytes]:
    """Line by line, none longer than `LONGEST` bytes."""
    with file.open("rb") as opened:
        yield from iter(lambda: opened.readline(LONGEST), b"")


def units(root: Path, name: str) -> dict:
    """The heat map of a units.csv; `exact` is False for a flow, of which only the KL in its base space is per unit."""
    file = loading.inside(root, name)
    if file.stat().st_size > MOST_UNITS:
        raise Refused(f"{file} is larger than {MOST_UNITS >> 20} MB: its units are not shown")
    found: dict[str, dict[int, dict[int, float]]] = {}
    for number, line in enumerate(lines(file)):
        if not number and line.strip() != HEAD:
            raise Refused(f"{file} has other columns than a run writes: its units are not shown")
        if (b",kl," not in line and b",kl_base," not in line) or not line.endswith(b"\n"):
            continue
        try:
            _, step, unit, reading, value = line.split(b",")
            found.setdefault(reading.decode(), {}).setdefault(int(step), {})[int(unit)] = float(value)
        except ValueError:
            continue
    exact = "kl" in found or not found
    return heat(found.get("kl" if exact else "kl_base", {})) | {"exact": exact}


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a configuration by their dotted names; a list is one leaf."""
    found = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list) else value
    return found


def kind(cfg: Mapping, provenance: Mapping) -> list[str]:
    """What D and R are of: runs are compared where both are the same. Generated data are what generates them, whatever
    the seed; files are what is in them."""
    data, made = provenance.get("data") or {}, dict(cfg["dataset"])
    own = {key: value for key, value in made.items() if key not in ("seed", "batch_size", "num_workers")}
    of_data = str(data.get("hash")) if data.get("files") else json.dumps(own, sort_keys=True)
    likelihood = cfg["model"].get("likelihood") or {"_target_": cfg["model"].get("_target_", "")}
    names = [str(node.get("_target_", "")).rpartition(".")[2] for node in (made, likelihood)]
    return [f"{names[0]}, {names[1]}", of_data, json.dumps(likelihood, sort_keys=True)]


def selection(metrics: list[dict]) -> list[Number] | None:
    """The best selection value and its step."""
    keys = ("val/selection", "step")
    found = [[row[key] for key in keys] for row in metrics if all(is_number(row.get(key)) for key in keys)]
    return min(found) if found else None


def plan(preflight: Mapping) -> list[list[str]]:
    """What was known before step 1, as label and number."""
    forecast = preflight.get("forecast")
    told = {
        "latent units": preflight.get("units"),
        "steps": preflight.get("steps"),
        "warm-up ends at step": preflight.get("warmup_ends"),
        "β": preflight.get("beta"),
        "effective β (ELBO = 1)": preflight.get("beta_effective"),
        "directions forecast": preflight.get("directions"),
        "directions at effective β = 1": preflight.get("at_one"),
        "e": forecast.get("e") if isinstance(forecast, Mapping) else None,
    }
    return [[label, f"{value:.5g}"] for label, value in told.items() if is_number(value)]
