"""From encoder features to q(z|x): the Gaussian head, what is promised of its KL, and flows on it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import softplus

from ..refusal import Refused
from .flows import Flow, FlowDistribution

LOG_VARIANCE_RANGE = (-14.0, 8.0)
UNIT_SOFTPLUS = 0.5413248546  # softplus of it is 1, so σ starts at 1
PARAMETRISATIONS = ("log_variance", "scale")


class DeclaredNormal(Normal):
    """A Gaussian that knows what its head can produce: the smallest σ (`scale_floor`), what its KL to N(0, I) is at
    least (`least` nats per unit, `promise` in words; empty for nothing), and whether its means have a fixed variance
    over examples."""

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        scale_floor: float,
        *,
        least: float = 0.0,
        promise: str = "",
        batch_normalised: bool = False,
    ) -> None:
        self.scale_floor, self.least, self.promise = scale_floor, least, promise
        self.batch_normalised = batch_normalised
        super().__init__(loc, scale, validate_args=False)


def declared(posterior: Distribution) -> DeclaredNormal | None:
    """The declared Gaussian of a posterior, or under its flow; None where there is none."""
    while isinstance(posterior, Independent | FlowDistribution):
        posterior = posterior.base_dist if isinstance(posterior, Independent) else posterior.base
    return posterior if isinstance(posterior, DeclaredNormal) else None


def batch_normalised(posterior: Distribution) -> bool:
    """Is the variance of its means over examples fixed, whatever they say of x?"""
    own = declared(posterior)
    return own is not None and own.batch_normalised


def check_promise(posterior: Distribution, prior: Distribution) -> None:
    """Refused where a KL is promised and the prior is not N(0, I), or not certain to stay it, or q is a flow.

    To be called with gradients on: a prior that has one is learned, and its mean may follow the posterior's.
    """
    own = declared(posterior)
    if own is None or not own.promise:
        return
    if isinstance(posterior, FlowDistribution):
        raise Refused(
            f"{own.promise} and a flow makes of it what it likes: type posterior=realnvp or leave out the flow"
        )
    base = prior
    while isinstance(base, Independent):
        base = base.base_dist
    given = "a flow" if isinstance(prior, FlowDistribution) else f"a {type(base).__name__}"
    if isinstance(base, Normal):
        learned = base.loc.requires_grad or base.scale.requires_grad
        if not learned and not base.loc.any() and bool((base.scale == 1).all()):
            return
        given = "a learned Gaussian, whose mean can follow the posterior's" if learned else "another Gaussian"
    raise Refused(f"{own.promise}, but the prior is {given}: type prior=normal, or posterior=normal")


def smallest_scale(parametrisation: str, scale_floor: float, low: float = LOG_VARIANCE_RANGE[0]) -> float:
    """The floor of σ; Refused for what is no parametrisation."""
    if parametrisation not in PARAMETRISATIONS:
        raise Refused(f"expected parametrisation log_variance or scale, but got {parametrisation!r}")
    return scale_floor if parametrisation == "scale" else float(torch.tensor(low / 2).exp())


def scale_of(
    raw: Float[Tensor, "batch units"], parametrisation: str, floor: float, low: float = LOG_VARIANCE_RANGE[0]
) -> Float[Tensor, "batch units"]:
    """σ of a head's output: floor + softplus(·), 1 at start, or e^(ℓ/2) with ℓ softly bounded to (`low`, 8)."""
    if parametrisation == "scale":
        return floor + softplus(raw + UNIT_SOFTPLUS)
    high = LOG_VARIANCE_RANGE[1]
    bounded = high - softplus(high - raw)
    return ((low + softplus(bounded - low)) / 2).exp()


class NormalPosterior(nn.Module):
    """q(z|x) = N(μ(h), σ(h)²), factorised, computed in float32 or better whatever the autocast.

    `log_variance`: ℓ = ln σ² softly bounded to (`log_variance_floor`, 8). `scale`: σ = floor + softplus(·), 1 at
    start. Neither causes posterior collapse; the floor of `scale` can hide a variance collapse, so its share is read
    out.
    """

    def __init__(
        self,
        *,
        features: int,
        units: int,
        parametrisation: str = "log_variance",
        scale_floor: float = 1e-4,
        log_variance_floor: float = LOG_VARIANCE_RANGE[0],
    ) -> None:
        super().__init__()
        if not log_variance_floor < 0:
            raise Refused(
                f"posterior.log_variance_floor is the lower bound of ln σ², below the prior's 0, but got "
                f"{log_variance_floor:g}: try posterior.log_variance_floor=-8"
            )
        self.scale_floor = smallest_scale(parametrisation, scale_floor, log_variance_floor)
        self.head = nn.Linear(features, 2 * units)
        self.parametrisation, self.log_variance_floor = parametrisation, log_variance_floor

    def forward(self, h: Float[Tensor, "batch features"]) -> Distribution:
        with torch.autocast(h.device.type, enabled=False):
            mean, raw = self.head(h.to(self.head.weight.dtype)).chunk(2, -1)
            scale = scale_of(raw, self.parametrisation, self.scale_floor, self.log_variance_floor)
            return Independent(DeclaredNormal(mean, scale, self.scale_floor), 1)


class FlowPosterior(nn.Module):
    """q(z|x): the Gaussian head as base, then a flow whose networks also see the encoder's features.

    A flow that is slow to sample (maf, nsf: one pass per unit, 15 s against 25 ms at 128 units) is refused: a
    posterior is sampled at every step.
    """

    def __init__(
        self,
        *,
        features: int,
        units: int,
        kind: str = "realnvp",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        context: int = 32,
        parametrisation: str = "log_variance",
        scale_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        if kind not in ("realnvp", "iaf"):
            raise Refused(
                f"posterior flow {kind!r} is sampled one unit at a time, far too slow for a posterior: "
                "use posterior=realnvp or posterior=iaf (autoregressive flows serve as prior=maf|nsf)"
            )
        self.base = NormalPosterior(
            features=features, units=units, parametrisation=parametrisation, scale_floor=scale_floor
        )
        self.context = nn.Linear(features, context)
        self.flow = Flow(kind=kind, units=units, context=context, transforms=transforms, hidden=hidden)

    def forward(self, h: Float[Tensor, "batch features"]) -> Distribution:
        with torch.autocast(h.device.type, enabled=False):
            return self.flow(self.base(h), self.context(h.to(self.context.weight.dtype)))
