"""metrics.jsonl and metrics.csv of the run directory, as a Lightning logger."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from ..run import Run


class RunLogger(Logger):
    """Appends every logged step to metrics.jsonl as it comes; metrics.csv is derived from it at each validation."""

    def __init__(self, *, directory: Path | str) -> None:
        super().__init__()
        self.run = Run(directory)

    @property
    def name(self) -> str:
        return "run"

    @property
    def version(self) -> str:
        return self.run.directory.name

    @property
    def save_dir(self) -> str:
        return str(self.run.directory)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.run.append("metrics.jsonl", {"step": step, **{name: float(value) for name, value in metrics.items()}})
        if any(name.startswith("val/") for name in metrics):
            self.run.tabulate_metrics()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The config is in config.yaml already."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if (self.run.directory / "metrics.jsonl").exists():
            self.run.tabulate_metrics()
