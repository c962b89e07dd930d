"""A run's codes, and the model of two stages: encoder and decoder of a run, and a prior fitted to its codes."""

import hashlib
import io
import logging
import math
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from .. import loading
from ..batch import collate
from ..datasets.base import Splits
from ..datasets.cache import Cache
from ..datasets.latents import Codes
from ..elbo import draw, gaussian, noise
from ..evaluation import quiet
from ..models.latent_prior import LatentPrior, TwoStage
from ..refusal import Refused
from ..resuming import path_of
from ..training import Training
from ..vae import PART
from .building import Described, build_model, made
from .opening import Opened

log = logging.getLogger(__name__)
DRAWN = 11  # the noise's epoch: of draws that are kept


def is_second_stage(cfg: DictConfig) -> bool:
    """Is it the configuration of a second-stage prior? By its name: nothing that a directory names is imported here."""
    return OmegaConf.select(cfg, "model._target_") == f"{LatentPrior.__module__}.{LatentPrior.__name__}"


def opened_first(directory: str, checkpoint: str, asked: DictConfig, open_: Callable[[DictConfig], Opened]) -> Opened:
    """The run whose codes a prior is of. Refused where it is none, has not finished, or its codes
    depend on a condition.

    `asked` are the device, seed, trust and overrides of the verb.
    """
    source = loading.run_directory(directory, "dataset.run")
    if "second_stage" in loading.read_json(source, "provenance.json"):
        raise Refused(
            f"dataset.run={source} is a second-stage prior itself: give the run whose codes that one is of, "
            f"dataset.run={loading.read_json(source, 'provenance.json')['second_stage']}"
        )
    loading.config_content(source)
    if not (source / "trained.json").exists():
        raise Refused(
            f"dataset.run={source} has not finished its training: vaecollapse-train resume={source} goes on with it"
        )
    loading.checkpoint_of(source, checkpoint, "dataset.run")
    run = open_(OmegaConf.create({**{name: asked[name] for name in ("device", "seed", "trust", "overrides")},
                                  "run": str(source), "checkpoint": checkpoint}))  # fmt: skip
    vae, example = run.module.vae, collate([run.data.splits.train[0]]).like(run.module)
    if vae.condition(example) is not None:
        raise Refused(
            f"dataset.run={source} is of a conditional model: its codes' law depends on the condition, which a "
            "second-stage prior does not see. Give a run without one"
        )
    with quiet(vae, 0):
        shape = tuple(vae.encode(example.x, example.context, example.mask).event_shape)
    if len(shape) != 1:
        raise Refused(f"dataset.run={source} has codes of shape {shape}, and a second-stage prior is of vectors")
    return run


def identity(run: Opened) -> dict[str, object]:
    """Which checkpoint and data codes are of."""
    digest = hashlib.sha256(run.weights.file.read_bytes()).hexdigest()
    return {"checkpoint": digest, "data": str(run.data.fingerprint()["hash"])}


# ---- codes


def codes_of(run: Opened, draws: int) -> dict[str, Codes]:
    """The codes of each split, from the cache where this checkpoint has encoded these data before."""
    cache, name = Cache(), f"{Cache.key('codes', identity(run), draws, run.module.seed)}.npz"
    kept = read_codes(cache.path(name))
    if kept:
        log.info("codes: those kept in %s", cache.path(name))
        return kept
    codes = {split: encoded(run, split, draws) for split in Splits._fields}
    arrays = {f"{split}.{field}": part.numpy() for split, each in codes.items()
              for field, part in each._asdict().items() if part is not None}  # fmt: skip
    with suppress(OSError), cache.writing(name) as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return codes


def read_codes(file: Path | None) -> dict[str, Codes]:
    """Codes as they were kept; none where there are none, or the file is damaged."""
    if file is None:
        return {}
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as kept:
            parts = {name: torch.from_numpy(kept[name]) for name in kept.files}
        return {
            split: Codes(**{field: parts[f"{split}.{field}"] for field in Codes._fields if f"{split}.{field}" in parts})
            for split in Splits._fields
        }
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        log.info("the cached %s is damaged and made anew", file)
        return {}


