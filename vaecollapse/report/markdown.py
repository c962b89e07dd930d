"""The same for papers and pull requests, in Markdown that renders everywhere."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..labels import number
from ..loading import printable
from . import knobs

ROWS, KNOBS, FIGURES, APART = 100, 8, 8, 8  # of a table; evaluations that each have tables of their own
SIGNS = {sign: f"\\{sign}" for sign in "\\`*_[]|#~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def markdown(data: Mapping[str, Any]) -> str:
    """One run with its evidence, or many in tables."""
    runs = data["runs"]
    parts = one(runs[0]) if len(runs) == 1 else many(data)
    parts += ["", cell(data["left_out"])] if data["left_out"] else []
    made = [(run["name"], each) for run in runs for each in run["found"]]
    parts += [line for each in made for line in evaluation(*each)] if len(made) <= APART else evaluations(made)
    for each in data["loose"][:ROWS]:
        parts += evaluation(each["of"] or "no run is named", each)
    if data["unread"]:
        parts += ["", "Not read:", ""]
        parts += [f"- {cell(name)} ({state}): {cell(note)}" for name, state, note in data["unread"]]
    signed = f"Made by vaecollapse {data['version']}, {data['made']}: {code(data['command'])}"
    return "\n".join([*parts, "", signed, ""])


def cell(value: object) -> str:
    """A text that is no markup, whatever it holds."""
    text = printable(" ".join(str(value).split()))
    return "".join(SIGNS.get(sign, sign) for sign in text)


def code(text: str) -> str:
    """A command between as many backticks as it needs."""
    text = printable(" ".join(text.splitlines()))
    fence = "`" * (max((len(run) for run in "".join(c if c == "`" else " " for c in text).split()), default=0) + 1)
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return lines + [f"| {' | '.join(str(each) for each in row)} |" for row in rows]


def one(run: Mapping[str, Any]) -> list[str]:
    evidence = run["evidence"]
    if not evidence:
        return [f"## {cell(run['name'])}: no verdict", "", cell(run["note"])]
    parts = [f"## {code(run['verdict'])} {evidence['meaning']}", "",
             f"Confidence {evidence['confidence']}. {cell(run['note'])}".strip(), ""]  # fmt: skip
    rows = [[f"**{cell(c)}**" if c else "" for c in row] for row in evidence["deciding"]]
    rows += [[cell(c) for c in row] for row in evidence["beside"]]
    parts += table(["reading", "value", "95 %", "matters at", ""], rows)
    for name, lines in (("why", "findings"), ("also", "mechanisms"), ("ruled out", "refuted"), ("missing", "missing")):
        parts += ["", *(f"- {name}: {cell(line)}" for line in evidence[lines])] if evidence[lines] else []
    parts += ["", "Try next:", ""] if evidence["commands"] else []
    parts += [f"- {code(command)}  {cell(why)}" for command, why in evidence["commands"]]
    return [*parts, "", f"Run {cell(run['name'])}: {code(run['command'])}"]


def evaluations(made: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Many of them: a row for each, a column for each of the commonest figures and scores."""
    told = [{row[0]: " ".join(row[1:3]).strip() for _, _, rows in each["tables"] for row in rows} for _, each in made]
    names = [name for name, _ in Counter(name for each in told for name in each).most_common(FIGURES)]
    rows = [
        [*map(cell, (run, each["name"], each["what"])), *(cell(values.get(name, "–")) for name in names)]
        for (run, each), values in zip(made[:ROWS], told, strict=False)
    ]
    parts = ["", "### Evaluations", "", *table(["run", "directory", "of", *map(cell, names)], rows)]
    return parts + ([f"and {len(made) - ROWS} more"] if len(made) > ROWS else [])


def evaluation(run: str, found: Mapping[str, Any]) -> list[str]:
    """What was measured of a run afterwards."""
    parts = ["", f"### {cell(found['name'])}: {cell(run)} evaluated on {cell(found['what'])}"]
    for what, head, rows in found["tables"]:
        parts += ["", cell(what), ""] if what else [""]
        parts += table(head, [list(map(cell, row)) for row in rows])
    return [*parts, "", *(f"- {cell(note)}" for note in found["notes"])]


