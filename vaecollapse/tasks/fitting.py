"""`vaecollapse-train`: a model trained to a verdict."""

import hashlib
import logging
import math
import shlex
import time
from collections.abc import Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from .. import config, loading, report
from ..audit import audit
from ..batch import collate
from ..callbacks.acting import Acting
from ..callbacks.monitor import CollapseMonitor
from ..datasets.base import VAEData
from ..detectors.base import Finding
from ..diagnosis import Verdict
from ..distributions.batch_norm import BatchNormPosterior
from ..distributions.delta import DeltaPosterior
from ..elbo import Progress
from ..evaluation import beside, quiet, spread
from ..preflight import Survey, rehearse, survey
from ..prescriptions import Prescription
from ..probing import Plan, probe
from ..refusal import Refused
from ..resuming import has_begun
from ..run import Run, first_process
from ..training import Training
from ..vae import VAE
from .building import (
    affordable,
    build_callbacks,
    build_model,
    build_module,
    build_trainer,
    logged,
    made,
    prepared,
    quiet_lightning,
    spread_examples,
)
from .recording import record_start
from .rewinding import of_the_run_itself, refuse_planted, rewound

log = logging.getLogger(__name__)
NULL_EXAMPLES = 512  # validation examples that null models are read on
CALIBRATION_EXAMPLES, AUDITED = 256, 16


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
    begun = bool(cfg.resume) and has_begun(directory)  # else a resumed run starts once more
    kept = directory if begun else cfg.init_from
    data: VAEData = made("dataset", lambda: prepared(instantiate(cfg.dataset), kept), VAEData)
    weights = weights_of(cfg.init_from) if cfg.init_from and not begun else None
    module = build_module(cfg, build_model(cfg, data, weights))
    callbacks = build_callbacks(cfg)
    trainer = build_trainer(cfg, directory, list(callbacks.values()))
    acting = [callback for callback in callbacks.values() if isinstance(callback, Acting)]
    for callback in acting:
        callback.check(trainer, module)
    plan = made("the plan", lambda: rehearsed(module, data, trainer))
    run = Run(directory)
    for callback in acting:
        callback.run = run
        callback.prepare(module, spread_examples(data.splits.train, 2).like(module))
    monitor = next((c for c in callbacks.values() if isinstance(c, CollapseMonitor)), None)
    if monitor:
        monitor.run, monitor.survey = run, plan
        monitor.beside = known_beside(data)
        monitor.command, monitor.held = command_of(overrides, list(callbacks)), held_by(module)
        monitor.foresee = partial(look_ahead, module, data, trainer, plan.units)
        monitor.knobs = {name: float(cfg[name]) for name in ("seed", "max_epochs", "lr", "latent_dim")}
        monitor.knobs |= {"usual_lr": usual_rate(cfg, overrides)}
    describe(module, plan)
    source = take_weights(module.vae, weights) if weights else None
    if not begun and first_process():
        record_start(run, *(of_the_run_itself(cfg, overrides) if cfg.resume else (cfg, overrides)), data, source)
        run.write("preflight.json", plan.as_dict())
    if cfg.preflight == "only":
        return Outcome("too_early", None, directory)
    with logged(trainer, cfg):
        with run.alone():
            began = time.monotonic()
            fit(trainer, module, data, rewound(run, cfg, overrides, data) if cfg.resume else None)
            if first_process():
                run.write("trained.json", ended(trainer, module, time.monotonic() - began))
            if cfg.probe and monitor:
                probed(monitor, module, data, trainer)
        if cfg.get("report", True) and first_process():
            leave_page(directory)
    verdict = monitor.verdict if monitor else None
    paid = verdict.readings.get("price_of_a_nat") if verdict else None
    plan = (monitor and monitor.survey) or plan  # an intervention makes another
    if plan.audit and paid and paid.value is not None and paid.se is not None:
        log.info("audit: %s", plan.audit.against(paid.value, paid.se) or "a trained nat costs what the loss charges")
    return Outcome(verdict.verdict if verdict else "inconclusive", verdict, directory)


