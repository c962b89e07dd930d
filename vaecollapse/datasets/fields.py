"""Rain fields with their coarse condition, as every dataset of them yields and describes them."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.utils.data import Dataset

from ..batch import Batch, collate
from ..nn.rain import RainTransform
from ..refusal import Refused
from ..writers.base import Writer
from ..writers.ensembles import EnsembleWriter, Frame
from ..writers.netcdf import Places
from ..writers.numbers import NumbersWriter
from .base import VAEData

BINS = np.geomspace(1e-3, 1e5, 8001)  # mm; steps of 0.23 %


class Place(NamedTuple):
    """Where an example lies: its time (a number in the units of `FieldData.axes`), rows, columns and window."""

    time: float
    y: Float[np.ndarray, " height"]
    x: Float[np.ndarray, " width"]
    window: int


class HeldFields(Dataset[Batch]):
    """Fields in memory, each with its condition, and a mask where some cells are no data."""

    def __init__(
        self,
        x: Float32[Tensor, "count 1 height width"],
        context: Float32[Tensor, "count channel height width"],
        mask: Bool[Tensor, "count 1 height width"] | None = None,
    ) -> None:
        self.x, self.context, self.mask = x, context, mask

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, position: int) -> Batch:
        return Batch(*(None if field is None else field[0] for field in self.__getitems__([position])))  # type: ignore

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        rows = torch.tensor([int(position) for position in positions])
        return Batch(self.x[rows], self.context[rows], None if self.mask is None else self.mask[rows], rows)


class Statistics:
    """What a transform needs to know of the training split, gathered batch by batch."""

    def __init__(self, *, log: bool, context_log: Sequence[bool], per_cell: bool, wet: float) -> None:
        self.log, self.context_log, self.per_cell, self.wet = log, [*context_log], per_cell, wet
        self.field = self.context = torch.zeros(3, 1, 1, 1, dtype=torch.float64)  # count, Σ u, Σ u²
        self.counts = np.zeros(len(BINS) + 1, np.int64)  # of wet cells

    def update(self, batch: Batch) -> None:
        assert batch.context is not None
        x, valid = batch.x.double(), torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
        u = x.log1p() if self.log else x
        over = (0,) if self.per_cell else (0, 1, 2, 3)
        self.field = self.field + _sums(u, valid, over).reshape(3, 1, *(u.shape[2:] if self.per_cell else (1, 1)))
        rain = torch.tensor(self.context_log).reshape(-1, 1, 1)
        c = torch.where(rain, batch.context.double().clamp(min=0).log1p(), batch.context.double())
        self.context = self.context + _sums(c, valid.expand_as(c), (0, 2, 3)).reshape(3, -1, 1, 1)
        wet = x[valid & (x >= self.wet)].numpy()
        self.counts += np.bincount(np.searchsorted(BINS, wet), minlength=len(BINS) + 1)

    def transform(self, std_floor: float) -> RainTransform:
        """Means and standard deviations, these at least `std_floor`."""
        (mean, std), (context_mean, context_std) = (_moments(sums, std_floor) for sums in (self.field, self.context))
        return RainTransform(
            log=self.log, mean=mean, std=std,
            context_log=self.context_log, context_mean=context_mean, context_std=context_std,
        )  # fmt: skip

    def quantile(self, share: float) -> float:
        """Of the wet cells, in mm, up to 0.23 %; 0 where none is wet."""
        below = np.cumsum(self.counts)
        if not below[-1]:
            return 0.0
        return float(BINS[min(int(np.searchsorted(below, share * below[-1])), len(BINS) - 1)])


def _sums(u: Tensor, valid: Tensor, over: tuple[int, ...]) -> Tensor:
    kept = torch.where(valid, u, 0)
    return torch.stack([valid.double().sum(over), kept.sum(over), (kept**2).sum(over)])


def _moments(sums: Tensor, std_floor: float) -> tuple[Tensor, Tensor]:
    count, total, squares = sums
    mean = total / count.clamp(min=1)
    std = (squares / count.clamp(min=1) - mean**2).clamp(min=0).sqrt()
    return mean.float(), std.clamp(min=std_floor).float()


class Facts(NamedTuple):
    """What is known of fields once they are there."""

    shape: tuple[int, int]
    factor: int
    channels: tuple[str, ...]
    unit: str
    wet: float
    transform: RainTransform
    p99: float


class FieldData(VAEData):
    """Fine rain fields `x` (1, height, width) in mm with their condition (channel, height, width): the predictors,
    each coarse cell repeated over its block of `factor` × `factor` cells, then what does not change with time.

    A subclass sets `_known` in `make_splits` and says where each example lies.
    """

    _known: Facts | None = None

    @property
    def facts(self) -> dict[str, object]:
        """`transform` is a new module each time; `wet`, the least of a wet cell, and `p99` of these are in mm."""
        self.setup()
        assert self._known is not None
        shape, factor, channels, unit, wet, transform, p99 = self._known
        return {
            "event_shape": (1, *shape),
            "context_shape": (len(channels), *shape),
            "factor": factor,
            "channels": channels,
            "transform": _copied(transform),
            "p99": p99,
            "unit": unit,
            "wet": wet,
        }

    @property
    @abstractmethod
    def axes(self) -> dict[str, dict[str, Any]]:
        """time, y and x: the `name` of each dimension and its CF attributes (`units`, `calendar` …)."""

    @abstractmethod
    def place(self, split: str, position: int) -> Place:
        """Where an example lies, so that what is made for it can be put back."""

    @abstractmethod
    def block(self, split: str, position: int) -> int:
        """The block of time or space an example belongs to; examples of different blocks may count as independent."""

    def areas(self, split: str, position: int) -> Float[np.ndarray, "height width"]:
        """Relative areas of the cells of an example."""
        return np.ones(cast(Any, self.facts["event_shape"])[1:])

    def writer(self, folder: Path, form: str | None = None) -> Writer:
        """CF NetCDF, every example of a split with its members and the truth; npz for samples of any kind."""
        if form == "npz":
            return NumbersWriter(folder, form)
        return EnsembleWriter(folder, form, frame=self.frame)

    def frame(self, split: str) -> Frame:
        """Where the fields of a split lie, and their truth."""
        dataset = getattr(self.splits, split)
        count = len(dataset)
        places = [self.place(split, position) for position in range(count)]
        found = Places(
            np.array([place.time for place in places], float),
            np.stack([place.y for place in places]).astype(float),
            np.stack([place.x for place in places]).astype(float),
            np.array([place.window for place in places]),
            np.array([self.block(split, position) for position in range(count)]),
            np.arange(count),
            self.axes,
            unit=str(self.facts["unit"]),
        )

        def truth(rows: Sequence[int]) -> Float32[np.ndarray, "n height width"]:
            batch = collate([dataset[row] for row in rows])
            x = batch.x[:, 0].numpy()
            return x if batch.mask is None else np.where(batch.mask[:, 0].numpy(), x, np.float32(np.nan))

        return Frame(found, truth)


def _copied(transform: RainTransform) -> RainTransform:
    buffers = {name: buffer.clone() for name, buffer in transform.state_dict().items() if name != "digest"}
    buffers["context_log"] = transform.context_log.flatten().tolist()
    return RainTransform(log=transform.log, **buffers)


def check_transform(*, name: str, scope: str, fit_on: str, std_floor: float) -> None:
    """Refused where there is no such transform, or it would be fitted on what is held out."""
    for key, value, choices in (
        ("name", name, ("log1p_zscore", "zscore")),
        ("scope", scope, ("global", "per_cell")),
        ("fit_on", fit_on, ("train",)),
    ):
        if value not in choices:
            raise Refused(f"dataset.transform.{key}={value} is not known; type {' or '.join(choices)}")
    if not std_floor > 0:
        raise Refused(
            f"dataset.transform.std_floor={std_floor:g} must be above 0; type dataset.transform.std_floor=0.05"
        )
