"""Audio files on disk: found, checked, set aside with a reason where they are unusable, decoded, resampled, packed."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import ceil, gcd
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
from jaxtyping import Float32
from scipy.signal import resample_poly

from ..refusal import Refused

log = logging.getLogger(__name__)

SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".aif", ".aiff", ".mp3"}
SILENT = 1e-4  # a recording that never exceeds −80 dB of full scale
BLOCK = 2**22  # frames decoded at a time while scanning

Signal = Float32[np.ndarray, "_"]  # samples of one recording, mono


class Recording(NamedTuple):
    """A readable file: path below the root, own rate and frames, peak and level once mixed, content hash."""

    path: str
    sample_rate: int
    channels: int
    frames: int
    peak: float = 0.0
    rms: float = 0.0
    digest: str = ""


class Quarantined(NamedTuple):
    path: str
    reason: str


class Unreadable(Exception):
    """A file that goes to quarantine; the text is the reason."""


def find(root: Path) -> list[str]:
    """Audio files below `root`, sorted, no hidden ones (`._*` are macOS metadata). Refused where there are none."""
    if not root.exists():
        raise Refused(f"dataset.root={root} does not exist; type dataset.root=path/to/recordings")
    if not root.is_dir():
        raise Refused(f"dataset.root={root} is a file; type the folder it is in, dataset.root={root.parent}")
    files = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = sorted(path.relative_to(root).as_posix() for path in files if not path.name.startswith("."))
    if not names:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise Refused(f"dataset.root={root} holds no audio files ({kinds}); type dataset.root=path/to/recordings")
    return names


def header(root: Path, name: str) -> Recording:
    """What a file says of itself. Unreadable where it is no audio, empty, or shorter than it says."""
    try:
        info = sf.info(root / name, verbose=True)
    except sf.LibsndfileError as error:
        raise Unreadable(f"corrupt: {error.error_string}") from error
    for promised, found in re.findall(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", info.extra_info):
        if int(found) < int(promised) < 2**32 - 1:  # all ones: the writer could not seek back, nothing is missing
            raise Unreadable(f"truncated: {found} of {promised} bytes")
    if info.frames <= 0:
        raise Unreadable("empty: 0 frames")
    return Recording(name, info.samplerate, info.channels, info.frames)


def _mixed(frames: np.ndarray, channels: str) -> Signal:
    return np.ascontiguousarray(frames[:, 0] if channels == "left" else frames.mean(1, dtype=np.float32))


def decode(root: Path, found: Recording, *, channels: str, keep: bool) -> tuple[Recording, Signal | None]:
    """Reads a whole file block by block: the recording with its level and hash, and its signal if it is to be kept.

    Unreadable where it cannot be decoded to its end, is not finite, or is silent after mixing.
    """
    count, peak, energy, kept = 0, 0.0, 0.0, []
    try:
        for frames in sf.blocks(root / found.path, BLOCK, dtype="float32", always_2d=True):
            block = _mixed(frames, channels)
            count, energy = count + len(block), energy + float(np.square(block, dtype=np.float64).sum())
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            if not np.isfinite(energy):
                raise Unreadable("not finite: NaN or infinite samples")
            if keep:
                kept.append(block)
    except (sf.LibsndfileError, RuntimeError) as error:
        raise Unreadable(f"corrupt: {error}") from error
    if count < 0.99 * found.frames:  # an mp3 without a table of contents only estimates its length
        raise Unreadable(f"truncated: {count} of {found.frames} frames")
    if peak < SILENT:
        raise Unreadable(f"silent: peak {peak:.1e}")
    with open(root / found.path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    recording = found._replace(frames=count, peak=peak, rms=float(np.sqrt(energy / count)), digest=digest)
    return recording, np.concatenate(kept) if keep else None


@lru_cache(maxsize=64)
def _filter(up: int, down: int) -> Float32[np.ndarray, " tap"]:
    """The anti-aliasing filter of `resample_poly` (a windowed sinc), designed once for each ratio."""
    half = 10 * max(up, down)
    taps = np.sinc(np.arange(-half, half + 1) / max(up, down)) * np.kaiser(2 * half + 1, 5.0)
    return (taps / taps.sum()).astype(np.float32)


def _ratio(source: int, target: int) -> tuple[int, int]:
    return target // gcd(source, target), source // gcd(source, target)


def resample(signal: Signal, source: int, target: int) -> Signal:
    """Polyphase resampling from `source` Hz to `target` Hz; ceil(time · target / source) samples."""
    up, down = _ratio(source, target)
    return signal if up == down else resample_poly(signal, up, down, window=_filter(up, down)).astype(np.float32)


class Pack:
    """All recordings at one rate in one array."""

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.ends = np.cumsum([0, *map(len, signals)])
        self.samples = np.concatenate(signals)

    def segment(self, number: int, start: int, count: int) -> Signal:
        """Samples [start, start + count) of recording `number`, at the pack's rate."""
        begin = self.ends[number] + start
        return self.samples[begin : min(begin + count, self.ends[number + 1])]


