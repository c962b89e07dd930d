"""p(x|z) of rain in mm: the weighted L1 of practitioners, no density, and the Bernoulli-gamma, which is one."""

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, Gamma
from torch.nn import functional as F

from ..nn.rain import RainTransform
from ..refusal import Refused
from .likelihoods import MaskedIndependent

MASS_MODES = ("relative", "coarse", "zscore_sum")
LEAST = 1e-3  # of a wet cell: amounts below it score as it, since a gamma density may have no bound at 0

Rain = Float[Tensor, "batch 1 height width"]
Valid = Bool[Tensor, "batch 1 height width"]


class RainDistance(Distribution):
    """−`log_prob` is a distance, so no density: `normalised` is False. `mean` is the decoded field, where a head leads
    below 0 mm no rain."""

    arg_constraints: ClassVar = {}  # pyright: ignore[reportAssignmentType]
    normalised = False

    def __init__(self, likelihood: "WeightedL1", field: Rain, mask: Valid | None) -> None:
        self.likelihood, self.field, self.mask = likelihood, field, mask
        super().__init__(field.shape[:1], field.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.field.clamp(min=0)

    def log_prob(self, value: Tensor) -> Tensor:
        return -self.likelihood.distance(value, self.field, self.mask)

    def between(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same distance between real fields: the unit the value of z is measured in."""
        return self.likelihood.distance(x, y, mask)


class WeightedL1(nn.Module):
    """D = L_rec + lambda_mass · L_mass + lambda_grad · L_grad, per example, in mm (m the mask):

        L_rec = Σ m w |ŷ − y| / Σ m w,  w = clip(y/scale, w_min, w_max) · (1 + (tail_boost − 1)·[y ≥ P99 of training])

    `weight_norm`: of `batch` Σ m w is the batch's own, in evaluation that of cells of training's mean weight, so that
    what an example costs does not depend on its company; of `fixed` it is Σ m, and a cell at `scale` counts 1.
    L_mass `relative`: |Σ m ŷ − Σ m y| / Σ m y, a field drier than the least of a wet cell counting as that; `coarse`:
    mean |block mean of ŷ − block mean of y| in mm; `zscore_sum`: |mean z(ŷ) − mean z(y)| of standardised fields (as
    some do; it weighs drizzle as much as floods).
    L_grad: mean |Δŷ − Δy| of neighbours down and across; `gradient=abs`: mean ||Δŷ| − |Δy||, blind to their sign.
    """

    normalised = False
    mean_weight: Tensor
    p99: Tensor
    cells: Tensor
    transform: RainTransform | None

    def __init__(
        self,
        *,
        scale: float = 20.0,
        w_min: float = 0.1,
        w_max: float = 3.0,
        tail_boost: float = 2.0,
        weight_norm: str = "batch",
        lambda_mass: float = 0.0,
        mass: str = "relative",
        lambda_grad: float = 0.0,
        gradient: str = "signed",
    ) -> None:
        super().__init__()
        if not (0 < scale < math.inf and 0 < w_min <= w_max < math.inf and 0 < tail_boost < math.inf):
            raise Refused(
                f"likelihood.scale={scale:g}, w_min={w_min:g}, w_max={w_max:g}, tail_boost={tail_boost:g} are no "
                "weights: type a scale and a tail_boost above 0, and 0 < w_min <= w_max"
            )
        if not (0 <= lambda_mass < math.inf and 0 <= lambda_grad < math.inf):
            raise Refused(
                f"likelihood.lambda_mass={lambda_mass:g} and lambda_grad={lambda_grad:g} are weights of terms: type 0 "
                "or more"
            )
        for name, value, choices in (
            ("weight_norm", weight_norm, ("batch", "fixed")),
            ("mass", mass, MASS_MODES),
            ("gradient", gradient, ("signed", "abs")),
        ):
            if value not in choices:
                raise Refused(f"likelihood.{name}={value} is not known: type {' or '.join(choices)}")
        self.scale, self.w_min, self.w_max, self.tail_boost = scale, w_min, w_max, tail_boost
        self.weight_norm, self.lambda_mass, self.mass_mode = weight_norm, lambda_mass, mass
        self.lambda_grad, self.gradient = lambda_grad, gradient
        self.wet, self.factor, self.transform = 0.1, 1, None
        self.register_buffer("p99", torch.tensor(math.inf))
        self.register_buffer("mean_weight", torch.tensor(1.0))
        self.register_buffer("cells", torch.tensor(1.0))

    def for_rain(self, *, transform: RainTransform, p99: float, wet: float, factor: int) -> None:
        self.p99.fill_(p99)
        self.wet, self.factor, self.transform = wet, factor, transform

    def forward(self, field: Rain, mask: Valid | None = None) -> Distribution:
        return RainDistance(self, field, mask)

    @torch.no_grad()
    def calibrate(self, x: Rain, mask: Valid | None = None) -> None:
        """Fixes the mean weight of training's cells, and how many an example has."""
        valid = valid_cells(x, mask)
        self.mean_weight.copy_((self.weights(x) * valid).sum() / valid.sum().clamp(min=1))
        self.cells.copy_(valid.sum() / len(x))

    def nats(self, distance: float) -> float:
        """−ln p of an example if p were the Laplace density whose scale b fits, n(1 + ln 2b): what epochs are compared
        by, since `distance` + R counts a nat of R far too dear."""
        return float(self.cells) * (1 + math.log(2 * max(distance, 1e-12)))

    def weights(self, y: Rain) -> Rain:
        """w of each cell, by the observed amount."""
        boost = 1 + (self.tail_boost - 1) * (y >= self.p99.to(y)).to(y)
        return (y / self.scale).clamp(self.w_min, self.w_max) * boost

    def distance(self, x: Rain, field: Rain, mask: Valid | None = None) -> Float[Tensor, " batch"]:
        """D of each example."""
        with torch.autocast(x.device.type, enabled=False):
            field = field.to(x.dtype)
            found = self.reconstruction(x, field, mask)
            if self.lambda_mass:
                found = found + self.lambda_mass * self.mass(x, field, mask)
            if self.lambda_grad:
                found = found + self.lambda_grad * self.edges(x, field, mask)
            return found

    def reconstruction(self, x: Rain, field: Rain, mask: Valid | None = None) -> Float[Tensor, " batch"]:
        """L_rec of each example, in mm."""
        valid = valid_cells(x, mask)
        weight = self.weights(x) * valid
        if self.weight_norm == "batch" and self.training and torch.is_grad_enabled():
            norm = weight.sum() / len(x)
        else:
            each = self.mean_weight.to(x) if self.weight_norm == "batch" else 1.0
            norm = each * valid.flatten(1).sum(1)
        return (weight * (field - x).abs()).flatten(1).sum(1) / norm.clamp(min=1e-12)

    def mass(self, x: Rain, field: Rain, mask: Valid | None = None) -> Float[Tensor, " batch"]:
        """L_mass of each example: a share, mm, or standard deviations, as the mode has it."""
        valid = valid_cells(x, mask)
        if self.mass_mode == "coarse":
            made, seen = (block_means(each, valid, self.factor) for each in (field, x))
            there = blocks(valid, self.factor)
            return ((made - seen).abs() * there).flatten(1).sum(1) / there.flatten(1).sum(1).clamp(min=1)
        if self.mass_mode == "zscore_sum" and self.transform is not None:
            field, x = self.transform(field.clamp(min=0)), self.transform(x)
        made, seen, cells = ((each * valid).flatten(1).sum(1) for each in (field, x, torch.ones_like(x)))
        beside = torch.maximum(seen, self.wet * cells) if self.mass_mode == "relative" else cells
        return (made - seen).abs() / beside.clamp(min=1e-12)

    def edges(self, x: Rain, field: Rain, mask: Valid | None = None) -> Float[Tensor, " batch"]:
        """L_grad of each example, in mm from cell to cell."""
        valid = valid_cells(x, mask)
        total, count = x.new_zeros(len(x)), x.new_zeros(len(x))
        for axis in (2, 3):
            made, seen = field.diff(dim=axis), x.diff(dim=axis)
            length = x.shape[axis] - 1
            pair = valid.narrow(axis, 0, length) * valid.narrow(axis, 1, length)
            apart = made.abs() - seen.abs() if self.gradient == "abs" else made - seen
            total = total + (apart.abs() * pair).flatten(1).sum(1)
            count = count + pair.flatten(1).sum(1)
        return total / count.clamp(min=1)


def valid_cells(x: Rain, mask: Valid | None) -> Rain:
    """1 where there are data, else 0."""
    return torch.ones_like(x) if mask is None else mask.to(x)


def blocks(valid: Rain, factor: int) -> Float[Tensor, "batch 1 h w"]:
    """1 where a block of factor × factor cells has data, else 0."""
    return (F.avg_pool2d(valid, factor) > 0).to(valid)


def block_means(field: Rain, valid: Rain, factor: int) -> Float[Tensor, "batch 1 h w"]:
    """The mean of the valid cells of each block; 0 where it has none.

    >>> block_means(torch.tensor([[[[1.0, 3.0], [5.0, 9.0]]]]), torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]]), 2)
    tensor([[[[3.]]]])
    """
    share = F.avg_pool2d(valid, factor)
    return F.avg_pool2d(field * valid, factor) / torch.where(share > 0, share, 1)


# ---- the density


class BernoulliGammaElements(Distribution):
    """Of each cell: dry (exactly 0 mm) with probability 1 − π, else Gamma of mean μ and shape α."""

    arg_constraints: ClassVar = {}  # pyright: ignore[reportAssignmentType]
    has_rsample = False

    def __init__(self, logit: Rain, amount: Rain, shape: Rain, least: float) -> None:
        self.logit, self.amount, self.least = logit, amount, least
        self.gamma = Gamma(shape, shape / amount, validate_args=False)
        super().__init__(logit.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.logit.sigmoid() * self.amount

    def log_prob(self, value: Tensor) -> Tensor:
        wet = F.logsigmoid(self.logit) + self.gamma.log_prob(value.clamp(min=self.least))
        return torch.where(value > 0, wet, F.logsigmoid(-self.logit))

    def sample(self, sample_shape=()) -> Tensor:
        with torch.no_grad():
            shape = (*sample_shape, *self.logit.shape)
            return self.gamma.sample(sample_shape) * (torch.rand(shape).to(self.logit) < self.logit.sigmoid())


class BernoulliGamma(MaskedIndependent):
    """Independent cells; `member` is a draw of the field, dry in places: its mean drizzles everywhere."""

    def member(self) -> Tensor:
        return self.elements.sample()


class BernoulliGammaLikelihood(nn.Module):
    """ln p(x) = Σ ln(1 − π) over dry cells + Σ ln π + ln Gamma(x; shape α, mean μ) over wet ones, x in mm (Williams
    1998; Cannon 2008). The decoder gives three planes: π's log-odds, μ by the head, and α = least_shape + softplus(·).

    Wet amounts below a thousandth of the least of a wet cell score as that, since with α < 1 the density has no bound.
    """

    normalised = True
    planes = 3

    def __init__(self, *, least_shape: float = 0.1) -> None:
        super().__init__()
        if not 0 < least_shape < math.inf:
            raise Refused(
                f"likelihood.least_shape must be above 0, but got {least_shape:g}: type likelihood.least_shape=0.1"
            )
        self.least_shape, self.least = least_shape, LEAST * 0.1

    def for_rain(self, *, transform: RainTransform, p99: float, wet: float, factor: int) -> None:
        self.least = LEAST * wet

    def forward(self, parts: Float[Tensor, "batch 3 height width"], mask: Valid | None = None) -> Distribution:
        """`parts`: π's log-odds, μ in mm, and α before the softplus."""
        with torch.autocast(parts.device.type, enabled=False):
            parts = parts.to(torch.promote_types(parts.dtype, torch.float32))
            logit, amount, shape = parts.split(1, 1)
            elements = BernoulliGammaElements(
                logit, amount.clamp(min=self.least), self.least_shape + F.softplus(shape), self.least
            )
            return BernoulliGamma(elements, mask)

    def check(self, x: Rain, mask: Valid | None = None) -> None:
        """Refused where there is less than no rain."""
        if bool((x < 0).any()):
            raise Refused(
                f"likelihood=bernoulli_gamma is a density of rain in mm, but the data hold {float(x.min()):.3g}"
            )
