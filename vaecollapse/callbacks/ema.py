"""An average of the weights over training, beside the weights that are trained and judged."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ..refusal import Refused
from .checkpoints import EMA, folder_of


class ExponentialMovingAverage(Callback):
    """a ← d·a + (1 − d)·w after each optimizer step, d = min(decay, (1 + t)/(10 + t)), in float32 or better.

    Training, selection and the verdict are on the raw weights: an average lags behind a collapse. It is written to
    `checkpoints/ema.ckpt` at the end, for `vaecollapse-evaluate checkpoint=ema`. Buffers are the last ones.
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise Refused(f"the average's decay lies between 0 and 1, but decay={decay}: try callback.ema.decay=0.999")
        self.decay, self.step = decay, 0
        self.average: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.step = dict(state_dict["average"]), state_dict["step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parameters = dict(pl_module.named_parameters())
        if not self.average:
            self.average = {name: exact(p).clone() for name, p in parameters.items()}
        self.average = {name: a.to(parameters[name].device) for name, a in self.average.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:  # gradients are still being accumulated
            return
        self.step = trainer.global_step
        share = 1 - min(self.decay, (1 + self.step) / (10 + self.step))
        for name, parameter in pl_module.named_parameters():
            self.average[name].lerp_(exact(parameter), share)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
        held = checkpoint["state_dict"]
        checkpoint["state_dict"] = held | {name: a.to(held[name].dtype) for name, a in self.average.items()}
        trainer.strategy.save_checkpoint(checkpoint, folder_of(trainer) / EMA)


def exact(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