class Files:
    """The same segments read and resampled from disk, each time only the part that is asked for."""

    def __init__(self, root: Path, recordings: Sequence[Recording], sample_rate: int, channels: str) -> None:
        self.root, self.recordings, self.sample_rate, self.channels = root, recordings, sample_rate, channels

    def segment(self, number: int, start: int, count: int) -> Signal:
        """Samples [start, start + count) of recording `number`; a filter's width more is read on both sides."""
        recording = self.recordings[number]
        up, down = _ratio(recording.sample_rate, self.sample_rate)
        margin = 0 if up == down else -(-11 * max(up, down) // (up * down)) + 1
        first = (
            max(0, start // up - margin) * down
        )  # a multiple of `down`: sample first·up/down exists after resampling
        last = (ceil((start + count) / up) + margin) * down
        path = self.root / recording.path
        frames, _ = sf.read(path, last - first, first, dtype="float32", always_2d=True)
        signal = resample(_mixed(frames, self.channels), recording.sample_rate, self.sample_rate)
        skip = start - first // down * up
        return signal[skip : skip + count]


class Scan(NamedTuple):
    """A folder read once: what is usable, what is not and why, the rate, and where segments come from."""

    recordings: list[Recording]
    quarantine: list[Quarantined]
    sample_rate: int
    source: Pack | Files


def scan(root: Path, *, channels: str, sample_rate: int | None, pack_bytes: float, max_bad_fraction: float) -> Scan:
    """Reads every file below `root`; keeps the signals in memory where they fit into `pack_bytes`.

    The rate is the most frequent one, at most 16 kHz, unless given. Refused where more than `max_bad_fraction` of the
    files are bad, or all.
    """
    names, quarantine, headers = find(root), [], []
    for name in names:
        try:
            headers.append(header(root, name))
        except Unreadable as reason:
            quarantine.append(Quarantined(name, str(reason)))
    rates = Counter(found.sample_rate for found in headers)
    rate = sample_rate or min(16000, max(rates, key=lambda each: (rates[each], -each), default=16000))
    keep = sum(4 * found.frames * rate / found.sample_rate for found in headers) <= pack_bytes
    recordings, signals = [], []
    for found in headers:
        try:
            recording, signal = decode(root, found, channels=channels, keep=keep)
        except Unreadable as reason:
            quarantine.append(Quarantined(found.path, str(reason)))
            continue
        recordings.append(recording)
        if signal is not None:
            signals.append(resample(signal, recording.sample_rate, rate))
    _refuse_bad(root, len(names), quarantine, max_bad_fraction)
    histogram = ", ".join(f"{each} Hz: {rates[each]}" for each in sorted(rates))
    log.info("%d recordings (%s), %s", len(recordings), histogram, "in memory" if keep else "read in parts")
    return Scan(recordings, quarantine, rate, Pack(signals) if keep else Files(root, recordings, rate, channels))


def _refuse_bad(root: Path, total: int, quarantine: Sequence[Quarantined], max_bad_fraction: float) -> None:
    """Names the quarantined files in the log; Refused where they are too many."""
    lines = [f"  {bad.path}: {bad.reason}" for bad in quarantine[:20]]
    lines += [f"  … and {len(quarantine) - 20} more"] if len(quarantine) > 20 else []
    if len(quarantine) == total:
        raise Refused("\n".join([f"dataset.root={root} holds no usable audio; give other files than these:", *lines]))
    if len(quarantine) > max_bad_fraction * total:
        share = f"{len(quarantine)} of {total} files are bad, more than max_bad_fraction={max_bad_fraction:g}"
        raise Refused("\n".join([f"{share}; mend or remove them, or type a larger max_bad_fraction:", *lines]))
    if quarantine:
        log.warning("%d of %d files are left out:\n%s", len(quarantine), total, "\n".join(lines))
