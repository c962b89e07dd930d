"""What a run directory says of where it came from."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from .. import __version__, loading
from ..datasets.base import VAEData
from ..run import Run


def record_start(
    run: Run, cfg: DictConfig, overrides: Sequence[str], data: VAEData, source: dict[str, Any] | None = None
) -> None:
    """config.yaml, overrides.txt, provenance.json, and what the data keep in a run."""
    composed = OmegaConf.to_yaml(cfg, resolve=True)
    run.write("config.yaml", composed)
    (run.directory / "quarantine.csv").unlink(missing_ok=True)  # of a start that was killed
    if data.left_out:
        run.append_csv("quarantine.csv", ["path", "reason"], data.left_out)
    for name, text in data.keep().items():
        run.write(name, text)
    run.write("overrides.txt", "".join(f"{line}\n" for line in overrides))
    run.write(
        "provenance.json",
        {
            **provenance(),
            "seed": cfg.seed,
            "init_from": source,
            "data": data.fingerprint(),
            "config_sha256": hashlib.sha256(composed.encode()).hexdigest(),
        },
    )


def provenance() -> dict[str, Any]:
    """What is running, and on what."""
    packages = ("torch", "lightning", "hydra-core", "torchmetrics", "zuko", "numpy")
    return {
        "vaecollapse": __version__,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "git": git_revision(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "cuda": torch.cuda.device_count()},
    }


def git_revision() -> str | None:
    """The revision of the working folder, if it is one of git's."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def other_data(recorded: Any, data: VAEData) -> str | None:
    """A sentence where the data are not those that the run was trained on, as far as its provenance tells."""
    now = data.fingerprint()
    if not isinstance(recorded, Mapping):
        return "the run's provenance.json tells of no data, so whether they are the same is not known"
    differ = [name for name in ("files", "bytes", "hash") if recorded.get(name) != now[name]]
    if not differ:
        return None
    then = {name: loading.printable(str(recorded.get(name))[:12]) for name in differ}
    shown = (f"{name} {then[name]} then, {str(now[name])[:12]} now" for name in differ)
    return f"the data are not those of the run ({'; '.join(shown)}): its splits may lie otherwise too"
