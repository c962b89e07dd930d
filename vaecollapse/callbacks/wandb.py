"""What only W&B can do: alerts, which reach a phone, histograms over the units, tables, and a summary in words."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from ..diagnosis import Verdict
from ..prescriptions import MEANING
from ..search import Search
from .monitor import CollapseMonitor, Look

STEP = "trainer/global_step"  # Lightning's name for the axis
VERDICTS, READINGS, OBJECTIVE = "verdict/table", "verdict/readings", "search/objective"
COMPARED = {"value of z": "gap", "information rank": "information_rank", "R": "rate", "D": "distortion"}


class WandbDashboard(Callback):
    """Hands every alarm, every change of the verdict, the KL of each unit and the verdict's evidence to the W&B loggers
    of this run; at the end `search/objective`, which a `wandb sweep` minimises: what `search:` of conf/train.yaml asks
    for, with its penalties.

    An alert is sent at most once a minute for each title (W&B's own limit). Does nothing without a CollapseMonitor.
    """

    def __init__(self, *, search: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        asked = {"objective": "selection", "verdicts": "healthy", "min_rank": 0.0, "penalty": 1e6, **(search or {})}
        verdicts = asked.pop("verdicts")
        self.search = Search(verdicts=(verdicts,) if isinstance(verdicts, str) else tuple(verdicts), **asked)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        runs = runs_of(trainer)

        def hear(look: Look) -> None:
            for run in runs:
                keep(run, look)
                alert(run, look)

        for monitor in monitors(trainer) if runs else ():
            monitor.listeners.append(hear)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for monitor in monitors(trainer):
            if monitor.run is not None and (runs := runs_of(trainer)):
                objective, feasible, _ = self.search.judged(monitor.run.directory)
                for run in runs:
                    run.log({OBJECTIVE: objective, "search/feasible": int(feasible), STEP: trainer.global_step})


def runs_of(trainer: Trainer) -> list[Any]:
    """The W&B runs of this training, in the one process that has them."""
    loggers = [each for each in trainer.loggers if isinstance(each, WandbLogger)] if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers]


def monitors(trainer: Trainer) -> list[CollapseMonitor]:
    every: Any = trainer
    return [each for each in every.callbacks if isinstance(each, CollapseMonitor)]


def keep(run: Any, look: Look) -> None:
    """Histograms of the series; of a verdict that is kept two tables, and the word in the summary."""
    import wandb

    table: Any = wandb.Table
    logged: dict[str, Any] = {}
    for name, each in look.series.items():
        logged[f"val/units/{name}"] = wandb.Histogram(each.ravel().tolist())
    if look.kept and look.verdict is not None:
        for name, (columns, rows) in tables(run.name or run.id, look.verdict).items():
            logged[name] = table(columns=columns, data=rows)
        run.summary.update(summary(look.verdict))
    if logged:
        run.log({**logged, STEP: look.step})


def alert(run: Any, look: Look) -> None:
    for alarm in sorted(look.alarms):
        run.alert(title=f"alarm {alarm}", text=f"step {look.step}", level="WARN")
    if look.changed and look.verdict is not None:
        said = f"step {look.step}: {MEANING[look.verdict.verdict]}. {'. '.join(look.verdict.findings)}"
        run.alert(title=f"verdict {look.verdict.verdict}", text=said, level="INFO")


def summary(verdict: Verdict) -> dict[str, str]:
    """The verdict in words, as a column of the table of runs shows it."""
    return {
        "verdict": verdict.verdict,
        "confidence": verdict.confidence,
        "why": ". ".join(verdict.findings),
        "try_next": next_command(verdict),
    }


def next_command(verdict: Verdict) -> str:
    first = next(iter(verdict.prescriptions), None)
    return "" if first is None else first.command or " ".join(first.overrides) or first.why


def tables(name: str, verdict: Verdict) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """One line for this run, of which a workspace makes the table of all runs; and every reading of it."""
    found = {head: getattr(verdict.readings.get(reading), "value", None) for head, reading in COMPARED.items()}
    said = summary(verdict)
    rows = [
        [name, each.value, each.se, each.threshold, each.status, each.note] for name, each in verdict.readings.items()
    ]
    return {
        VERDICTS: (["run", *said, *found], [[name, *said.values(), *found.values()]]),
        READINGS: (["reading", "value", "standard error", "matters at", "status", "note"], rows),
    }
