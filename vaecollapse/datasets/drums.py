"""Generated one-shots with known factors: four classes, two continuous factors each, nothing else to know but noise."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from ..refusal import Refused
from ..writers.base import Writer
from ..writers.sounds import SoundWriter
from .base import Splits, StoredExamples, VAEData, check_fractions, partition

PEAK = 0.95
"""Every clip's largest absolute sample."""

Time = Float[np.ndarray, " time"]
Clips = Float[np.ndarray, "clip time"]
Column = Float[np.ndarray, "clip 1"]


class Drum(NamedTuple):
    """A class of sounds: its factors' names and ranges (geometric but for `mix`) and how they become sound."""

    name: str
    factors: tuple[str, str]
    ranges: tuple[tuple[float, float], tuple[float, float]]
    play: Callable[[Time, Column, Column, np.random.Generator], Clips]


def _sine(time: Time, frequency: Float[np.ndarray, "*clip time"]) -> Float[np.ndarray, "*clip time"]:
    """A sine of changing frequency in Hz, starting near phase 0."""
    return np.sin(2 * np.pi * np.cumsum(frequency, -1) * time[1])


def _decay(time: Time, seconds: Column) -> Clips:
    """Falls by 60 dB in `seconds`."""
    return 10 ** (-3 * time / seconds)


def _noise(time: Time, low: Column, rng: np.random.Generator) -> Clips:
    """White noise above `low` Hz (24 dB per octave below), unit variance."""
    spectrum = np.fft.rfft(rng.standard_normal((len(low), len(time))))
    ratio = np.fft.rfftfreq(len(time), time[1]) / low
    noise = np.fft.irfft(spectrum * ratio**4 / np.sqrt(1 + ratio**8), n=len(time))
    return noise / noise.std(1, keepdims=True)


def _kick(time: Time, pitch: Column, decay: Column, rng: np.random.Generator) -> Clips:
    return _sine(time, 48 + (pitch - 48) * np.exp(-time / 0.012)) * _decay(time, decay)


def _snare(time: Time, mix: Column, decay: Column, rng: np.random.Generator) -> Clips:
    tone = _sine(time, np.full_like(time, 185.0)) + 0.6 * _sine(time, np.full_like(time, 331.0))
    noise = 0.5 * _noise(time, np.full_like(mix, 900.0), rng)
    return ((1 - mix) * tone + mix * noise) * _decay(time, decay)


def _hat(time: Time, brightness: Column, decay: Column, rng: np.random.Generator) -> Clips:
    return _noise(time, brightness, rng) * _decay(time, decay)


def _tom(time: Time, pitch: Column, decay: Column, rng: np.random.Generator) -> Clips:
    sweep = pitch * (1 + 0.3 * np.exp(-time / 0.04))
    return (_sine(time, sweep) + 0.3 * _sine(time, 1.59 * sweep)) * _decay(time, decay)


DRUMS = (
    Drum("kick", ("pitch", "decay"), ((120.0, 400.0), (0.22, 0.5)), _kick),
    Drum("snare", ("mix", "decay"), ((0.15, 0.85), (0.1, 0.35)), _snare),
    Drum("hat", ("brightness", "decay"), ((1200.0, 3200.0), (0.04, 0.4)), _hat),
    Drum("tom", ("pitch", "decay"), ((130.0, 340.0), (0.18, 0.5)), _tom),
)


def play(
    drum: Drum, factors: Float[np.ndarray, "clip 2"], samples: int, sample_rate: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "clip time"], Float[np.ndarray, " clip"]]:
    """Sounds of one class for factors in [0, 1]², and their lengths in samples (−60 dB, or the end of the clip)."""
    columns = []
    for name, unit, (low, high) in zip(drum.factors, factors.T[:, :, None], drum.ranges, strict=True):
        columns.append(low + (high - low) * unit if name == "mix" else low * (high / low) ** unit)
    time = np.arange(samples) / sample_rate
    sound = drum.play(time, columns[0], columns[1], rng)
    length = np.clip(np.ceil(columns[1] * sample_rate), 1, samples)
    fade = np.clip((length - np.arange(samples)) / (0.005 * sample_rate), 0, 1)  # exactly 0 from `length` on
    sound = sound * fade
    return PEAK * sound / np.abs(sound).max(1, keepdims=True), length[:, 0]


class DrumsData(VAEData):
    """Kicks, snares, hats and toms, equally many, factors uniform in [0, 1]²; datasets carry `labels` and `factors`.

    Each clip is `seconds` long, rounded up to `multiple_of` samples, and masked once it has decayed by 60 dB. All have
    the same peak. Label i is `DRUMS[i]`. The noise of snares and hats is the only thing the factors do not decide.

    >>> data = DrumsData(clips=64)
    >>> data.facts
    {'event_shape': (4096,), 'sample_rate': 8000}
    >>> data.splits.train.factors.shape
    torch.Size([45, 2])
    """

    def __init__(
        self,
        *,
        clips: int = 4096,
        seconds: float = 0.5,
        sample_rate: int = 8000,
        multiple_of: int = 1024,
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        check_fractions(val_fraction, test_fraction)
        if clips < 8:
            raise Refused(f"clips={clips} is too few for four classes and three splits; type clips=8 or more")
        if sample_rate < 8000 or seconds <= 0 or multiple_of < 1:
            raise Refused(
                f"sample_rate={sample_rate}, seconds={seconds:g}, multiple_of={multiple_of} make no drum; "
                "type sample_rate=8000 (or more) seconds=0.5 multiple_of=1024"
            )
        self.clips, self.sample_rate = clips, sample_rate
        self.samples = -int(-seconds * sample_rate // multiple_of) * multiple_of
        self.val_fraction, self.test_fraction = val_fraction, test_fraction

    @property
    def facts(self) -> dict[str, object]:
        return {"event_shape": (self.samples,), "sample_rate": self.sample_rate}

    def writer(self, folder: Path, form: str | None = None) -> Writer:
        """wav or flac, and a page to listen to them on."""
        return SoundWriter(folder, form, rate=self.sample_rate)

    def make_splits(self) -> Splits:
        every = self._generate()
        parts = partition(self.clips, validation=self.val_fraction, test=self.test_fraction, seed=self.seed)
        return Splits(*(every.subset(part) for part in parts))

    def _generate(self) -> StoredExamples:
        rng = np.random.default_rng([self.seed, 1])
        labels = np.arange(self.clips) % len(DRUMS)
        factors = rng.random((self.clips, 2))
        sound, lengths = np.zeros((self.clips, self.samples), np.float32), np.zeros(self.clips)
        for label, drum in enumerate(DRUMS):
            chosen = labels == label
            sound[chosen], lengths[chosen] = play(drum, factors[chosen], self.samples, self.sample_rate, rng)
        mask = np.arange(self.samples) < lengths[:, None]
        return StoredExamples(
            torch.from_numpy(sound),
            mask=torch.from_numpy(mask),
            labels=torch.from_numpy(labels),
            factors=torch.from_numpy(factors).float(),
        )
