"""Samples of sounds: a file each, a sheet of spectrograms, and a page to listen to them on."""

from html import escape
from pathlib import Path

import numpy as np
import soundfile as sf
from jaxtyping import Float

from ..files import whole
from ..pictures import spectrogram
from .base import Made, Writer, name_of
from .sheets import Picture, Sheet

FRAMES = 2**16  # written at once: libsndfile is not given a minute in one call
WIDEST = 256  # columns of a spectrogram on the sheet
PAGE = 100  # samples on a page
STYLE = """body{font:14px sans-serif;margin:2em;color:#222}
td,th{padding:.2em .8em .2em 0;text-align:left;font-weight:normal}
th{color:#777}audio{height:2em;width:15em}nav a{margin-right:1em}img{max-width:100%}"""


class SoundWriter(Writer):
    """`000000_sample.wav` and so on in 16 bits, `spectrograms.png`, and `index.html` (`index_2.html` …, `PAGE` samples
    each), which needs nothing but the files beside it. Waveforms are (time,) or (channel, time), clipped to ±1."""

    formats = ("wav", "flac")

    def __init__(self, folder: Path, form: str | None = None, *, rate: int) -> None:
        super().__init__(folder, form)
        self.rate, self.sheet = rate, Sheet()
        self.page: list[list[str]] = []
        self.pages, self.head = 1, []

    @property
    def first(self) -> Path:
        return self.folder / "index.html"

    def add(self, made: Made) -> None:
        for number, row in made.rows():
            names = [f"{name_of(number, place, column, len(row))}.{self.form}" for place, column in enumerate(row)]
            waveforms = [np.clip(np.nan_to_num(each), -1, 1) for each in row.values()]
            for name, waveform in zip(names, waveforms, strict=True):
                write_sound(self.folder / name, waveform, self.rate)
            if self.sheet.wants(len(row)):
                self.sheet.add([thumbnail(each) for each in waveforms])
            if len(self.page) == PAGE:
                self.turn()
            self.head = list(row)
            self.page.append([str(number), *names])

    def turn(self) -> None:
        """Ends a page and begins the next."""
        self.write_page(more=True)
        self.page, self.pages = [], self.pages + 1

    def write_page(self, *, more: bool) -> None:
        name = [f"index{'' if page == 1 else f'_{page}'}.html" for page in (self.pages - 1, self.pages, self.pages + 1)]
        links = f'<a href="{name[0]}">earlier</a>' * (self.pages > 1) + f'<a href="{name[2]}">later</a>' * more
        text = page_of(self.head, self.page, links, sheet=self.pages == 1)
        with whole(self.folder / name[1]) as temporary:
            temporary.write_text(text, "utf-8")

    def finish(self) -> None:
        if self.page:
            self.sheet.write(self.folder / "spectrograms.png")
            self.write_page(more=False)


def write_sound(path: Path, waveform: Float[np.ndarray, "*channel time"], rate: int) -> None:
    """16 bits, some frames at a time."""
    frames = np.atleast_2d(waveform).T
    with whole(path) as temporary:
        form = path.suffix[1:].upper()
        with sf.SoundFile(temporary, "w", rate, frames.shape[1], "PCM_16", format=form) as file:
            for start in range(0, len(frames), FRAMES):
                file.write(frames[start : start + FRAMES])


def thumbnail(waveform: Float[np.ndarray, "*channel time"]) -> Picture:
    """Its spectrogram (of the mean of its channels), at most `WIDEST` wide."""
    shown = spectrogram(np.atleast_2d(waveform).mean(0))
    columns = np.linspace(0, shown.shape[1] - 1, min(WIDEST, shown.shape[1])).round().astype(int)
    return shown[:, columns]


def page_of(head: list[str], rows: list[list[str]], links: str, *, sheet: bool) -> str:
    """A table of players: a row for each sample, a column for each of what was made for it."""
    cells = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in head)
    body = "".join(
        f"<tr><th>{number}</th>"
        + "".join(f'<td><audio controls preload="none" src="{escape(name)}"></audio></td>' for name in names)
        + "</tr>\n"
        for number, *names in rows
    )
    picture = '<p><img src="spectrograms.png" alt="spectrograms of the first samples"></p>' if sheet else ""
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>samples</title><style>{STYLE}</style>\n'
        f"<nav>{links}</nav><table><tr><th></th>{cells}</tr>\n{body}</table>{picture}</html>\n"
    )
