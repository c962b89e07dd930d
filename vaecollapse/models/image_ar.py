"""A VAE of images whose decoder also sees the pixels before each, so that it needs z the less the larger it is."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ..distributions.autoregressive import Autoregressive, quantile
from ..nn.causal import CausalStack
from ..nn.parts import Part
from ..refusal import Refused
from .image import ImageVAE


class AutoregressiveImageVAE(ImageVAE):
    """p(x|z) = Π p(x_i | x_<i, z) in reading order (PixelVAE, Gulrajani 2017): the output of `ImageVAE`'s decoder plus
    that of a causal stack of dilated layers of `capacity` channels, which is told of z in each.

    A pixel sees `receptive_field` rows and columns before it (0: none, and this is an `ImageVAE`), by about its
    logarithm of layers; its planes are independent given those. While training a share `pixel_dropout` of the pixels is
    hidden from the stack, as words are by word dropout (Bowman 2016). What the pixels before tell, z need not.
    """

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
        receptive_field: int = 8,
        pixel_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            event_shape=event_shape,
            latent_dim=latent_dim,
            posterior=posterior,
            prior=prior,
            likelihood=likelihood,
            capacity=capacity,
            max_channels=max_channels,
            stride=stride,
            smallest=smallest,
            residual_units=residual_units,
        )
        _refuse_sight(receptive_field, pixel_dropout)
        self.receptive_field, self.pixel_dropout, self.hidden = receptive_field, pixel_dropout, False
        planes, told = event_shape[0], self.grids[0].channels
        self.causal = (
            CausalStack(planes=planes, channels=told, told=told, field=receptive_field) if receptive_field else None
        )

    def decode(
        self,
        z: Float[Tensor, "batch latent"],
        context: Tensor | None = None,
        mask: Bool[Tensor, "batch planes height width"] | None = None,
    ) -> Distribution:
        if (causal := self.causal) is None:
            return super().decode(z, context, mask)
        told = self.decoder.features(z)
        alone = self.decoder.last(told) + self.intercept

        def given(x: Tensor) -> Distribution:
            return self.likelihood(alone + causal(self.shown(x, mask), told), mask)

        def draw(levels: Tensor) -> Tensor:
            return self.drawn(levels.to(alone), alone, told, mask)

        return Autoregressive(given, draw, alone.shape, mask)

    def shown(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The pixels as the causal stack sees them: those hidden, or padding, are 0."""
        seen = (x - self.level) / self.spread
        if mask is not None:
            seen = seen * mask
        if self.training and self.pixel_dropout:
            seen = seen * (torch.rand_like(seen[:, :1]) >= self.pixel_dropout)
        return torch.zeros_like(seen) if self.hidden else seen

    @torch.no_grad()
    def drawn(self, levels: Tensor, alone: Tensor, told: Tensor, mask: Tensor | None) -> Tensor:
        """Images row by row. Within a row all pixels are drawn at once, again and again until nothing changes: the
        first k are then right after k rounds, mostly all after a few."""
        assert self.causal is not None
        causal, x, field = self.causal, torch.zeros_like(alone), self.receptive_field
        for i in range(x.shape[2]):
            row, window = slice(i, i + 1), slice(max(0, i - field), i + 1)
            part = None if mask is None else mask[:, :, window]
            above = [v[:, :, -1:] for v in causal.above(self.shown(x[:, :, window], part), told[:, :, window])]
            part = None if mask is None else mask[:, :, row]
            for _ in range(x.shape[3]):
                output = causal.across(self.shown(x[:, :, row], part), above, told[:, :, row])
                new = quantile(self.likelihood(alone[:, :, row] + output).elements, levels[:, :, row])
                if torch.equal(new, x[:, :, row]):
                    break
                x[:, :, row] = new
        return x

    @property
    def autoregressive(self) -> bool:
        """Does the decoder see pixels of x?"""
        return self.causal is not None

    @property
    def weaken(self) -> Callable[[], None] | None:
        """Hides the pixels before a pixel from the decoder for good; None where it sees none."""
        return self._hide if self.causal is not None else None

    def _hide(self) -> None:
        self.hidden = True

    def parameter_table(self) -> list[Part]:
        """As that of `ImageVAE`, and the causal stack."""
        own = [Part.of("causal stack", self.causal, f"sees {self.receptive_field} rows")] if self.causal else []
        return [*super().parameter_table(), *own]


def _refuse_sight(receptive_field: int, pixel_dropout: float) -> None:
    if receptive_field < 0:
        raise Refused(
            f"expected a model.receptive_field of rows and columns, 0 for none, but got {receptive_field}: try "
            "model.receptive_field=8"
        )
    if not 0 <= pixel_dropout < 1:
        raise Refused(
            f"model.pixel_dropout is the share of pixels hidden while training, 0 to below 1, but got {pixel_dropout}: "
            "try model.pixel_dropout=0.5, or model.receptive_field=0 to hide all"
        )
    if pixel_dropout and not receptive_field:
        raise Refused(
            f"model.pixel_dropout={pixel_dropout} hides pixels from a decoder that sees none: type "
            "model.receptive_field=8, or model.pixel_dropout=0"
        )
