"""Checkpoints a killed run goes on from exactly, and the weights that were best."""

import logging
import math
import os
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..resuming import LAST, PREVIOUS
from ..run import Run

log = logging.getLogger(__name__)
BEST, EMA, HEALTHY = "best.ckpt", "ema.ckpt", "healthy.ckpt"


def ending(number: int) -> BaseException:
    """What ends training on this signal."""
    return SIGTERMException() if number == signal.SIGTERM else KeyboardInterrupt()


def folder_of(trainer: Trainer) -> Path:
    """Where a run's checkpoints lie."""
    return Path(trainer.default_root_dir) / "checkpoints"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Written beside its place, flushed, renamed: a reader sees the old file or the new one, never a torn one.

    (Lightning's own writer goes through the system's temporary folder, which may be another file system.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                path.replace(path.with_name(PREVIOUS))
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class Checkpoints(Checkpoint):
    """`last.ckpt` after the first step, at least every `every_seconds` (by the clock that is first, where there are
    several processes) and at the end of training, the one before it as `previous.ckpt`, and the weights of the best
    validation as `best.ckpt`.

    A checkpoint is only taken where training can go on from it exactly: after an optimizer step with no validation due,
    or at the end of an epoch. Ctrl-C and SIGTERM wait for such a place while a step is being taken or written; several
    processes wait until all of them know, and stop together. A second signal does not wait. What goes wrong between
    two steps (an example that cannot be read, say) leaves a checkpoint of the first of them, what goes wrong within one
    the last one before. Whoever sets `marked` has the next one kept as `healthy.ckpt` too.
    """

    def __init__(self, *, every_seconds: float = 30.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.run: Run | None = None
        self.best = math.inf
        self.saved_at, self.saved_step, self.epoch = -math.inf, 0, 0
        self.stepping = self.exact = self.marked = False
        self.asked = 0  # the signal that is to end training
        self.before: dict[int, Any] = {}

    # --- state

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch"] = min(checkpoint["epoch"], self.epoch)  # of the weights; Lightning's counts on at the end
        if self.run is not None:
            checkpoint["files"] = self.run.marks()

    # --- when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.run = Run(trainer.default_root_dir)
        self.folder = folder_of(trainer)
        for torn in self.folder.glob(".*.part"):
            torn.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step, self.several = trainer.global_step, trainer.world_size > 1
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self.interrupt)
            except ValueError:  # not the main thread, which alone hears signals
                return

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not (self.stepping or self.several):
            raise ending(number)
        self.asked = number

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.keep(trainer)
        self.release()

    def keep(self, trainer: Trainer) -> None:
        """Saves what an error interrupts, if training can go on from it and it is not saved yet."""
        if self.exact and not self.several and self.saved_step < trainer.global_step:
            loop: Any = trainer.fit_loop.epoch_loop  # as it stood when the last step had been taken
            for count in (loop.batch_progress.current, loop.batch_progress.total):
                count.ready = count.started = count.processed
                count.completed = count.processed - 1
            loop._batches_that_stepped -= 1
            try:
                self.save(trainer)
            except Exception as error:  # what went wrong may be the disk
                log.warning("the last steps are not in a checkpoint: %s", error)
        self.exact = False

    def release(self) -> None:
        """Gives the signals back to whom they belonged."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.stepping, self.epoch = True, trainer.current_epoch
        self.exact = False  # the step moves buffers and logs from its first line on

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.exact = self.between_steps(trainer)
        stop, due = self.agreed(trainer) if self.exact else (0, False)
        if stop or due or (self.marked and self.exact):
            self.save(trainer)
        self.stepping = False
        if stop or (self.asked and not self.several):
            raise ending(stop or self.asked)

    def agreed(self, trainer: Trainer) -> tuple[int, bool]:
        """The signal that any of the processes was sent (0: none), and whether a checkpoint is due by any clock."""
        mine = self.asked, time.monotonic() - self.saved_at >= self.every_seconds
        if not self.several:
            return mine
        device = trainer.strategy.root_device
        stop, due = trainer.strategy.reduce(torch.tensor(mine, dtype=torch.float32, device=device), reduce_op="max")
        return int(stop), bool(due)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.exact = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.exact = False
        loop = trainer.fit_loop
        done = trainer.should_stop or loop.epoch_loop.global_step == loop.max_steps
        done |= trainer.current_epoch + 1 == loop.max_epochs
        stop, due = self.agreed(trainer)
        if not done and (stop or due):
            self.save(trainer)
        if stop:
            raise ending(stop)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Only after the last reading: a run killed in it is resumed from before."""
        # no validation after the schedule's end; one process looks, since saving is an act of all
        if not trainer.strategy.broadcast((self.folder / BEST).exists()):
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        chosen = float(trainer.callback_metrics.get("val/selection", torch.tensor(math.inf)))
        if chosen < self.best and not trainer.sanity_checking and trainer.state.fn == "fit":
            self.best = chosen
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)

    def between_steps(self, trainer: Trainer) -> bool:
        """Has an optimizer step just been taken, with another to follow in this epoch and no validation before it?"""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate() or loop._num_ready_batches_reached() or loop._is_training_done:
            return False
        every = trainer.val_check_batch
        return not isinstance(every, int) or (loop.batch_idx + 1) % every != 0

    def save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        if self.marked and trainer.is_global_zero:
            beside = self.folder / f".{HEALTHY}.part"
            beside.unlink(missing_ok=True)
            try:
                os.link(self.folder / LAST, beside)  # what is named last.ckpt next is another file
            except OSError:
                shutil.copyfile(self.folder / LAST, beside)
            beside.replace(self.folder / HEALTHY)
        self.marked = False
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
