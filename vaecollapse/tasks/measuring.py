"""`vaecollapse-evaluate`: a trained run measured on a split, from its directory alone."""

import logging
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from .. import config, loading
from ..batch import Batch, collate
from ..datasets.base import VAEData
from ..detectors.base import Detector, Finding
from ..diagnosis import MISSING, Facts, Verdict, bars_of, diagnose, interval, status
from ..diagnosis import value as value_of
from ..elbo import ELBO, Objective, Progress
from ..ensembles.pictures import write as write_pictures
from ..evaluation import beside, blocks_of, bound, distinct, per_token, read, reconstruction, spread
from ..listening.scoring import Compared
from ..metrics.base import Score
from ..refusal import Refused
from ..regularizers.base import Regularizer
from ..run import Run
from ..training import Training
from ..vae import PART, VAE
from .building import build_model, made, prepared, quiet_lightning
from .listening import heard, told_of
from .opening import Opened
from .recording import other_data, record_start
from .scoring import as_dicts, scored, too_alike
from .second_stage import is_second_stage, two_stages

log = logging.getLogger(__name__)
EVALUATION_BLOCK = 256  # as the monitor reads its probes
TRAINING_EXAMPLES = 512  # as its training probe has


class Evaluated(NamedTuple):
    """What an evaluation found: the verdict on the split's readings, the figures beside it, and of what they are; of
    fields the scores of their ensemble too, of sounds those of the samples' set."""

    verdict: Verdict
    figures: dict[str, Finding]
    what: str
    directory: Path
    scores: list[Score] = []
    scored: str = ""
    heard: Compared | None = None


def opened(cfg: DictConfig) -> Opened:
    """The run that a verb was given, from its directory alone. Raises Refused where that cannot be read."""
    quiet_lightning()
    source = loading.run_directory(cfg.run)
    own = loading.read_config(source, list(cfg.trust))
    weights = loading.load_weights(loading.checkpoint_of(source, cfg.checkpoint))
    if is_second_stage(own):
        return two_stages(cfg, source, own, weights, opened)
    own = moved(own, list(cfg.overrides))
    device = usable(cfg.device)
    data = rebuilt_data(own, source)
    module = rebuilt_module(own, data, weights).to(device)
    provenance = loading.read_json(source, "provenance.json")
    if line := other_data(provenance.get("data"), data):
        log.warning("warning: %s", line)
    seed = module.seed if cfg.seed is None else cfg.seed
    return Opened(source, own, weights, data, module, provenance, seed)


