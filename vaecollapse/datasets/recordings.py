"""One audio file: opened, read to its end, what it holds, and the reason where it cannot be used."""

import hashlib
import os
import re
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile as sf
from jaxtyping import Float32, Float64

CHANNELS = ("mean", "left", "stereo", "random")
SILENT = 1e-4  # a recording, or a channel, that never exceeds −80 dB of full scale
ABSURD = 1e15  # a level from which squares are lost in float32
RATES = (100, 768000)  # Hz; outside, the header is broken
HOP = 0.01  # seconds; silence is trimmed in steps of it
BLOCK = 2**22  # samples decoded at a time

Planes = Float32[np.ndarray, "plane time"]  # what is kept of a recording's channels: one, two, or all


class Found(NamedTuple):
    """A file as the folder lists it: path below the root (absolute outside it), bytes, time of the last change."""

    path: str
    size: int
    mtime_ns: int


class Recording(NamedTuple):
    """A readable file: path, bytes, own rate and channels; the frames from `start` on that are kept; their peak and
    level over all planes; which planes are not silent; hash of the file's bytes."""

    path: str
    size: int
    sample_rate: int
    channels: int
    start: int
    frames: int
    peak: float
    rms: float
    heard: tuple[int, ...]
    digest: str

    def samples(self, rate: int) -> int:
        """How many samples are kept, at `rate` Hz."""
        return -(-self.frames * rate // self.sample_rate)


class Unreadable(Exception):
    """A file that goes to quarantine; the text is the reason."""


class Sound(sf.SoundFile):
    """A file for decoding.

    libsndfile 1.2 seeks to other frames in ogg, and decodes mp3 wrongly for a while after a seek, which soundfile does
    even between two reads of what can seek: those two are decoded from their start, straight on.
    """

    def __init__(self, path: Path) -> None:
        name: Any = os.fsencode(path) if os.name == "posix" else str(path)  # no text: soundfile encodes that strictly
        super().__init__(name)

    def seekable(self) -> bool:
        return self.format not in ("OGG", "MP3") and super().seekable()

    def go_to(self, frame: int) -> None:
        """Moves on to a frame, in a file that was just opened."""
        if self.seekable():
            self.seek(frame)
            return
        while frame > 0 and (passed := len(self.read(min(frame, BLOCK), dtype="float32"))):
            frame -= passed


def shown(path: str) -> str:
    """A path that can be printed: bytes that are no UTF-8 as \\xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def reason(path: Path, error: Exception) -> str:
    """Why a file could not be read; where it cannot even be opened, libsndfile says no more than "system error"."""
    try:
        open(path, "rb").close()
    except OSError as plain:
        return plain.strerror or str(plain)
    return getattr(error, "error_string", str(error))


def planes_of(channels: int, policy: str) -> int:
    """How many planes `mix` makes of so many channels."""
    return {"mean": 1, "left": 1, "stereo": 2, "random": channels}[policy]


def mix(frames: Float32[np.ndarray, "time channel"], policy: str) -> Planes:
    """What `policy` keeps of the channels: their mean, the first, the first two (one is doubled), or all."""
    if policy == "mean" and frames.shape[1] > 1:
        weights = np.full(frames.shape[1], 1 / frames.shape[1], np.float32)
        return (frames @ weights)[None]  # a tenth of the time of numpy's mean over a short axis
    if policy == "stereo":
        frames = frames[:, :2] if frames.shape[1] > 1 else frames.repeat(2, axis=1)
    return np.ascontiguousarray(frames.T if policy in ("stereo", "random") else frames[:, :1].T)


class Levels(NamedTuple):
    """Of some frames: the peak of each plane, and of each hop its peak and energy over all planes."""

    peak: Float32[np.ndarray, " plane"]
    peaks: Float32[np.ndarray, " hop"]
    energies: Float64[np.ndarray, " hop"]

    @classmethod
    def of(cls, signal: Planes, hop: int) -> "Levels":
        edges = np.arange(0, signal.shape[1], hop)
        peaks = np.maximum.reduceat(np.abs(signal), edges, axis=1)
        energies = np.add.reduceat(np.square(signal, dtype=np.float64), edges, axis=1)
        return cls(peaks.max(1), peaks.max(0), energies.sum(0))

    @classmethod
    def joined(cls, parts: Sequence["Levels"]) -> "Levels":
        peak, peaks, energies = zip(*parts, strict=True)
        return cls(np.max(peak, 0), np.concatenate(peaks), np.concatenate(energies))


def examine(root: Path, found: Found, *, channels: str, trim: float | None) -> Recording:
    """Reads a whole file block by block. trim: what is this many dB below the peak is cut off both ends; None: nothing.

    Unreadable where it cannot be decoded to its end, is shorter than it says, not finite, or silent after mixing.
    OSError where it cannot be opened.
    """
    path = root / found.path
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with Sound(path) as sound:
            _check_header(sound)
            rate, width, hop = sound.samplerate, sound.channels, ceil(HOP * sound.samplerate)
            block = hop * max(1, BLOCK // (hop * width))
            hop = block if trim is None else hop
            count, levels = _decoded(sound, channels, block, hop)
    except RuntimeError as error:  # soundfile's own errors
        raise Unreadable(f"corrupt: {reason(path, error)}") from error
    peak = float(levels.peak.max())
    if peak < SILENT:
        raise Unreadable(f"silent: peak {peak:.1e}")
    loud = np.flatnonzero(levels.peaks >= (0 if trim is None else peak * 10 ** (-trim / 20)))
    end = min(count, (int(loud[-1]) + 1) * hop)
    start = max(0, min(int(loud[0]) * hop, end - hop))  # at least one hop
    energy = float(levels.energies[loud[0] : loud[-1] + 1].sum())
    return Recording(
        path=found.path,
        size=found.size,
        sample_rate=rate,
        channels=width,
        start=start,
        frames=end - start,
        peak=peak,
        rms=(energy / ((end - start) * len(levels.peak))) ** 0.5,
        heard=tuple(np.flatnonzero(levels.peak >= SILENT).tolist()),
        digest=digest,
    )


def _decoded(sound: sf.SoundFile, channels: str, block: int, hop: int) -> tuple[int, Levels]:
    """How many frames there are, and their levels."""
    count, parts = 0, []
    while len(frames := sound.read(min(block, sound.frames - count), dtype="float32", always_2d=True)):
        count += len(frames)
        parts.append(Levels.of(mix(frames, channels), hop))
        if not parts[-1].peak.max() < ABSURD:
            raise Unreadable("not finite: NaN, infinite or absurdly loud samples")
    if count < 0.99 * sound.frames:  # an mp3 without a table of contents only estimates its length
        raise Unreadable(f"truncated: {count} of {sound.frames} frames")
    return count, Levels.joined(parts)


def _check_header(sound: sf.SoundFile) -> None:
    """Unreadable where a file is empty, shorter than it says, or of no possible rate."""
    for promised, held in re.findall(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", sound.extra_info):
        if int(held) < int(promised) < 2**32 - 1:  # all ones: the writer could not seek back, nothing is missing
            raise Unreadable(f"truncated: {held} of {promised} bytes")
    if sound.frames <= 0:
        raise Unreadable("empty: 0 frames")
    if not RATES[0] <= sound.samplerate <= RATES[1]:
        raise Unreadable(f"corrupt: a sample rate of {sound.samplerate} Hz")
