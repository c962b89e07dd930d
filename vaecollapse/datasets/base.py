"""The contract of a dataset: three disjoint splits of single `Batch` examples, and loaders that can be replayed."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..batch import Batch, collate
from ..nulls import Null
from ..refusal import Refused
from ..writers.base import Writer
from ..writers.numbers import NumbersWriter
from .buckets import Lengths, bucketed, tiled

log = logging.getLogger(__name__)


class Visit(int):
    """A position in a split and the epoch that visits it: crops and augmentation are keyed by both, in any process."""

    epoch: int

    def __new__(cls, position: int, epoch: int) -> "Visit":
        visit = super().__new__(cls, position)
        visit.epoch = epoch
        return visit

    def __reduce__(self) -> tuple[type, tuple[int, int]]:
        return Visit, (int(self), self.epoch)


class EpochSampler(Sampler[int]):
    """Training order, a pure function of (seed, epoch), dealt to ranks so that each takes equally many steps.

    Step t of rank r is the r-th of `world` whole batches; what remains at the end is dealt evenly. Every example comes
    once an epoch, unless the remainder would leave a rank with a batch of one: then it sits this epoch out. Given
    `lengths`, whole batches hold examples of like length.

    >>> sampler = EpochSampler(6, batch_size=2, seed=0)
    >>> first, _ = list(sampler), sampler.set_epoch(1)
    >>> first == list(sampler), sorted(first) == sorted(sampler)
    (False, True)
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
        skip: int = 0,
        lengths: Lengths | None = None,
    ) -> None:
        self.count, self.batch_size, self.seed, self.rank, self.world = count, batch_size, seed, rank, world
        self.epoch, self.skip = epoch, skip  # the first pass leaves out as many batches
        self.lengths = lengths

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this on `dataloader.sampler` before each epoch."""
        self.epoch = epoch

    def _shares(self) -> list[int]:
        """Sizes of this rank's and the other ranks' parts of the remainder."""
        left = self.count % (self.batch_size * self.world)
        if left // self.world < min(2, self.batch_size):
            return [0] * self.world
        return [left // self.world + (rank < left % self.world) for rank in range(self.world)]

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.world) * self.batch_size + self._shares()[self.rank]

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.count)
        stride, shares = self.batch_size * self.world, self._shares()
        whole = self.count // stride * stride
        if self.lengths is not None:
            order[:whole] = bucketed(self.lengths, order[:whole], size=self.batch_size, world=self.world, rng=rng)
        mine = order[:whole].reshape(-1, self.world, self.batch_size)[:, self.rank].ravel()
        start = whole + sum(shares[: self.rank])
        done, self.skip = self.skip * self.batch_size, 0
        for position in np.concatenate([mine, order[start : start + shares[self.rank]]])[done:]:
            yield Visit(int(position), self.epoch)


class WholeBatchSampler(Sampler[int]):
    """Evaluation order: the split as it is, or by its `lengths`, dealt to ranks by whole batches, none padded, repeated
    or dropped."""

    def __init__(
        self, count: int, *, batch_size: int, rank: int = 0, world: int = 1, lengths: Lengths | None = None
    ) -> None:
        places = np.arange(count)
        positions = places if lengths is None else tiled(lengths, places, batch_size)
        self.positions = positions[places // batch_size % world == rank].tolist()

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)


class StoredExamples(Dataset[Batch]):
    """Examples held in memory. `labels` and `factors`, where the truth is known, are for tests and never in a batch."""

    def __init__(
        self,
        x: Shaped[Tensor, "count *event"],
        *,
        mask: Bool[Tensor, "count *event"] | None = None,
        labels: Shaped[Tensor, " count"] | None = None,
        factors: Shaped[Tensor, "count factor"] | None = None,
    ) -> None:
        self.x, self.mask, self.labels, self.factors = x, mask, labels, factors

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, position: int) -> Batch:
        mask = None if self.mask is None else self.mask[position]
        return Batch(x=self.x[position], mask=mask, index=torch.tensor(int(position)))

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """A batch at once: torch's loader asks for this where it exists, and `collate` passes it through."""
        rows = torch.as_tensor(positions, dtype=torch.long)
        return Batch(x=self.x[rows], mask=None if self.mask is None else self.mask[rows], index=rows)

    def subset(self, positions: Sequence[int]) -> "StoredExamples":
        """The examples at `positions`, in that order."""
        chosen = torch.as_tensor(positions, dtype=torch.long)
        mask, labels, factors = (None if t is None else t[chosen] for t in (self.mask, self.labels, self.factors))
        return StoredExamples(self.x[chosen], mask=mask, labels=labels, factors=factors)


