"""The learning rate as a function of the share of training done."""

import logging
import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..refusal import Refused

log = logging.getLogger(__name__)


class CosineDecay(Callback):
    """lr(t) = lr · (end + (1 − end)·½(1 + cos πt)), t the share of the planned steps; `end` = 1 keeps it constant.

    A resumed run keeps the plan it began with (Loshchilov & Hutter 2017, without restarts): one that ended at 0 is
    told that nothing moves any more.
    """

    def __init__(self, *, end: float = 1.0) -> None:
        super().__init__()
        if not 0 <= end <= 1:
            raise Refused(f"the learning rate ends at a share of lr from 0 to 1, but lr_end={end}: try lr_end=0.1")
        self.end = end
        self.initial: list[list[float]] = []
        self.total = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"initial": self.initial, "total": self.total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.initial, self.total = state_dict["initial"], state_dict["total"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.initial:
            self.initial = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]
            self.total = float(trainer.estimated_stepping_batches)
        elif self.end == 0 and trainer.estimated_stepping_batches > self.total:
            log.warning(
                "warning: the learning rate reaches 0 at step %d, where the plan of this run ended, and stays there: "
                "later epochs move nothing; for more start anew with init_from=%s",
                self.total, trainer.default_root_dir,
            )  # fmt: skip

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        share = min(1.0, trainer.global_step / self.total)
        factor = self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * share))
        for optimizer, rates in zip(trainer.optimizers, self.initial, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = factor * rate
