"""Images as a dataset: 8-bit values scaled to [0, 1] when they are visited, made binary if wanted; and the digits."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.utils.data import Dataset

from ..batch import Batch
from ..refusal import Refused
from ..writers.base import Writer
from ..writers.images import ImageWriter
from .base import Splits, VAEData, check_fractions, partition

BINARIZE = ("none", "threshold", "stochastic")

Pixels = UInt8[np.ndarray, "image channel height width"]
Source = Callable[[Sequence[int]], Pixels]  # the pixels of the images with these numbers, in that order


class Binarize(NamedTuple):
    """none | threshold (1 above half of `white`) | stochastic: 1 with probability x (Salakhutdinov & Murray 2008), one
    draw for each image, keyed by (seed, stream, its number), so that every visit sees the same image."""

    how: str
    seed: int
    stream: int = 0

    def __call__(self, pixels: Pixels, numbers: Sequence[int], white: int) -> Float32[np.ndarray, "image *event"]:
        """`pixels` as float32 in [0, 1], where `white` is 1."""
        if self.how == "threshold":
            return (2 * pixels.astype(np.int16) > white).astype(np.float32)
        values = pixels / np.float32(white)
        if self.how == "none":
            return values
        drawn = [np.random.default_rng([self.seed, self.stream, n]).random(values.shape[1:]) for n in numbers]
        return (np.stack(drawn) < values).astype(np.float32)


class Held:
    """Images held in memory."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def __call__(self, numbers: Sequence[int]) -> Pixels:
        return self.pixels[np.asarray(numbers, dtype=np.intp)]


class Images(Dataset[Batch]):
    """x (channel, height, width) in [0, 1]. `labels`, where given, are for tests and never in a batch."""

    def __init__(
        self,
        source: Source,
        *,
        numbers: Sequence[int],
        binarize: Binarize,
        white: int = 255,
        labels: Sequence[int] | None = None,
    ) -> None:
        self.source, self.numbers, self.binarize, self.white = source, list(numbers), binarize, white
        self.labels = None if labels is None else torch.tensor([labels[number] for number in numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> Batch:
        batch = self.__getitems__([position])
        return Batch(x=batch.x[0], index=torch.tensor(int(position)))

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """A batch at once: torch's loader asks for this where it exists, and `collate` passes it through."""
        numbers = [self.numbers[position] for position in positions]
        x = self.binarize(self.source(numbers), numbers, self.white)
        return Batch(x=torch.from_numpy(x), index=torch.tensor([int(position) for position in positions]))


class ImageData(VAEData):
    """What all datasets of images have: shares of the splits, and `binarize`."""

    def __init__(
        self, *, binarize: str, val_fraction: float, test_fraction: float, batch_size: int, seed: int, num_workers: int
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        check_fractions(val_fraction, test_fraction)
        if binarize not in BINARIZE:
            raise Refused(
                f"dataset.binarize={binarize} is not known: type dataset.binarize= one of {', '.join(BINARIZE)}"
            )
        self.binarize, self.val_fraction, self.test_fraction = binarize, val_fraction, test_fraction
        self._shape: tuple[int, ...] = ()

    @property
    def facts(self) -> dict[str, object]:
        self.setup()
        return {"event_shape": self._shape}

    def writer(self, folder: Path, form: str | None = None) -> Writer:
        """PNG, and a sheet."""
        return ImageWriter(folder, form)

    def parts(self, count: int, *, test: float) -> tuple[list[int], list[int], list[int]]:
        """Which of `count` images go to training, validation and test, keyed by the seed."""
        return partition(count, validation=self.val_fraction, test=test, seed=self.seed)


class DigitsData(ImageData):
    """1797 handwritten digits of 8 × 8 pixels and 17 levels of grey, which come with scikit-learn (the test set of
    Alpaydin & Kaynak 1998, UCI): nothing to download.

    >>> data = DigitsData()
    >>> data.facts, data.examples("train", 2).x.shape
    ({'event_shape': (1, 8, 8)}, torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        *,
        binarize: str = "none",
        val_fraction: float = 0.3,
        test_fraction: float = 0.1,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            binarize=binarize,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        self._fingerprint: dict[str, object] = {}

    def make_splits(self) -> Splits:
        from sklearn.datasets import load_digits  # a second to import, for who takes these data alone

        flat, labels = load_digits(return_X_y=True)
        pixels = np.asarray(flat, dtype=np.uint8).reshape(-1, 1, 8, 8)
        self._shape = pixels.shape[1:]
        self._fingerprint = {"files": 0, "bytes": pixels.nbytes, "hash": hashlib.sha256(pixels.tobytes()).hexdigest()}
        binarize = Binarize(self.binarize, self.seed)
        parts = self.parts(len(pixels), test=self.test_fraction)
        return Splits(
            *(Images(Held(pixels), numbers=part, binarize=binarize, white=16, labels=labels.tolist()) for part in parts)
        )

    def fingerprint(self) -> dict[str, object]:
        """No files; the bytes and hash of all pixels."""
        self.setup()
        return self._fingerprint
