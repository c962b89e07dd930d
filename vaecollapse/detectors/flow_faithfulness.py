"""The KL of each unit where a flow has none: a lower bound, and how much of the rate it leaves unexplained."""

import math
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor

from ..batch import Batch
from ..distributions.flows import FlowDistribution, can_rescale, from_standard, to_standard
from ..elbo import ELBO, Objective, noise
from ..refusal import check_least
from ..vae import VAE
from .base import Detector, Finding, undefined

AT_ONCE = 8  # draws, bounds the memory


def matched_kl(
    total: Float[Tensor, "batch k"], square: Float[Tensor, "batch k"], draws: int
) -> Float[Tensor, "batch k"]:
    """½(m² + s² − 1 − ln s²) per unit from Σu and Σu² over draws: KL(q‖N(0, I)) is never below its sum over units.

    For given moments the Gaussian has the largest entropy, and independent units more than dependent ones. Debiased
    for Gaussian u: m̂² by ŝ²/S, ln ŝ² by ψ(ν/2) − ln(ν/2), ν = S − 1.

    >>> matched_kl(torch.zeros(1, 1), torch.full((1, 1), 1e6), 1_000_000).abs() < 1e-5
    tensor([[True]])
    """
    mean, freedom = total / draws, draws - 1
    variance = ((square - draws * mean.square()) / freedom).clamp(min=1e-30)
    half = torch.tensor(freedom / 2, dtype=torch.float64)
    bias = float(torch.digamma(half) - half.log())
    return 0.5 * (mean.square() - variance / draws + variance - 1 - (variance.log() - bias))


class FlowFaithfulness(Detector):
    """Per-unit KL in the base space of a flow prior, u = T_p⁻¹(z) with z ~ q(z|x), where p is N(0, I) (of a Gaussian
    prior: u = (z − μ_p)/σ_p), by matching the moments of `draws` draws.

    Their sum bounds the rate from below; `kl_per_unit_residual` is the share of the Monte Carlo rate (of the same
    draws) that it leaves out, *not faithful* above `faithful`, not defined for a rate below `least` nats. Where
    posterior and prior are Gaussian it is exact. `beyond_spline` is the share of z outside the range in which a spline
    flow acts: of a prior's, the share of its base's points, which lie outside with what the splines are given.
    """

    def __init__(self, *, draws: int = 64, faithful: float = 0.15, least: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        check_least("detector.flow_faithfulness", 1, draws=draws)
        check_least("detector.flow_faithfulness", 0, faithful=faithful, least=least, seed=seed)
        self.draws, self.faithful, self.least, self.seed = draws, faithful, least, seed
        self.add_column("kl_base", "bound", "rate", "product", "beyond")
        self.add_state("flows", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        if elbo.kl.ndim > 1:
            kl = elbo.kl.flatten(1).double()
            rate = kl.sum(1)
        elif can_rescale(elbo.posterior) and can_rescale(elbo.prior):
            self.flows = self.flows.clamp(min=1)
            kl, rate = self.sampled(elbo, batch)
        else:
            return
        self.accumulate("kl_base", kl)
        self.accumulate("bound", kl.sum(1))
        self.accumulate("rate", rate)
        self.accumulate("product", kl.sum(1) * rate)

    def sampled(self, elbo: ELBO, batch: Batch) -> tuple[Tensor, Tensor]:
        """Matched KL (batch, k) and Monte Carlo rate (batch,), in float64, from the same draws."""
        unit = tuple(elbo.posterior.event_shape)
        eps = noise(batch.positions(), unit, draws=self.draws, seed=self.seed)
        own, given = (getattr(side, "spline_range", None) or math.inf for side in (elbo.posterior, elbo.prior))
        sums: list[Tensor] = []
        for part in eps.split(AT_ONCE):
            z, log_q = from_standard(elbo.posterior, part)
            u, log_p = to_standard(elbo.prior, z)
            beyond = z.flatten(2).abs() > own
            if isinstance(elbo.prior, FlowDistribution):
                beyond |= from_standard(elbo.prior.base, u)[0].flatten(2).abs() > given
            u, beyond = u.flatten(2).double(), beyond.double().mean(2)
            new = [u.sum(0), u.square().sum(0), (log_q - log_p).sum(0), beyond.sum(0)]
            sums = [a + b for a, b in zip(sums, new, strict=True)] if sums else new
        if min(own, given) < math.inf:
            self.accumulate("beyond", sums[3] / self.draws)
        return matched_kl(sums[0], sums[1], self.draws), sums[2] / self.draws

    def light(self) -> "FlowFaithfulness":
        few = deepcopy(self)
        few.draws = min(self.draws, 16)
        return few

    def residual(self) -> float:
        """1 − Σ_i KL_i/R, NaN where there is next to no rate."""
        rate = float(self.mean("rate")) if self.count("rate") else 0.0
        return 1 - float(self.mean("bound")) / rate if rate >= self.least else math.nan

    def reading(self) -> Tensor:
        return torch.tensor(self.residual(), dtype=torch.float64)

    def error(self) -> float:
        """Standard error of the residual by the delta method."""
        n, rate, ratio = self.count("rate"), float(self.mean("rate")), 1 - self.residual()
        spread = (self.bound_square - 2 * ratio * self.product_sum + ratio**2 * self.rate_square) / n
        return math.sqrt(max(0.0, float(spread)) / n) / rate if n > 1 else math.inf

    def findings(self) -> list[Finding]:
        n = self.count("rate")
        if not n:
            nothing = "posterior or prior is neither a Gaussian nor a flow on one"
            return [undefined(name, nothing) for name in ("kl_per_unit_residual", "kl_per_unit_sum", "beyond_spline")]
        residual, flows = self.residual(), bool(self.flows)
        whole = Finding(
            "kl_per_unit_sum",
            float(self.mean("bound")),
            self.se("bound"),
            n,
            "lower_bound" if flows else "measured",
            note="" if flows else "exact",
        )
        if residual != residual:
            first = undefined("kl_per_unit_residual", f"the rate is below {self.least:g} nats")
        else:
            note = "not faithful" if residual > self.faithful else "" if flows else "exact"
            first = Finding("kl_per_unit_residual", residual, self.error(), n, "measured", self.faithful, note)
        if not flows:
            return [first, whole]
        if not self.count("beyond"):
            return [first, whole, undefined("beyond_spline", "no flow of splines")]
        beyond = Finding("beyond_spline", float(self.mean("beyond")), self.se("beyond"), self.count("beyond"))
        return [first, whole, beyond]

    def per_unit(self) -> dict[str, Tensor]:
        """Nothing for Gaussians, whose exact KL the rate shows."""
        return {"kl_base": self.mean("kl_base")} if self.flows else {}
