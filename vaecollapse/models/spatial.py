"""A conditional VAE of rain fields: a coarse field in, an ensemble of fine ones out."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from ..batch import Batch
from ..distributions.flows import FlowDistribution
from ..distributions.posteriors import NormalPosterior
from ..distributions.rain import valid_cells
from ..nn.conv import ImageEncoder, plan
from ..nn.downscaling import ConditionMap, FieldDecoder, conserved, ladder
from ..nn.parts import Part, check_widths
from ..nn.rain import RainTransform
from ..refusal import Refused
from ..vae import VAE

CHOICES = {
    "injection": ("film", "spatial"),
    "head": ("softplus", "linear"),
    "hard": ("none", "add", "mult", "softmax"),
    "prior_input": ("nothing", "context"),
}
SHAPE = 0.8  # of the gamma a density starts from


class PrecipitationVAE(VAE):
    """q(z|x, c), p(z|c) and p(x|z, c) of fields x (batch, 1, height, width) in mm, c (batch, channel, height, width).

    c is kept as a map on the coarse grid and brought up again; z acts by `injection`: film (gains and shifts of
    channels, the same in every cell) or spatial (a map of its own on the coarse grid). `head`: softplus, a multiple of
    ln(1 + e^h) mm, or linear, a standardised value that is taken back to mm, below 0 no rain. `hard` makes the means of
    blocks those of the condition, exactly (see `conserved`). p(z|c) is `prior`, or by `prior_input=context` a Gaussian
    that the condition sets (Sohn 2015), under the flow where the prior is one.
    """

    unit: Tensor

    def __init__(
        self,
        *,
        latent_dim: int,
        posterior: Callable[..., nn.Module],
        prior: Callable[..., nn.Module],
        likelihood: nn.Module,
        event_shape: tuple[int, ...] = (),
        context_shape: tuple[int, ...] | None = None,
        factor: int = 1,
        channels: Sequence[str] = (),
        transform: RainTransform | None = None,
        p99: float = 0.0,
        wet: float = 0.1,
        capacity: int = 8,
        max_channels: int = 64,
        residual_units: int = 1,
        injection: str = "spatial",
        head: str = "softplus",
        hard: str = "none",
        prior_input: str = "nothing",
    ) -> None:
        super().__init__()
        if transform is None or context_shape is None or len(event_shape) != 3:
            raise Refused(
                "model=precip_cvae takes rain fields with a condition: type dataset=rain or dataset=precipitation"
            )
        check_widths(capacity, max_channels, latent_dim)
        self.density = hasattr(likelihood, "planes")  # of several numbers a cell
        _refuse(likelihood, injection, head, hard, prior_input, residual_units, channels, self.density)
        _, height, width = event_shape
        self.factor, self.head, self.hard, self.transform = factor, head, hard, transform
        self.wet, planes = wet, getattr(likelihood, "planes", 1)
        grids = plan(height=height, width=width, capacity=capacity, max_channels=max_channels)
        self.encoder = ImageEncoder(grids=grids, planes=1 + context_shape[0], units=residual_units)
        self.posterior_head = posterior(features=self.encoder.features, units=latent_dim)
        up = ladder(height=height, width=width, factor=factor, capacity=capacity, max_channels=max_channels)
        self.condition_map = ConditionMap(channels=context_shape[0], grid=up[0], factor=factor, units=residual_units)
        self.prior_head = prior(units=latent_dim)
        features = up[0].channels * up[0].height * up[0].width
        self.prior_base = NormalPosterior(features=features, units=latent_dim) if prior_input == "context" else None
        self.decoder = FieldDecoder(
            grids=up, planes=planes, context=context_shape[0], latent=latent_dim, units=residual_units,
            injection=injection,
        )  # fmt: skip
        self.intercept = nn.Parameter(torch.zeros(planes, 1, 1))
        self.likelihood = likelihood
        # mm of a softplus of 1: a standard deviation above the mean
        self.register_buffer("unit", transform.inverse(torch.ones(1, 1, 1)).amax().clamp(min=wet))
        if callable(told := getattr(likelihood, "for_rain", None)):
            told(transform=transform, p99=p99, wet=wet, factor=factor)

    def encode(
        self,
        x: Float[Tensor, "batch 1 height width"],
        context: Float[Tensor, "batch channel height width"] | None = None,
        mask: Bool[Tensor, "batch 1 height width"] | None = None,
    ) -> Distribution:
        seen = torch.cat([self.transform(x) * valid_cells(x, mask), self._seen(context)], 1)
        return self.posterior_head(self.encoder(seen))

    def prior(self, context: Float[Tensor, "batch channel height width"] | None = None) -> Distribution:
        own = self.prior_head(None)
        if self.prior_base is None:
            return own
        base = self.prior_base(self.condition_map(self._seen(context)).flatten(1))
        return own.rebased(base) if isinstance(own, FlowDistribution) else base

    def decode(
        self,
        z: Float[Tensor, "batch latent"],
        context: Float[Tensor, "batch channel height width"] | None = None,
        mask: Bool[Tensor, "batch 1 height width"] | None = None,
    ) -> Distribution:
        seen = self._seen(context)
        raw = self.decoder(self.condition_map(seen), z, seen) + self.intercept
        with torch.autocast(raw.device.type, enabled=False):
            raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
            if self.density:
                logit, amount, shape = raw.split(1, 1)
                return self.likelihood(torch.cat([logit, self.in_mm(amount), shape], 1), mask)
            field = raw if self.hard == "softmax" else self.in_mm(raw)
            if self.hard != "none" and context is not None:
                coarse = F.avg_pool2d(context[:, :1], self.factor).to(field)
                field = conserved(field, coarse, self.factor, self.hard, mask)
            return self.likelihood(field, mask)

    def in_mm(self, raw: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """The head."""
        if self.head == "softplus":
            return self.unit.to(raw) * F.softplus(raw)
        return self.transform.inverse(raw)

    def condition(self, batch: Batch) -> Tensor | None:
        """The condition on the coarse grid: fields under nearly equal ones may lend each other their z."""
        return None if batch.context is None else F.avg_pool2d(self._seen(batch.context), self.factor)

    @torch.no_grad()
    def calibrate(self, batch: Batch) -> None:
        """Starts the intercept at what training's fields are on average, and fixes the likelihood's own constants."""
        x, valid = batch.x, valid_cells(batch.x, batch.mask) > 0
        values = x[valid] if valid.any() else x.new_zeros(1)
        wet = values[values > 0]
        amount = (wet if self.density else values).mean() if len(wet) else values.new_tensor(self.wet)
        start = self.transform(x)[valid].mean() if self.head == "linear" else unsoftplus(amount / self.unit)
        if self.density:
            share = (len(wet) + 0.5) / (len(values) + 1)
            odds, shape = values.new_tensor(share).logit(), unsoftplus(values.new_tensor(SHAPE))
            self.intercept.copy_(torch.stack([odds, start, shape])[:, None, None])
        else:
            self.intercept.fill_(float(start))
        if callable(fix := getattr(self.likelihood, "calibrate", None)):
            fix(batch.x, batch.mask)

    def _seen(self, context: Tensor | None) -> Tensor:
        if context is None:
            raise Refused("this model downscales a coarse field, but none was given: give a context to each example")
        return self.transform.condition(context)

    def parameter_table(self) -> list[Part]:
        """The parameters' sum is the whole model's."""
        base = [] if self.prior_base is None else [Part.of("prior of the condition", self.prior_base)]
        return [
            Part.of("encoder", self.encoder),
            Part.of("posterior", self.posterior_head),
            Part.of("condition", self.condition_map, note="a map on the coarse grid"),
            Part.of("prior", self.prior_head),
            *base,
            Part.of("decoder, z", self.decoder.injections),
            Part.of("decoder, stages", self.decoder.stages),
            Part.of("decoder, output", self.decoder.last),
            Part("intercept", self.intercept.numel()),
            Part.of("likelihood", self.likelihood),
        ]


def unsoftplus(value: Tensor) -> Tensor:
    """The inverse of softplus, above −7: further down the gradient is lost."""
    return value.clamp(min=1e-3).expm1().log()


def _refuse(
    likelihood: nn.Module, injection: str, head: str, hard: str, prior_input: str, residual_units: int,
    channels: Sequence[str], density: bool,
) -> None:  # fmt: skip
    if head == "relu":
        raise Refused(
            "model.head=relu on standardised rain cannot go below the mean: drizzle everywhere; type "
            "model.head=softplus, amounts in mm, or model.head=linear"
        )
    if head == "bernoulli_gamma":
        raise Refused("a Bernoulli-gamma head is the density's own: type likelihood=bernoulli_gamma")
    for name, value in (("injection", injection), ("head", head), ("hard", hard), ("prior_input", prior_input)):
        if value not in CHOICES[name]:
            raise Refused(f"model.{name}={value} is not known: type model.{name}={' or '.join(CHOICES[name])}")
    if residual_units < 0:
        raise Refused(f"model.residual_units is {residual_units}: type 0 or more")
    if density and (head != "softplus" or hard != "none"):
        raise Refused(
            "likelihood=bernoulli_gamma has amounts above 0 and is no density of a fixed mass: type "
            "model.head=softplus model.hard=none"
        )
    if hard == "mult" and head == "linear":
        raise Refused("model.hard=mult scales amounts, and a linear head gives less than 0: type model.hard=add")
    if hard != "none" and not (channels and channels[0].endswith("coarse")):
        raise Refused(
            f"model.hard={hard} makes block means those of the condition, which these predictors do not hold: type "
            "dataset.predictors.mode=coarsen or model.hard=none"
        )
    name = type(likelihood).__name__
    if name.startswith(("Spectral", "BernoulliLikelihood")):
        raise Refused(f"{name} is none of rain: type likelihood=weighted_l1 or likelihood=bernoulli_gamma")
