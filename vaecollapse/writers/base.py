"""What samples become on disk: one writer for each kind of data, chosen by the dataset they are like."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from ..refusal import Refused


class Made(NamedTuple):
    """Samples in a row, the first of them number `start`: by name what stands in each column, and the condition they
    were made under (None where there is none)."""

    start: int
    columns: Mapping[str, Shaped[np.ndarray, "rows *event"]]
    context: Shaped[np.ndarray, "rows *condition"] | None = None

    def rows(self) -> Iterator[tuple[int, dict[str, Shaped[np.ndarray, "*event"]]]]:
        """Each sample's number and columns."""
        for place in range(len(next(iter(self.columns.values())))):
            yield self.start + place, {name: values[place] for name, values in self.columns.items()}


class Seen(NamedTuple):
    """Some samples at a glance: pictures of one size by column, or what is read, a row for each sample."""

    pictures: Mapping[str, Sequence[UInt8[np.ndarray, "height width 3"]]] = {}
    texts: Sequence[Mapping[str, str]] = ()


class Writer(ABC):
    """Takes samples block by block, in order, and holds no more than a page of them: memory does not grow with how
    many there are. A file is whole or absent, whenever the process ends, and depends on nothing but the samples.

    `formats`: the suffixes of its files, the default first. `glances`: does `seen` show anything?
    """

    formats: ClassVar[tuple[str, ...]]
    glances: ClassVar[bool] = False

    @property
    def first(self) -> Path:
        """What to open first."""
        return self.folder

    def __init__(self, folder: Path, form: str | None = None) -> None:
        if form is not None and form not in self.formats:
            raise Refused(f"format={form} is none that such samples are written in: type {' or '.join(self.formats)}")
        self.folder, self.form = folder, form or self.formats[0]

    def __enter__(self) -> "Writer":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is there so far gets its sheet and page, also where the rest was interrupted."""
        self.finish()

    def check(self, made: Made) -> None:
        """Refused where samples like these cannot be written so."""
        return

    def seen(self, made: Made) -> Seen:
        """What there is to look at or to read of these few, without writing anything."""
        return Seen()

    @abstractmethod
    def add(self, made: Made) -> None:
        """Writes a block of samples."""

    @abstractmethod
    def finish(self) -> None:
        """Writes what is still held, and what shows several samples together."""


def name_of(number: int, place: int, column: str, columns: int) -> str:
    """A sample's file without its suffix; names sort by sample and then as the columns stand.

    >>> name_of(3, 0, "sample", 1), name_of(12, 1, "reconstruction", 3)
    ('000003_sample', '000012_1_reconstruction')
    """
    width = len(str(columns - 1))
    return f"{number:06d}_{column}" if columns == 1 else f"{number:06d}_{place:0{width}d}_{column}"
