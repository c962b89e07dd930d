"""Records of runs as the plain values that the page draws, and the page itself: one file that needs no other."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from .. import __version__
from ..labels import NAMES
from ..prescriptions import MEANING, STATES
from . import knobs, pairs, plane
from .reading import POINTS, Record
from .samples import Purse, counted, embedded, listed
from .series import again, smaller

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("base.js", "run.js", "runs.js", "start.js")
# title, series, and whether its axis begins at 0
PANELS = [
    ["value of z (gap)", ["val/latent/gap", "train/latent/gap"], True],
    ["information rank", ["val/latent/information_rank"], True],
    ["rate R (nats)", ["val/latent/rate", "train/latent/rate"], True],
    ["distortion D", ["val/distortion", "train/distortion"], False],
    ["selection value", ["val/selection"], False],
    ["weight of the KL", ["train/objective/weight_applied", "train/objective/weight_declared"], True],
    ["objective", ["train/objective/total", "train/objective/penalty"], False],
    ["learning rate", ["train/lr"], True],
]
DRAWN = frozenset(name for _, names, _ in PANELS for name in names)
EMBEDDED = 8 * 2**20  # bytes of sounds and pictures in a page
FEW = 8  # runs of which samples are embedded
MEASURED = 2 * 2**20  # bytes of evaluations in a page
SERIES = 4 * 2**20  # bytes of series in a page, about
POINT, FEWEST = 16, 12  # bytes of a point of a series; points that still show a course


def data_of(records: Sequence[Record], command: str, made: str) -> dict[str, Any]:
    """Everything the page shows. `command` is the line that made it, `made` when."""
    read = [record for record in records if "knobs" in record]
    other, besides = attached(read, [record for record in records if "knobs" not in record])
    loose = [record for record in other if record.get("found") is not None]
    keys = knobs.varying([record["knobs"] for record in read], [record["overrides"] for record in read])
    names, of = plane.groups(read)
    on = on_frontier(read, of)
    purse = Purse(EMBEDDED if len(read) <= FEW else 0)
    evaluations = Purse(MEASURED)
    points = max(FEWEST, min(POINTS, SERIES // (POINT * 12 * max(1, len(read)))))
    bests = [plane.best(read, of, group) for group in range(len(names))]
    return {
        "version": __version__,
        "made": made,
        "command": command,
        "states": [[state, MEANING[state]] for state in STATES],
        "panels": PANELS,
        "names": {f"val/latent/{name}": text for name, text in NAMES.items()},
        "knobs": [knob(key, read) for key in keys],
        "groups": names,
        "best": [[group, i, read[i]["command"]] for group, i in enumerate(bests) if i is not None],
        "runs": [
            run(r, of[i], on[i], keys, points, purse, len(read), evaluations, besides[i]) for i, r in enumerate(read)
        ],
        "left_out": left_out([each for made in besides for each in made], len(read), evaluations.left_out),
        "loose": [unrelated(r, evaluations, purse if len(loose) <= FEW else Purse(0)) for r in loose],
        "unread": [[r["name"], r["state"], r["note"]] for r in other if r.get("found") is None],
        "pairs": paired(read, of),
        "readings": list(pairs.NAMES.items()),
    }


def attached(read: Sequence[Record], others: Sequence[Record]) -> tuple[list[Record], list[list[Record]]]:
    """What is made of none of these runs, and for each run what other verbs made of it."""
    index = {Path(record["path"]).resolve(): i for i, record in enumerate(read)}
    left, besides = [], [[] for _ in read]
    for record in others:
        at = index.get(Path(record["of"]).resolve()) if record.get("of") else None
        if at is None:
            left.append(record)
        else:
            besides[at].append(record)
    return left, besides


def left_out(made: Sequence[Record], count: int, full: int = 0) -> str:
    """What of that a page of so many runs has no room for; of `full` evaluations no more than the name stands there."""
    samples = sum(record["found"] is None for record in made) if count > FEW else 0
    told = [f"{samples} × directory of samples, as these are more than {FEW} runs"] if samples else []
    told += [f"the figures of {full} × evaluation, beyond {MEASURED >> 20} MB of them"] if full else []
    return f"left out: {'; '.join(told)}" if told else ""


def measured(record: Record, purse: Purse) -> dict[str, Any]:
    """What an evaluation found, by its name, as far as there is room."""
    found = record["found"]
    if not purse.takes(len(json.dumps(found))):
        found = {"what": found["what"], "tables": [], "notes": ["its figures are left out: too many for this page"]}
    return found | {"name": record["name"], "path": record["path"]}


def unrelated(record: Record, purse: Purse, pictures: Purse) -> dict[str, Any]:
    """An evaluation of a run that is not here, or of none, as of a folder or a file; with its pictures."""
    found = measured(record, purse) | {"of": record["of"] or ""}
    return found | {"pictures": list(listed(Path(record["path"]), pictures))}


def knob(key: str, records: Sequence[Record]) -> dict[str, Any]:
    """A knob that varies: its levels in order, and each run's."""
    words, index = knobs.levels(key, [record["knobs"].get(key) for record in records])
    return {"name": knobs.label(key), "levels": words, "index": index}


def figure(record: Record, reading: str) -> int | float | None:
    return (record.get("verdict") or {}).get("values", {}).get(reading)