def leave_page(directory: Path) -> None:
    """report.html; a disk that is full by now does not undo the training."""
    try:
        report.leave_page(directory)
    except (OSError, ValueError) as error:
        log.warning("no report.html (%s): vaecollapse-report runs=%s makes it", error, directory)


def known_beside(data: VAEData) -> dict[str, Finding]:
    """What the losses of the validation split are to be held against, in a line of the log too."""
    count = len(cast(Sized, data.splits.validation))
    found = beside(data.nulls("validation", spread(count, NULL_EXAMPLES)), data.facts)
    if nulls := {name: each for name, each in found.items() if name.startswith("null_")}:
        told = ", ".join(f"{name[5:]} {each.value:.4g} nats per token ({each.note})" for name, each in nulls.items())
        log.info("null models: %s", told)
    return found


def usual_rate(cfg: DictConfig, overrides: Sequence[str]) -> float:
    """The learning rate that this plan has where none is asked for."""
    others = [line for line in overrides if line.lstrip("+").partition("=")[0] not in ("lr", "resume", "trust")]
    asked = any(line.startswith("lr=") for line in overrides)
    return float(config.compose(others).lr if asked else cfg.lr)


def ended(trainer: pl.Trainer, module: Training, seconds: float) -> dict[str, Any]:
    """What trained.json says: in which circumstances the numbers came about. Callbacks that train otherwise tell
    theirs; `seconds` are those since the last start."""
    steps = trainer.global_step
    said = {"steps": steps, "encoder_steps": steps, "decoder_steps": steps, "restarts": 0, "seconds": seconds,
            "parameters": sum(p.numel() for p in module.vae.parameters())}  # fmt: skip
    if module.tokens_per_second is not None:
        said["tokens_per_second"] = module.tokens_per_second
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        said |= callback.circumstances() if isinstance(callback, Acting) else {}
    return said


