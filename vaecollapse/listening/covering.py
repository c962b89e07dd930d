"""A real set as it would sound at another set's level and under its steady noise."""

from functools import partial
from statistics import median

import numpy as np
from jaxtyping import Float

from ..nn.spectral import frame_size
from .sounds import Clip, Sounds, Waveform

LOW = 0.1  # the share of a clip's frames that are at most its noise
MOST = 500  # clips that a set's noise is read of


def powers(x: Waveform, window: int) -> Float[np.ndarray, "frames bins"]:
    """Of Hann windows every half window, per bin, such that white noise of variance σ² has σ² in the mean."""
    taper = np.hanning(window + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), window)[:: window // 2]
    return np.abs(np.fft.rfft(frames * taper)) ** 2 / np.square(taper).sum()


def steady(sounds: Sounds, rate: int) -> Float[np.ndarray, " bins"]:
    """The power per bin of noise that lies under half of the clips from beginning to end, in each another: read off the
    difference of a clip to the next, over √2, where what all clips share is gone. Its 10 % point over frames, which of
    noise is −ln .9 of its mean, and never more than that mean."""
    window, waveforms = frame_size(rate), [clip.read() for clip in sounds.clips[:: -(-len(sounds.clips) // MOST)]]
    found = []
    for x, other in zip(waveforms, [*waveforms[1:], waveforms[0]], strict=True):
        heard = min(len(x), len(other))
        apart = (x[:heard] - other[:heard]) / 2**0.5
        bins = powers(np.pad(apart, (0, max(0, window - heard))), window)
        found.append(np.minimum(np.quantile(bins, LOW, axis=0) / -np.log(1 - LOW), bins.mean(0)))
    return np.median(found, axis=0)


def covered(real: Sounds, generated: Sounds, rate: int) -> Sounds:
    """The real clips, quieter by as much as the median generated one is, under the steady noise of the generated ones.
    What differs between real clips and is lost here cannot be heard in a generated set of that kind, however many
    different sounds it holds."""
    level = min(1.0, median(clip.rms for clip in generated.clips) / max(median(clip.rms for clip in real.clips), 1e-12))
    noise = np.sqrt(steady(generated, rate))
    clips = [clip._replace(digest=f"{clip.digest} covered", read=partial(mixed, clip, level, noise, number))
             for number, clip in enumerate(real.clips)]  # fmt: skip
    return Sounds(f"{real.where} at that level and under that noise", clips, [])


def mixed(clip: Clip, level: float, noise: Float[np.ndarray, " bins"], seed: int) -> Waveform:
    """A clip at a level, with noise of that amplitude per bin."""
    x = clip.read()
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(len(x)))
    shape = np.interp(np.linspace(0, 1, len(white)), np.linspace(0, 1, len(noise)), noise)
    return (level * x + np.fft.irfft(shape * white, len(x))).astype(np.float32)