def on_frontier(records: Sequence[Record], of: Sequence[int | None]) -> list[bool | None]:
    """Of finished runs with R and D: does none of their group better them?"""
    found: list[bool | None] = [None] * len(records)
    for group in {each for each in of if each is not None}:
        inside = [
            (i, (rate, distortion))
            for i, record in enumerate(records)
            if of[i] == group and record["state"] == "finished"
            and (rate := figure(record, "rate")) is not None
            and (distortion := figure(record, "distortion")) is not None
        ]  # fmt: skip
        for (i, _), kept in zip(inside, plane.frontier([point for _, point in inside]), strict=True):
            found[i] = kept
    return found


def run(
    record: Record,
    group: int | None,
    kept: bool | None,
    keys: Sequence[str],
    points: int,
    purse: Purse,
    count: int,
    evaluations: Purse,
    besides: Sequence[Record] = (),
) -> dict[str, Any]:
    """One run: what stands in the table, and what is shown where it is opened."""
    verdict = record["verdict"]
    selection, seconds = record["selection"], record["ended"].get("seconds")
    numbers = {name: figure(record, name) for name in ("gap", "rate", "distortion", "information_rank")}
    evidence = {k: v for k, v in (verdict or {}).items() if k != "values" and (count <= FEW or k != "others")}
    series = {name: again(pair, points) for name, pair in record["series"].items() if count <= FEW or name in DRAWN}
    note = "; ".join(filter(None, [record["note"], left_out(besides, count)]))
    root, shown = Path(record["path"]), [Path(each["path"]) for each in besides]
    events = record["events"] if count <= FEW else record["events"][-max(20, points // 4) :]
    return {
        "name": record["name"], "path": record["path"], "state": record["state"], "note": note,
        "verdict": verdict["verdict"] if verdict else "", "group": group, "frontier": kept, **numbers,
        "selection": selection[0] if selection else None, "seconds": seconds, "step": record["step"],
        "planned": record["planned"], "words": [knobs.worded(key, record["knobs"].get(key)) for key in keys],
        "command": record["command"], "evidence": evidence, "series": series,
        "heat": smaller(record["heat"], *shape(points, record["heat"])), "events": events,
        "plan": record["plan"], "facts": facts(record),
        "samples": embedded(root, purse, shown) if count <= FEW else counted(root, shown),
        "found": [measured(each, evaluations) for each in besides if each["found"] is not None],
    }  # fmt: skip


def shape(points: int, heat: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a heat map where series have so many points."""
    return (
        (len(heat["units"]), len(heat["steps"]))
        if points == POINTS
        else (max(16, points // 4), max(FEWEST, points // 2))
    )


def facts(record: Record) -> list[list[str]]:
    """Where a run comes from, as label and text."""
    provenance, found = record["provenance"], [["directory", record["path"]]]
    versions, data = provenance.get("versions"), provenance.get("data")
    hardware, source = provenance.get("hardware"), provenance.get("init_from")
    found += [["vaecollapse", str(provenance.get("vaecollapse"))]] if provenance.get("vaecollapse") else []
    for label, content in (("versions", versions), ("data", data), ("hardware", hardware), ("weights from", source)):
        if isinstance(content, Mapping):
            found.append([label, ", ".join(f"{key} {value}" for key, value in content.items())])
    found += [["git", str(provenance["git"])]] if provenance.get("git") else []
    found += [["seed", str(record["seed"])]]
    found += [[name.replace("_", " "), f"{value:.6g}"] for name, value in record["ended"].items()]
    return found


def paired(records: Sequence[Record], of: Sequence[int | None]) -> dict[str, Any]:
    """The settings of each group, its baseline, and the others against it."""
    found: dict[str, Any] = {"settings": [], "baselines": [], "rows": []}
    for group in sorted({each for each in of if each is not None}):
        inside = [record for record, own in zip(records, of, strict=True) if own == group]
        keys = knobs.varying([record["knobs"] for record in inside], [record["overrides"] for record in inside])
        several = pairs.settings(inside, keys)
        if len(several) < 2:
            continue
        start = len(found["settings"])
        found["baselines"].append(start + pairs.baseline(several))
        for setting in several:
            counts = Counter(trial.verdict for trial in setting.trials).most_common()
            found["settings"].append([setting.name, len(setting.trials), counts])
        for a, b, each in pairs.compared(several):
            differences = {name: short(d) for name, d in each.differences.items()}
            about = {"seeds": each.seeds, "confounds": each.confounds, "differences": differences}
            found["rows"].append({"a": start + a, "b": start + b, **about})
    return found


def short(difference: Any) -> list[float | None]:
    """Mean, low, high; an interval that a single pair does not have is null."""
    found = (difference.mean, difference.low, difference.high)
    return [float(f"{value:.4g}") if abs(value) != float("inf") else None for value in found]


def html(data: Mapping[str, Any]) -> str:
    """The page. What runs hold stands in it as JSON alone, which is no markup; the policy lets nothing else run, and
    nothing be fetched."""
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True)
    script = "\n".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        content = content.replace(sign, f"\\u{ord(sign):04x}")
    return environment.get_template("report.html.j2").render(
        title=title(data), style=(ASSETS / "report.css").read_text("utf-8"), script=script, digest=digest, data=content
    )


def title(data: Mapping[str, Any]) -> str:
    if len(data["runs"]) == 1:
        only = data["runs"][0]
        return f"{only['verdict'] or only['state']} · {only['name']}"
    return f"{len(data['runs'])} runs · vaecollapse"
