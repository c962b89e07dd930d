"""What clips are compared by: which numbers stand for one, and what they are called in the cache."""

import hashlib
from collections.abc import Callable
from math import ceil, log2
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ..metrics.sets import View
from ..refusal import Refused, check_least
from .log_mel import LogMelStatistics
from .network import Network
from .whitening import Whitening

Hearing = Callable[[Float[Tensor, " time"]], Float[Tensor, " size"]]
LONGEST = 30.0  # seconds heard of a clip, unless another length is asked for
CLIPS_EACH = 8  # real clips for every direction that is whitened: with fewer it fits them and no others
OWN = {"mels": 40, "dimensions": 32, "dither": -50.0}


class Embedding:
    """Statistics of the log-mel spectrogram on the real set's principal directions, whitened; or a network's output as
    it is, where `path` names one, with the `sample_rate` it expects and the `size` it gives."""

    def __init__(
        self,
        *,
        path: str | None = None,
        sample_rate: int | None = None,
        size: int | None = None,
        seconds: float | None = None,
        mels: int = 40,
        dimensions: int = 32,
        dither: float = -50.0,
    ) -> None:
        check_least("metric.embedding", 1, mels=mels, dimensions=dimensions)
        given = {"sample_rate": sample_rate, "size": size, "seconds": seconds}
        for name, value in given.items():
            if value is not None and not 0 < value < float("inf"):
                raise Refused(f"metric.embedding.{name}={value:g} must be above 0: leave it out, or give another")
        if not -200 <= dither <= 0:
            raise Refused(f"metric.embedding.dither={dither:g} is in dB below the peak: type -50, say")
        if path is None and size is not None:
            raise Refused(f"metric.embedding.size={size} is what a network gives: type metric.embedding.path=net.pt2")
        own = {"mels": mels, "dimensions": dimensions, "dither": dither}
        if path is not None:
            if missing := [name for name in ("sample_rate", "size") if given[name] is None]:
                meaning = {"sample_rate": "the Hz that it expects", "size": "how many numbers it gives for a clip"}
                name = missing[0]
                raise Refused(f"metric.embedding.{name} is missing: declare {meaning[name]}, {path} does not say")
            if moved := [name for name, value in own.items() if value != OWN[name]]:
                raise Refused(f"metric.embedding.{moved[0]} is of the log-mel embedding: leave it, or leave out path")
        self.path, self.sample_rate, self.size, self.seconds = path, sample_rate, size, seconds
        self.mels, self.dimensions, self.dither = mels, dimensions, dither

    def samples(self, rate: int) -> int:
        """How many samples are heard of a clip, at most."""
        return ceil((self.seconds or LONGEST) * rate)

    def step(self, peak: float) -> int:
        """The dither's level in steps of 6 dB re full scale: with finer ones no embedding would be met again."""
        return round(log2(max(peak, 1e-4)))

    def hearing(self, rate: int, peak: float) -> Hearing:
        """What makes a clip at `rate` Hz numbers, where the real set's median peak is `peak`."""
        if self.path is None:
            level = 2.0 ** self.step(peak)
            return LogMelStatistics(sample_rate=rate, mels=self.mels, dither=self.dither, peak=level)
        assert self.size is not None
        return Network(self.path, size=self.size, time=None if self.seconds is None else self.samples(rate))

    def identity(self, rate: int, peak: float) -> list[object]:
        """What all of its numbers depend on but the clip: plain values, another list for another embedding."""
        if self.path is None:
            return ["log-mel", rate, self.seconds, self.mels, self.dither, self.step(peak)]
        try:
            with Path(self.path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Refused(f"metric.embedding.path={self.path} cannot be read: {error.strerror}") from error
        return ["network", digest, rate, self.seconds, self.size]

    def width(self, clips: int) -> int:
        """How many numbers of a clip are compared, where the real set has so many clips."""
        return self.size or max(1, min(self.dimensions, clips // CLIPS_EACH))

    def view(self, clips: int) -> View | None:
        """How clips are compared: the log-mel statistics whitened by the reference, a network's as they are."""
        width = self.width(clips)
        return None if self.path is not None else lambda reference: Whitening.of(reference, width)

    def named(self, rate: int) -> str:
        """In words."""
        return f"{'log-mel statistics' if self.path is None else Path(self.path).name} at {rate} Hz"
