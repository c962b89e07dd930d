"""A contact sheet: the first samples side by side on one picture."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..pictures import grid, write_png

Picture = UInt8[np.ndarray, "height width 3"]
MOST = 64  # pictures on a sheet
WIDE = 8  # of them side by side, where a sample is one picture


class Sheet:
    """Keeps the first `MOST` pictures: a row for each sample, of samples of one picture `WIDE` in a row."""

    def __init__(self) -> None:
        self.rows: list[list[Picture]] = []
        self.count = 0

    def wants(self, pictures: int) -> bool:
        """Is there room for a sample of so many pictures? For the first there always is."""
        return not self.rows or self.count + pictures <= MOST

    def add(self, pictures: list[Picture]) -> None:
        if not self.wants(len(pictures)):
            return
        if len(pictures) == 1 and self.rows and len(self.rows[-1]) < WIDE:
            self.rows[-1] += pictures
        else:
            self.rows.append(pictures)
        self.count += len(pictures)

    def write(self, path: Path) -> None:
        if self.rows:
            write_png(path, grid(self.rows))
