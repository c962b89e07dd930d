"""Ensembles of a trained run, drawn as they are scored, and of a file."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Float, Int
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from ..batch import Batch, collate
from ..datasets.base import VAEData
from ..datasets.fields import FieldData
from ..elbo import draw, noise
from ..ensembles import pictures
from ..ensembles.pictures import Picture
from ..ensembles.reading import Stored
from ..ensembles.scoring import scores
from ..evaluation import quiet
from ..listening.embedding import Embedding
from ..metrics.base import Metric, Score
from ..metrics.diversity import analog_members
from ..metrics.fields import Fields
from ..metrics.sets import SetMetric
from ..refusal import Refused
from ..run import Run
from ..sampling import Shown
from ..training import Training
from .building import affordable, made, spread_examples
from .recording import provenance

MEMBERS = 10
LIBRARY = 4096  # training fields that analogs are looked for among
OF_ENSEMBLES = ("members", "mode", "temperature")  # keys that only fields read, and of sounds all but the first


class Scored(NamedTuple):
    """Scores of a file's ensemble, of what they are, and where they were written."""

    scores: list[Score]
    what: str
    directory: Path


class Judged(NamedTuple):
    """The scores of a run's own ensemble, of what they are, and what it looks like; empty where data are no fields."""

    scores: list[Score] = []
    what: str = ""
    pictures: list[Picture] = []


class Drawn:
    """The ensemble of a run on some examples of a split, read as a stored one is, and made part by part.

    mode prior: z from p(z|c); posterior: from q(z|x, c), which has seen the truth.
    """

    def __init__(
        self, module: Training, data: FieldData, split: str, positions: Sequence[int], *, count: int, mode: str,
        temperature: float, seed: int,
    ) -> None:  # fmt: skip
        self.module, self.data, self.split, self.positions, self.seed = module, data, split, list(positions), seed
        self.count, self.mode, self.temperature = count, mode, temperature

    def codes(self, batch: Batch) -> Iterator[Tensor]:
        """z of each member, with the noise that `vaecollapse-sample` gives it."""
        vae, place = self.module.vae, batch.positions().cpu()
        if self.mode == "posterior":
            law = vae.encode(batch.x, batch.context, batch.mask)
            unit = tuple(law.event_shape)
            for eps in noise(place, unit, draws=self.count, seed=self.seed, epoch=8):
                yield draw(law, self.temperature * eps)
            return
        law, size = vae.prior(batch.context), len(getattr(self.data.splits, self.split))
        for member in range(self.count):
            eps = noise(member * size + place, tuple(law.event_shape), seed=self.seed, epoch=2)[0]
            yield draw(law, self.temperature * eps)

    def parts(self, times: int = 64) -> Iterator[tuple[Fields, Float[Tensor, "members n height width"]]]:
        vae, show = self.module.vae, Shown(self.module.vae)
        dataset, unit = getattr(self.data.splits, self.split), str(self.data.facts["unit"])
        for start in range(0, len(self.positions), times):
            rows = self.positions[start : start + times]
            one = collate([dataset[row] for row in rows])
            batch = one.like(self.module)
            with quiet(vae, self.seed + start):
                members = [show(z, batch.context, batch.mask)[:, 0].float().cpu() for z in self.codes(batch)]
            own = [(self.data.block(self.split, row), self.data.place(self.split, row).window) for row in rows]
            block, place = (torch.tensor(each) for each in zip(*own, strict=True))
            area = torch.from_numpy(np.stack([self.data.areas(self.split, row) for row in rows])).float()
            mask = None if one.mask is None else one.mask[:, 0]
            yield Fields(one.x[:, 0], mask, block, place, torch.tensor(rows), area, unit=unit), torch.stack(members)


class Library:
    """Training fields by their conditions: nature's own ensemble for a condition is the fields under the nearest."""

    def __init__(self, data: FieldData, split: str, count: int) -> None:
        batch = spread_examples(data.splits.train, affordable(data, LIBRARY))
        assert batch.context is not None
        self.factor, self.dataset, self.count = int(str(data.facts["factor"])), getattr(data.splits, split), count
        self.fine, self.coarse = batch.x[:, 0], F.avg_pool2d(batch.context, self.factor)

    def __call__(self, index: Int[Tensor, " n"]) -> Float[Tensor, "analogs n height width"]:
        context = collate([self.dataset[position] for position in index.tolist()]).context
        assert context is not None
        asked = F.avg_pool2d(context, self.factor)
        return analog_members(asked, self.coarse, self.fine, min(self.count, len(self.fine)), channel=1)


def metrics_of(cfg: DictConfig) -> Mapping[str, Metric]:
    """The metrics of fields, empty."""
    found = made("metric", lambda: instantiate(OmegaConf.select(cfg, "metric") or {}), Mapping)
    of_fields = {name: each for name, each in found.items() if not isinstance(each, SetMetric | Embedding)}
    for name, metric in of_fields.items():
        made(f"metric.{name}", lambda metric=metric: metric, Metric)
    return of_fields


