"""A posterior that cannot come nearer to the prior than δ nats in any unit."""

import math
from typing import cast

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.nn.functional import softplus

from ..refusal import Refused
from .posteriors import DeclaredNormal

SIDES = ("one", "both")
LEAST_RATE, MOST_RATE = 1e-3, 10.0  # float32 keeps a promise of so many nats per unit
MARGIN = 1e-4  # by which δ is exceeded: rounding does not break it, and the root has a slope where m would be 0


def log_variance_range(rate: float) -> tuple[float, float]:
    """The two ℓ = ln σ² at which the variance alone costs `rate` nats: the roots of ½(e^ℓ − 1 − ℓ) = δ.

    >>> low, high = log_variance_range(0.1)
    >>> round(low, 3), round(high, 3)
    (-0.707, 0.572)
    """

    def excess(log_variance: float) -> float:
        return 0.5 * (math.expm1(log_variance) - log_variance) - rate

    ends = ((-2 * rate - 1, 0.0), (0.0, math.log(2 * rate + 1) + 2))
    low, high = (cast(float, brentq(excess, *between)) for between in ends)
    return low, high


class DeltaPosterior(nn.Module):
    """q(z|x) = N(μ, σ²) with KL(q‖N(0, 1)) ≥ δ in every unit by construction (δ-VAE, Razavi 2019, independent form).

    ½(μ² + σ² − 1 − ln σ²) ≥ δ ⇔ μ² ≥ m(σ)² = 2δ + 1 + ln σ² − σ², which asks nothing of μ at the roots σ_l < 1 < σ_u
    of its right side. ln σ is kept between them by a sigmoid, 1 at start, and |μ| = m(σ) + what the head adds:
    `sides: one` μ = m + softplus(a), one sign as in the paper; `both` μ = sign(a)(m + |a|), so that q(z) can have the
    prior's mean. `rate` is δ in nats per unit, exceeded by a ten-thousandth: so it holds in float32, and μ has a slope
    at σ_l and σ_u.

    What is promised is a rate and no information: a constant encoder at |μ| = m, σ = 1 keeps it too. Needs N(0, I).

    >>> q = DeltaPosterior(features=3, units=2, rate=0.5)(torch.zeros(1, 3))
    >>> standard = torch.distributions.Normal(0.0, 1.0)
    >>> bool((torch.distributions.kl_divergence(q.base_dist, standard) >= 0.5).all())
    True
    """

    def __init__(self, *, features: int, units: int, rate: float = 0.1, sides: str = "both") -> None:
        super().__init__()
        if not LEAST_RATE <= rate <= MOST_RATE:
            raise Refused(
                f"posterior.rate is the least KL of a unit, {LEAST_RATE:g} to {MOST_RATE:g} nats, but got {rate:g}: "
                "try posterior.rate=0.1, or posterior=normal for none"
            )
        if sides not in SIDES:
            raise Refused(f"expected posterior.sides one or both, but got {sides!r}: try posterior.sides=both")
        self.rate, self.sides = rate, sides
        self.low, self.high = log_variance_range(rate)
        self.head = nn.Linear(features, 2 * units)

    def forward(self, h: Float[Tensor, "batch features"]) -> Distribution:
        with torch.autocast(h.device.type, enabled=False):
            raw_mean, raw = self.head(h.to(self.head.weight.dtype)).chunk(2, -1)
            start = math.log(-self.low / self.high)
            log_variance = self.low + (self.high - self.low) * torch.sigmoid(raw + start)
            cost = torch.expm1(log_variance) - log_variance
            least = (2 * self.rate * (1 + MARGIN) - cost).clamp(min=self.rate * MARGIN).sqrt()
            if self.sides == "one":
                mean = least + softplus(raw_mean)
            else:
                mean = raw_mean + torch.where(raw_mean < 0, -least, least)
            promise = f"posterior=delta promises a KL of {self.rate:g} nats per unit to the prior N(0, I)"
            scale = (log_variance / 2).exp()
            q = DeclaredNormal(mean, scale, math.exp(self.low / 2), least=self.rate, promise=promise)
            return Independent(q, 1)
