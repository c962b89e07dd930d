"""A verdict as people read it: the word, the three numbers that decided it, and the command to try next."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .detectors.base import Finding
from .diagnosis import Verdict
from .labels import BESIDE, FIGURES, written
from .prescriptions import MEANING

COLOURS = {"healthy": "bold green", "too_early": "bold yellow", "inconclusive": "bold yellow"}


def row(name: str, finding: Finding) -> tuple[str, str, str, str, str]:
    return written(name, finding.value, finding.se, finding.threshold, finding.status, finding.note)


def shown(finding: Finding) -> bool:
    """Is there something to say? (Without a flow the KL per unit is exact.)"""
    return finding.value is not None and finding.note != "exact"


def headline(verdict: Verdict) -> Text:
    """The word, what it means, and how sure."""
    return Text.assemble(
        (verdict.verdict, COLOURS.get(verdict.verdict, "bold red")),
        f"  {MEANING[verdict.verdict]}  ",
        (f"confidence {verdict.confidence}", "dim"),
    )


READINGS = {"reading": "left", "value": "right", "95 %": "left", "matters at": "right", "": "left"}


def columns(**justified: str) -> Table:
    """An empty table without lines: the columns' heads and how they are justified."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column, justify in justified.items():
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    return table


def labelled(label: str, said: str) -> Text:
    return Text.assemble((f"{label:>10}  ", "dim"), said)


def verdict_table(verdict: Verdict) -> RenderableType:
    """The table printed at the end of a run."""
    table = columns(**READINGS)
    for name in verdict.deciding:
        table.add_row(*row(name, verdict.readings.get(name, Finding(name, None, status="undefined"))), style="bold")
    for name in BESIDE:
        if name not in verdict.deciding and name in verdict.readings and shown(verdict.readings[name]):
            table.add_row(*row(name, verdict.readings[name]), style="dim")
    lines: list[RenderableType] = [headline(verdict), Padding(table, (1, 0, 1, 2))]
    lines += [labelled("why", said) for said in verdict.findings]
    lines += [labelled("also", name) for name in verdict.mechanisms]
    lines += [labelled("ruled out", said) for said in verdict.refuted]
    for number_, prescription in enumerate(verdict.prescriptions):
        typed = prescription.command or " ".join(prescription.overrides)
        lines.append(
            Text.assemble(
                (f"{'try next' if number_ == 0 else 'or':>10}  ", "dim"),
                (typed or prescription.why, "bold cyan"),
            )
        )
        if typed:
            lines.append(Text.assemble(" " * 12, (prescription.why, "dim")))
    return Group(*lines)


def diagnosis_table(verdict: Verdict, source: str) -> RenderableType:
    """What a diagnosis prints: the verdict, of what it is, every other reading, and what is missing."""
    others = columns(**READINGS)
    rest = [name for name in verdict.readings if name not in (*verdict.deciding, *BESIDE)]
    for name in rest:
        if shown(verdict.readings[name]) and (not name.startswith("train/") or name == "train/gap"):
            others.add_row(*row(name, verdict.readings[name]), style="dim")
    lines: list[RenderableType] = [verdict_table(verdict)]
    lines += [labelled("missing", said) for said in verdict.missing]
    lines += [Padding(others, (1, 0, 1, 2))] if others.row_count else []
    return Group(*lines, labelled("of", source))


def evaluation_table(verdict: Verdict, figures: Mapping[str, Finding], what: str) -> RenderableType:
    """What an evaluation prints: the word, every reading, then the bound and the reconstructions from E[z|x]."""
    table = columns(**READINGS)
    deciding = [name for name in verdict.deciding if name in verdict.readings]
    for name in deciding:
        table.add_row(*row(name, verdict.readings[name]), style="bold")
    for name, finding in verdict.readings.items():
        beside = not name.startswith("train/") or name == "train/gap"
        if name not in deciding and beside and shown(finding):
            table.add_row(*row(name, finding), style="dim")
    measured = columns(**{"split": "left", "value": "right", "95 %": "left", "": "left"})
    for name, finding in figures.items():
        _, value, error, _, note = row(name, finding)
        measured.add_row(FIGURES.get(name, name), value, error, note)
    lines: list[RenderableType] = [headline(verdict), Text(what, style="dim"), Padding(table, (1, 0, 1, 2))]
    lines.append(Padding(measured, (0, 0, 1, 2)))
    if "iw_nll" not in figures:
        lines.append(Text("      note  the likelihood is a distance and no density: no NLL is claimed", style="dim"))
    lines += [labelled("why", said) for said in verdict.findings]
    lines += [labelled("also", name) for name in verdict.mechanisms]
    return Group(*lines)


def samples_table(what: str, first: str) -> RenderableType:
    """What a sampling prints: what was written, and what to open first."""
    return Group(labelled("samples", what), labelled("open", first))


def export_table(what: str, files: Sequence[str]) -> RenderableType:
    """What an export prints: the functions, and the files they are in."""
    return Group(labelled("functions", what), labelled("files", ", ".join(files)))


def sounds_table(
    judged: tuple[str, list[str]] | None, rows: Sequence[Sequence[str]], what: str, said: Sequence[str]
) -> RenderableType:
    """A set of sounds: the word and why, then its scores, each with half the 95 % interval of its distance to what real
    clips have against real ones."""
    table = columns(**{"score": "left", "value": "right", "95 %": "left", "real": "right", "": "left"})
    for each in rows:
        table.add_row(*each)
    lines: list[RenderableType] = [labelled("sounds", what), Padding(table, (1, 0, 1, 2))]
    if judged is not None:
        word, why = judged
        colour = {"alike": "bold green", "undecided": "bold yellow"}.get(word, "bold red")
        lines.append(Text.assemble(("       set  ", "dim"), (word, colour), f"  {'; '.join(why)}"))
    return Group(*lines, *(labelled("note", each) for each in said))


def scores_table(rows: Sequence[Sequence[str]], what: str) -> RenderableType:
    """An ensemble's scores, each with half its 95 % interval over blocks, the truth's own, and what to know."""
    table = columns(**{"score": "left", "value": "right", "95 %": "left", "truth": "right", "": "left"})
    for each in rows:
        table.add_row(*each)
    return Group(labelled("scores", what), Padding(table, (1, 0, 1, 2)))


def sweep_table(head: Sequence[str], rows: Sequence[Sequence[str]], sentences: Sequence[str]) -> RenderableType:
    """The table at the end of a sweep: a line for each job, and why some came to nothing."""
    words = head.index("verdict")
    table = columns(**{name: "left" if place <= words else "right" for place, name in enumerate(head)})
    for row in rows:
        colour = COLOURS.get(row[words], "bold red")
        table.add_row(*(Text(cell, colour) if place == words else Text(cell) for place, cell in enumerate(row)))
    return Group(table, *(Text(sentence) for sentence in sentences))
