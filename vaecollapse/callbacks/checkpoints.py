"""Checkpoints a killed run goes on from exactly, and the weights that were best."""

import math
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from ..run import Run

LAST, PREVIOUS, BEST, EMA = "last.ckpt", "previous.ckpt", "best.ckpt", "ema.ckpt"


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
    """`last.ckpt` at least every `every_seconds` (on several processes: every `every_steps` optimizer steps) and at the
    end of training, the one before it as `previous.ckpt`, and the weights of the best validation as `best.ckpt`.

    A checkpoint is only taken where training can go on from it exactly: after an optimizer step with no validation due,
    or at the end of an epoch. Ctrl-C and SIGTERM wait for such a place while a step is being taken or written (a
    second Ctrl-C does not wait).
    """

    def __init__(self, *, every_seconds: float = 30.0, every_steps: int = 500) -> None:
        super().__init__()
        self.every_seconds, self.every_steps = every_seconds, every_steps
        self.run: Run | None = None
        self.best = math.inf
        self.saved_at, self.saved_step, self.epoch = -math.inf, 0, 0
        self.stepping = self.interrupted = False
        self.before: Any = None

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
        self.saved_step = trainer.global_step
        if trainer.world_size == 1:  # the other processes would go on
            try:
                self.before = signal.signal(signal.SIGINT, self.interrupt)
            except ValueError:  # not the main thread, which alone hears signals
                self.before = None

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted or not self.stepping:
            raise KeyboardInterrupt
        self.interrupted = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.release()

    def release(self) -> None:
        """Gives Ctrl-C back to whom it belonged."""
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
            self.before = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.stepping, self.epoch = True, trainer.current_epoch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        stop = self.interrupted or (trainer.received_sigterm and trainer.world_size == 1)
        if self.between_steps(trainer) and (stop or self.due(trainer)):
            self.save(trainer)
        self.stepping = False
        if self.interrupted:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop
        done = trainer.should_stop or loop.epoch_loop.global_step == loop.max_steps
        done |= trainer.current_epoch + 1 == loop.max_epochs
        if not done and self.due(trainer):
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Only after the last reading: a run killed in it is resumed from before."""
        self.save(trainer)
        if not (self.folder / BEST).exists():  # no validation after the schedule's end
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)

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

    def due(self, trainer: Trainer) -> bool:
        if trainer.world_size > 1:  # clocks differ, and all processes must save
            return trainer.global_step - self.saved_step >= self.every_steps
        return time.monotonic() - self.saved_at >= self.every_seconds

    def save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
