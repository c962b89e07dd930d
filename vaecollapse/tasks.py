"""Configuration in, run directory out. One function per verb."""

import hashlib
import importlib
import inspect
import logging
import math
import os
import platform
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from . import __version__, config, loading, resuming
from .batch import Batch, collate
from .callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from .callbacks.monitor import CollapseMonitor
from .datasets.base import VAEData
from .detectors.base import Detector, Finding
from .diagnosis import Facts, Verdict, diagnose
from .diagnosis import value as value_of
from .elbo import Progress
from .evaluation import blocks_of, bound, distinct, quiet, read, reconstruction, spread
from .preflight import Survey, rehearse, survey
from .prescriptions import Prescription
from .refusal import Refused
from .regularizers.base import Regularizer
from .run import Run, first_process
from .training import Training
from .vae import PART, VAE

log = logging.getLogger(__name__)
CALIBRATION_EXAMPLES = 256
# what of a trainer changes the steps that are taken
TRAINER_KEPT = ("devices", "num_nodes", "precision", "accumulate_grad_batches", "limit_train_batches",
                "gradient_clip_val", "max_steps")  # fmt: skip
EVALUATION_BLOCK = 256  # as the monitor reads its probes


class Outcome(NamedTuple):
    """What a verb leaves behind: the word, the whole verdict and where the run lies."""

    verdict: str
    diagnosis: Verdict | None
    directory: Path


