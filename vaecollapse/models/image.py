"""A VAE of images: residual convolutions, one latent vector per image, flows by choice."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Batch
from ..distributions.likelihoods import BernoulliLikelihood
from ..nn.conv import Grid, ImageDecoder, ImageEncoder, plan
from ..nn.parts import Part, check_widths
from ..refusal import Refused
from ..vae import VAE

SHORTEST = 8


class ImageVAE(VAE):
    """x (batch, planes, height, width), sides from 8 up, one z of `latent_dim` units per image.

    Each stage divides the sides by `stride`, rounded up, and doubles the channels, as long as `smallest` rows or
    columns are left. The decoder's output, about an intercept for every pixel, is what the likelihood takes: the mean
    of likelihood=normal, the log-odds of likelihood=bernoulli. `calibrate` fixes the level and spread that the encoder
    sees as 0 and 1, and starts the intercept where it is best without z: there lies the forecast's collapsed point.
    """

    level: Tensor
    spread: Tensor

    def __init__(
        self,
        *,
        event_shape: tuple[int, ...],
        latent_dim: int,
        posterior: Callable[..., nn.Module],
        prior: Callable[..., nn.Module],
        likelihood: nn.Module,
        capacity: int = 8,
        max_channels: int = 128,
        stride: int = 2,
        smallest: int = 4,
        residual_units: int = 1,
    ) -> None:
        super().__init__()
        event_shape = tuple(event_shape)
        _refuse(event_shape, capacity, max_channels, latent_dim, stride, smallest, residual_units)
        _refuse_distance(likelihood)
        planes, height, width = event_shape
        self.grids = plan(
            height=height,
            width=width,
            capacity=capacity,
            max_channels=max_channels,
            stride=stride,
            smallest=smallest,
        )
        self.encoder = ImageEncoder(grids=self.grids, planes=planes, units=residual_units)
        self.posterior_head = posterior(features=self.encoder.features, units=latent_dim)
        self.prior_head = prior(units=latent_dim)
        self.decoder = ImageDecoder(grids=self.grids, planes=planes, latent=latent_dim, units=residual_units)
        self.intercept = nn.Parameter(torch.zeros(event_shape))
        self.likelihood = likelihood
        self.register_buffer("level", torch.tensor(0.5))
        self.register_buffer("spread", torch.tensor(0.5))

    def encode(
        self,
        x: Float[Tensor, "batch planes height width"],
        context: Tensor | None = None,
        mask: Bool[Tensor, "batch planes height width"] | None = None,
    ) -> Distribution:
        seen = (x - self.level) / self.spread
        return self.posterior_head(self.encoder(seen if mask is None else seen * mask))

    def prior(self, context: Tensor | None = None) -> Distribution:
        return self.prior_head(context)

    def decode(
        self,
        z: Float[Tensor, "batch latent"],
        context: Tensor | None = None,
        mask: Bool[Tensor, "batch planes height width"] | None = None,
    ) -> Distribution:
        return self.likelihood(self.decoder(z) + self.intercept, mask)

    @torch.no_grad()
    def calibrate(self, batch: Batch) -> None:
        """Fixes what the encoder sees as 0 and 1, and starts the intercept, from training images, before step 1."""
        x = batch.x
        spread, mean = torch.std_mean(x)
        if spread > 0:
            self.level.copy_(mean)
            self.spread.copy_(spread)
        bits = isinstance(self.likelihood, BernoulliLikelihood)
        self.intercept.copy_(self.likelihood.intercept(x) if bits else x.mean(0))  # pyright: ignore[reportCallIssue]

    def parameter_table(self) -> list[Part]:
        """The stages from the image down and up again; the parameters' sum is the whole model's."""

        below = self.grids[1:]
        up = zip(reversed(self.decoder.stages), below, strict=True)  # pyright: ignore[reportArgumentType]
        return [
            Part.of("encoder input", self.encoder.first, note=_note(self.grids[0])),
            *(Part.of(f"encoder stage {i}", s, note=f"to {_note(g)}")
              for i, (s, g) in enumerate(zip(self.encoder.stages, below, strict=True))),
            Part.of("posterior", self.posterior_head),
            Part.of("prior", self.prior_head),
            Part.of("decoder seed", self.decoder.seed),
            *reversed([Part.of(f"decoder stage {i}", s, note=f"from {_note(g)}") for i, (s, g) in enumerate(up)]),
            Part.of("decoder output", self.decoder.last),
            Part("intercept", self.intercept.numel(), "one for each pixel"),
            Part.of("likelihood", self.likelihood),
        ]  # fmt: skip


def _note(grid: Grid) -> str:
    return f"{grid.height} x {grid.width} of {grid.channels}"


def _refuse_distance(likelihood: nn.Module) -> None:
    if not getattr(likelihood, "normalised", True):
        raise Refused(
            f"{type(likelihood).__name__} is a distance of waveforms, not of images: type likelihood=normal or "
            "likelihood=bernoulli"
        )


def _refuse(
    event_shape: tuple[int, ...],
    capacity: int,
    max_channels: int,
    latent_dim: int,
    stride: int,
    smallest: int,
    residual_units: int,
) -> None:
    if len(event_shape) != 3:
        raise Refused(
            f"an image model takes images, event shape (planes, height, width), but got {event_shape}: "
            "use dataset=digits, dataset=idx or dataset=image_folder"
        )
    if min(event_shape[1:]) < SHORTEST:
        raise Refused(
            f"an image model needs sides of at least {SHORTEST} pixels, but got {event_shape[1]} x {event_shape[2]}: "
            f"raise the dataset's size, or use model=linear"
        )
    check_widths(capacity, max_channels, latent_dim)
    if not 2 <= stride <= 4:
        raise Refused(f"expected a stride of 2, 3 or 4, but got {stride}: try model.stride=2")
    if smallest < 1 or residual_units < 0:
        raise Refused(
            f"expected model.smallest of at least 1 and model.residual_units of at least 0, but got {smallest} and "
            f"{residual_units}: try model.smallest=4 model.residual_units=1"
        )
