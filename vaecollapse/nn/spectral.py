"""Time-frequency analysis of waveforms (batch, time) and distances of two of them, per example, blind to padding.

Where a distance takes a `mask`, its waveforms must be 0 where it is False.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


def magnitudes(x: Float[Tensor, "batch time"], window: Float[Tensor, " size"]) -> Float[Tensor, "batch bins frames"]:
    """|STFT| with hop size/4, centred and zero-padded, divided by half the window's sum: a sine of amplitude a reads a.

    >>> magnitudes(torch.sin(torch.arange(4096.0) * torch.pi / 8)[None], torch.hann_window(256)).max().round(decimals=2)
    tensor(1.)
    """
    size = window.shape[0]
    spectrum = torch.stft(x, size, size // 4, window=window, pad_mode="constant", return_complex=True)
    return spectrum.abs() * (2 / window.sum())


def frame_mask(mask: Bool[Tensor, "batch time"], size: int) -> Bool[Tensor, "batch frames"]:
    """Which frames of `magnitudes` have data under their window."""
    return F.max_pool1d(F.pad(mask.float(), (size // 2, size // 2)), size, size // 4) > 0


def frame_size(sample_rate: int) -> int:
    """Samples of a window of about 32 ms, a power of two."""
    return 2 ** max(4, round(math.log2(0.032 * sample_rate)))


def median_rms(x: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None) -> Float[Tensor, ""] | None:
    """The median over clips of the RMS over each clip's own samples; None where every clip is silent."""
    energy = x.square() if mask is None else x.square() * mask
    samples = torch.full_like(x[:, 0], x.shape[1]) if mask is None else mask.sum(1).clamp_min(1)
    rms = (energy.sum(1) / samples).sqrt()
    return rms[rms > 0].median() if (rms > 0).any() else None


def mel_filters(sample_rate: int, size: int, mels: int) -> Float[Tensor, "mels bins"]:
    """Triangles equally spaced in mel, 2595 log10(1 + f/700), from 0 to half the sample rate; rows sum to 1."""
    edge = 2595 * math.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, edge, mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, size // 2 + 1, dtype=torch.float64)
    # A triangle narrower than a bin would be empty: each side is at least one bin wide.
    width = corners.diff().clamp_min(sample_rate / size)
    centred = bins[None] - corners[1:-1, None]
    rise, fall = 1 + centred / width[:-1, None], 1 - centred / width[1:, None]
    triangles = torch.minimum(rise, fall).clamp_min(0)
    return (triangles / triangles.sum(1, keepdim=True)).float()


class LogMel(nn.Module):
    """log(mel magnitudes + f), fixed features of a waveform, in nats; f lies `floor_db` below the data's peak.

    The window is about 32 ms (a power of two, hop a quarter of it). `calibrate` fixes f from data; before it, the
    peak is taken to be 0.1.
    """

    floor: Tensor

    def __init__(self, *, sample_rate: int, mels: int = 40, floor_db: float = -70.0) -> None:
        super().__init__()
        self.floor_db = floor_db
        self.size = frame_size(sample_rate)
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, self.size, mels), persistent=False)
        self.register_buffer("floor", torch.tensor(0.1 * 10 ** (floor_db / 20)))

    def mel(self, x: Float[Tensor, "batch time"]) -> Float[Tensor, "batch mels frames"]:
        return self.get_buffer("filters").to(x) @ magnitudes(x, self.get_buffer("window").to(x))

    def forward(self, x: Float[Tensor, "batch time"]) -> Float[Tensor, "batch mels frames"]:
        with torch.autocast(x.device.type, enabled=False):
            return (self.mel(x.float()) + self.floor.float()).log()

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "batch time"]) -> None:
        """Fixes the floor from the median over clips of each clip's largest mel magnitude."""
        peak = self.mel(x.float()).amax((1, 2))
        if (peak > 0).any():
            self.floor.copy_(peak[peak > 0].median() * 10 ** (self.floor_db / 20))


class Loudness(nn.Module):
    """ln of the RMS of frames of about 32 ms (hop a quarter), unweighted, in nats: ½ ln(mean square + f²).

    f lies `floor_db` below the data's loudest frame: `calibrate` fixes it; before, that frame is taken to have RMS 0.1.
    """

    floor: Tensor

    def __init__(self, *, sample_rate: int, floor_db: float = -70.0) -> None:
        super().__init__()
        self.floor_db, self.size = floor_db, frame_size(sample_rate)
        self.register_buffer("floor", torch.tensor(0.1 * 10 ** (floor_db / 20)))

    def power(self, x: Float[Tensor, "batch time"]) -> Float[Tensor, "batch one frames"]:
        half = self.size // 2
        return F.avg_pool1d(F.pad(x.square(), (half, half)), self.size, self.size // 4).unsqueeze(1)

    def forward(self, x: Float[Tensor, "batch time"]) -> Float[Tensor, "batch one frames"]:
        with torch.autocast(x.device.type, enabled=False):
            return (self.power(x.float()) + self.floor.float().square()).log() / 2

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "batch time"]) -> None:
        """Fixes the floor from the median over clips of each clip's loudest frame."""
        peak = self.power(x.float()).amax((1, 2)).sqrt()
        if (peak > 0).any():
            self.floor.copy_(peak[peak > 0].median() * 10 ** (self.floor_db / 20))


def scale_distance(
    x: Float[Tensor, "batch time"],
    y: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"] | None,
    *,
    window: Float[Tensor, " size"],
    floor: Float[Tensor, ""],
) -> Float[Tensor, " batch"]:
    """‖S − Ŝ‖/‖S‖ + mean |ln(S + f) − ln(Ŝ + f)| over the frames that overlap data, S the STFT magnitudes of x."""
    a, b = magnitudes(x, window), magnitudes(y, window)
    log_ratio = ((a + floor).log() - (b + floor).log()).abs()
    if mask is None:
        cells = a.new_tensor(a[0].numel())
    else:
        valid = frame_mask(mask, window.shape[0])
        log_ratio = log_ratio * valid[:, None]
        cells = valid.sum(1).clamp_min(1) * a.shape[1]
    # −50 dB re the peak where floor_db is −70: an almost silent clip must not outweigh the whole batch.
    quietest = 10 * floor * cells.sqrt()
    loudness = torch.linalg.vector_norm(a, dim=(1, 2)).maximum(quietest)
    relative = torch.linalg.vector_norm(a - b, dim=(1, 2)) / loudness
    return relative + log_ratio.sum((1, 2)) / cells


def feature_distance(
    features: LogMel | Loudness,
    x: Float[Tensor, "batch time"],
    y: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"] | None,
) -> Float[Tensor, " batch"]:
    """mean |φ(x) − φ(y)| over the bands and the frames that overlap data."""
    cells = (features(x) - features(y)).abs().mean(1)
    if mask is None:
        return cells.mean(1)
    valid = frame_mask(mask, features.size)
    return (cells * valid).sum(1) / valid.sum(1).clamp_min(1)


def waveform_distance(
    x: Float[Tensor, "batch time"],
    y: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"] | None,
    *,
    norm: str,
    level: Float[Tensor, ""],
) -> Float[Tensor, " batch"]:
    """mean |x − y|/level (`l1`) or mean (x − y)²/level² (`l2`) over the samples that are data."""
    residual = (x - y) / level
    samples = x.shape[1] if mask is None else mask.sum(1).clamp_min(1)
    return (residual.abs() if norm == "l1" else residual.square()).sum(1) / samples
