"""Members of an ensemble as one NetCDF file, the truth beside them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from .base import Made, Writer
from .netcdf import Ensemble, write, write_columns

Frame = Callable[[str], Ensemble]  # of a split: the truth and where its fields lie, with no members yet


class EnsembleWriter(Writer):
    """After `begin`, `ensemble.nc`: each example of a split with so many members. Samples come member by member, each
    under every example's condition in turn, or with all their members as the columns `draw_1` …; what an interrupted
    sampling leaves are the members that are whole. Else `samples.nc`, each column a variable (sample, y, x).

    All samples are held until the end, 4 bytes a cell. (npz is what `NumbersWriter` writes.)
    """

    formats: ClassVar[tuple[str, ...]] = ("nc", "npz")

    def __init__(self, folder: Path, form: str | None = None, *, frame: Frame) -> None:
        super().__init__(folder, form)
        self.frame, self.done = frame, 0
        self.ensemble: Ensemble | None = None
        self.loose: dict[str, list[np.ndarray]] = {}

    @property
    def first(self) -> Path:
        return self.folder / ("samples.nc" if self.ensemble is None else "ensemble.nc")

    def begin(self, split: str, count: int, about: Mapping[str, str | float | int]) -> None:
        """Makes room for `count` members of every example of the split."""
        frame = self.frame(split)
        members = np.full((count, *frame.truth.shape), np.nan, np.float32)
        self.ensemble, self.done = frame._replace(members=members, about=about), 0

    def add(self, made: Made) -> None:
        if self.ensemble is None:
            for name, values in made.columns.items():
                self.loose.setdefault(name, []).append(values[:, 0])
            return
        fields: Float32[np.ndarray, "members n height width"] = self.ensemble.members
        size = fields.shape[1]
        if "sample" in made.columns:
            numbers = np.arange(made.start, made.start + len(made.columns["sample"]))
            fields[numbers // size, numbers % size] = made.columns["sample"][:, 0]
            self.done = (made.start + len(numbers)) // size
            return
        draws = [values for name, values in made.columns.items() if name.startswith("draw_")]
        rows = slice(made.start, made.start + len(draws[0]))
        for member, values in zip(fields, draws, strict=True):
            member[rows] = values[:, 0]
        self.done = len(fields) if rows.stop == size else 0

    def finish(self) -> None:
        """The file, of the members that are whole; none where there are none."""
        if self.loose:
            write_columns(self.first, {name: np.concatenate(parts) for name, parts in self.loose.items()})
        if self.ensemble is None or not self.done:
            return
        there = np.isfinite(self.ensemble.truth)
        members = np.where(there, self.ensemble.members[: self.done], np.float32(np.nan))
        write(self.first, self.ensemble._replace(members=members))
