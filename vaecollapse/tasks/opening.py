"""What a verb holds in its hands once a run has been read from its directory."""

from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from .. import loading
from ..datasets.base import VAEData
from ..training import Training


class Opened(NamedTuple):
    """A run read from its directory: configuration, checkpoint, data and model, and what its provenance says.

    Of a second-stage prior all of it is the run's whose codes it is of, but for the model, which has the new prior;
    `prior` are then the directory and checkpoint that this came from.
    """

    source: Path
    cfg: DictConfig
    weights: loading.Weights
    data: VAEData
    module: Training
    provenance: dict
    seed: int
    prior: tuple[Path, loading.Weights] | None = None

    def split(self, name: str) -> Any:
        """The examples of a split."""
        return getattr(self.data.splits, name)

    def told(self, split: str, examples: int) -> dict[str, Any]:
        """What of it is read."""
        place, weights = self.prior or (self.source, self.weights)
        first = {"first_stage": str(self.source.resolve())} if self.prior else {}
        return {"run": str(place.resolve()), "checkpoint": weights.file.name, "epoch": weights.epoch,
                "step": weights.step, "split": split, "examples": examples, **first}  # fmt: skip

    def named(self, run: str) -> str:
        """The checkpoint in words."""
        weights = self.prior[1] if self.prior else self.weights
        of = f"{weights.file.name} of epoch {weights.epoch + 1} (step {weights.step}) of {run}"
        return f"{of}, on {self.weights.file.name} of {self.source}" if self.prior else of
