"""Folders of recordings as clips of one length and sample rate: crop, pad with a mask, augment, split."""

import hashlib
import logging
import re
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ..batch import Batch
from ..refusal import Refused
from .base import Splits, VAEData, check_fractions, partition, partition_groups
from .recordings import Files, Pack, Recording, Scan, Signal, scan

log = logging.getLogger(__name__)

PEAK, RMS = 0.95, 0.1  # levels that `normalise` brings a recording to
TRIES = 4  # crops drawn before the loudest of them is taken
GATE = 0.1  # a crop is accepted from −20 dB of the whole recording's level on


class Augment(NamedTuple):
    """What a training visit may change: crop position, gain in ±`gain_db`, sign, and delay up to `shift` samples."""

    crop: bool
    gain_db: float
    polarity: bool
    shift: int


class Clips(Dataset[Batch]):
    """Recordings as clips of `length` samples, the short padded with zeros and masked, the long cropped.

    A plain position gives the start of the recording (or the first keyed crop that is not near silence); a `Visit`
    gives a crop and an augmentation keyed by (seed, epoch, position).
    """

    def __init__(
        self,
        source: Pack | Files,
        *,
        recordings: Sequence[Recording],
        numbers: Sequence[int],
        sizes: Sequence[int],
        gains: Sequence[float],
        length: int,
        seed: int,
        augment: Augment,
    ) -> None:
        self.source, self.length, self.seed, self.augment = source, length, seed, augment
        self.numbers, self.recordings, self.sizes, self.gains = list(numbers), recordings, sizes, gains

    @property
    def paths(self) -> list[str]:
        """Paths below the root, in the order of positions."""
        return [self.recordings[number].path for number in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> Batch:
        number, epoch = self.numbers[position], getattr(position, "epoch", None)
        rng = np.random.default_rng([self.seed, 0 if epoch is None else epoch + 1, position])
        spare = self.sizes[number] - self.length
        delay, gain = (0, 1.0) if epoch is None else self._change(rng, spare)
        signal = self._crop(number, spare, rng, epoch is None or not self.augment.crop)
        x, mask = torch.zeros(self.length), torch.zeros(self.length, dtype=torch.bool)
        x[delay : delay + len(signal)] = torch.from_numpy(signal * np.float32(gain * self.gains[number]))
        mask[delay : delay + len(signal)] = True
        return Batch(x=x, mask=mask, index=torch.tensor(int(position)))

    def _change(self, rng: np.random.Generator, spare: int) -> tuple[int, float]:
        """A delay that keeps all of the recording, and a signed gain."""
        level, sign, late = rng.uniform(-1, 1), rng.random() < 0.5, rng.random()
        delay = int(late * (min(self.augment.shift, max(0, -spare)) + 1))
        return delay, 10 ** (level * self.augment.gain_db / 20) * (-1 if self.augment.polarity and sign else 1)

    def _crop(self, number: int, spare: int, rng: np.random.Generator, from_start: bool) -> Signal:
        """The whole, or the first of a few crops that is loud enough, or the loudest of them."""
        if spare <= 0:
            return self.source.segment(number, 0, self.sizes[number])
        starts = rng.integers(0, spare + 1, TRIES)
        starts[0] = 0 if from_start else starts[0]
        best, loudest = None, -1.0
        for start in starts.tolist():
            signal = self.source.segment(number, start, self.length)
            level = float(np.sqrt(np.mean(np.square(signal))))
            if level > loudest:
                best, loudest = signal, level
            if level >= GATE * self.recordings[number].rms:
                break
        assert best is not None
        return best


def groups_of(names: Sequence[str], pattern: str) -> list[str]:
    """The group each path belongs to: what the regex's one group matches in its path below the root."""
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise Refused(
            f"split_by={pattern!r} is no regex ({error}); type split_by=file or one such as '_(\\w+)_'"
        ) from error
    if regex.groups != 1:
        raise Refused(
            f"split_by={pattern!r} has {regex.groups} groups; mark the part that names the group with one ( )"
        )
    matches = [regex.search(name) for name in names]
    for name, match in zip(names, matches, strict=True):
        if match is None or match[1] is None:
            raise Refused(f"split_by={pattern!r} does not match {name}; type a regex that matches every file")
    return [match[1] for match in matches if match]


class AudioFolderData(VAEData):
    """Recordings below `root` (wav, flac, ogg, aiff, mp3) as mono clips (time,) in float32 with a mask.

    sample_rate: Hz; the most frequent in the folder, at most 16 kHz, if None. seconds: clip length; the 95th percentile
    of durations if None; rounded up to `multiple_of` samples either way. channels: mean | left. normalise: peak (each
    recording to 0.95; levels of takes say little of the sound, and a distance with a floor hardly hears the quiet ones)
    | rms (to −20 dB, at most that peak) | none. split_by: file, or a regex whose one group (speaker, pack) is kept in
    one split. fraction: share of the training split that is used, nested. crop: random | start, of long recordings in
    training. gain_db, polarity, shift (seconds, into the padding): augmentation of training. pack_gib: recordings
    are kept in memory up to this size, beyond it parts are read from disk. max_bad_fraction: see `scan`.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        sample_rate: int | None = None,
        seconds: float | None = None,
        multiple_of: int = 1024,
        channels: str = "mean",
        normalise: str = "peak",
        split_by: str = "file",
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        fraction: float = 1.0,
        crop: str = "random",
        gain_db: float = 0.0,
        polarity: bool = False,
        shift: float = 0.0,
        max_bad_fraction: float = 0.1,
        pack_gib: float = 1.0,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        check_fractions(val_fraction, test_fraction, fraction)
        choices = {"channels": ("mean", "left"), "normalise": ("peak", "rms", "none"), "crop": ("random", "start")}
        for name, value in (("channels", channels), ("normalise", normalise), ("crop", crop)):
            if value not in choices[name]:
                raise Refused(f"{name}={value} is not known; type {name}= one of {', '.join(choices[name])}")
        numbers = {"sample_rate": sample_rate, "seconds": seconds, "multiple_of": multiple_of}
        for name, value in numbers.items():
            if value is not None and value <= 0:
                raise Refused(f"{name}={value} must be above 0; leave it out for the folder's own")
        for name, value in (("gain_db", gain_db), ("shift", shift), ("pack_gib", pack_gib)):
            if value < 0:
                raise Refused(f"{name}={value:g} must not be negative; type {name}=0 to switch it off")
        if not str(root):
            raise Refused("dataset.root is empty; type dataset.root=path/to/recordings")
        self.root, self.sample_rate, self.seconds, self.multiple_of = Path(root), sample_rate, seconds, multiple_of
        self.channels, self.normalise, self.split_by = channels, normalise, split_by
        self.val_fraction, self.test_fraction, self.fraction = val_fraction, test_fraction, fraction
        self.crop, self.gain_db, self.polarity, self.shift = crop, gain_db, polarity, shift
        self.max_bad_fraction, self.pack_gib = max_bad_fraction, pack_gib
        self._scan: Scan | None = None
        self._length = 0

    @property
    def scanned(self) -> Scan:
        """The folder's recordings and quarantine; sets up on first use."""
        self.setup()
        assert self._scan is not None
        return self._scan

    @property
    def facts(self) -> dict[str, object]:
        rate = self.scanned.sample_rate
        return {"event_shape": (self._length,), "sample_rate": rate}

    def fingerprint(self) -> dict[str, object]:
        """Usable files, their bytes, and a hash of their paths and contents."""
        digest = hashlib.sha256()
        for recording in self.scanned.recordings:
            digest.update(f"{recording.path}\0{recording.digest}\n".encode())
        size = sum((self.root / recording.path).stat().st_size for recording in self.scanned.recordings)
        return {"files": len(self.scanned.recordings), "bytes": size, "hash": digest.hexdigest()}

    def make_splits(self) -> Splits:
        found = self._scan = scan(
            self.root,
            channels=self.channels,
            sample_rate=self.sample_rate,
            pack_bytes=self.pack_gib * 2**30,
            max_bad_fraction=self.max_bad_fraction,
        )
        rate = found.sample_rate
        sizes = [-(-each.frames * rate // each.sample_rate) for each in found.recordings]
        wanted = float(np.percentile(sizes, 95)) if self.seconds is None else self.seconds * rate
        self._length = max(1, ceil(round(wanted / self.multiple_of, 6))) * self.multiple_of
        long = sum(size > self._length for size in sizes)
        log.info(
            "clips of %d samples (%.3f s at %d Hz); %d recordings are longer and cropped, the others padded",
            *(self._length, self._length / rate, rate, long),
        )
        train, validation, test = self._parts([each.path for each in found.recordings])
        return Splits(*(self._clips(found, sizes, part) for part in (train, validation, test)))

    def _parts(self, names: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
        """Which recordings go where; only the training split is shortened by `fraction`."""
        shares = {"validation": self.val_fraction, "test": self.test_fraction, "seed": self.seed}
        if self.split_by == "file":
            train, validation, test = partition(len(names), **shares)
        else:
            groups = groups_of(names, self.split_by)
            train, validation, test = partition_groups(groups, **shares)
            for name, part in (("training", train), ("validation", validation), ("test", test)):
                log.info("%s groups: %s", name, ", ".join(sorted({groups[number] for number in part})) or "none")
        return train[: ceil(self.fraction * len(train))], validation, test

    def _clips(self, found: Scan, sizes: Sequence[int], part: Sequence[int]) -> Clips:
        shift = int(self.shift * found.sample_rate)
        return Clips(
            found.source,
            recordings=found.recordings,
            numbers=part,
            sizes=sizes,
            gains=[self._gain(each) for each in found.recordings],
            length=self._length,
            seed=self.seed,
            augment=Augment(crop=self.crop == "random", gain_db=self.gain_db, polarity=self.polarity, shift=shift),
        )

    def _gain(self, recording: Recording) -> float:
        if self.normalise == "none":
            return 1.0
        loudest = PEAK / recording.peak
        return loudest if self.normalise == "peak" else min(RMS / recording.rms, loudest)
