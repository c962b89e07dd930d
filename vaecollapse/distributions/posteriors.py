"""From encoder features to q(z|x): the Gaussian head, and flows on it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import softplus

from ..refusal import Refused
from .flows import Flow

LOG_VARIANCE_RANGE = (-14.0, 8.0)
UNIT_SOFTPLUS = 0.5413248546  # softplus of it is 1, so σ starts at 1


class DeclaredNormal(Normal):
    """A Gaussian that knows the smallest σ its head can produce (`scale_floor`)."""

    def __init__(self, loc: Tensor, scale: Tensor, scale_floor: float) -> None:
        self.scale_floor = scale_floor
        super().__init__(loc, scale, validate_args=False)


class NormalPosterior(nn.Module):
    """q(z|x) = N(μ(h), σ(h)²), factorised, computed in float32 or better whatever the autocast.

    `log_variance`: ℓ = ln σ² softly bounded to (−14, 8). `scale`: σ = floor + softplus(·), 1 at start. Neither causes
    posterior collapse; the floor of `scale` can hide a variance collapse, so its share is read out.
    """

    def __init__(
        self,
        *,
        features: int,
        units: int,
        parametrisation: str = "log_variance",
        scale_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        if parametrisation not in ("log_variance", "scale"):
            raise Refused(f"expected parametrisation log_variance or scale, but got {parametrisation!r}")
        self.head = nn.Linear(features, 2 * units)
        self.parametrisation = parametrisation
        low = LOG_VARIANCE_RANGE[0]
        self.scale_floor = scale_floor if parametrisation == "scale" else float(torch.tensor(low / 2).exp())

    def forward(self, h: Float[Tensor, "batch features"]) -> Distribution:
        with torch.autocast(h.device.type, enabled=False):
            mean, raw = self.head(h.to(self.head.weight.dtype)).chunk(2, -1)
            if self.parametrisation == "scale":
                scale = self.scale_floor + softplus(raw + UNIT_SOFTPLUS)
            else:
                low, high = LOG_VARIANCE_RANGE
                bounded = high - softplus(high - raw)
                scale = ((low + softplus(bounded - low)) / 2).exp()
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
