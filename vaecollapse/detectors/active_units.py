"""Active units (Burda 2016): shown because people ask, deciding nothing because the count depends on z's scale."""

import torch
from torch import Tensor

from ..batch import Batch
from ..distributions.posteriors import batch_normalised
from ..elbo import ELBO, Objective, unit_moments
from ..refusal import check_least
from ..vae import VAE
from .base import BATCH_NORMALISED, Detector, Finding, undefined


class ActiveUnits(Detector):
    """#{i : Var_x(E_q[z_i]) > `threshold`}, means in units of the prior's σ where it has one, debiased for flows.

    Of a batch-normalised posterior every unit's variance is γ² by construction, so the count says nothing.
    """

    def __init__(self, *, threshold: float = 0.01) -> None:
        super().__init__()
        check_least("detector.active_units", 0, threshold=threshold)
        self.threshold = threshold
        self.add_column("mean", "noise")
        self.add_state("fixed", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        self.fixed = self.fixed.clamp(min=float(batch_normalised(elbo.posterior)))
        found = unit_moments(elbo.relative_posterior(), batch.positions())
        self.accumulate("mean", found.mean)
        self.accumulate("noise", found.variance / found.draws if found.draws else torch.zeros_like(found.mean))

    def variance(self) -> Tensor:
        """Var_x(E[z_i|x]) per unit, the noise of Monte Carlo means removed."""
        n = self.count("mean")
        spread = (self.mean_square - self.mean_sum.square() / n) / (n - 1)
        return (spread - self.mean("noise")).clamp(min=0)

    def reading(self) -> Tensor:
        if self.count("mean") < 2:
            return torch.tensor(torch.nan, dtype=torch.float64)
        return (self.variance() > self.threshold).sum().double()

    def findings(self) -> list[Finding]:
        if self.count("mean") < 2:
            return [undefined("active_units", "fewer than two examples")]
        n, note = self.count("mean"), BATCH_NORMALISED if self.fixed else ""
        return [Finding("active_units", float(self.reading()), None, n, threshold=self.threshold, note=note)]

    def per_unit(self) -> dict[str, Tensor]:
        return {"var_mean": self.variance()} if self.count("mean") > 1 else {}
