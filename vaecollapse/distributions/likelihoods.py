"""p(x|z) from a decoder's output: Gaussian, Laplace, Bernoulli, and the spectral distance, which is no density."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Laplace, Normal
from torch.nn import functional as F

from ..nn.spectral import (
    LogMel,
    Loudness,
    feature_distance,
    frame_mask,
    magnitudes,
    median_rms,
    scale_distance,
    waveform_distance,
)
from ..refusal import Refused

LOWEST_LOG_SCALE = -8.0
SCALE_MODES = ("fixed", "learned", "optimal")
MEMORY = 20  # batches behind the running scale: a few, since residuals shrink while it is being read


class MaskedIndependent(Distribution):
    """Independent elements, one example one event; elements where `mask` is False carry no probability.

    `log_prob` is in nats, summed over the event, shape (batch,).
    """

    arg_constraints: ClassVar = {}  # pyright: ignore[reportAssignmentType]
    normalised = True

    def __init__(self, elements: Distribution, mask: Tensor | None = None) -> None:
        self.elements, self.mask, self.has_rsample = elements, mask, elements.has_rsample
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

    def sample(self, sample_shape=()) -> Tensor:
        return self.elements.sample(sample_shape)


class ElementwiseLikelihood(nn.Module):
    """Independent elements around the decoder's output with one scale for all of them (Rybkin 2021, sigma-VAE).

    `scale_mode`: `fixed` at `scale`; `learned`, a parameter that starts there; `optimal`, while training the scale that
    maximises the likelihood of the batch at hand (of all ranks), in evaluation a running mean of that over about the
    last `MEMORY` batches. Learned and optimal scales have a soft floor at e⁻⁸, in the units of the data: the density
    stays finite where the decoder is exact.
    """

    normalised = True
    family: Callable[..., Distribution]
    power: int  # the best scale is the mean of |residual|^power, to the power of 1/power
    moment: Tensor
    batches: Tensor

    def __init__(self, *, scale: float = 1.0, scale_mode: str = "fixed") -> None:
        super().__init__()
        if scale_mode not in SCALE_MODES:
            raise Refused(
                f"expected likelihood.scale_mode to be one of {', '.join(SCALE_MODES)}, but got {scale_mode!r}: "
                "try likelihood.scale_mode=learned"
            )
        lowest = 0.0 if scale_mode == "fixed" else 0.004
        if not lowest < scale < math.inf:
            raise Refused(
                f"expected a {scale_mode} likelihood scale above {lowest}, but got {scale}: rescale the data or set "
                "likelihood.scale=1"
            )
        self.scale_mode, self.fixed_scale = scale_mode, scale
        if scale_mode == "learned":
            above = math.log(math.expm1(math.log(scale) - LOWEST_LOG_SCALE))
            self.raw_log_scale = nn.Parameter(torch.tensor(LOWEST_LOG_SCALE + above))
        elif scale_mode == "optimal":
            self.register_buffer("moment", torch.tensor(float(scale) ** self.power))
            self.register_buffer("batches", torch.tensor(0.0))

    @property
    def fixed(self) -> bool:
        """Is the scale a number of the configuration, not one that training finds?"""
        return self.scale_mode == "fixed"

    @property
    def scale(self) -> Float[Tensor, ""]:
        """s of Normal, b of Laplace, in the units of the data: the one that holds in evaluation."""
        if self.scale_mode == "learned":
            return (LOWEST_LOG_SCALE + F.softplus(self.raw_log_scale - LOWEST_LOG_SCALE)).exp()
        if self.scale_mode == "optimal":
            return self.best(self.moment)
        return torch.tensor(self.fixed_scale, dtype=torch.float64)

    def best(self, moment: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The most likely scale for residuals with this mean of |r|^power, softly floored."""
        return (moment.pow(2 / self.power) + math.exp(2 * LOWEST_LOG_SCALE)).sqrt()

    @torch.no_grad()
    def adapt(
        self, residual: Float[Tensor, "batch *event"], mask: Bool[Tensor, "batch *event"] | None
    ) -> Float[Tensor, ""]:
        """The best scale for these residuals, which also move the running one."""
        powers = residual.abs().pow(self.power)
        count = powers.new_tensor(powers.numel()) if mask is None else mask.sum().to(powers)
        totals = torch.stack([(powers if mask is None else powers.masked_fill(~mask, 0.0)).sum(), count])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        moment = totals[0] / totals[1]
        moment = torch.where(moment.isfinite(), moment, self.moment.to(moment))
        self.batches.add_(1)
        self.moment.lerp_(moment.to(self.moment), 1 / self.batches.clamp(max=MEMORY))
        return self.best(moment)

    def density(
        self, mean: Float[Tensor, "batch *event"], scale: Float[Tensor, ""], mask: Bool[Tensor, "batch *event"] | None
    ) -> MaskedIndependent:
        return MaskedIndependent(self.family(mean, scale.to(mean).expand_as(mean), validate_args=False), mask)

    def forward(
        self, mean: Float[Tensor, "batch *event"], mask: Bool[Tensor, "batch *event"] | None = None
    ) -> Distribution:
        with torch.autocast(mean.device.type, enabled=False):
            mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
            if self.scale_mode == "optimal" and self.training and torch.is_grad_enabled():
                return OptimallyScaled(self, mean, mask)
            return self.density(mean, self.scale, mask)