def evaluate(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Evaluated:
    """Measures a run on a split, from its directory alone. Raises Refused where that cannot be read or does not fit."""
    run_ = opened(cfg)
    source, own, weights, data, module, provenance, seed, _ = run_
    dataset = run_.split(cfg.split)
    if not len(dataset):
        raise Refused(f"the {cfg.split} split of this run is empty: type split=validation")
    examples = Examples(dataset, spread(len(dataset), cfg.examples or len(dataset)), module)
    own_split = Examples(data.splits.train, spread(len(cast(Sized, data.splits.train)), TRAINING_EXAMPLES), module)
    price, device = price_at(module, place_of(module, weights, data, own)), module.device

    def readings(of: Examples, split: str) -> dict[str, Finding]:
        log.info("readings on %d examples of %s", len(of), split)
        return read(module.vae, of.distinct().blocks(EVALUATION_BLOCK), detectors_of(own, device), price, seed=seed)[0]

    found = made("the readings", lambda: readings(examples, cfg.split))
    nulls = made("the null models", lambda: data.nulls(cfg.split, examples.positions))
    found |= (given := beside(nulls, data.facts))
    training = made("the readings", lambda: readings(own_split, "train")) if cfg.split != "train" else None
    figures = made("the figures", lambda: measured(module, examples, data, weights, seed=seed, samples=cfg.samples))
    figures |= per_token(figures, nulls, given)
    judged = scored(module, data, cfg, examples.positions, seed=seed, overrides=overrides)
    sounds = heard(module, data, cfg, examples.positions, seed=seed, silent=silent(found))
    # of a foreign command line nothing is composed, so nothing is prescribed
    facts = facts_of(module, source, found, weights, data, own, held_out=cfg.split != "train")
    verdict = diagnose(found, training, facts)._replace(prescriptions=[])
    verdict = verdict._replace(findings=[*verdict.findings, *too_alike(judged.scores)])
    run, told = Run(directory), run_.told(cfg.split, len(examples))
    record_start(run, cast(DictConfig, OmegaConf.merge(cfg, {"seed": seed})), overrides, data)
    run.write("provenance.json", run.read("provenance.json") | {"evaluated": told, "trained": provenance})
    content = {**told, **verdict.as_dict(), "figures": {name: figure(each) for name, each in figures.items()}}
    if judged.scores:
        content |= {"scored": judged.what, "scores": as_dicts(judged.scores)}
    if sounds:
        content |= told_of(sounds)
    run.write("evaluation.json", content)
    write_pictures(directory / "pictures", judged.pictures)
    what = f"{len(examples)} {cfg.split} examples, {run_.named(cfg.run)}"
    return Evaluated(verdict, figures, what, directory, judged.scores, judged.what, sounds)


def silent(found: Mapping[str, Finding]) -> bool:
    """Is z worth nothing to the decoder, or is R, which I never exceeds, below what matters of I?"""
    rate, mi = found.get("rate", MISSING), found.get("mi", MISSING)
    little = rate.value is not None and mi.threshold is not None and interval(rate)[1] < mi.threshold
    return status(found, "gap") == "absent" or little


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


def rebuilt_data(cfg: DictConfig, source: Path) -> VAEData:
    """The dataset of the run in `source` with its splits, read in this process."""
    if "num_workers" in cfg.dataset:
        cfg.dataset.num_workers = 0
    data = made("dataset", lambda: instantiate(cfg.dataset), VAEData)
    try:
        return made("dataset", lambda: prepared(data, source), VAEData)
    except Refused as error:
        place = next((key for key in ("root", "path", "images") if key in cfg.dataset), None)
        if place is None:
            raise
        raise Refused(
            f"{error}; if the data of this run lie elsewhere here, type \"overrides=['dataset.{place}=/new/place']\""
        ) from error


def rebuilt_module(cfg: DictConfig, data: VAEData, weights: loading.Weights) -> Training:
    """Model and regularizer with the checkpoint's numbers; the optimizer is none that the run names."""
    vae = made("model", lambda: build_model(cfg, data, weights), VAE)
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


class Examples:
    """Some examples of a split, read when they are looked at: memory does not grow with the split."""

    def __init__(self, dataset: Any, positions: Sequence[int], module: torch.nn.Module) -> None:
        self.dataset, self.positions, self.module = dataset, list(positions), module

    def __len__(self) -> int:
        return len(self.positions)

    def distinct(self) -> "Examples":
        """Without copies of an example: duplicates buy no evidence."""
        read_ = (self.dataset[position] for position in self.positions)
        kept = distinct(one.x if one.context is None else (one.x, one.context) for one in read_)
        return Examples(self.dataset, [self.positions[place] for place in kept], self.module)

    def blocks(self, size: int, *, whole: bool = True) -> "Blocks":
        """Batches of `size`; `whole` where a reading permutes within one, so that a remainder goes to the last."""
        cuts = blocks_of(len(self), size) if whole else [slice(s, s + size) for s in range(0, len(self), size)]
        return Blocks(self, [self.positions[cut] for cut in cuts])


class Blocks(Sequence[Batch]):
    """Batches that are read anew each time they are asked for."""

    def __init__(self, examples: Examples, positions: list[list[int]]) -> None:
        self.examples, self.positions = examples, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return Blocks(self.examples, self.positions[which])
        dataset = self.examples.dataset
        return collate([dataset[position] for position in self.positions[which]]).like(self.examples.module)


def detectors_of(cfg: DictConfig, device: torch.device) -> Mapping[str, Detector]:
    """The run's detectors, empty."""
    detectors = made("detector", lambda: instantiate(OmegaConf.select(cfg, "detector") or {}), Mapping)
    for name, detector in detectors.items():
        made(f"detector.{name}", lambda detector=detector: detector.to(device), Detector)
    return detectors


def price_at(module: Training, place: Progress) -> Callable[[ELBO], Objective]:
    """What the regularizer charges at this place of training."""
    regularizer = module.regularizer.eval()
    return lambda elbo: regularizer(elbo, place)


def measured(
    module: Training, examples: Examples, data: VAEData, weights: loading.Weights, *, seed: int, samples: int
) -> dict[str, Finding]:
    """The bound and the reconstruction over all examples."""
    blocks = examples.blocks(PART, whole=False)
    figures = bound(module.vae, blocks, samples=samples, seed=seed, epoch=weights.epoch)
    return figures | reconstruction(module.vae, blocks, audio="sample_rate" in data.facts, seed=seed)


def facts_of(
    module: Training, source: Path, found: Mapping[str, Finding], weights: loading.Weights, data: VAEData,
    cfg: DictConfig, *, held_out: bool,
) -> Facts:  # fmt: skip
    """What the run's directory tells besides readings; how they moved over training is not known."""
    place = place_of(module, weights, data, cfg)
    survey = loading.read_json(source, "preflight.json")
    known = survey if survey.get("decides") is True else {}
    directions, at_one, price = (known.get(name) for name in ("directions", "at_one", "beta_effective"))
    settled = module.regularizer.settled(place)
    return Facts(
        units=int(value_of(found, "units", 0.0)),
        weight=module.regularizer.end_weight(),
        forecast=directions if type(directions) is int else None,
        forecast_at_one=at_one if type(at_one) is int else None,
        beta_effective=price if type(price) is float else None,
        share=place.share,
        epochs=weights.epoch + 1,
        finished=settled,
        schedule_done=settled,
        floor=value_of(found, "floor", 0.0),
        held_out=held_out,
        bottleneck=module.vae.bottleneck,
        bars=bars_of(OmegaConf.select(cfg, "callback.collapse_monitor.bars") or {}),
    )


def figure(finding: Finding) -> dict[str, Any]:
    """A finding as verdict.json has them."""
    return {name: part for name, part in finding._asdict().items() if name != "name"}
