"""The KL of every unit over training, as one picture for loggers that keep pictures."""

from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from ..pictures import heat_map
from .monitor import CollapseMonitor, Look
from .offers import offer_picture

COLUMNS = 200


class UnitMap(Callback):
    """Offers each logger the picture `val/units/kl_map` at each full reading of the latent: a row for each unit, the
    one of the highest KL on top, a column for each full reading so far; bright is the highest KL of them all. Of more
    than `COLUMNS` readings those at even distances, a power of two, and the last.

    Does nothing without a CollapseMonitor. Of a flow the units are those of its base space.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readings: list[list[float]] = []
        self.seen, self.every = 0, 1

    def state_dict(self) -> dict[str, Any]:
        return {"readings": self.readings, "seen": self.seen, "every": self.every}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.readings = [list(reading) for reading in state_dict["readings"]]
        self.seen, self.every = state_dict.get("seen", len(self.readings)), state_dict.get("every", 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        def hear(look: Look) -> None:
            kl = look.series.get("kl", look.series.get("kl_base"))
            if kl is not None:
                self.keep([float(each) for each in np.ravel(kl)])
                for logger in trainer.loggers if trainer.is_global_zero else ():
                    offer_picture(logger, "val/units/kl_map", self.picture(), look.step)

        for monitor in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(monitor, CollapseMonitor):
                monitor.listeners.append(hear)

    def keep(self, reading: list[float]) -> None:
        """The readings no. 0, `every`, 2 · `every` … and the latest."""
        if self.readings and (self.seen - 1) % self.every:
            self.readings.pop()
        self.readings.append(reading)
        self.seen += 1
        if len(self.readings) > COLUMNS:
            self.readings, self.every = self.readings[::2], 2 * self.every

    def picture(self) -> np.ndarray:
        """Of the readings so far."""
        units = np.array(self.readings).T
        return heat_map(units[np.argsort(-units[:, -1], kind="stable")])