class Splits(NamedTuple):
    train: Dataset[Batch]
    validation: Dataset[Batch]
    test: Dataset[Batch]


class VAEData(LightningDataModule, ABC):
    """Three disjoint splits of map-style datasets that yield one `Batch` without the batch axis.

    A subclass writes `make_splits` (called once, by `setup`; anything that needs a network belongs in `prepare_data`)
    and `facts`. A dataset asked for a plain position answers the same each time; asked for a `Visit` it may crop or
    augment, keyed by (seed, epoch, position). Splits depend on `seed` and never on `batch_size`.
    """

    def __init__(self, *, batch_size: int, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("num_workers", num_workers, 0)):
            if value < least:
                raise Refused(f"{name} is {value}; type {name}={least} or more")
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self._splits: Splits | None = None
        self._place: dict[str, int] = {}

    def state_dict(self) -> dict[str, int]:
        """Where training stands: the epoch, and how many of its batches are done."""
        loop = cast(Any, self.trainer).fit_loop
        done = loop.epoch_loop.batch_progress.current.processed
        return {"epoch": loop.epoch_progress.current.processed, "skip": done if done < loop.max_batches else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """The next training loader goes on there."""
        self._place = {name: state_dict[name] for name in ("epoch", "skip")}

    @abstractmethod
    def make_splits(self) -> Splits:
        """Builds the splits; the test split may be empty."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, object]:
        """What a model's constructor may ask for by name (`event_shape`, `sample_rate` …); known after `setup`."""

    def setup(self, stage: str | None = None) -> None:
        """Builds the splits; a second call does nothing. Refused where a split that training needs is too small."""
        if self._splits is not None:
            return
        splits = self.make_splits()
        train, validation, test = (len(cast(Sized, split)) for split in splits)
        if train < 2:
            raise Refused(f"{train} training examples are too few; give 2 or more, or lower the held-out fractions")
        if validation < 1:
            raise Refused("the validation split is empty and every verdict needs one; give more examples for it")
        log.info("%d training, %d validation and %d test examples", train, validation, test)
        self._splits = splits

    @property
    def splits(self) -> Splits:
        """The three datasets; sets up on first use."""
        self.setup()
        assert self._splits is not None
        return self._splits

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """What of the data is not used, and why."""
        return []

    def examples(self, split: str, count: int, start: int = 0) -> Batch:
        """Up to `count` examples of `split` (train, validation or test) from position `start`, as one fixed batch."""
        dataset = getattr(self.splits, split)
        return collate([dataset[position] for position in range(start, min(start + count, len(dataset)))])

    def nulls(self, split: str, positions: Sequence[int]) -> dict[str, Null]:
        """What these examples of a split cost models without a latent that were fitted to the training split, by their
        names; of most data none is known."""
        return {}

    def writer(self, folder: Path, form: str | None = None) -> Writer:
        """What writes samples like these to a folder; `form` is the suffix of its files (None: the usual one).

        Data that are more than numbers bring their own.
        """
        return NumbersWriter(folder, form)

    def lengths(self, dataset: Dataset[Batch]) -> Lengths | None:
        """How long the parts of each example of a split are, where batches are to hold examples of like length."""
        return None

    def keep(self) -> dict[str, str]:
        """Texts by file name that a run directory keeps for `recall`: what was learned from the data, as tokenizers."""
        return {}

    def recall(self, read: Callable[[str], str | None]) -> None:
        """Takes what `keep` gave to a run, before the splits are made; `read` gives None where a file is absent."""

    def fingerprint(self) -> dict[str, object]:
        """Which data this is: files, bytes, and a hash (here of each split's size and first 64 examples)."""
        digest = hashlib.sha256()
        for split in self.splits:
            size = len(cast(Sized, split))
            digest.update(str(size).encode())
            for position in range(min(64, size)):
                digest.update(split[position].x.numpy().tobytes())
        return {"files": 0, "bytes": 0, "hash": digest.hexdigest()}

    def train_dataloader(self) -> DataLoader[Batch]:
        dataset = self.splits.train
        rank, world = _process()
        sampler = EpochSampler(
            len(cast(Sized, dataset)),
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank,
            world=world,
            lengths=self.lengths(dataset),
            **self._place,
        )
        if not len(sampler):
            raise Refused(
                f"{sampler.count} training examples do not fill one step of {world} processes; use fewer devices"
            )
        return self._loader(dataset, sampler)

    def batches(self, world: int) -> int:
        """Batches of an epoch on each of `world` processes."""
        sampler = EpochSampler(len(cast(Sized, self.splits.train)), batch_size=self.batch_size, seed=0, world=world)
        return -(-len(sampler) // self.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation_loader(self.splits.validation)

    def test_dataloader(self) -> DataLoader[Batch]:
        if not len(cast(Sized, self.splits.test)):
            raise Refused("the test split is empty; give it examples (test_fraction above 0)")
        return self._evaluation_loader(self.splits.test)

    def _evaluation_loader(self, dataset: Dataset[Batch]) -> DataLoader[Batch]:
        rank, world = _process()
        count = len(cast(Sized, dataset))
        if count < world:
            raise Refused(f"{count} held-out examples are too few for {world} processes; use fewer devices")
        size = min(self.batch_size, count // world)  # a process without a batch would wait for the others for ever
        lengths = self.lengths(dataset)
        sampler = WholeBatchSampler(count, batch_size=size, rank=rank, world=world, lengths=lengths)
        return self._loader(dataset, sampler, size)

    def _loader(self, dataset: Dataset[Batch], sampler: Sampler[int], size: int | None = None) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            batch_size=size or self.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),  # else each pass draws from the global generator
        )


def _process() -> tuple[int, int]:
    """This process's rank and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def check_fractions(validation: float, test: float, fraction: float = 1.0) -> None:
    """Refused unless 0 < validation, 0 ≤ test, their sum < 1 and 0 < fraction ≤ 1."""
    if not (validation > 0 and test >= 0 and validation + test < 1):
        raise Refused(
            f"val_fraction {validation:g} and test_fraction {test:g} leave no sensible splits; "
            "type val_fraction=0.2 test_fraction=0.1"
        )
    if not 0 < fraction <= 1:
        raise Refused(f"fraction is {fraction:g}; type a share of the training split in (0, 1], such as fraction=0.5")


def partition(count: int, *, validation: float, test: float, seed: int) -> tuple[list[int], list[int], list[int]]:
    """A seeded permutation of `count` positions cut into train, validation, test; a share above 0 gets 1 or more."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    held = [max(1, round(share * count)) if share > 0 else 0 for share in (validation, test)]
    train = max(0, count - sum(held))
    return order[:train], order[train : train + held[0]], order[train + held[0] :]


def partition_groups(
    groups: Sequence[str], *, validation: float, test: float, seed: int
) -> tuple[list[int], list[int], list[int]]:
    """As `partition`, with all of a group in one split; large groups are placed first, where most is missing.

    Refused where there are fewer groups than splits to fill.
    """
    names = sorted(set(groups))
    targets = {0: 1 - validation - test, 1: validation, 2: test}
    wanted = [split for split, share in targets.items() if share > 0]
    if len(names) < len(wanted):
        raise Refused(
            f"split_by finds {len(names)} group(s) ({', '.join(names[:5])}) for {len(wanted)} splits; "
            "type split_by=file, a regex with more groups, or test_fraction=0"
        )
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {names[each]: [] for each in rng.permutation(len(names)).tolist()}
    for position in rng.permutation(len(groups)).tolist():
        members[groups[int(position)]].append(int(position))
    splits: dict[int, list[list[int]]] = {split: [] for split in targets}
    missing = {split: targets[split] * len(groups) for split in wanted}
    waiting = sorted(members.values(), key=len, reverse=True)
    for number, group in enumerate(waiting):
        empty = [split for split in wanted if not splits[split]]
        choice = empty if len(empty) == len(waiting) - number else wanted
        best = max(choice, key=lambda split: (missing[split], not splits[split]))
        splits[best].append(group)
        missing[best] -= len(group)
    train, held, tested = (rng.permutation([*chain(*splits[split])]).astype(int).tolist() for split in targets)
    return train, held, tested
