"""A run directory taken up again: the same plan, the same data, from its last checkpoint."""

import logging
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from .. import loading, resuming
from ..datasets.base import VAEData
from ..refusal import Refused
from ..run import Run, first_process
from .recording import other_data

log = logging.getLogger(__name__)
# what of a trainer changes no step that is taken
TRAINER_FREE = ("_target_", "accelerator", "strategy", "max_epochs", "max_time", "logger", "callbacks", "profiler",
                "check_val_every_n_epoch", "val_check_interval", "limit_val_batches", "num_sanity_val_steps",
                "log_every_n_steps", "enable_progress_bar", "enable_model_summary", "enable_checkpointing",
                "deterministic", "benchmark", "detect_anomaly", "inference_mode")  # fmt: skip


def refuse_planted(cfg: DictConfig, directory: Path) -> None:
    """Before anything that a directory to be resumed names is imported, built or written."""
    loading.refuse_links(directory)
    refuse_another_plan(loading.read_config(directory, list(cfg.trust)), cfg, directory)
    content = cast(dict, OmegaConf.to_container(cfg, resolve=True))
    loading.check_targets(content, directory, list(cfg.trust))
    loading.refuse_other_places(content, directory, list(cfg.trust))


def of_the_run_itself(cfg: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """Configuration and command line without what only resumes the run."""
    own = OmegaConf.merge(cfg, {"resume": None, "trust": [], "preflight": "run", "probe": False})
    return cast(DictConfig, own), resuming.recorded(overrides)


def rewound(run: Run, cfg: DictConfig, overrides: Sequence[str], data: VAEData) -> Path | None:
    """Takes a run directory back to its last checkpoint and returns that; None where it has none yet, and training
    begins again. Refused where the data are others now, or where the plan is done."""
    file, state = loading.load_state(run.directory)
    if file and state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] >= cfg.max_epochs:
        raise Refused(
            f"resume={run.directory} has done its {cfg.max_epochs} epochs: for more type max_epochs="
            f"{2 * cfg.max_epochs}, for its figures vaecollapse-evaluate run={run.directory}"
        )
    if file and (line := other_data(loading.read_json(run.directory, "provenance.json").get("data"), data)):
        raise Refused(f"{line}: give it the data it was trained on, or start anew with init_from={run.directory}")
    step = state["global_step"] if file else 0
    if first_process():
        run.cut_back(state["files"] if file else {})
        run.append("events.jsonl", {"step": step, "event": "resumed"})
        # a longer plan is the run's own from here on
        own, line = of_the_run_itself(cfg, overrides)
        run.write("overrides.txt", "".join(f"{each}\n" for each in line))
        run.write("config.yaml", OmegaConf.to_yaml(own, resolve=True))
    log.info("going on from step %d", step)
    return file


def refuse_another_plan(had: DictConfig, now: DictConfig, directory: Path) -> None:
    """Refused where anything but resuming.FREE is composed differently from what the run wrote down."""
    kept, composed = (cast(dict, OmegaConf.to_container(node, resolve=True)) for node in (had, now))
    trainers = kept.get("trainer", {}), composed.get("trainer", {})
    for name in sorted({*trainers[0], *trainers[1]} - set(TRAINER_FREE)):
        told, asked = (part.get(name) for part in trainers)
        if told != asked:
            raise Refused(
                f"resume={directory} was run with trainer.{name}={told}, and {asked} would make it another run: leave "
                f"it, or start anew with init_from={directory}"
            )
    for name in kept:
        if name not in (*resuming.FREE, "resume") and kept[name] != composed.get(name):
            told, asked = (OmegaConf.to_yaml(OmegaConf.create({name: part[name]})).strip() for part in (kept, composed))
            raise Refused(
                f"resume={directory} was run with another {name}: {differing(told, asked)}; use the version of the "
                f"package and of the configuration it was made with, or start anew with init_from={directory}"
            )


def differing(told: str, asked: str) -> str:
    """The first line in which two yaml texts differ."""
    pairs = ((a.strip(), b.strip()) for a, b in zip_longest(told.splitlines(), asked.splitlines(), fillvalue=""))
    return next((f"{a or 'nothing'} is now {b or 'gone'}" for a, b in pairs if a != b), "in its order")