class OptimallyScaled(MaskedIndependent):
    """Takes the scale that is best for the values it is asked about.

    The scale is held constant in the gradient, which changes nothing: it is where the likelihood's slope in it is 0.
    """

    def __init__(self, likelihood: ElementwiseLikelihood, mean: Tensor, mask: Tensor | None) -> None:
        super().__init__(likelihood.density(mean, likelihood.scale, mask).elements, mask)
        self.likelihood = likelihood

    def log_prob(self, value: Tensor) -> Tensor:
        with torch.autocast(value.device.type, enabled=False):
            scale = self.likelihood.adapt(value - self.mean, self.mask)
            return self.likelihood.density(self.mean, scale, self.mask).log_prob(value)


class NormalLikelihood(ElementwiseLikelihood):
    """−ln p = Σ (x − x̂)²/(2s²) + ln s + ½ ln 2π over the event."""

    family, power = Normal, 2


class LaplaceLikelihood(ElementwiseLikelihood):
    """−ln p = Σ |x − x̂|/b + ln 2b over the event."""

    family, power = Laplace, 1


class BernoulliLikelihood(nn.Module):
    """ln p = Σ x ln p + (1 − x) ln(1 − p) over the event, p = 1/(1 + e^−logit): a density of zeros and ones alone.

    Of values between them it is none: e^(x ln p + (1 − x) ln(1 − p)) does not integrate to 1 over [0, 1]
    (Loaiza-Ganem & Cunningham 2019), so such data are refused, not scored as if they were binary.
    """

    normalised = True

    def forward(
        self, logits: Float[Tensor, "batch *event"], mask: Bool[Tensor, "batch *event"] | None = None
    ) -> Distribution:
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return MaskedIndependent(Bernoulli(logits=logits, validate_args=False), mask)

    def intercept(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "*event"]:
        """The log-odds of each element over the batch, half an example added on either side: finite where all agree."""
        ones = x.sum(0) + 0.5
        return (ones / (len(x) + 1 - ones)).log()

    def check(self, x: Float[Tensor, "batch *event"], mask: Bool[Tensor, "batch *event"] | None = None) -> None:
        """Refused where data under the mask are other than 0 and 1."""
        values = x if mask is None else x[mask]
        others = values[(values != 0) & (values != 1)]
        if not len(others):
            return
        shown = f"likelihood=bernoulli is a density of zeros and ones, but the data hold {float(others[0]):.3g}"
        if ((others < 0) | (others > 1) | others.isnan()).any():
            raise Refused(f"{shown} and more outside [0, 1]: type likelihood=normal")
        raise Refused(f"{shown}: type dataset.binarize=stochastic or threshold, or take likelihood=normal")


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

    Weights of further terms, 0 for none: `log_mel`, mean |Δ log-mel| (floor as above); `waveform`, mean |x − x̂|/level
    (`waveform_norm` l1) or mean (x − x̂)²/level² (l2), the level being the data's median RMS; `loudness`, mean
    |Δ ln RMS| of 32 ms frames (floor as above).
    """

    normalised = False
    floor: Tensor
    level: Tensor

    def __init__(
        self,
        *,
        scales: Sequence[int] = (1024, 256, 64),
        floor_db: float = -70.0,
        log_mel: float = 0.0,
        waveform: float = 0.0,
        waveform_norm: str = "l1",
        loudness: float = 0.0,
    ) -> None:
        super().__init__()
        _refuse(scales, floor_db, {"log_mel": log_mel, "waveform": waveform, "loudness": loudness}, waveform_norm)
        self.scales, self.floor_db = tuple(scales), floor_db
        self.log_mel, self.waveform, self.waveform_norm, self.loudness = log_mel, waveform, waveform_norm, loudness
        self.features = nn.ModuleDict()
        for size in self.scales:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
        # Before `calibrate`: as if the median clip peaked at a magnitude of 0.1.
        self.register_buffer("floor", torch.full((len(self.scales),), 0.1 * 10 ** (floor_db / 20)))
        if waveform:
            self.register_buffer("level", torch.tensor(0.1))

    def for_audio(self, *, sample_rate: int, mels: int = 40) -> None:
        """Tells the sample rate, without which there are neither mels nor milliseconds; models call it."""
        if self.log_mel:
            self.features["log_mel"] = LogMel(sample_rate=sample_rate, mels=mels, floor_db=self.floor_db)
        if self.loudness:
            self.features["loudness"] = Loudness(sample_rate=sample_rate, floor_db=self.floor_db)

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
            return torch.stack(list(self._terms(x, y, mask))).sum(0)

    def log_magnitudes(
        self, x: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Iterator[tuple[Float[Tensor, "batch _"], Bool[Tensor, "batch _"]]]:
        """ln(S + f) scale by scale, and whether a cell overlaps data: what the log term compares."""
        x = x.float() if mask is None else x.float() * mask
        for size, floor in zip(self.scales, self.floor.to(x), strict=True):
            spectrum = magnitudes(x, self.get_buffer(f"window_{size}").to(x))
            valid = torch.ones_like(spectrum[:, :1], dtype=torch.bool)
            if mask is not None:
                valid = frame_mask(mask, size)[:, None]
            yield (spectrum + floor).log().flatten(1), valid.expand_as(spectrum).flatten(1)

    def _terms(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        for size, floor in zip(self.scales, self.floor.to(x), strict=True):
            yield scale_distance(x, y, mask, window=self.get_buffer(f"window_{size}").to(x), floor=floor)
        for name in ("log_mel", "loudness"):
            if weight := getattr(self, name):
                if name not in self.features:
                    raise Refused(
                        f"likelihood.{name}={weight:g} needs the sample rate, which this model did not tell: call "
                        f"likelihood.for_audio(sample_rate=…) in its constructor, or set likelihood.{name}=0"
                    )
                yield weight * feature_distance(self.features[name], x, y, mask)  # pyright: ignore[reportArgumentType]
        if self.waveform:
            norm, level = self.waveform_norm, self.level.to(x)
            yield self.waveform * waveform_distance(x, y, mask, norm=norm, level=level)

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None) -> None:
        """Fixes the floors, `floor_db` below the median over clips of the peak magnitude, and the level; silent clips
        aside."""
        x = x.float() if mask is None else x.float() * mask
        for i, size in enumerate(self.scales):
            peak = magnitudes(x, self.get_buffer(f"window_{size}").to(x)).amax((1, 2))
            if (peak > 0).any():
                self.floor[i] = peak[peak > 0].median() * 10 ** (self.floor_db / 20)
        for features in self.features.values():
            features.calibrate(x)  # pyright: ignore[reportCallIssue]
        if self.waveform and (level := median_rms(x, mask)) is not None:
            self.level.copy_(level)


def _refuse(scales: Sequence[int], floor_db: float, weights: dict[str, float], norm: str) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise Refused(
                f"likelihood.{name} is the weight of a term, 0 or more, but got {weight}: try likelihood.{name}=1"
            )
    if any(size < 8 or size % 4 for size in scales) or not (scales or any(weights.values())):
        raise Refused(
            f"STFT scales are window sizes, multiples of 4 from 8 up, but got {list(scales)}: "
            "try likelihood.scales=[1024,256,64]"
        )
    if not -120 <= floor_db < 0:
        raise Refused(
            f"floor_db is decibels re the data's peak, from -120 to below 0, but got {floor_db}: "
            "try likelihood.floor_db=-70"
        )
    if norm not in ("l1", "l2"):
        raise Refused(f"expected likelihood.waveform_norm l1 or l2, but got {norm!r}: try likelihood.waveform_norm=l1")
    if norm == "l2" and not weights["waveform"]:
        raise Refused("likelihood.waveform_norm=l2 does nothing while likelihood.waveform=0: set likelihood.waveform=1")
