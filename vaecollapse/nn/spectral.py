"""Time-frequency analysis of waveforms (batch, time): STFT magnitudes, the mask of their frames, log-mel features."""

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
        self.size = 2 ** max(4, round(math.log2(0.032 * sample_rate)))
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
