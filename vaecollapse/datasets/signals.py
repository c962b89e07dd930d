"""Where segments of recordings come from: read and resampled in parts, or out of an int16 pack at one rate."""

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil, frexp, gcd
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int16
from scipy.signal import resample_poly

from .cache import Cache
from .recordings import Planes, Recording, Sound, Unreadable, mix, planes_of, reason, shown
from .threads import in_order

log = logging.getLogger(__name__)


@lru_cache(maxsize=64)
def _filter(up: int, down: int) -> Float32[np.ndarray, " tap"]:
    """The anti-aliasing filter of `resample_poly` (a windowed sinc), designed once for each ratio."""
    half = 10 * max(up, down)
    taps = np.sinc(np.arange(-half, half + 1) / max(up, down)) * np.kaiser(2 * half + 1, 5.0)
    return (taps / taps.sum()).astype(np.float32)


def _ratio(source: int, target: int) -> tuple[int, int]:
    return target // gcd(source, target), source // gcd(source, target)


def resample(signal: Planes, source: int, target: int) -> Float32[np.ndarray, "plane resampled"]:
    """Polyphase resampling from `source` Hz to `target` Hz; ceil(time · target / source) samples."""
    up, down = _ratio(source, target)
    if up == down:
        return signal
    return resample_poly(signal, up, down, axis=1, window=_filter(up, down)).astype(np.float32)


