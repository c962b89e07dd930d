"""What people see while training: a live bar in a terminal, plain lines elsewhere."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..refusal import check_least
from .monitor import CollapseMonitor, unsure


def latent_line(monitor: CollapseMonitor | None) -> str:
    """Rate, gap, information rank and verdict of the last reading; `?` marks a rank from too few examples."""
    if monitor is None or monitor.verdict is None:
        return "rate –  gap –  rank –"
    found = monitor.latest

    def show(name: str) -> str:
        reading = found.get(name)
        return "–" if reading is None or reading.value is None else f"{reading.value:.3g}"

    doubt = "?" if unsure(found.get("information_rank")) else ""
    return f"rate {show('rate')}  gap {show('gap')}  rank {show('information_rank')}{doubt}  {monitor.verdict.verdict}"


def speed(module: LightningModule) -> str:
    """Of text, how much of it is read."""
    tokens = getattr(module, "tokens_per_second", None)
    return "" if tokens is None else f"{tokens:.0f} tokens/s  "


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]  (set by Lightning's connector)


class TrainingProgress(Callback):
    """A bar with the time left, rate, gap, information rank and verdict; one line per `every` share without a
    terminal."""

    def __init__(self, *, every: float = 0.1) -> None:
        super().__init__()
        check_least("callback.progress", 0, every=every)
        self.every = every
        self.bar: Progress | None = None
        self.next_line = 0.0
        self.monitor: CollapseMonitor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.monitor = next((c for c in _callbacks(trainer) if isinstance(c, CollapseMonitor)), None)
        self.total, self.started, self.next_line = trainer.estimated_stepping_batches, time.monotonic(), 0.0
        self.console = Console(stderr=True)
        if self.console.is_terminal:
            self.bar = Progress(
                BarColumn(None),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[latent]}"),
                console=self.console,
                expand=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total, latent=latent_line(self.monitor))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        if self.bar is not None:
            self.bar.update(
                self.task,
                completed=trainer.global_step,
                latent=speed(pl_module) + latent_line(self.monitor),
            )
        elif trainer.global_step / self.total >= self.next_line + self.every:
            self.next_line = trainer.global_step / self.total
            spent = time.monotonic() - self.started
            said = speed(pl_module) + latent_line(self.monitor)
            left = spent / self.next_line * (1 - self.next_line)
            self.console.print(
                f"step {trainer.global_step}/{self.total}  {left:.0f} s left  {said}",
                highlight=False,
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()
