"""Samples of no kind that has a picture or a sound: their numbers."""

import csv
import io
import itertools
from pathlib import Path

import numpy as np

from ..files import append, whole
from ..refusal import Refused
from .base import Made, Writer

SHARD = 1024  # samples in one .npz
WIDEST = 64  # numbers of a sample that a table still shows


class NumbersWriter(Writer):
    """npz: `samples_000000.npz` and so on, `SHARD` samples each, an array for each column as the decoder gave it. csv:
    `samples.csv`, one line for each sample and column; of samples of more than `WIDEST` numbers there is none."""

    formats = ("npz", "csv")

    def __init__(self, folder: Path, form: str | None = None) -> None:
        super().__init__(folder, form)
        self.asked = form
        self.start, self.held = 0, []

    def check(self, made: Made) -> None:
        if self.asked == "csv" and width(made) > WIDEST:
            raise Refused(f"a table shows samples of up to {WIDEST} numbers, these have {width(made)}: type format=npz")

    def add(self, made: Made) -> None:
        self.check(made)
        if self.asked != "npz" and width(made) <= WIDEST:
            self.tabulate(made)
        if self.form == "npz":
            for number, row in made.rows():
                if number // SHARD != self.start // SHARD:
                    self.finish()
                self.start = self.start if self.held else number
                self.held.append(row)

    def tabulate(self, made: Made) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        path = self.folder / "samples.csv"
        if not path.exists():
            table.writerow(["sample", "column", *(f"x{place}" for place in range(width(made)))])
        for number, row in made.rows():
            table.writerows([number, name, *values.ravel().tolist()] for name, values in row.items())
        append(path, text.getvalue())

    def finish(self) -> None:
        """The shard under way."""
        if not self.held:
            return
        columns = {name: np.stack([row[name] for row in self.held]) for name in self.held[0]}
        path = self.folder / f"samples_{self.start:06d}.npz"
        with whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **columns)
        self.held = []


def width(made: Made) -> int:
    """Numbers in the widest sample."""
    return max(values[0].size for values in made.columns.values())


def shards(folder: Path) -> dict[str, np.ndarray]:
    """What a folder's .npz files hold together, in order."""
    parts = [np.load(path) for path in sorted(folder.glob("samples_*.npz"))]
    names = dict.fromkeys(itertools.chain.from_iterable(part.files for part in parts))
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
