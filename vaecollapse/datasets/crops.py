"""Windows of a record of rain fields with their condition, read from its files when they are asked for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch.utils.data import Dataset

from ..batch import Batch
from ..refusal import Refused
from .clips import Vanished
from .grids import Match, block_means, block_sums, repeated
from .series import Series, check_declared

CELLS = 2**22  # of the target read at a time
HIGHEST = 5000.0  # mm an hour or a day: twice what was ever measured


class Window(NamedTuple):
    """A place crops are cut from: its first row and column."""

    row: int
    column: int


class Frames(NamedTuple):
    """Whole fields of neighbouring moments: the target in mm, NaN where it is missing, and the coarse predictors."""

    x: Float32[np.ndarray, "time height width"]
    coarse: Float32[np.ndarray, "time channel h w"] | None

    @property
    def missing(self) -> Bool[np.ndarray, "time height width"]:
        return np.isnan(self.x)


class Record(NamedTuple):
    """The target with what it is conditioned on: predictors on coarser cells, or its own block means; fixed fields.

    All series have the same moments. `rows` and `columns` say where the coarse cells lie.
    """

    target: Series
    predictors: tuple[Series, ...]
    rainy: tuple[bool, ...]  # which channels of the condition are rain
    rows: Match
    columns: Match
    area: Float[np.ndarray, "height width"]
    fixed: Float32[np.ndarray, "static height width"]
    sides: tuple[int, int]
    wet: float

    @property
    def factor(self) -> int:
        return self.rows.factor

    def windows(self) -> list[Window]:
        """Windows side by side; what is left at the end of the grid is not used."""
        (height, width), corner = self.sides, (self.rows.offset, self.columns.offset)
        ends = [first + len(m.positions) * m.factor for first, m in zip(corner, (self.rows, self.columns), strict=True)]
        return [
            Window(row, column)
            for row in range(corner[0], ends[0] - height + 1, height)
            for column in range(corner[1], ends[1] - width + 1, width)
        ]

    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of moments of at most `CELLS` cells, or of one field."""
        count, size = len(self.target), max(1, CELLS // self.area.size)
        return [(start, min(start + size, count)) for start in range(0, count, size)]

    def frames(self, start: int, stop: int) -> Frames:
        """Whole fields."""
        return Frames(
            self.target.read(start, stop),
            self._predictors(start, stop, slice(None), slice(None)),
        )

    def crop(self, moment: int, window: Window) -> Batch:
        """One moment's crop, of which nothing else is read."""
        height, width = self.sides
        rows, columns = window.row + np.arange(height), window.column + np.arange(width)
        coarse = self._predictors(moment, moment + 1, *self.blocks(window))
        return self.batch(self.target.read(moment, moment + 1, rows, columns), coarse, window)

    def cut(self, frames: Frames, moments: np.ndarray, window: Window) -> Batch:
        """The crops of a window at some of the frames."""
        rows, columns = self.blocks(window)
        coarse = None if frames.coarse is None else frames.coarse[moments][:, :, rows, columns]
        return self.batch(frames.x[moments][:, *self.cells(window)], coarse, window)

    def batch(self, x: np.ndarray, coarse: np.ndarray | None, window: Window) -> Batch:
        """Crops as examples: missing cells 0 under the mask, the condition on the fine grid."""
        valid, cells = ~np.isnan(x), self.cells(window)
        x = np.where(valid, x, 0).clip(min=0)
        if coarse is None:
            coarse = block_means(x, self.area[cells], self.factor, valid)[:, None]
        fixed = np.broadcast_to(self.fixed[:, *cells], (len(x), *self.fixed[:, *cells].shape))
        context = np.concatenate([repeated(coarse, self.factor), fixed], 1, dtype=np.float32)
        return Batch(torch.from_numpy(x[:, None]), torch.from_numpy(context), torch.from_numpy(valid[:, None]))

    def cells(self, window: Window) -> tuple[slice, slice]:
        height, width = self.sides
        return slice(window.row, window.row + height), slice(window.column, window.column + width)

    def blocks(self, window: Window) -> tuple[slice, slice]:
        """Which coarse cells a window has."""
        starts = (window.row - self.rows.offset) // self.factor, (window.column - self.columns.offset) // self.factor
        return tuple(slice(start, start + side // self.factor) for start, side in zip(starts, self.sides, strict=True))  # type: ignore

    def _predictors(self, start: int, stop: int, rows: slice, columns: slice) -> np.ndarray | None:
        if not self.predictors:
            return None
        there = self.rows.positions[rows], self.columns.positions[columns]
        return np.stack([each.read(start, stop, *there) for each in self.predictors], 1)

    def check(self, frames: Frames) -> None:
        """Refused where these are no rain and predictors."""
        _check_rain(frames.x, self)
        for number, each in enumerate(self.predictors if frames.coarse is not None else ()):
            check_declared(frames.coarse[:, number], f"{each.name} of {each.where}={each.paths[0]}")  # type: ignore


class Seen(NamedTuple):
    """What one pass over a record finds, of each moment and window: the share of coarse cells that are wet, the mean in
    mm, cells without a value; whether predictors are complete; and of each cell whether it never has a value."""

    wet: Float32[np.ndarray, "time window"]
    mean: Float32[np.ndarray, "time window"]
    missing: np.ndarray
    complete: Bool[np.ndarray, "time window"]
    never: Bool[np.ndarray, "height width"]


def look_through(
    record: Record, windows: Sequence[Window], digest: Any, met: Callable[[int, int, Frames, Seen], None]
) -> Seen:
    """Reads the record once, chunk by chunk, feeds what it reads to `digest`, and shows each chunk with what is seen
    so far to `met`. Refused where it is no rain.
    """
    shape = len(record.target), len(windows)
    wet, mean, missing = np.zeros(shape, np.float32), np.full(shape, np.nan, np.float32), np.zeros(shape, np.int32)
    complete, never = np.ones(shape, bool), np.ones(record.area.shape, bool)
    seen = Seen(wet, mean, missing, complete, never)
    for start, stop in record.chunks():
        frames = record.frames(start, stop)
        record.check(frames)
        for field in frames[:2]:
            if field is not None:
                digest.update(np.ascontiguousarray(field).tobytes())
        gone = frames.missing
        never &= gone.all(0)
        for number, window in enumerate(windows):
            here, cells = slice(start, stop), record.cells(window)
            valid = ~gone[:, *cells]
            total, area = np.nansum(frames.x[:, *cells] * record.area[cells], (1, 2)), record.area[cells]
            covered = (valid * area).sum((1, 2))
            missing[here, number] = (~valid).sum((1, 2))
            mean[here, number] = np.divide(total, covered, out=np.full(len(total), np.nan), where=covered > 0)
            coarse = block_means(frames.x[:, *cells], area, record.factor, valid)
            seen_blocks = block_sums(valid, record.factor) > 0
            wet[here, number] = (coarse >= record.wet).sum((1, 2)) / np.maximum(seen_blocks.sum((1, 2)), 1)
            if frames.coarse is not None:
                rows, columns = record.blocks(window)
                complete[here, number] = np.isfinite(frames.coarse[:, :, rows, columns]).all((1, 2, 3))
        met(start, stop, frames, seen)
    return seen


def _check_rain(x: np.ndarray, record: Record) -> None:
    low, high = np.fmin.reduce(x, None), np.fmax.reduce(x, None)
    where = f"{record.target.name} of {record.target.where}={record.target.paths[0]}"
    if low < -0.1 * record.wet:
        raise Refused(f"{where} is {low:.4g} somewhere, and rain is never negative; declare such cells as _FillValue")
    if high > HIGHEST:
        raise Refused(
            f"{where} is {high:.4g} mm somewhere, more than it ever rained; declare a _FillValue, or type the unit it "
            "really has as dataset.target.units"
        )


class Crops(Dataset[Batch]):
    """Crops that are read from the files at each visit; whole where `masked` is False."""

    def __init__(self, record: Record, windows: Sequence[Window], examples: np.ndarray, *, masked: bool) -> None:
        self.record, self.windows, self.examples, self.masked = record, windows, examples, masked

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> Batch:
        batch = self.__getitems__([position])
        return Batch(*(None if field is None else field[0] for field in batch))  # type: ignore

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        rows = torch.tensor([int(position) for position in positions])
        try:
            crops = [self.record.crop(moment, self.windows[w]) for moment, w in self.examples[rows.numpy()].tolist()]
        except Refused as error:
            raise Vanished(f"Vanished: {error}; the run stops where it is") from error
        x, context, mask = (torch.cat(parts) for parts in zip(*(crop[:3] for crop in crops), strict=True))
        return Batch(x, context, mask if self.masked else None, rows)
