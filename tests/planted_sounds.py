"""Sets of sounds whose state is known because it was put there: real ones spoilt, or repeated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import butter, sosfilt

from vaecollapse.listening.sounds import Sounds, of_waveforms

Waveforms = Sequence[np.ndarray]


def read(paths: Sequence[Path], rate: int) -> list[np.ndarray]:
    """The first channel of each file, at `rate` Hz by leaving samples out of what is low-passed."""
    found = []
    for path in paths:
        signal, own = sf.read(path, dtype="float32", always_2d=True)
        step = own // rate
        signal = sosfilt(butter(8, 0.9 / step, output="sos"), signal[:, 0])[::step] if step > 1 else signal[:, 0]
        found.append(signal.astype(np.float32))
    return found


def low_passed(waveforms: Waveforms, cut: float = 0.25) -> list[np.ndarray]:
    """`cut` is a share of half the sample rate."""
    filters = butter(6, cut, output="sos")
    return [sosfilt(filters, each).astype(np.float32) for each in waveforms]


def noisy(waveforms: Waveforms, snr: float = 10.0) -> list[np.ndarray]:
    """White noise `snr` dB below each clip."""
    rng = np.random.default_rng(0)
    scale = 10 ** (-snr / 20)
    return [(each + scale * each.std() * rng.standard_normal(len(each))).astype(np.float32) for each in waveforms]


def quieter(waveforms: Waveforms, by: float) -> list[np.ndarray]:
    """`by` dB."""
    return [(10 ** (-by / 20) * each).astype(np.float32) for each in waveforms]


def in_noise(waveforms: Waveforms, below: float) -> list[np.ndarray]:
    """White noise of one level under all of them, `below` dB re the median peak."""
    rng, peak = np.random.default_rng(1), np.median([abs(each).max() for each in waveforms])
    scale = peak * 10 ** (-below / 20)
    return [(each + scale * rng.standard_normal(len(each))).astype(np.float32) for each in waveforms]


def repeated(waveforms: Waveforms, kinds: int) -> list[np.ndarray]:
    return [waveforms[place % kinds] for place in range(len(waveforms))]


SICK = {
    "one clip": ("collapsed", lambda w: repeated(w, 1)),
    "ten clips": ("collapsed", lambda w: repeated(w, 10)),
    "low-passed": ("bad", low_passed),
    "noisy": ("bad", noisy),
    "very noisy": ("bad", lambda w: noisy(w, 0.0)),
    "quiet": ("bad", lambda w: quieter(w, 20)),
    "very quiet": ("bad", lambda w: quieter(w, 40)),
    "in noise": ("bad", lambda w: in_noise(w, 20)),
    "under noise": ("bad", lambda w: in_noise(w, 10)),
    "one clip in a little noise": ("collapsed", lambda w: in_noise(repeated(w, 1), 40)),
    "one very quiet clip": ("collapsed", lambda w: quieter(repeated(w, 1), 40)),
}


def sounds(waveforms: Waveforms, rate: int = 8000, where: str = "clips") -> Sounds:
    return of_waveforms(where, waveforms, own=rate, rate=rate, most=10 * rate)


def tones(count: int, seed: int = 0, rate: int = 8000) -> list[np.ndarray]:
    """Decaying tones of random pitch, length and colour."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        at = np.arange(int(rate * rng.uniform(0.1, 0.3))) / rate
        pitch, decay = 100 * 2 ** rng.uniform(0, 4), rng.uniform(5, 40)
        wave = np.sin(2 * np.pi * pitch * at) + rng.uniform(0, 0.5) * rng.standard_normal(len(at))
        made.append((0.5 * wave * np.exp(-decay * at)).astype(np.float32))
    return made