def train(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Outcome:
    """Trains a model to a verdict. Raises Refused where the plan cannot work, before step 1."""
    pl.seed_everything(cfg.seed, verbose=False)
    quiet_lightning()
    if cfg.resume:
        refuse_planted(cfg, directory)
    data: VAEData = made("dataset", lambda: prepared(instantiate(cfg.dataset)), VAEData)
    module = build_module(cfg, build_model(cfg, data))
    callbacks: dict[str, pl.Callback] = made("callback", lambda: instantiate(cfg.callback) or {})
    for name, callback in callbacks.items():
        made(f"callback.{name}", lambda callback=callback: callback, pl.Callback)
    trainer = build_trainer(cfg, directory, list(callbacks.values()))
    plan = made("the plan", lambda: rehearsed(module, data, trainer))
    run = Run(directory)
    monitor = next((c for c in callbacks.values() if isinstance(c, CollapseMonitor)), None)
    if monitor:
        monitor.run, monitor.survey, monitor.command = run, plan, command_of(overrides)
        monitor.knobs = {name: float(cfg[name]) for name in ("seed", "max_epochs", "lr", "latent_dim")}
    describe(module, plan)
    source = take_weights(module.vae, cfg.init_from) if cfg.init_from else None
    if not cfg.resume and first_process():
        record_start(run, cfg, overrides, data, source)
        run.write("preflight.json", plan.as_dict())
    if cfg.preflight == "only":
        return Outcome("too_early", None, directory)
    resolved, started = cast(dict, OmegaConf.to_container(cfg, resolve=True)), []
    try:
        for logger in trainer.loggers:
            made("logger", lambda logger=logger: logger.log_hyperparams(resolved))
            started.append(logger)
        with run.alone():
            fit(trainer, module, data, rewound(run, cfg, overrides, data) if cfg.resume else None)
    finally:
        finish(started)
    verdict = monitor.verdict if monitor else None
    return Outcome(verdict.verdict if verdict else "inconclusive", verdict, directory)


def fit(trainer: pl.Trainer, module: Training, data: VAEData, going_on: Path | None) -> None:
    """Trains; what stops it before its first step is the plan's fault, and one sentence."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=going_on, weights_only=True)
    except Exception as error:
        if trainer.global_step or isinstance(error, Refused | OSError):
            raise
        lines = str(error).splitlines() or ["no message"]
        raise Refused(f"training cannot start with this configuration: {type(error).__name__}: {lines[0]}") from error


def refuse_planted(cfg: DictConfig, directory: Path) -> None:
    """Before anything that a directory to be resumed names is imported, built or written."""
    loading.refuse_links(directory)
    refuse_another_plan(loading.read_config(directory, list(cfg.trust)), cfg, directory)
    content = cast(dict, OmegaConf.to_container(cfg, resolve=True))
    loading.check_targets(content, directory, list(cfg.trust))
    loading.refuse_other_places(content, directory, list(cfg.trust))


def rewound(run: Run, cfg: DictConfig, overrides: Sequence[str], data: VAEData) -> Path | None:
    """Takes a run directory back to its last checkpoint and returns that; None where it has none yet, and training
    begins again. Refused where the data are others now, or where the plan is done."""
    file, state = loading.load_state(run.directory)
    if file and state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] >= cfg.max_epochs:
        raise Refused(
            f"resume={run.directory} has done its {cfg.max_epochs} epochs: for more type max_epochs="
            f"{2 * cfg.max_epochs}, for its figures vaecollapse-evaluate run={run.directory}"
        )
    if line := other_data(loading.read_json(run.directory, "provenance.json").get("data"), data):
        raise Refused(f"{line}: give it the data it was trained on, or start anew with init_from={run.directory}")
    step = state["global_step"] if file else 0
    if first_process():
        run.cut_back(state["files"] if file else {})
        run.append("events.jsonl", {"step": step, "event": "resumed"})
        # a longer plan is the run's own from here on
        run.write("overrides.txt", "".join(f"{line}\n" for line in resuming.recorded(overrides)))
        kept = OmegaConf.merge(cfg, {"resume": None, "trust": [], "preflight": "run"})
        run.write("config.yaml", OmegaConf.to_yaml(kept, resolve=True))
    log.info("going on from step %d", step)
    return file


def refuse_another_plan(had: DictConfig, now: DictConfig, directory: Path) -> None:
    """Refused where anything but resuming.FREE is composed differently from what the run wrote down."""
    kept, composed = (cast(dict, OmegaConf.to_container(node, resolve=True)) for node in (had, now))
    for name in TRAINER_KEPT:
        told, asked = (part.get("trainer", {}).get(name) for part in (kept, composed))
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


def take_weights(vae: VAE, directory: str) -> dict[str, Any]:
    """The weights of another run, the best ones where there are some, into this model; nothing else of it. Returns
    what provenance.json says of them."""
    source = loading.run_directory(directory)
    name = "best" if (source / "checkpoints" / "best.ckpt").exists() else "last"
    weights = loading.load_weights(loading.checkpoint_of(source, name))
    loading.fill(vae, weights, "vae.")
    log.info("weights from %s (step %d)", weights.file, weights.step)
    digest = hashlib.sha256(weights.file.read_bytes()).hexdigest()
    return {"file": str(weights.file.resolve()), "step": weights.step, "sha256": digest}


class Evaluated(NamedTuple):
    """What an evaluation found: the verdict on the split's readings, the figures beside it, and of what they are."""

    verdict: Verdict
    figures: dict[str, Finding]
    what: str
    directory: Path


def evaluate(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Evaluated:
    """Measures a run on a split, from its directory alone. Raises Refused where that cannot be read or does not fit."""
    quiet_lightning()
    source = loading.run_directory(cfg.run)
    own = moved(loading.read_config(source, list(cfg.trust)), list(cfg.overrides))
    weights = loading.load_weights(loading.checkpoint_of(source, cfg.checkpoint))
    device = usable(cfg.device)
    data = rebuilt_data(own)
    module = rebuilt_module(own, data, weights).to(device)
    provenance = loading.read_json(source, "provenance.json")
    if line := other_data(provenance.get("data"), data):
        log.warning("warning: %s", line)
    seed = module.seed if cfg.seed is None else cfg.seed
    dataset = getattr(data.splits, cfg.split)
    if not len(dataset):
        raise Refused(f"the {cfg.split} split of this run is empty: type split=validation")
    examples = spread_examples(dataset, len(dataset) if cfg.examples is None else cfg.examples).like(module)
    found, figures = made(
        "the readings", lambda: measured(module, own, examples, weights, data, seed=seed, samples=cfg.samples)
    )
    # of a foreign command line nothing is composed, so nothing is prescribed
    verdict = diagnose(found, None, facts_of(module, source, found, weights, data, own, held_out=cfg.split != "train"))
    verdict = verdict._replace(prescriptions=[])
    run = Run(directory)
    cfg = cast(DictConfig, OmegaConf.merge(cfg, {"seed": seed}))
    record_start(run, cfg, overrides, data)
    told = {"run": str(source.resolve()), "checkpoint": weights.file.name, "epoch": weights.epoch,
            "step": weights.step, "split": cfg.split, "examples": len(examples.x)}  # fmt: skip
    run.write("provenance.json", run.read("provenance.json") | {"evaluated": told, "trained": provenance})
    content = {**told, **verdict.as_dict(), "figures": {name: figure(each) for name, each in figures.items()}}
    run.write("evaluation.json", content)
    what = f"{len(examples.x)} {cfg.split} examples, {weights.file.name} of epoch {weights.epoch + 1}"
    return Evaluated(verdict, figures, f"{what} (step {weights.step}) of {cfg.run}", directory)


def moved(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The loaded configuration with keys of its dataset replaced; Refused where there is no such key."""
    for override in [parsed(line) for line in overrides]:
        path, known = override.key_or_group, sorted(str(key) for key in cfg.dataset if not str(key).startswith("_"))
        if OmegaConf.select(cfg, path, default=config.ELSE) == config.ELSE:
            raise Refused(f"overrides: this run has no {path}: its dataset has {', '.join(known)}")
        OmegaConf.update(cfg, path, override.value(), merge=False)
    return cfg


def parsed(line: str) -> Override:
    """One override of the command line."""
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException as error:
        raise Refused(f"overrides={line} cannot be read: write it as 'dataset.root=/new/place'") from error
    if override.is_sweep_override():
        raise Refused(f"overrides={line} gives several values: give one")
    return override


def usable(name: str) -> torch.device:
    """The device. Refused where it is not there."""
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Refused(f"device={name} is not there ({torch.cuda.device_count()} CUDA devices): type device=cpu")
    return device


def rebuilt_data(cfg: DictConfig) -> VAEData:
    """The run's dataset with its splits, read in this process."""
    if "num_workers" in cfg.dataset:
        cfg.dataset.num_workers = 0
    data = made("dataset", lambda: instantiate(cfg.dataset), VAEData)
    try:
        return made("dataset", lambda: prepared(data), VAEData)
    except Refused as error:
        if "root" not in cfg.dataset:
            raise
        raise Refused(
            f"{error}; if the data of this run lie elsewhere here, type \"overrides=['dataset.root=/new/place']\""
        ) from error


def rebuilt_module(cfg: DictConfig, data: VAEData, weights: loading.Weights) -> Training:
    """Model and regularizer with the checkpoint's numbers; the optimizer is none that the run names."""
    vae = made("model", lambda: build_model(cfg, data), VAE)
    regularizer = made("regularizer", lambda: instantiate(cfg.regularizer), Regularizer)
    seed = OmegaConf.select(cfg, "seed", default=0)
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise Refused("the run's config.yaml has no whole number as its seed: take the config.yaml that the run wrote")
    module = Training(vae=vae, regularizer=regularizer, optimizer=torch.optim.Adam, seed=seed)
    if str(OmegaConf.select(cfg, "trainer.precision")).startswith("64"):
        module.double()
    loading.fill(vae, weights, "vae.")
    loading.fill(regularizer, weights, "regularizer.")
    return module.eval()


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


def place_of(module: Training, weights: loading.Weights, data: VAEData, cfg: DictConfig) -> Progress:
    """Where in its planned training the checkpoint lies."""
    if weights.total is not None:
        return Progress(weights.step, weights.total, weights.epoch)
    per_epoch = max(1, len(data.train_dataloader()))
    epochs, steps = (OmegaConf.select(cfg, f"trainer.{name}") for name in ("max_epochs", "max_steps"))
    total = max(weights.step, per_epoch * epochs if type(epochs) is int else 0, 1)
    if type(steps) is int and steps > 0:
        total = max(weights.step, min(total, steps))
    return Progress(weights.step, total, weights.epoch)


def measured(
    module: Training, cfg: DictConfig, examples: Batch, weights: loading.Weights, data: VAEData, *, seed: int,
    samples: int,
) -> tuple[dict[str, Finding], dict[str, Finding]]:  # fmt: skip
    """The findings of the run's detectors on distinct examples, in blocks as in training, and the figures of all."""
    detectors = made("detector", lambda: instantiate(OmegaConf.select(cfg, "detector") or {}), Mapping)
    for name, detector in detectors.items():
        made(f"detector.{name}", lambda detector=detector: detector.to(examples.x.device), Detector)
    place, regularizer = place_of(module, weights, data, cfg), module.regularizer.eval()
    kept = examples.part(torch.tensor(distinct(examples.x), device=examples.x.device))
    probe = [kept.part(rows) for rows in blocks_of(len(kept.x), EVALUATION_BLOCK)]
    found, _ = read(module.vae, probe, detectors, lambda elbo: regularizer(elbo, place), seed=seed)
    blocks = [examples.part(slice(start, start + PART)) for start in range(0, len(examples.x), PART)]
    figures = bound(module.vae, blocks, samples=samples, seed=seed, epoch=weights.epoch)
    return found, figures | reconstruction(module.vae, blocks, audio="sample_rate" in data.facts, seed=seed)


def facts_of(
    module: Training, source: Path, found: Mapping[str, Finding], weights: loading.Weights, data: VAEData,
    cfg: DictConfig, *, held_out: bool,
) -> Facts:  # fmt: skip
    """What the run's directory tells besides readings; how they moved over training is not known."""
    place = place_of(module, weights, data, cfg)
    survey = loading.read_json(source, "preflight.json")
    directions = survey.get("directions") if survey.get("decides") is True else None
    end = float(module.regularizer.weight(Progress(place.total, place.total)))
    settled = float(module.regularizer.weight(place)) >= 0.999 * end
    return Facts(
        units=int(value_of(found, "units", 0.0)),
        weight=end,
        forecast=directions if type(directions) is int else None,
        share=place.share,
        epochs=weights.epoch + 1,
        finished=settled,
        schedule_done=settled,
        floor=value_of(found, "floor", 0.0),
        held_out=held_out,
    )


def figure(finding: Finding) -> dict[str, Any]:
    """A finding as verdict.json has them."""
    return {name: part for name, part in finding._asdict().items() if name != "name"}


def build_module(cfg: DictConfig, vae: VAE) -> Training:
    """The model under its regularizer and optimizer; the optimizer is tried once, so that it refuses before step 1."""
    regularizer = made("regularizer", lambda: instantiate(cfg.regularizer), Regularizer)
    optimizer = made("optimizer", lambda: instantiate(cfg.optimizer))
    made("optimizer", lambda: optimizer([torch.nn.Parameter(torch.zeros(1))]), torch.optim.Optimizer)
    return Training(vae=vae, regularizer=regularizer, optimizer=optimizer, seed=cfg.seed)


def build_trainer(cfg: DictConfig, directory: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """The trainer with the run's checkpoints: the last one, and the best by the selection value."""
    loggers = made("logger", lambda: instantiate(cfg.logger) or {})
    for name, logger in loggers.items():
        made(f"logger.{name}", lambda logger=logger: logger, Logger)
    trainer = made("trainer", lambda: instantiate(
        cfg.trainer,
        callbacks=[*callbacks, *([] if any(isinstance(c, Checkpoints) for c in callbacks) else [Checkpoints()])],
        plugins=[AtomicCheckpointIO()],
        logger=list(loggers.values()),
        default_root_dir=str(directory),
    ), pl.Trainer)  # fmt: skip
    refuse_impossible(trainer)
    return trainer


def refuse_impossible(trainer: pl.Trainer) -> None:
    """Refused where the trainer would take no step, or start more processes than there is hardware for."""
    for name, value in (("limit_train_batches", trainer.limit_train_batches), ("max_steps", trainer.max_steps)):
        if value == 0:
            raise Refused(f"trainer.{name}=0 trains nothing: leave it out, or type preflight=only for the forecast")
    if trainer.check_val_every_n_epoch is not None and trainer.check_val_every_n_epoch < 1:
        raise Refused(
            f"trainer.check_val_every_n_epoch must be at least 1, but got {trainer.check_val_every_n_epoch}: type 1"
        )
    if trainer.world_size > 1 and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise Refused(
            f"a sweep trains each job in one process, but this one asks for {trainer.world_size}: drop -m, start the "
            "jobs one by one, or type trainer.devices=1"
        )
    most = 4 * (os.cpu_count() or 1)  # of accelerators Lightning itself gives no more than there are
    if trainer.num_devices > most:
        raise Refused(
            f"trainer.devices={trainer.num_devices} is more than four processes for each of this machine's cores: type "
            "trainer.devices=1"
        )


def rehearsed(module: Training, data: VAEData, trainer: pl.Trainer) -> Survey:
    """Everything before step 1: constants fixed from data, one objective on real examples, and the survey."""
    if str(trainer.precision).startswith("64"):
        module.double()  # the rehearsal runs before Lightning gives the module its precision
    sample = spread_examples(data.splits.train, affordable(data, CALIBRATION_EXAMPLES)).like(module)
    module.vae.calibrate(sample)
    rehearse(module.vae, module.regularizer, sample.part(slice(0, max(2, min(64, data.batch_size)))))
    with quiet(module.vae, module.seed):
        units = module.vae.elbo(sample.part(slice(0, 2)), seed=0).units
    return look_ahead(module, data, trainer, units)


def prepared(data: VAEData) -> VAEData:
    """The dataset with its splits."""
    data.prepare_data()
    data.setup("fit")
    refuse_small_shared_memory(data)
    return data


def refuse_small_shared_memory(data: VAEData) -> None:
    """Refused where loader processes have no room for the batches they hand over."""
    shared = Path("/dev/shm")
    if not data.num_workers or not shared.is_dir():
        return
    example = sum(part.nbytes for part in spread_examples(data.splits.train, 1) if isinstance(part, torch.Tensor))
    needed = 2**18 + 2 * 2 * data.num_workers * data.batch_size * example  # two loaders, each two batches ahead
    if (free := shutil.disk_usage(shared).free) < needed:
        raise Refused(
            f"dataset.num_workers={data.num_workers} needs {needed / 2**20:.1f} MiB of shared memory, but {shared} has "
            f"{free / 2**20:.1f} left: type dataset.num_workers=0, or give the container more (--shm-size=1g)"
        )


def made(name: str, build: Callable[[], Any], kind: type = object) -> Any:
    """What a config node builds; what its class objects to becomes one sentence, and so does another kind of thing."""
    try:
        built = build()
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(error, Refused) or isinstance(cause, Refused):
            raise
        lines = str(cause).splitlines() or ["no message"]
        raise Refused(f"{name} cannot be built from its configuration: {type(cause).__name__}: {lines[0]}") from error
    if not isinstance(built, kind):
        raise Refused(f"{name}._target_ gives a {type(built).__name__}, where a {kind.__name__} is needed")
    return built


def finish(loggers: Sequence[Logger]) -> None:
    """Closes what a logger keeps open (a W&B run): the next job of a sweep in this process gets one of its own."""
    for logger in loggers:
        end = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(end):
            end()


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
    build = made("model", lambda: instantiate(cfg.model, _partial_=True, _convert_="all"))
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


def affordable(data: VAEData, wanted: int) -> int:
    """So many examples, or as many as hold a few million numbers where each is long."""
    length = math.prod(cast(Any, data.facts).get("event_shape", (1,)))
    return max(32, min(wanted, 2**22 // max(1, length)))


def look_ahead(module: Training, data: VAEData, trainer: pl.Trainer, units: int) -> Survey:
    """The pre-flight: what the data offers at this plan's price, and the plan against its warm-up."""
    count = affordable(data, 512) if "sample_rate" in data.facts else 4096
    training, held_out = (spread_examples(split, count) for split in (data.splits.train, data.splits.validation))
    part, batches = trainer.limit_train_batches, data.batches(trainer.world_size)
    batches = int(batches * part) if isinstance(part, float) else min(batches, part or batches)
    batches = math.ceil(batches / trainer.accumulate_grad_batches)
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


def record_start(
    run: Run, cfg: DictConfig, overrides: Sequence[str], data: VAEData, source: dict[str, Any] | None = None
) -> None:
    """config.yaml, overrides.txt and provenance.json."""
    composed = OmegaConf.to_yaml(cfg, resolve=True)
    run.write("config.yaml", composed)
    if data.left_out:
        run.append_csv("quarantine.csv", ["path", "reason"], data.left_out)
    run.write("overrides.txt", "".join(f"{line}\n" for line in overrides))
    packages = ("torch", "lightning", "hydra-core", "torchmetrics", "zuko", "numpy")
    run.write(
        "provenance.json",
        {
            "vaecollapse": __version__,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
            "git": git_revision(),
            "seed": cfg.seed,
            "init_from": source,
            "data": data.fingerprint(),
            "config_sha256": hashlib.sha256(composed.encode()).hexdigest(),
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
        kept = [line for line in overrides if line.lstrip("+").partition("=")[0] not in {*moved, "resume", "trust"}]
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
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for module, message in (
        ("lightning", ".*LeafSpec.*"),
        ("lightning", ".*smaller than the logging interval.*"),
        ("lightning", ".*does not have many workers.*"),
        ("lightning", ".*returned `None`.*"),
        ("lightning", ".*your dataloader is not resumable.*"),  # it is: VAEData says where it stands
        ("lightning", ".*sync_dist=True.*"),  # our metrics are the same on all processes when they are logged
    ):
        warnings.filterwarnings("ignore", message=message, module=module)
