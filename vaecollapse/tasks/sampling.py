"""`vaecollapse-sample`: what a trained run's latent decodes to, written to be listened to, looked at or read."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, cast

from omegaconf import DictConfig, OmegaConf

from ..batch import Batch, collate
from ..datasets.fields import FieldData
from ..ensembles.pictures import Picture, maps
from ..ensembles.pictures import write as write_pictures
from ..ensembles.reading import Stored
from ..evaluation import quiet
from ..refusal import Refused
from ..run import Run
from ..sampling import MODES, Held, most
from ..writers.base import Made, Writer
from ..writers.ensembles import EnsembleWriter
from .building import made
from .measuring import Opened, opened
from .recording import record_start
from .scoring import condition_name, condition_of

log = logging.getLogger(__name__)
USUAL = {"prior": 16, "posterior": 16, "interpolate": 4, "traverse": 3}
MEMBERS = 10
TOLD = ("steps", "draws", "temperature", "tokens", "top_p")
SAID_EVERY = 10.0  # seconds


class Sampled(NamedTuple):
    """What was written, what to open first, and where it lies."""

    what: str
    first: str
    directory: Path


def sample(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Sampled:
    """Writes samples of a run, from its directory alone. Raises Refused, and leaves nothing, where that cannot be read
    or does not hold what is asked for."""
    run_ = opened(cfg)
    held, vae = held_of(run_, cfg.split), run_.module.vae
    if cfg.tokens is not None and "vocab_size" not in run_.data.facts:
        raise Refused(f"tokens={cfg.tokens:g} has no effect: what this run decodes to are no tokens, so leave it out")
    folder = directory / "samples"
    writer = made("the samples", lambda: run_.data.writer(folder, cfg.format), Writer)
    with quiet(vae, run_.seed):
        limit = made("the samples", lambda: most(vae, held, cfg.mode))
        asked = {key: cfg[key] for key in TOLD if cfg[key] is not None}
        of_members = isinstance(writer, EnsembleWriter) and cfg.mode in ("prior", "posterior")
        if of_members:
            n, total, more = members_of(cfg, held)
            told = {"mode": cfg.mode, "temperature": float(asked.get("temperature", 1.0)), "split": cfg.split}
            cast(EnsembleWriter, writer).begin(cfg.split, told)
            asked |= more
        else:
            n = total = count_of(cfg.n, cfg.mode, limit)
        first, blocks = begun(lambda: MODES[cfg.mode](vae, held, total, seed=run_.seed, **asked))
        writer.check(first)
        run = Run(directory)
        record_start(run, cast(DictConfig, OmegaConf.merge(cfg, {"seed": run_.seed, "n": n})), overrides, run_.data)
        told = run_.told(cfg.split, n) | {"mode": cfg.mode}
        run.write("provenance.json", run.read("provenance.json") | {"sampled": told, "trained": run_.provenance})
        write(writer, blocks, total)
    if of_members and isinstance(run_.data, FieldData):
        write_pictures(directory / "pictures", looked_at(writer.first, run_.data, cfg.split))
    what = f"{n} of mode={cfg.mode}"
    if of_members:
        what = f"{n} members of each of {held.count} {cfg.split} examples, mode={cfg.mode}"
    return Sampled(f"{what}, {run_.named(cfg.run)}", str(writer.first), directory)


def looked_at(file: Path, data: FieldData, split: str) -> list[Picture]:
    """Maps of the members that were written."""
    stored = Stored(file)
    try:
        return maps(stored, coarse=condition_of(data, split), called=condition_name(data))
    finally:
        stored.close()


def members_of(cfg: DictConfig, held: Held) -> tuple[int, int, dict[str, int]]:
    """How many members, how many samples that makes, and what else the mode is told."""
    if cfg.draws is not None:
        raise Refused(
            f"draws={cfg.draws} has no effect: of an ensemble n is the number of members, so type n={cfg.draws}"
        )
    n = cfg.n or MEMBERS
    return (n, n * held.count, {}) if cfg.mode == "prior" else (n, held.count, {"draws": n})


def held_of(run: Opened, split: str) -> Held:
    """The examples of a split, as batches on the model's device."""
    dataset = run.split(split)

    def take(positions: Sequence[int]) -> Batch:
        return collate([dataset[position] for position in positions]).like(run.module)

    example = collate([run.data.splits.train[0]])
    conditional = run.module.vae.condition(example) is not None
    return Held(len(dataset), take, conditional, of_places=isinstance(run.data, FieldData))


def count_of(asked: int | None, mode: str, limit: int | None) -> int:
    """How many samples. Refused where more are asked for than there can be."""
    if limit is None:
        return asked or USUAL[mode]
    if asked is not None and asked > limit:
        what = {"posterior": "examples", "interpolate": "examples that follow each other", "traverse": "units"}[mode]
        raise Refused(f"n={asked} with mode={mode}, but there are {limit} {what}: type n={limit}")
    return asked or min(limit, USUAL[mode])


def begun(start: Callable[[], Iterator[Made]]) -> tuple[Made, Iterator[Made]]:
    """The first block, and all: what cannot be decoded or written is refused before anything is."""
    blocks = start()
    first = made("the samples", lambda: next(blocks))
    return first, chain([first], blocks)


def write(writer: Writer, blocks: Iterator[Made], n: int) -> None:
    """Block by block, with a line of how far it is where that takes long."""
    said = time.monotonic()
    with writer:
        for block in blocks:
            writer.add(block)
            done = block.start + len(next(iter(block.columns.values())))
            if done < n and time.monotonic() - said > SAID_EVERY:
                said = time.monotonic()
                log.info("%d of %d samples", done, n)
