"""Beside the NLL of a second-stage prior, at each validation: what other priors give the same codes, and R."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class BesideTheNLL(Callback):
    """Logs the NLL of `others` on the validation's codes as `null/…`, and R = E ln q(z|x) + NLL with this prior. Both
    are told once the codes are there."""

    others: Mapping[str, float] = {}
    log_posterior: float = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        nll: Any = trainer.callback_metrics["val/nll"]
        numbers = {f"null/{name}": value for name, value in self.others.items()}
        numbers["val/latent/rate"] = self.log_posterior + float(nll)
        for logger in trainer.loggers:
            logger.log_metrics(numbers, trainer.global_step)