def many(data: Mapping[str, Any]) -> list[str]:
    runs = data["runs"]
    counts = Counter(run["verdict"] or run["state"] for run in runs)
    parts = [f"## {len(runs)} runs", "", ", ".join(f"{code(word)} ×{n}" for word, n in counts.most_common()), ""]
    for group, place, command in data["best"]:
        of = f" of {cell(data['groups'][group])}" if len(data["groups"]) > 1 else ""
        parts += [f"Best healthy run{of}: selection {number(runs[place]['selection'])}, {code(command)}", ""]
    parts += phases(data)
    names = (cell(each["name"]) for each in data["knobs"][:KNOBS])
    head = ["run", *names, "verdict", "selection", "R", "D", "value of z", "rank", ""]
    parts += table(head, [row(run) for run in runs[:ROWS]])
    parts += [f"and {len(runs) - ROWS} more"] if len(runs) > ROWS else []
    flagged = [f"- ⚑ {cell(run['name'])}: {cell(run['note'])}" for run in runs[:ROWS] if run["note"]]
    return [*parts, *(["", *flagged] if flagged else []), *comparisons(data)]


def row(run: Mapping[str, Any]) -> list[str]:
    mark = {True: "frontier", False: "dominated", None: run["state"]}[run["frontier"]]
    words = [cell(word) for word in run["words"][:KNOBS]]
    numbers = [number(run[name]) for name in ("selection", "rate", "distortion", "gap", "information_rank")]
    return [cell(run["name"]), *words, code(run["verdict"] or "–"), *numbers, f"{mark} ⚑" if run["note"] else mark]


def phases(data: Mapping[str, Any]) -> list[str]:
    """The phase diagram of the first two knobs that are no seed."""
    first = [each for each in data["knobs"] if each["name"] != "seed"][:2]
    if not first:
        return []
    down = first[1] if len(first) > 1 else {"name": "", "levels": [""], "index": [0] * len(data["runs"])}
    words = [run["verdict"] or run["state"] for run in data["runs"]]
    found = knobs.phase(first[0]["index"], down["index"], words)
    head = [f"{cell(down['name'])} \\ {cell(first[0]['name'])}", *map(cell, first[0]["levels"])]
    rows = [
        [cell(level), *(counted(found.get((x, y))) for x in range(len(first[0]["levels"])))]
        for y, level in enumerate(down["levels"])
    ]
    return [*table(head, rows), ""]


def counted(cell_: Counter | None) -> str:
    return ", ".join(f"`{word}`" + (f" ×{n}" if n > 1 else "") for word, n in cell_.most_common()) if cell_ else ""


def comparisons(data: Mapping[str, Any]) -> list[str]:
    found, parts = data["pairs"], []
    for base in found["baselines"]:
        parts += against(base, [each for each in found["rows"] if each["a"] == base], data)
    return parts


def against(base: int, rows: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> list[str]:
    found = data["pairs"]
    if not rows:
        return []
    names = dict(data["readings"])
    head = ["setting", "pairs", *names.values(), "also differs"]
    lines = [
        [cell(found["settings"][each["b"]][0]), str(len(each["seeds"])),
         *(interval(each["differences"].get(name)) for name in names), cell("; ".join(each["confounds"]))]
        for each in rows
    ]  # fmt: skip
    said = f"Against {cell(found['settings'][base][0])}, paired by seed, with 95 % intervals:"
    return ["", said, "", *table(head, lines)]


def interval(difference: Sequence[int | float | None] | None) -> str:
    """The mean with half its interval, bold where that excludes 0."""
    if difference is None or difference[0] is None:
        return "–"
    mean, low, high = difference
    if low is None or high is None:
        return f"{mean:+.3g}"
    said = f"{mean:+.3g} ± {(high - low) / 2:.2g}"
    return f"**{said}**" if low > 0 or high < 0 else said