def fit(trainer: pl.Trainer, module: Training, data: VAEData, going_on: Path | None) -> None:
    """Trains; what stops it before its first step is the plan's fault, and one sentence."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=going_on, weights_only=True)
    except Exception as error:
        if trainer.global_step or isinstance(error, Refused | OSError):
            raise
        lines = str(error).splitlines() or ["no message"]
        raise Refused(f"training cannot start with this configuration: {type(error).__name__}: {lines[0]}") from error


PROBE_STEPS, PROBED = (200, 1000), ("decoder_reliance", "rate", "information_rank")


def probed(monitor: CollapseMonitor, module: Training, data: VAEData, trainer: pl.Trainer) -> None:
    """Forks a tenth of the training's steps from where it ended, and lets the verdict know what they moved."""
    if trainer.world_size > 1:
        log.warning("warning: probe=true forks in one process: type it with trainer.devices=1")
        return
    if monitor.verdict is None or monitor.verdict.verdict == "diverged" or "held_out" not in monitor.probes:
        return
    blocks = [block.like(module) for block in monitor.probes["held_out"].blocks]
    least, most = PROBE_STEPS
    steps = min(most, max(least, trainer.global_step // 10))
    loader = DataLoader(data.splits.train, batch_size=data.batch_size, shuffle=True, collate_fn=collate,
                        generator=torch.Generator().manual_seed(module.seed))  # fmt: skip
    plan = Plan(module.optimizer, loader, module.progress, steps, module.seed)
    fitted = spread_examples(data.splits.train, affordable(data, 2048)).like(module)
    detectors = {name: each for name, each in monitor.detectors.items() if name in PROBED}
    found = probe(module.vae, module.regularizer, plan, blocks, fitted, detectors)
    monitor.conclude(*found, step=trainer.global_step)


def planned_steps(data: VAEData, trainer: pl.Trainer) -> int:
    """How many optimizer steps the training is to have."""
    part, batches = trainer.limit_train_batches, data.batches(trainer.world_size)
    batches = int(batches * part) if isinstance(part, float) else min(batches, part or batches)
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


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


def look_ahead(module: Training, data: VAEData, trainer: pl.Trainer, units: int) -> Survey:
    """The pre-flight: what the data offers at this plan's price, and the plan against its warm-up."""
    count = affordable(data, 512 if "sample_rate" in data.facts else 4096)
    splits = (data.splits.train, data.splits.validation)
    training, held_out = (spread_examples(split, count).like(module) for split in splits)
    steps = planned_steps(data, trainer)
    end = module.regularizer.end_weight()  # as it is charged now, whatever moved it
    reached = next((step for step in range(steps + 1) if module.regularizer.settled(Progress(step, steps))), steps)
    with quiet(module.vae, module.seed):
        plan = survey(module.vae, training, held_out, beta=end, units=units, steps=steps, warmup_ends=reached)
        if end is None:  # what a nat costs before step 1 is not what it will cost
            return plan
        residual, few = plan.forecast and plan.forecast.residual, training.part(slice(0, AUDITED))
        priced = audit(module.vae, module.regularizer, few, residual=residual, beta_effective=plan.beta_effective)
        return plan._replace(audit=priced)


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


def held_by(module: Training) -> tuple[str, ...]:
    """The choices that give up what keeps R from falling whatever carries it: a floor, a target, a posterior that
    cannot come near the prior."""
    held = ["regularizer=beta"] if getattr(module.regularizer, "floor", 0.0) > 0 else []
    if module.regularizer.end_weight() is None:
        held = ["regularizer=beta"]
    if any(isinstance(part, DeltaPosterior | BatchNormPosterior) for part in module.vae.modules()):
        held.append("posterior=normal")
    return tuple(held)


def command_of(overrides: Sequence[str], callbacks: Sequence[str] = ()):
    """From a prescription to the command line that carries it out: the run's own overrides, those it moves replaced,
    and with a choice from a group what was said of the one before. `callback=[*,more]` adds to the run's own.

    One that would be refused has no command.
    """

    def command(prescription: Prescription) -> Prescription:
        wanted = [line.removeprefix("callback=[*,").rstrip("]") for line in prescription.overrides if "[*," in line]
        if set(wanted) & set(callbacks):
            return prescription._replace(command=None)  # it is there
        moves = [line.replace("[*", f"[{','.join(callbacks)}") for line in prescription.overrides]
        moved = {line.partition("=")[0] for line in moves}
        kept = [line for line in overrides if line.lstrip("+").partition("=")[0] not in {*moved, "resume", "trust"}]
        for group in moved & {"regularizer", "posterior", "likelihood", "prior"}:
            kept = [line for line in kept if not line.lstrip("+").startswith((f"{group}.", f"coefficient@{group}."))]
        if "regularizer=beta" in moves:
            kept = [line for line in kept if not line.startswith("free_bits=")]
        whole = [*kept, *moves]
        try:
            config.compose(whole)
        except Refused:
            return prescription._replace(command=None)
        return prescription._replace(command=shlex.join(["vaecollapse-train", *whole]))

    return command


def weights_of(directory: str) -> loading.Weights:
    """The weights of another run: the last healthy ones where they were kept, else the best, else the last."""
    source = loading.run_directory(directory, "init_from")
    kept = (name for name in ("healthy", "best") if (source / "checkpoints" / f"{name}.ckpt").exists())
    name = next(kept, "last")
    return loading.load_weights(loading.checkpoint_of(source, name, "init_from"))


def take_weights(vae: VAE, weights: loading.Weights) -> dict[str, Any]:
    """The weights of another run into this model, nothing else of it. Returns what provenance.json says of them."""
    loading.fill(vae, weights, "vae.")
    log.info("weights from %s (step %d)", weights.file, weights.step)
    digest = hashlib.sha256(weights.file.read_bytes()).hexdigest()
    return {"file": str(weights.file.resolve()), "step": weights.step, "sha256": digest}