def condition_of(data: FieldData, split: str) -> Callable[[Int[Tensor, " n"]], Float[Tensor, "n height width"]]:
    """The condition's first channel, for positions in a split."""
    dataset = getattr(data.splits, split)

    def take(index: Int[Tensor, " n"]) -> Float[Tensor, "n height width"]:
        context = collate([dataset[position] for position in index.tolist()]).context
        assert context is not None
        return context[:, 0]

    return take


def condition_name(data: FieldData) -> str:
    """What that channel is."""
    first, *_ = cast(Sequence[str], data.facts["channels"])
    return first.split()[-1]


def scored(
    module: Training, data: VAEData, cfg: DictConfig, positions: Sequence[int], *, seed: int,
    overrides: Sequence[str] = (),
) -> Judged:  # fmt: skip
    """The ensemble that a run draws for a split, scored and pictured. Refused where data are no fields and something
    was typed that only fields have."""
    of_sounds = "sample_rate" in data.facts
    if of_sounds or isinstance(data, FieldData):
        refuse_other_metrics(cfg, overrides, of_sounds)
    if not isinstance(data, FieldData):
        given = [key for key in OF_ENSEMBLES[: 1 if of_sounds else None] if cfg.get(key) is not None]
        given += [] if of_sounds else [line for line in overrides if re.match(r"[+~]*metric\b", line)]
        if given:
            what = "no fields" if of_sounds or given[0] == "members" else "neither fields nor sounds"
            raise Refused(f"{given[0]} has no effect: this run's data are {what}, so leave it out")
        return Judged()
    if not (metrics := metrics_of(cfg)):
        return Judged()
    count, mode = cfg.members or MEMBERS, cfg.mode or "prior"
    temperature = 1.0 if cfg.temperature is None else float(cfg.temperature)
    drawn = Drawn(module, data, cfg.split, positions, count=count, mode=mode, temperature=temperature, seed=seed)
    analogs = Library(data, cfg.split, max(2, count))
    found = made("the scores", lambda: scores(drawn, metrics, analogs=analogs))
    seen = ", whose z has seen the truth" if mode == "posterior" else ""
    what = f"{count} members in {mode} mode{seen}, temperature {temperature:g}, {data.facts['unit']}, {counted(found)}"

    def at(mode: str, temperature: float) -> Drawn:
        few = positions[: pictures.LOOKED_AT]
        return Drawn(module, data, cfg.split, few, count=6, mode=mode, temperature=temperature, seed=seed)

    looked = pictures.maps(drawn, coarse=condition_of(data, cfg.split), called=condition_name(data))
    return Judged(found, what, [*looked, *pictures.of_metrics(metrics), *pictures.of_temperatures(at)])


def refuse_other_metrics(cfg: DictConfig, overrides: Sequence[str], of_sounds: bool) -> None:
    """Refuses metrics that were asked for by name and that such data do not have."""
    if not any(re.match(r"[+~]*metric=", line) for line in overrides):
        return
    found = made("metric", lambda: instantiate(OmegaConf.select(cfg, "metric") or {}), Mapping)
    odd = [name for name, each in found.items() if isinstance(each, SetMetric | Embedding) != of_sounds]
    if odd:
        what, group = ("sounds", "audio") if of_sounds else ("fields", "precipitation")
        raise Refused(
            f"metric={','.join(odd)} has no effect: this run's data are {what}; metric={group} has all of their scores"
        )


def score_file(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Scored:
    """The scores of an ensemble in a file, ours or anybody's. Raises Refused where that cannot be read."""
    if not (metrics := metrics_of(cfg)):
        raise Refused("metric names no score of fields: leave it out for all of them, or type metric=[crps,diversity]")
    stored = Stored(cfg.file, members=cfg.variable, truth=cfg.truth)
    try:
        found = made("the scores", lambda: scores(stored, metrics))
        looked = [*pictures.maps(stored), *pictures.of_metrics(metrics)]
    finally:
        stored.close()
    what = f"{stored.count} members of {cfg.file}, {stored.unit}, {stored.blocks}, {counted(found)}"
    run = Run(directory)
    run.write("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    run.write("overrides.txt", "".join(f"{line}\n" for line in overrides))
    run.write("provenance.json", provenance())
    run.write("evaluation.json", {"file": str(Path(cfg.file).resolve()), "what": what, "scores": as_dicts(found)})
    pictures.write(directory / "pictures", looked)
    return Scored(found, what, directory)


def counted(found: Sequence[Score]) -> str:
    """How many independent blocks the scores are of."""
    blocks = max((each.blocks for each in found), default=0)
    return f"{blocks} independent blocks" if blocks > 1 else "1 independent block, so no intervals"


def too_alike(found: Sequence[Score]) -> list[str]:
    """Said where members differ less than healthy ones do, whatever the readings of the latent are."""
    ratio = next((each for each in found if each.name == "diversity_ratio" and each.note.startswith("outside")), None)
    if ratio is None or ratio.value is None or ratio.value >= 1:
        return []
    return [
        f"members are too much alike: they differ by {ratio.value:.2g} of what fields under nearly equal conditions do "
        f"({ratio.note}); beside a distance the best member is a median field, and only a density "
        "(likelihood=bernoulli_gamma) makes draws of them"
    ]


def as_dicts(found: Sequence[Score]) -> list[dict[str, Any]]:
    """Scores as evaluation.json has them."""
    return [each._asdict() for each in found]
