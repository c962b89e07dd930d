"""Sets of clips: those of a folder, those of a run, and what is to be said of them."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from ..datasets.audio import commonest_rate
from ..datasets.cache import Cache
from ..datasets.recordings import Recording, Unreadable, shown
from ..datasets.scan import SUFFIXES, find, scan
from ..datasets.signals import Files, resample
from ..refusal import Refused

Waveform = Float32[np.ndarray, " time"]


class Clip(NamedTuple):
    """A sound by name, with a hash of its content, peak and level of the whole recording, how many samples are heard of
    it, and how to read them."""

    name: str
    digest: str
    peak: float
    rms: float
    samples: int
    read: Callable[[], Waveform]


class Sounds(NamedTuple):
    """Clips at one rate, where they are from, and what was left out or is odd. `kept`: what names them in the cache,
    where their numbers are worth keeping."""

    where: str
    clips: list[Clip]
    said: list[str]
    kept: str = ""

    @property
    def peak(self) -> float:
        """The median clip's."""
        return median(clip.peak for clip in self.clips)

    def distinct(self) -> "Sounds":
        """Without copies of a clip: they buy no evidence."""
        kept = list({clip.digest: clip for clip in reversed(self.clips)}.values())[::-1]
        copies = len(self.clips) - len(kept)
        said = [f"{copies} of {len(self.clips)} clips of {self.where} are copies of others and left out"] * bool(copies)
        return self._replace(clips=kept, said=[*self.said, *said])


class Folder(NamedTuple):
    """A folder that was scanned: what can be used, and what is to be said of the rest."""

    root: Path
    recordings: list[Recording]
    said: list[str]

    @classmethod
    def of(cls, root: str | Path, key: str, cache: Cache) -> "Folder":
        """Refused, in a sentence that begins with `key`=, where there is nothing to listen to."""
        path = Path(os.path.expanduser(root))
        listing = find(path, key=key, example="path/to/sounds")
        found = scan(path, listing, channels="mean", trim=None, min_seconds=0.0, max_bad_fraction=1.0, cache=cache,
                     key=key)  # fmt: skip
        said = []
        if others := other_files(path):
            said.append(f"{others} files of {root} are no audio and left out")
        if found.quarantine:
            reasons = Counter(bad.reason.partition(":")[0] for bad in found.quarantine)
            why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            total = len(found.quarantine) + len(found.recordings)
            said.append(f"{len(found.quarantine)} of {total} audio files of {root} cannot be heard: {why}")
        return cls(path, found.recordings, said)

    @property
    def rate(self) -> int:
        """Hz: the most frequent one, at most 16 kHz."""
        return commonest_rate(self.recordings)

    def sounds(self, rate: int, most: int) -> Sounds:
        """Its clips at `rate` Hz, at most their first `most` samples."""
        files, said = Files(self.root, self.recordings, sample_rate=rate, channels="mean"), list(self.said)
        rates = Counter(each.sample_rate for each in self.recordings)
        if set(rates) != {rate}:
            told = ", ".join(f"{count} at {own} Hz" for own, count in sorted(rates.items()))
            said.append(f"{self.root} holds {told}: resampled to {rate} Hz")
        if long := sum(each.samples(rate) > most for each in self.recordings):
            said.append(f"{long} clips of {self.root} are longer than {most / rate:g} s, of which that much is heard")
        clips = [
            Clip(shown(each.path), each.digest, each.peak, each.rms, min(most, each.samples(rate)),
                 partial(first, files, number, min(most, each.samples(rate))))
            for number, each in enumerate(self.recordings)
        ]  # fmt: skip
        return Sounds(str(self.root), clips, said, os.fsencode(self.root.resolve()).hex())


def first(files: Files, number: int, count: int) -> Waveform:
    """The first samples of a recording. Refused where it went away."""
    try:
        return files.segment(number, 0, count)[0]
    except Unreadable as error:
        raise Refused(f"{error}: bring it back, and start again") from error


def other_files(root: Path) -> int:
    """How many files below the folder are no audio by their suffix; hidden ones do not count."""
    names = (name for _, _, files in os.walk(root) for name in files)
    return sum(not name.startswith(".") and os.path.splitext(name)[1].lower() not in SUFFIXES for name in names)


def of_waveforms(where: str, waveforms: Sequence[Float[np.ndarray, " _"]], *, own: int, rate: int, most: int) -> Sounds:
    """Clips that are in memory, at `own` Hz; what is not finite is left out, and said."""
    clips = []
    for number, waveform in enumerate(waveforms):
        if len(waveform) and np.isfinite(waveform).all():
            heard = resample(np.asarray(waveform, np.float32)[None], own, rate)[0, :most]
            digest = hashlib.sha256(np.ascontiguousarray(waveform).tobytes()).hexdigest()
            peak, rms = float(np.abs(heard).max()), float(np.square(heard, dtype=np.float64).mean() ** 0.5)
            clips.append(Clip(f"{where} {number}", digest, peak, rms, len(heard), lambda x=heard: x))
    lost = len(waveforms) - len(clips)
    if not clips:
        raise Refused(f"none of the {len(waveforms)} {where} is a sound: their samples are not finite")
    said = [f"{lost} of {len(waveforms)} {where} have samples that are not finite, and are left out"] * bool(lost)
    return Sounds(where, clips, said)
