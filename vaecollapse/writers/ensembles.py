"""Members of an ensemble as one NetCDF file, the truth beside them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float32

from ..pictures import fields
from .base import Made, Seen, Writer
from .netcdf import EnsembleFile, Places, new, write_columns

PART = 64  # fields of the truth read at a time


class Frame(NamedTuple):
    """Where a split's fields lie, and what reads some of their truth, NaN where there are no data."""

    places: Places
    truth: Callable[[Sequence[int]], Float32[np.ndarray, "n height width"]]


class EnsembleWriter(Writer):
    """After `begin`, `ensemble.nc`: each example of a split with so many members. Samples come member by member, each
    under every example's condition in turn, or with all their members as the columns `draw_1` …, and are written as
    they come; what an interrupted sampling leaves are the members that are whole. Else `samples.nc`, each column a
    variable (sample, y, x), held until the end. (npz is what `NumbersWriter` writes.)
    """

    formats: ClassVar[tuple[str, ...]] = ("nc", "npz")
    glances = True

    def __init__(self, folder: Path, form: str | None = None, *, frame: Callable[[str], Frame]) -> None:
        super().__init__(folder, form)
        self.frame, self.done, self.masked = frame, 0, False
        self.begun: Frame | None = None
        self.file: EnsembleFile | None = None
        self.open = ExitStack()
        self.loose: dict[str, list[np.ndarray]] = {}

    @property
    def first(self) -> Path:
        return self.folder / ("samples.nc" if self.begun is None else "ensemble.nc")

    def begin(self, split: str, about: Mapping[str, str | float | int]) -> None:
        """What follows are members of every example of the split."""
        places, truth = self.frame(split)
        self.begun = Frame(places._replace(about=about), truth)

    def add(self, made: Made) -> None:
        if self.begun is None:
            for name, values in made.columns.items():
                self.loose.setdefault(name, []).append(values[:, 0])
            return
        file, size = self.file or self._file(self.begun), len(self.begun.places.time)
        if "sample" in made.columns:
            for number, values in enumerate(made.columns["sample"][:, 0], made.start):
                self._put(file, number // size, number % size, values)
                self.done = (number + 1) // size
            return
        draws = [values[:, 0] for name, values in made.columns.items() if name.startswith("draw_")]
        for member, values in enumerate(draws):
            for row, field in enumerate(values, made.start):
                self._put(file, member, row, field)
        self.done = len(draws) if made.start + len(draws[0]) == size else 0

    def seen(self, made: Made) -> Seen:
        """Maps, of the condition's first channel too; each sample has one scale, by square roots."""
        planes = {} if made.context is None or made.context.ndim != 4 else {"condition": made.context[:, 0]}
        planes |= {name: values[:, 0] for name, values in made.columns.items()}
        columns = [fields([plane[row] for plane in planes.values()]) for row in range(len(next(iter(planes.values()))))]
        return Seen({name: list(row) for name, row in zip(planes, zip(*columns, strict=True), strict=True)})

    def _file(self, begun: Frame) -> EnsembleFile:
        """Begins the file, with the truth."""
        file, size = self.open.enter_context(new(self.first, begun.places)), len(begun.places.time)
        for start in range(0, size, PART):
            for row, field in enumerate(begun.truth(range(start, min(start + PART, size))), start):
                file.put_truth(row, field)
                self.masked |= bool(np.isnan(field).any())
        self.file = file
        return file

    def _put(self, file: EnsembleFile, member: int, row: int, field: np.ndarray) -> None:
        """A member's field, with no number where the truth has none."""
        if self.masked:
            field = np.where(np.isnan(file.truth[file.at(row)]), np.float32(np.nan), field)
        file.put(member, row, field)

    def finish(self) -> None:
        if self.loose:
            write_columns(self.first, {name: np.concatenate(parts) for name, parts in self.loose.items()})
        if self.file is not None and self.done:
            self.file.keep(self.done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The file takes its name, with the members that are whole; where there are none, it vanishes."""
        if self.done or self.file is None:
            with self.open:
                self.finish()
        else:
            cause = error or ValueError("no member is whole")
            self.open.__exit__(type(cause), cause, trace)
