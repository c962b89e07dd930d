"""Configuration in, run directory out. One function per verb."""

import hashlib
import inspect
import logging
import os
import platform
import shlex
import subprocess
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from . import __version__, config
from .batch import Batch, collate
from .callbacks.monitor import CollapseMonitor
from .datasets.base import VAEData
from .diagnosis import Verdict
from .evaluation import spread
from .preflight import declared_scale, forecast, rehearse
from .prescriptions import Prescription
from .refusal import Refused
from .run import Run
from .training import Training
from .vae import VAE

log = logging.getLogger(__name__)
CALIBRATION_EXAMPLES = 256


class Outcome(NamedTuple):
    """What a verb leaves behind: the word, the whole verdict and where the run lies."""

    verdict: str
    diagnosis: Verdict | None
    directory: Path


def train(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Outcome:
    """Trains a model to a verdict. Raises Refused where the plan cannot work, before step 1."""
    pl.seed_everything(cfg.seed, verbose=False)
    quiet_lightning()
    data: VAEData = instantiate(cfg.dataset)
    data.prepare_data()
    data.setup("fit")
    vae = build_model(cfg, data)
    sample = first_examples(data, CALIBRATION_EXAMPLES)
    callbacks: dict[str, pl.Callback] = instantiate(cfg.callback) or {}
    loggers = instantiate(cfg.logger) or {}
    module = Training(
        vae=vae, regularizer=instantiate(cfg.regularizer), optimizer=instantiate(cfg.optimizer), seed=cfg.seed
    )
    run = Run(directory)
    checkpoint = ModelCheckpoint(
        dirpath=directory / "checkpoints",
        filename="best",
        monitor="val/selection",
        save_last=True,
        enable_version_counter=False,
    )
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        callbacks=[*callbacks.values(), checkpoint],
        logger=list(loggers.values()),
        default_root_dir=str(directory),
    )
    to_precision(module, sample, trainer)
    vae.calibrate(sample)
    rehearse(vae, module.regularizer, sample.part(slice(0, 64)))
    monitor = next((c for c in callbacks.values() if isinstance(c, CollapseMonitor)), None)
    expected = expectation(module, data, sample)
    if monitor:
        monitor.run, monitor.forecast = run, expected
        monitor.command = command_of(overrides)
    describe(module, data, expected, sample)
    record_start(run, cfg, overrides, data)
    trainer.fit(module, datamodule=data)
    verdict = monitor.verdict if monitor else None
    if verdict is None:
        return Outcome("inconclusive", None, directory)
    return Outcome(verdict.verdict, verdict, directory)


def build_model(cfg: DictConfig, data: VAEData) -> VAE:
    """The model, given those of the data's facts that its constructor names."""
    parameters = inspect.signature(get_class(cfg.model._target_).__init__).parameters
    facts = {name: fact for name, fact in data.facts.items() if name in parameters and name not in cfg.model}
    # facts go in by a plain call: Hydra would turn a tuple among them into a list
    vae = instantiate(cfg.model, _partial_=True, _convert_="all")(**facts)
    if not isinstance(vae, VAE):
        raise Refused(
            f"model._target_={cfg.model._target_} gives a {type(vae).__name__}, which is no vaecollapse.VAE: "
            "derive it from vaecollapse.VAE, or watch it in its own trainer with CollapseMonitor(latents=…)"
        )
    return vae


def first_examples(data: VAEData, wanted: int) -> Batch:
    """Training examples spread over the split, for what is fixed before step 1."""
    dataset: Any = data.train_dataloader().dataset
    return collate([dataset[i] for i in spread(len(dataset), wanted)])


def to_precision(module: Training, sample: Batch, trainer: pl.Trainer) -> None:
    """Puts the module where the sample's numbers are: the rehearsal runs before Lightning moves anything."""
    if str(trainer.precision).startswith("64"):
        module.double()


def expectation(module: Training, data: VAEData, sample: Batch) -> int | None:
    """Directions the data offers at the run's own e = β s², where the likelihood is a fixed Gaussian on the data."""
    scale = declared_scale(module.vae)
    if scale is None or not module.vae.normalised:
        return None
    dataset: Any = data.train_dataloader().dataset
    x = collate([dataset[i] for i in spread(len(dataset), 4096)]).x
    with torch.no_grad():
        units = module.vae.elbo(sample.part(slice(0, 2)), seed=0).units
    return forecast(x, e=module.final_weight * scale**2, units=units)


def describe(module: Training, data: VAEData, expected: int | None, sample: Batch) -> None:
    """A few lines on what is about to be trained."""
    table = getattr(module.vae, "parameter_table", None)
    parameters = sum(p.numel() for p in module.vae.parameters())
    with torch.no_grad():
        units = module.vae.elbo(sample.part(slice(0, 2)), seed=0).units
    stages = ", ".join(f"{name} {count:,}" for name, count in table()) if table else ""
    log.info(
        "model: %s, %d latent units, %s parameters%s",
        type(module.vae).__name__,
        units,
        f"{parameters:,}",
        f" ({stages})" if stages else "",
    )
    floor = getattr(module.regularizer, "floor", None)
    if floor:
        log.info(
            "free bits: a floor of %g nats per unit, %.3g in total; below it the KL is free, nothing pushes it up",
            floor,
            floor * units,
        )
    if expected is not None:
        log.info("forecast: the data offers %d of %d directions at this price", expected, units)


def record_start(run: Run, cfg: DictConfig, overrides: Sequence[str], data: VAEData) -> None:
    """config.yaml, overrides.txt and provenance.json."""
    run.write("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    run.write("overrides.txt", "".join(f"{line}\n" for line in overrides))
    packages = ("torch", "lightning", "hydra-core", "torchmetrics", "zuko", "numpy")
    run.write(
        "provenance.json",
        {
            "vaecollapse": __version__,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
            "git": git_revision(),
            "seed": cfg.seed,
            "data": data.fingerprint(),
            "config_sha256": hashlib.sha256(OmegaConf.to_yaml(cfg, resolve=True).encode()).hexdigest(),
            "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "cuda": torch.cuda.device_count()},
        },
    )


def git_revision() -> str | None:
    """The revision of the working folder, if it is one of git's."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def command_of(overrides: Sequence[str]):
    """From a prescription to the command line that carries it out: the run's own overrides, those it moves replaced.

    One that would be refused has no command.
    """

    def command(prescription: Prescription) -> Prescription:
        moved = {line.partition("=")[0] for line in prescription.overrides}
        kept = [line for line in overrides if line.lstrip("+").partition("=")[0] not in moved]
        if "regularizer=beta" in prescription.overrides:
            kept = [line for line in kept if not line.startswith(("free_bits=", "regularizer."))]
        whole = [*kept, *prescription.overrides]
        try:
            config.compose(whole)
        except Refused:
            return prescription._replace(command=None)
        return prescription._replace(command=shlex.join(["vaecollapse-train", *whole]))

    return command


def quiet_lightning() -> None:
    """Our own lines say what runs where; Lightning's banners and hints about loaders do not help."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for module, message in (
        ("lightning", ".*LeafSpec.*"),
        ("lightning", ".*smaller than the logging interval.*"),
        ("lightning", ".*does not have many workers.*"),
    ):
        warnings.filterwarnings("ignore", message=message, module=module)
