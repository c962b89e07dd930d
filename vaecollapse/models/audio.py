"""A VAE of short recordings: residual convolutions, one latent vector per clip, flows by choice."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Batch
from ..nn.audio import POOLS, AudioDecoder, AudioEncoder, Down, Stage, Up, plan
from ..nn.parts import Part, check_widths
from ..nn.spectral import LogMel, frame_mask, median_rms
from ..refusal import Refused
from ..vae import VAE

SHORTEST = 256


class LogMelDensity(Distribution):
    """p(features of x | z): a proper density of fixed log-mel features, while `mean` is the decoder's waveform."""

    arg_constraints: ClassVar = {}  # pyright: ignore[reportAssignmentType]
    normalised = True

    def __init__(self, density: Distribution, features: LogMel, waveform: Tensor, mask: Tensor | None) -> None:
        self.density, self.features, self.waveform, self.mask = density, features, waveform, mask
        super().__init__(waveform.shape[:1], waveform.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.waveform

    def log_prob(self, value: Tensor) -> Tensor:
        return self.density.log_prob(self.features(_silenced(value, self.mask)))


class AudioVAE(VAE):
    """x (batch, time) mono, one z of `latent_dim` units per clip; architecture in the family of RAVE (Caillon 2021).

    With `SpectralLikelihood`, or any that says `normalised = False`, the distortion is a distance of waveforms. A
    density is applied to fixed log-mel features (padding masked), so that −ELBO bounds their NLL. `mels` (40 unless
    given) is the number of bands of these features, or of the distance's log-mel term. `z_inject` says in which decoder
    stages z acts: all, or the first alone. Networks see waveforms divided by the data's level, which `calibrate` fixes
    before training (0.1 until then).
    """

    level: Tensor

    def __init__(
        self,
        *,
        event_shape: tuple[int, ...],
        sample_rate: int,
        latent_dim: int,
        posterior: Callable[..., nn.Module],
        prior: Callable[..., nn.Module],
        likelihood: nn.Module,
        capacity: int = 8,
        max_channels: int = 256,
        pool: str = "flatten",
        dilations: Sequence[int] = (1, 3),
        residual_units: int = 2,
        z_inject: str = "all",
        mels: int | None = None,
    ) -> None:
        super().__init__()
        _refuse(tuple(event_shape), pool, capacity, max_channels, latent_dim)
        layout = plan(
            length=event_shape[0],
            capacity=capacity,
            max_channels=max_channels,
            dilations=dilations,
            to_one=pool == "strided",
        )
        self.layout, self.dilations = layout, tuple(dilations)
        self.encoder = AudioEncoder(plan=layout, pool=pool, units=residual_units)
        self.posterior_head = posterior(features=self.encoder.features, units=latent_dim)
        self.prior_head = prior(units=latent_dim)
        self.decoder = AudioDecoder(plan=layout, latent=latent_dim, units=residual_units, z_inject=z_inject)
        self.likelihood = likelihood
        density = getattr(likelihood, "normalised", True)
        if not density and mels is not None and not getattr(likelihood, "log_mel", 0.0):
            raise Refused(
                f"mels={mels} does nothing to this distance: drop it, set likelihood.log_mel=1, or take "
                "likelihood=normal|laplace"
            )
        self.features = LogMel(sample_rate=sample_rate, mels=_mels(mels)) if density else None
        for_audio = getattr(likelihood, "for_audio", None)
        if callable(for_audio):
            for_audio(sample_rate=sample_rate, mels=_mels(mels))
        self.register_buffer("level", torch.tensor(0.1))

    def encode(
        self,
        x: Float[Tensor, "batch time"],
        context: Tensor | None = None,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Distribution:
        return self.posterior_head(self.encoder(_silenced(x, mask) / self.level, mask))

    def prior(self, context: Tensor | None = None) -> Distribution:
        return self.prior_head(context)

    def decode(
        self,
        z: Float[Tensor, "batch latent"],
        context: Tensor | None = None,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Distribution:
        waveform = self.decoder(z) * self.level
        if self.features is None:
            return self.likelihood(waveform, mask)
        with torch.autocast(z.device.type, enabled=False):
            mean = self.features(_silenced(waveform, mask))
            frames = None
            if mask is not None:
                frames = frame_mask(mask, self.features.size).unsqueeze(1).expand_as(mean)
            return LogMelDensity(self.likelihood(mean, frames), self.features, waveform, mask)

    @torch.no_grad()
    def calibrate(self, batch: Batch) -> None:
        """Fixes the waveform's level and the floors of distance or features, from training clips, before step 1."""
        audible = _silenced(batch.x, batch.mask)
        if (level := median_rms(audible, batch.mask)) is not None:
            self.level.copy_(level)
        if self.features is not None:
            self.features.calibrate(audible)
        calibrate = getattr(self.likelihood, "calibrate", None)
        if callable(calibrate):
            calibrate(batch.x, batch.mask)

    def parameter_table(self) -> list[Part]:
        """The stages from the waveform down and up again; the parameters' sum is the whole model's."""

        lengths = [stage.length for stage in self.layout.stages]
        notes = [self._note(stage) for stage in self.layout.stages]
        down = zip(self.encoder.stages, lengths, notes, strict=True)
        up = zip(reversed(list(self.decoder.stages)), [*lengths[1:], self.layout.length], notes, strict=True)
        return [
            Part.of("encoder input", self.encoder.first),
            *(Part.of(f"encoder stage {i}", stage, note=_dead(n, stage, t)) for i, (stage, t, n) in enumerate(down)),
            Part.of("posterior", self.posterior_head),
            Part.of("prior", self.prior_head),
            Part.of("decoder seed", self.decoder.seed),
            *reversed(
                [Part.of(f"decoder stage {i}", stage, note=_dead(n, stage, t)) for i, (stage, t, n) in enumerate(up)]
            ),
            Part.of("decoder output", self.decoder.last),
            Part.of("likelihood", self.likelihood),
        ]

    def _note(self, stage: Stage) -> str:
        out = [d for d in self.dilations if d not in stage.dilations]
        kept = " ".join(map(str, stage.dilations)) or "none"
        left_out = f" ({' '.join(map(str, out))} left out: wider than the stage)" if out else ""
        return f"{stage.length} frames of {stage.channels}, dilations {kept}{left_out}"


def _dead(note: str, stage: nn.Module, length: int) -> str:
    return f"{note}, {stage.dead_taps(length)} dead taps" if isinstance(stage, Down | Up) else note


def _silenced(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _refuse(event_shape: tuple[int, ...], pool: str, capacity: int, max_channels: int, latent_dim: int) -> None:
    if len(event_shape) != 1:
        raise Refused(
            f"an audio model takes mono waveforms, event shape (time,), but got {event_shape}: "
            "use dataset=audio_folder or dataset=drums, with dataset.channels=mean, left or random"
        )
    if event_shape[0] < SHORTEST:
        raise Refused(
            f"an audio model needs clips of at least {SHORTEST} samples, but got {event_shape[0]}: "
            "raise the dataset's length"
        )
    if pool not in POOLS:
        raise Refused(f"expected model.pool to be one of {', '.join(POOLS)}, but got {pool!r}: try model.pool=flatten")
    check_widths(capacity, max_channels, latent_dim)


def _mels(asked: int | None) -> int:
    mels = 40 if asked is None else asked
    if not 1 <= mels <= 64:
        raise Refused(f"expected 1 to 64 mels, but got {mels}: try model.mels=40")
    return mels
