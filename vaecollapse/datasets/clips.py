"""Recordings as clips of one length: cropped where there is sound, padded under a mask, augmented."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ..batch import Batch
from ..refusal import Refused
from .recordings import Planes, Recording, Unreadable
from .signals import Files, Pack

log = logging.getLogger(__name__)

TRIES = 4  # crops drawn before the loudest of them is taken
GATE = 0.1  # a crop is accepted from −20 dB of the whole recording's level on
STAND_INS = 8  # recordings tried in place of one that is gone


class Augment(NamedTuple):
    """What a training visit may change: crop position, gain in ±`gain_db`, sign, and delay up to `shift` samples."""

    crop: bool
    gain_db: float
    polarity: bool
    shift: int


class Vanished(Refused):
    """Recordings that went away while training. A loader's worker raises it again from its traceback's text, whose
    last line is the sentence."""

    def __init__(self, text: str) -> None:
        super().__init__(text.rpartition("Vanished: ")[2].strip())


class Clips(Dataset[Batch]):
    """Recordings as clips of `length` samples, the short padded with zeros and masked, the long cropped.

    A plain position gives the start of the recording (or the first keyed crop that is not near silence); a `Visit`
    gives a crop and an augmentation keyed by (seed, epoch, position). channels: mean | left | random are (time,),
    random one that is not silent, keyed likewise; stereo is (2, time). In place of a file that is gone comes the next
    one that is there.
    """

    def __init__(
        self,
        source: Pack | Files,
        *,
        recordings: Sequence[Recording],
        numbers: Sequence[int],
        sizes: Sequence[int],
        gains: Sequence[float],
        channels: str,
        length: int,
        seed: int,
        augment: Augment,
    ) -> None:
        self.source, self.length, self.seed, self.augment = source, length, seed, augment
        self.numbers, self.recordings, self.sizes, self.gains = list(numbers), recordings, sizes, gains
        self.channels, self.missed = channels, set[int]()

    @property
    def paths(self) -> list[str]:
        """Paths below the root, in the order of positions."""
        return [self.recordings[number].path for number in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> Batch:
        epoch, gone = getattr(position, "epoch", None), None
        for step in range(1 + STAND_INS):
            number = self.numbers[(position + step) % len(self.numbers)]
            try:
                return self._clip(number, int(position), epoch)
            except Unreadable as error:
                gone = error
                if number not in self.missed:
                    log.warning("%s; the next recording stands in for it", gone)
                self.missed.add(number)
        raise Vanished(f"the recordings went away while training: {gone}; bring them back and start again")

    def _clip(self, number: int, position: int, epoch: int | None) -> Batch:
        rng = np.random.default_rng([self.seed, 0 if epoch is None else epoch + 1, position])
        spare, planes = self.sizes[number] - self.length, slice(None)
        if self.channels == "random":
            heard = self.recordings[number].heard
            channel = heard[rng.integers(len(heard))]
            planes = slice(channel, channel + 1)
        delay, gain = (0, 1.0) if epoch is None else self._change(rng, spare)
        signal = self._crop(number, spare, planes, rng, epoch is None or not self.augment.crop)
        held = slice(delay, delay + signal.shape[1])
        x = np.zeros((len(signal), self.length), np.float32)
        mask = np.zeros(x.shape, bool)
        np.multiply(signal, np.float32(gain * self.gains[number]), out=x[:, held])
        mask[:, held] = True
        if self.channels != "stereo":
            x, mask = x[0], mask[0]
        return Batch(x=torch.from_numpy(x), mask=torch.from_numpy(mask), index=torch.tensor(position))

    def _change(self, rng: np.random.Generator, spare: int) -> tuple[int, float]:
        """A delay that keeps all of the recording, and a signed gain."""
        level, sign, late = rng.uniform(-1, 1), rng.random() < 0.5, rng.random()
        delay = int(late * (min(self.augment.shift, max(0, -spare)) + 1))
        return delay, 10 ** (level * self.augment.gain_db / 20) * (-1 if self.augment.polarity and sign else 1)

    def _crop(self, number: int, spare: int, planes: slice, rng: np.random.Generator, from_start: bool) -> Planes:
        """The whole, or the first of a few crops that is loud enough, or the loudest of them."""
        if spare <= 0:
            return self.source.segment(number, 0, self.sizes[number], planes)
        starts = rng.integers(0, spare + 1, TRIES)
        starts[0] = 0 if from_start else starts[0]
        best, loudest = None, -1.0
        for start in starts.tolist():
            signal = self.source.segment(number, start, self.length, planes)
            level = float(np.vdot(signal, signal) / signal.size) ** 0.5
            if level > loudest:
                best, loudest = signal, level
            if level >= GATE * self.recordings[number].rms:
                break
        assert best is not None
        return best
