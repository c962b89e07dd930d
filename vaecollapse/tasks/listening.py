"""Sets of sounds compared: two folders, or what a run's prior sounds like beside what it was held to."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Float32
from omegaconf import DictConfig, OmegaConf

from ..batch import Batch, collate
from ..datasets.base import VAEData
from ..datasets.cache import Cache
from ..evaluation import quiet
from ..listening.embedding import Embedding
from ..listening.scoring import Compared, compared
from ..listening.sounds import Folder, Waveform, of_waveforms
from ..metrics.sets import SetMetric
from ..refusal import Refused
from ..run import Run
from ..sampling import Held, from_posterior, from_prior
from ..training import Training
from .building import made
from .recording import provenance


class Heard(NamedTuple):
    """A comparison of two folders, and where it was written."""

    heard: Compared
    directory: Path


def metrics_of_sounds(cfg: DictConfig, seed: int) -> tuple[Embedding, dict[str, SetMetric]]:
    """The embedding, and the metrics of sets, empty, with halves drawn by `seed`."""
    found = made("metric", lambda: instantiate(OmegaConf.select(cfg, "metric") or {}), Mapping)
    metrics = {name: each for name, each in found.items() if isinstance(each, SetMetric)}
    for metric in metrics.values():
        metric.seed = seed
    own = [each for each in found.values() if isinstance(each, Embedding)]
    return (own or [Embedding()])[0], metrics


def compare_folders(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Heard:
    """The sounds of one folder against those of another. Raises Refused where there is nothing to listen to."""
    cache = Cache()
    embedding, metrics = metrics_of_sounds(cfg, cfg.seed or 0)
    if not metrics:
        raise Refused("metric names no score of sounds: leave it out for all of them, or type metric=[embedding,fad]")
    real, generated = (Folder.of(cfg[name], name, cache) for name in ("real", "generated"))
    rate = embedding.sample_rate or min(real.rate, generated.rate)
    most = embedding.samples(rate)
    sets = real.sounds(rate, most), generated.sounds(rate, most)
    found = made("the scores", lambda: compared(*sets, embedding, metrics, rate=rate, cache=cache))
    run = Run(directory)
    run.write("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    run.write("overrides.txt", "".join(f"{line}\n" for line in overrides))
    run.write("provenance.json", provenance())
    folders = {name: str(folder.root.resolve()) for name, folder in (("real", real), ("generated", generated))}
    run.write("evaluation.json", folders | told_of(found))
    return Heard(found, directory)


def heard(
    module: Training, data: VAEData, cfg: DictConfig, positions: Sequence[int], *, seed: int, silent: bool = False
) -> Compared | None:
    """Samples compared with held-out clips, as many of them; None where data are no sounds. `silent`: z is worth
    nothing to the decoder.

    Neither the model nor its loss says how long a sound is, and cut as the clips are, copies of one sample would be as
    many sounds: all are heard for the first quartile of the clips' lengths, and clips shorter than that left out.
    """
    embedding, metrics = metrics_of_sounds(cfg, seed)
    if "sample_rate" not in data.facts or not metrics:
        return None
    own = int(str(data.facts["sample_rate"]))
    rate = embedding.sample_rate or own
    mode, temperature = cfg.mode or "prior", 1.0 if cfg.temperature is None else float(cfg.temperature)
    held = held_out(module, data, cfg.split, positions)
    with quiet(module.vae, seed):
        clips, drawn = zip(*samples(module, held, mode, temperature, seed), strict=True)
    length = int(np.quantile([len(clip) for clip in clips], 0.25, method="lower"))
    long = [clip[:length] for clip in clips if len(clip) >= length]
    cuts: dict[str, Any] = {"own": own, "rate": rate, "most": embedding.samples(rate)}
    seen = ", which have seen the clips" if mode == "posterior" else ""
    sets = (
        of_waveforms(f"{cfg.split} clips", long, **cuts),
        of_waveforms(
            f"{mode} samples{seen} at temperature {temperature:g}",
            [each[:length] for each in drawn[: len(long)]],
            **cuts,
        ),
    )
    if len(set(map(len, clips))) > 1:
        said = f"lengths are not the model's: {length / own:.3g} s are heard of the {len(long)} clips that long"
        sets[0].said.append(f"{said}, and of as many samples")
    return made("the scores", lambda: compared(*sets, embedding, metrics, rate=rate, cache=Cache(), silent=silent))


def held_out(module: Training, data: VAEData, split: str, positions: Sequence[int]) -> Held:
    """Some examples of a split."""
    dataset: Any = getattr(data.splits, split)

    def take(places: Sequence[int]) -> Batch:
        return collate([dataset[positions[place]] for place in places]).like(module)

    return Held(len(positions), take, module.vae.condition(take([0])) is not None)


def samples(
    module: Training, held: Held, mode: str, temperature: float, seed: int
) -> Iterator[tuple[Waveform, Waveform]]:
    """Each held-out clip, without its padding, and a sample, both in one channel."""
    if mode == "prior":
        blocks = from_prior(module.vae, held, held.count, seed=seed, temperature=temperature)
    else:
        blocks = from_posterior(module.vae, held, held.count, seed=seed, temperature=temperature, draws=1)
    for block in blocks:
        made_ = block.columns["sample" if mode == "prior" else "draw_1"]
        batch = held.take(range(block.start, block.start + len(made_)))
        mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
        for clip, sample, kept in zip(batch.x.cpu().numpy(), made_, mask.cpu().numpy(), strict=True):
            yield one_channel(clip)[np.atleast_2d(kept).any(0)], one_channel(sample)


def one_channel(clip: np.ndarray) -> Float32[np.ndarray, " time"]:
    """The mean of the channels."""
    return np.atleast_2d(clip).mean(0).astype(np.float32)


def told_of(found: Compared) -> dict[str, Any]:
    """A comparison as evaluation.json has it."""
    told = None if found.judged is None else found.judged._asdict()
    return {"scored": found.what, "set": told, "notes": found.said, "scores": [each._asdict() for each in found.scores]}
