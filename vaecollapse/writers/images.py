"""Samples of images: one PNG each, and a sheet."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from ..pictures import write_png
from .base import Made, Seen, Writer, name_of
from .sheets import Picture, Sheet

SHOWN = 64  # pixels: smaller pictures are enlarged on the sheet


class ImageWriter(Writer):
    """`000000_sample.png` and so on, as large as the images are, and `sheet.png`."""

    formats = ("png",)
    glances = True

    def __init__(self, folder: Path, form: str | None = None) -> None:
        super().__init__(folder, form)
        self.sheet = Sheet()

    @property
    def first(self) -> Path:
        return self.folder / "sheet.png"

    def add(self, made: Made) -> None:
        for number, row in made.rows():
            pictures = [picture(values) for values in row.values()]
            for place, (column, each) in enumerate(zip(row, pictures, strict=True)):
                write_png(self.folder / f"{name_of(number, place, column, len(row))}.png", each)
            self.sheet.add([enlarged(each) for each in pictures])

    def seen(self, made: Made) -> Seen:
        return Seen({name: [enlarged(picture(each)) for each in values] for name, values in made.columns.items()})

    def finish(self) -> None:
        self.sheet.write(self.folder / "sheet.png")


def picture(values: Float[np.ndarray, "channel height width"]) -> Picture:
    """1 channel or 3 in [0, 1] as 8 bits; of any other number of channels the first, in grey.

    >>> picture(np.full((1, 1, 1), 0.5, np.float32)).tolist()
    [[[128, 128, 128]]]
    """
    chosen = values if len(values) == 3 else np.repeat(values[:1], 3, axis=0)
    return np.rint(255 * np.clip(chosen, 0, 1)).astype(np.uint8).transpose(1, 2, 0)


def enlarged(pixels: Picture) -> UInt8[np.ndarray, "tall wide 3"]:
    """By a whole factor, so that a pixel stays a pixel."""
    factor = max(1, SHOWN // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
