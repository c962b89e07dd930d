"""p(x|z) from a decoder's output: Gaussian, Laplace, and the spectral distance, which is no density."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, Laplace, Normal
from torch.nn import functional as F

from ..nn.spectral import frame_mask, magnitudes
from ..refusal import Refused

LOWEST_LOG_SCALE = -8.0


class MaskedIndependent(Distribution):
    """Independent elements, one example one event; elements where `mask` is False carry no probability.

    `log_prob` is in nats, summed over the event, shape (batch,).
    """

    arg_constraints: ClassVar = {}  # pyright: ignore[reportAssignmentType]
    has_rsample = True
    normalised = True

    def __init__(self, elements: Distribution, mask: Tensor | None = None) -> None:
        self.elements, self.mask = elements, mask
        super().__init__(elements.batch_shape[:1], elements.batch_shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.elements.mean

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.elements.log_prob(value)
        if self.mask is not None:
            log_prob = log_prob.masked_fill(~self.mask, 0.0)
        return log_prob.flatten(1).sum(1)

    def rsample(self, sample_shape=()) -> Tensor:
        return self.elements.rsample(sample_shape)


class ElementwiseLikelihood(nn.Module):
    """Independent elements around the decoder's output with one scale for all, fixed or learned.

    A learned log scale is softly bounded from below at −8 (sigma-VAE, Rybkin 2021), which keeps the density finite
    where the decoder is exact.
    """

    normalised = True
    family: Callable[..., Distribution]

    def __init__(self, *, scale: float = 1.0, learn_scale: bool = False) -> None:
        super().__init__()
        lowest = 0.004 if learn_scale else 0.0
        if not lowest < scale < math.inf:
            raise Refused(
                f"expected a likelihood scale above {lowest}, but got {scale}: rescale the data or set "
                "likelihood.scale=1"
            )
        self.learn_scale, self.fixed_scale = learn_scale, scale
        if learn_scale:
            above = math.log(math.expm1(math.log(scale) - LOWEST_LOG_SCALE))
            self.raw_log_scale = nn.Parameter(torch.tensor(LOWEST_LOG_SCALE + above))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """s of Normal, b of Laplace, in the units of the data."""
        if self.learn_scale:
            return (LOWEST_LOG_SCALE + F.softplus(self.raw_log_scale - LOWEST_LOG_SCALE)).exp()
        return torch.tensor(self.fixed_scale, dtype=torch.float64)

    def forward(
        self, mean: Float[Tensor, "batch *event"], mask: Bool[Tensor, "batch *event"] | None = None
    ) -> Distribution:
        with torch.autocast(mean.device.type, enabled=False):
            mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
            return MaskedIndependent(self.family(mean, self.scale.to(mean).expand_as(mean), validate_args=False), mask)


class NormalLikelihood(ElementwiseLikelihood):
    """−ln p = Σ (x − x̂)²/(2s²) + ln s + ½ ln 2π over the event."""

    family = Normal


class LaplaceLikelihood(ElementwiseLikelihood):
    """−ln p = Σ |x − x̂|/b + ln 2b over the event."""

    family = Laplace


class SpectralDistribution(Distribution):
    """−`log_prob` is a distance, so no density: `normalised` is False, and `mean` is the decoder's waveform."""

    arg_constraints: ClassVar = {}  # pyright: ignore[reportAssignmentType]
    normalised = False

    def __init__(self, likelihood: "SpectralLikelihood", waveform: Tensor, mask: Tensor | None) -> None:
        self.likelihood, self.waveform, self.mask = likelihood, waveform, mask
        super().__init__(waveform.shape[:1], waveform.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.waveform

    def log_prob(self, value: Tensor) -> Tensor:
        return -self.likelihood.distance(value, self.waveform, self.mask)

    def between(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same distance between real clips: the unit the value of z is measured in."""
        return self.likelihood.distance(x, y, mask)


class SpectralLikelihood(nn.Module):
    """Multi-scale STFT distance: Σ over scales of ‖S − Ŝ‖/‖S‖ + mean |ln(S + f) − ln(Ŝ + f)|, mean-reduced per scale.

    Both waveforms are silenced on padding and only frames that overlap data count. The floor f lies `floor_db` below
    the data's own peak, per scale: with a tiny absolute floor a wrong clip beats the right one with −60 dB noise, since
    only the padding's logarithm counts. A clip more than 50 dB below the data's peak counts as relative to that level.
    Multi-scale STFT losses: Yamamoto 2020 (Parallel WaveGAN), Engel 2020 (DDSP).
    """

    normalised = False
    floor: Tensor

    def __init__(self, *, scales: Sequence[int] = (1024, 256, 64), floor_db: float = -70.0) -> None:
        super().__init__()
        if not scales or any(size < 8 or size % 4 for size in scales):
            raise Refused(
                f"STFT scales are window sizes, multiples of 4 from 8 up, but got {list(scales)}: "
                "try likelihood.scales=[1024,256,64]"
            )
        if not -120 <= floor_db < 0:
            raise Refused(
                f"floor_db is decibels re the data's peak, from -120 to below 0, but got {floor_db}: "
                "try likelihood.floor_db=-70"
            )
        self.scales, self.floor_db = tuple(scales), floor_db
        for size in self.scales:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
        # Before `calibrate`: as if the median clip peaked at a magnitude of 0.1.
        self.register_buffer("floor", torch.full((len(self.scales),), 0.1 * 10 ** (floor_db / 20)))

    def forward(
        self, waveform: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Distribution:
        return SpectralDistribution(self, waveform, mask)

    def distance(
        self,
        x: Float[Tensor, "batch time"],
        y: Float[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The distance of y from x, which is the reference of the relative term; 0 for equal waveforms."""
        with torch.autocast(x.device.type, enabled=False):
            x, y = x.float(), y.float()
            if mask is not None:
                x, y = x * mask, y * mask
            return torch.stack([self._at_scale(i, x, y, mask) for i in range(len(self.scales))]).sum(0)

    def _at_scale(self, i: int, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        size, floor = self.scales[i], self.floor[i].to(x)
        window = self.get_buffer(f"window_{size}").to(x)
        a, b = magnitudes(x, window), magnitudes(y, window)
        log_ratio = ((a + floor).log() - (b + floor).log()).abs()
        if mask is None:
            cells = a.new_tensor(a[0].numel())
        else:
            valid = frame_mask(mask, size)
            log_ratio = log_ratio * valid[:, None]
            cells = valid.sum(1).clamp_min(1) * a.shape[1]
        # −50 dB re the peak where floor_db is −70: an almost silent clip must not outweigh the whole batch.
        quietest = 10 * floor * cells.sqrt()
        loudness = torch.linalg.vector_norm(a, dim=(1, 2)).maximum(quietest)
        relative = torch.linalg.vector_norm(a - b, dim=(1, 2)) / loudness
        return relative + log_ratio.sum((1, 2)) / cells

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None) -> None:
        """Fixes the floors, `floor_db` below the median over clips of the peak magnitude; silent clips aside."""
        x = x.float() if mask is None else x.float() * mask
        for i, size in enumerate(self.scales):
            peak = magnitudes(x, self.get_buffer(f"window_{size}").to(x)).amax((1, 2))
            if (peak > 0).any():
                self.floor[i] = peak[peak > 0].median() * 10 ** (self.floor_db / 20)