def encoded(run: Opened, split: str, draws: int) -> Codes:
    """q(z|x) of every example of a split, as it stands still: no augmentation."""
    dataset, module = run.split(split), run.module
    blocks = [range(start, min(start + PART, len(dataset))) for start in range(0, len(dataset), PART)]
    with quiet(module.vae, module.seed):
        parts = [encoded_block(module, [dataset[i] for i in block], draws) for block in blocks]
    if not parts:
        unit = encoded_block(module, [run.data.splits.train[0]], draws)
        return Codes(**{name: part[:0] for name, part in unit._asdict().items() if part is not None})
    filled = [name for name, part in parts[0]._asdict().items() if part is not None]
    codes = Codes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in filled})
    if not all(part.isfinite().all() for part in codes if part is not None):
        raise Refused(f"dataset.run={run.source} encodes some {split} examples to what is not finite: it has diverged")
    return codes


@torch.no_grad()
def encoded_block(module: Training, examples: list, draws: int) -> Codes:
    """Some examples' q(z|x): mean and σ of a Gaussian, else draws of it and their moments."""
    batch = collate(examples).like(module)
    posterior = module.vae.encode(batch.x, batch.context, batch.mask)
    own = gaussian(posterior)
    if own is not None:
        return Codes(own[0].float().cpu(), own[1].float().cpu())
    eps = noise(batch.positions(), tuple(posterior.event_shape), draws=draws, seed=module.seed, epoch=DRAWN)
    z = draw(posterior, eps)
    log_prob = posterior.log_prob(z)
    z, log_prob = (part.transpose(0, 1).float().cpu().contiguous() for part in (z, log_prob))
    return Codes(z.mean(1), z.std(1).clamp(min=1e-6), z, log_prob)


# ---- both stages as one model


def two_stages(
    cfg: DictConfig, source: Path, own: DictConfig, weights: loading.Weights, open_: Callable[[DictConfig], Opened]
) -> Opened:
    """The run of the second-stage prior in `source`, as one model with the run whose codes it is of.

    Overrides other than dataset.run are of that run's own dataset. Refused where its checkpoint is another one by now.
    """
    provenance = loading.read_json(source, "provenance.json")
    place, lines = str(provenance.get("second_stage", own.dataset.run)), list(cfg.overrides)
    for line in [line for line in lines if path_of(line) == "dataset.run"]:
        place = line.partition("=")[2].strip("'\"")
        lines.remove(line)
    checkpoint = str(own.dataset.checkpoint)
    asked = OmegaConf.merge(cfg, {"overrides": lines})
    try:
        first = opened_first(place, checkpoint, asked, open_)  # type: ignore[arg-type]
    except Refused as error:
        raise Refused(
            f"{error}; if the run whose codes this prior is of lies elsewhere, type "
            "\"overrides=['dataset.run=/new/place']\""
        ) from error
    if (then := provenance.get("codes")) is not None and then != (now := identity(first)):
        other = next(name for name in now if then.get(name) != now[name])
        raise Refused(
            f"the {other} of {first.source} is not the one whose codes {source} is of: train the prior again with "
            f"vaecollapse-train model=latent_prior dataset.run={first.source}"
        )
    second = rebuilt_prior(own, weights)
    return joined(first, second, source, weights)._replace(provenance=provenance)


def joined(first: Opened, second: LatentPrior, source: Path, weights: loading.Weights) -> Opened:
    """The run with the prior in the place of its own."""
    module = first.module
    second = second.to(module.device).to(next(module.vae.parameters()).dtype)
    both = Training(
        vae=TwoStage(first=module.vae, second=second), regularizer=module.regularizer, optimizer=module.optimizer,
        seed=module.seed,
    )  # fmt: skip
    return first._replace(module=both.eval().to(module.device), prior=(source, weights))


def rebuilt_prior(cfg: DictConfig, weights: loading.Weights) -> LatentPrior:
    """The prior of a checkpoint; what it knows of the codes is in there too."""
    found = weights.state.get("vae.location")
    if found is None or found.ndim != 1:
        raise Refused(f"{weights.file} is no checkpoint of a second-stage prior: take it and config.yaml from one run")
    k = len(found)
    facts = {"event_shape": (k,), "location": [0.0] * k, "scale": [1.0] * k, "order": [0] * k}
    second = made("model", lambda: build_model(cfg, Described(facts), weights), LatentPrior)
    loading.fill(second, weights, "vae.")
    order = second.order.sort().values
    if not math.isfinite(float(second.scale.log().sum())) or not torch.equal(order, torch.arange(len(order))):
        raise Refused(f"{weights.file} has no order and scales of units: take another checkpoint of the run")
    return second.eval()