class Files:
    """Segments read and resampled from disk, each time only the part that is asked for."""

    def __init__(self, root: Path, recordings: Sequence[Recording], *, sample_rate: int, channels: str) -> None:
        self.root, self.recordings, self.sample_rate, self.channels = root, recordings, sample_rate, channels

    def segment(self, number: int, start: int, count: int, planes: slice = slice(None)) -> Planes:
        """Samples [start, start + count) of recording `number`; a filter's width more is read on both sides.

        Unreadable where the file is gone or is no longer what it was.
        """
        recording = self.recordings[number]
        up, down = _ratio(recording.sample_rate, self.sample_rate)
        margin = 0 if up == down else -(-11 * max(up, down) // (up * down)) + 1
        # a multiple of `down`: sample first·up/down exists after resampling
        first = max(0, start // up - margin) * down
        last = min(recording.frames, (ceil((start + count) / up) + margin) * down)
        signal = resample(self.read(recording, first, last)[planes], recording.sample_rate, self.sample_rate)
        skip = start - first // down * up
        return signal[:, skip : skip + count]

    def read(self, recording: Recording, first: int, last: int) -> Planes:
        """Frames [first, last) of what is kept of a recording, at its own rate."""
        path = self.root / recording.path
        try:
            with Sound(path) as sound:
                sound.go_to(recording.start + first)
                frames = sound.read(last - first, dtype="float32", always_2d=True)
                same = (sound.samplerate, sound.channels) == (recording.sample_rate, recording.channels)
        except (OSError, RuntimeError) as error:  # soundfile's errors are RuntimeErrors
            raise Unreadable(f"{shown(recording.path)} can no longer be read: {reason(path, error)}") from error
        if not same or len(frames) < last - first or not np.isfinite(np.vdot(frames, frames)):
            raise Unreadable(f"{shown(recording.path)} is no longer what it was")
        return mix(frames, self.channels)


class Pack:
    """All recordings at one rate in one int16 array, plane after plane, and behind them one exponent e for each.

    A sample is k · 2^(e − 15), with the smallest e that clips nothing: float files above full scale keep their peaks,
    quiet ones their resolution (at worst 15 bits below their peak), and 16-bit files that need no resampling and no
    mixing come back exactly. In the cache the array is a memory map that worker processes share.
    """

    def __init__(self, samples: Int16[np.ndarray, " _"], shapes: Sequence[tuple[int, int]], path: Path | None) -> None:
        """`shapes` are (planes, samples) of each recording; `path` is the file that `samples` maps, if any."""
        self.samples, self.shapes, self.path = samples, list(shapes), path
        self.ends = [0, *np.cumsum([planes * count for planes, count in self.shapes]).tolist()]
        exponents = samples[self.ends[-1] :].astype(int).tolist()
        self.steps = [np.float32(2.0 ** (exponent - 15)) for exponent in exponents]

    def segment(self, number: int, start: int, count: int, planes: slice = slice(None)) -> Planes:
        """Samples [start, start + count) of recording `number`, at the pack's rate."""
        whole = self.samples[self.ends[number] : self.ends[number + 1]].reshape(self.shapes[number])
        return np.multiply(whole[planes, start : start + count], self.steps[number], dtype=np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """A worker that was not forked maps the file again."""
        return self.__dict__ | ({} if self.path is None else {"samples": None})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if self.path is not None:
            self.samples = _mapped(self.path)


def _mapped(path: Path) -> Int16[np.ndarray, " _"]:
    return np.asarray(np.memmap(path, np.int16, "r"))  # slices of a plain view cost a third of a memmap's


def quantise(signal: Planes) -> tuple[Int16[np.ndarray, "plane time"], int]:
    """k and the smallest e with signal ≈ k · 2^(e − 15) and every k in int16."""
    low, high = float(signal.min(initial=0.0)), float(signal.max(initial=0.0))
    least = max(-60, frexp(max(-low, high))[1] - 1)  # 2^least ≤ peak: −2^least itself still fits
    for exponent in range(least, least + 3):
        if round(high * 2.0 ** (15 - exponent)) <= 32767 and round(low * 2.0 ** (15 - exponent)) >= -32768:
            break
    return np.rint(signal * np.float32(2.0 ** (15 - exponent))).astype(np.int16), exponent


def source_of(files: Files, *, pack_bytes: float, cache: Cache) -> Pack | Files:
    """A pack where one fits into `pack_bytes`, from the cache if it lies there; else the files themselves."""
    recordings, rate = files.recordings, files.sample_rate
    shapes = [(planes_of(each.channels, files.channels), each.samples(rate)) for each in recordings]
    size = 2 * (sum(planes * count for planes, count in shapes) + len(shapes))
    if size > pack_bytes:
        slow = sum(each.path.lower().endswith((".ogg", ".oga", ".mp3")) for each in recordings)
        note = f"; {slow} ogg and mp3 files are decoded from their start at each visit" if slow else ""
        log.info("clips are read from the files, a pack of them would need pack_gib=%.3g%s", size / 2**30, note)
        return files
    content = [[each.digest, each.start, each.frames] for each in recordings]
    name = f"pack-{cache.key(rate, files.channels, content)}.int16"
    try:
        path = cache.path(name)
        if path is None or path.stat().st_size != size:
            path = _written(cache, name, files)
        log.info(
            "clips are read from a pack of %.3g GiB in %s", size / 2**30, "memory" if path is None else path.parent
        )
        if path is not None:
            return Pack(_mapped(path), shapes, path)
        return Pack(np.concatenate([chunk.ravel() for chunk in _chunks(files)]), shapes, None)
    except (OSError, Unreadable) as error:
        log.warning("clips are read from the files, a pack of them failed: %s", error)
        return files


def _written(cache: Cache, name: str, files: Files) -> Path | None:
    """The pack in the cache, or None where nothing can be written (said in the log)."""
    if cache.folder is None:
        return None
    folder = cache.folder
    try:
        with cache.writing(name) as file:
            for chunk in _chunks(files):
                file.write(chunk.tobytes())
    except OSError:
        return None
    return folder / name


def _chunks(files: Files) -> Iterator[Int16[np.ndarray, "..."]]:
    """Every recording in int16, then their exponents."""

    def packed(recording: Recording) -> tuple[Int16[np.ndarray, "plane time"], int]:
        whole = files.read(recording, 0, recording.frames)
        return quantise(resample(whole, recording.sample_rate, files.sample_rate))

    exponents = []
    for chunk, exponent in in_order(packed, files.recordings, doing="packing"):
        exponents.append(exponent)
        yield chunk
    yield np.array(exponents, np.int16)
