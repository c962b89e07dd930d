"""Rain whose law is known: a thresholded Gaussian random field."""

import torch
from torch import Tensor


def rain(count: int, times: int, *, size: int = 32, seed: int = 0, smooth: float = 4.0) -> Tensor:
    """(count, times, size, size) in mm, independent draws: two in five cells wet, correlated over `smooth` cells."""
    return 5 * (gaussian_fields(count, times, size=size, seed=seed, smooth=smooth) - 0.25).clamp(min=0)


def gaussian_fields(count: int, times: int, *, size: int = 32, seed: int = 0, smooth: float = 4.0) -> Tensor:
    """Standard normal in each cell, periodic, with a Gaussian correlation."""
    white = torch.randn(count, times, size, size, generator=torch.Generator().manual_seed(seed))
    k = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size))
    smoothing = torch.exp(-((k * smooth * 2) ** 2))
    fields = torch.fft.irfft2(torch.fft.rfft2(white) * smoothing, s=(size, size))
    full = torch.exp(-((torch.hypot(*torch.meshgrid(*[torch.fft.fftfreq(size)] * 2, indexing="ij")) * smooth * 2) ** 2))
    return fields / full.square().mean().sqrt()
