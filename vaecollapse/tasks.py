"""Configuration in, run directory out. One function per verb."""

import hashlib
import importlib
import inspect
import logging
import os
import platform
import shlex
import subprocess
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from . import __version__, config
from .batch import Batch, collate
from .callbacks.monitor import CollapseMonitor
from .datasets.base import VAEData
from .diagnosis import Verdict
from .elbo import Progress
from .evaluation import quiet, spread
from .preflight import Survey, rehearse, survey
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
    data: VAEData = made("dataset", lambda: instantiate(cfg.dataset))
    data.prepare_data()
    data.setup("fit")
    module = build_module(cfg, build_model(cfg, data))
    callbacks: dict[str, pl.Callback] = made("callback", lambda: instantiate(cfg.callback)) or {}
    trainer = build_trainer(cfg, directory, list(callbacks.values()))
    plan = rehearsed(module, data, trainer)
    run = Run(directory)
    monitor = next((c for c in callbacks.values() if isinstance(c, CollapseMonitor)), None)
    if monitor:
        monitor.run, monitor.survey, monitor.command = run, plan, command_of(overrides)
        monitor.knobs = {name: float(cfg[name]) for name in ("seed", "max_epochs", "lr", "latent_dim")}
    describe(module, plan)
    record_start(run, cfg, overrides, data)
    run.write("preflight.json", plan.as_dict())
    if cfg.preflight == "only":
        return Outcome("too_early", None, directory)
    resolved, started = cast(dict, OmegaConf.to_container(cfg, resolve=True)), []
    try:
        for logger in trainer.loggers:
            made("logger", lambda logger=logger: logger.log_hyperparams(resolved))
            started.append(logger)
        trainer.fit(module, datamodule=data)
    finally:
        finish(started)
    verdict = monitor.verdict if monitor else None
    return Outcome(verdict.verdict if verdict else "inconclusive", verdict, directory)


def build_module(cfg: DictConfig, vae: VAE) -> Training:
    """The model under its regularizer and optimizer; the optimizer is tried once, so that it refuses before step 1."""
    regularizer = made("regularizer", lambda: instantiate(cfg.regularizer))
    optimizer = made("optimizer", lambda: instantiate(cfg.optimizer))
    made("optimizer", lambda: optimizer([torch.nn.Parameter(torch.zeros(1))]))
    return Training(vae=vae, regularizer=regularizer, optimizer=optimizer, seed=cfg.seed)


def build_trainer(cfg: DictConfig, directory: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """The trainer with the run's checkpoints: the last one, and the best by the selection value."""
    loggers = made("logger", lambda: instantiate(cfg.logger)) or {}
    folder = directory / "checkpoints"
    best = ModelCheckpoint(
        dirpath=folder, filename="best", monitor="val/selection", save_last=True, enable_version_counter=False
    )
    return made("trainer", lambda: instantiate(
        cfg.trainer,
        callbacks=[*callbacks, best, LastOnException(folder / "last.ckpt")],
        logger=list(loggers.values()),
        default_root_dir=str(directory),
    ))  # fmt: skip


def rehearsed(module: Training, data: VAEData, trainer: pl.Trainer) -> Survey:
    """Everything before step 1: constants fixed from data, one objective on real examples, and the survey."""
    if str(trainer.precision).startswith("64"):
        module.double()  # the rehearsal runs before Lightning gives the module its precision
    sample = spread_examples(data.splits.train, CALIBRATION_EXAMPLES).like(module)
    module.vae.calibrate(sample)
    rehearse(module.vae, module.regularizer, sample.part(slice(0, 64)))
    with quiet(module.vae, module.seed):
        units = module.vae.elbo(sample.part(slice(0, 2)), seed=0).units
    return look_ahead(module, data, trainer, units)


def made(name: str, build: Callable[[], Any]) -> Any:
    """What a config node builds; what its class objects to becomes one sentence."""
    try:
        return build()
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(error, Refused) or isinstance(cause, Refused):
            raise
        lines = str(cause).splitlines() or ["no message"]
        raise Refused(f"{name} cannot be built from its configuration: {type(cause).__name__}: {lines[0]}") from error


def finish(loggers: Sequence[Logger]) -> None:
    """Closes what a logger keeps open (a W&B run): the next job of a sweep in this process gets one of its own."""
    for logger in loggers:
        end = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(end):
            end()


class LastOnException(pl.Callback):
    """An interrupted run leaves the weights it had (Lightning's own callback deletes them at the next success)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1:  # the other ranks may be gone
            trainer.save_checkpoint(self.path)


def imported(target: str) -> Any:
    """The class a `_target_` names; Refused where it cannot be imported."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Refused(
            f"model._target_={target} cannot be imported from here ({type(error).__name__}: {error}): name a "
            "class as package.Class, and run where the package is"
        ) from error


def build_model(cfg: DictConfig, data: VAEData) -> VAE:
    """The model, given those of the data's facts that its constructor names."""
    parameters = inspect.signature(imported(cfg.model._target_).__init__).parameters
    facts = {name: fact for name, fact in data.facts.items() if name in parameters and name not in cfg.model}
    # facts go in by a plain call: Hydra would turn a tuple among them into a list
    build = instantiate(cfg.model, _partial_=True, _convert_="all")
    vae = made(f"model._target_={cfg.model._target_}", lambda: build(**facts))
    if not isinstance(vae, VAE):
        raise Refused(
            f"model._target_={cfg.model._target_} gives a {type(vae).__name__}, which is no vaecollapse.VAE: "
            "derive it from vaecollapse.VAE, or watch it in its own trainer with CollapseMonitor(latents=…)"
        )
    return vae


def spread_examples(dataset: Any, wanted: int) -> Batch:
    """Examples spread evenly over a split, for what is fixed before step 1."""
    return collate([dataset[i] for i in spread(len(dataset), wanted)])


def look_ahead(module: Training, data: VAEData, trainer: pl.Trainer, units: int) -> Survey:
    """The pre-flight: what the data offers at this plan's price, and the plan against its warm-up."""
    count = 512 if "sample_rate" in data.facts else 4096
    training, held_out = (spread_examples(split, count) for split in (data.splits.train, data.splits.validation))
    batches = len(data.train_dataloader())
    epochs = trainer.max_epochs or 1
    steps = batches * epochs if trainer.max_steps < 0 else min(batches * epochs, trainer.max_steps)
    end = module.final_weight
    weights = (float(module.regularizer.weight(Progress(step, steps))) for step in range(steps + 1))
    reached = next((step for step, weight in enumerate(weights) if weight >= 0.999 * end), steps)
    with quiet(module.vae, module.seed):
        return survey(module.vae, training, held_out, beta=end, units=units, steps=steps, warmup_ends=reached)


def describe(module: Training, plan: Survey) -> None:
    """A few lines on what is about to be trained."""
    parameters = sum(p.numel() for p in module.vae.parameters())
    log.info("model: %s, %d latent units, %s parameters", type(module.vae).__name__, plan.units, f"{parameters:,}")
    if table := getattr(module.vae, "parameter_table", None):
        for name, count, note in table():
            log.info("  %-16s %11s  %s", name, f"{count:,}", note)
    if floor := getattr(module.regularizer, "floor", None):
        total = floor * plan.units
        log.info("free bits: %g nats per unit are free, %.3g in total; nothing pushes the KL up to them", floor, total)
    for line in plan.lines():
        log.info("%s", line)


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
        ("lightning", ".*returned `None`.*"),
    ):
        warnings.filterwarnings("ignore", message=message, module=module)
