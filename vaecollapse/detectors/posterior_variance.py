"""The posterior's σ relative to the prior's and to the codes' own spread. Collapse drives it to 1, a variance collapse
to 0: opposite failures."""

import torch
from torch import Tensor

from ..batch import Batch
from ..distributions.flows import base_and_inverse
from ..elbo import ELBO, Objective, gaussian
from ..refusal import check_least
from ..vae import VAE
from .base import Detector, Finding, undefined


class PosteriorVariance(Detector):
    """σ_q/σ_p: smallest, mean, quantiles over units, share at the head's own floor; and over units that carry KL the
    median of σ_q over the wider of prior and aggregate posterior, √(σ_q² + Var E[z]).

    (An autoencoder is free to widen its codes instead of narrowing its noise; where the codes fill the prior, both are
    one.) Of a flow the base Gaussian's σ is read. A small σ alone is no illness: the optimal linear VAE has σ = √(e/λ).
    `collapsed` is the median below which a variance collapse is considered (the price of a nat then decides).
    """

    def __init__(
        self, *, collapsed: float = 0.1, carries: float = 0.01, at_floor: float = 1.01, floored: float = 0.5
    ) -> None:
        super().__init__()
        sizes = {"collapsed": collapsed, "carries": carries, "at_floor": at_floor, "floored": floored}
        check_least("detector.posterior_variance", 0, **sizes)
        self.collapsed, self.carries, self.at_floor, self.floored = collapsed, carries, at_floor, floored
        self.add_column("sigma", "average", "kl", "floored", "square", "mean", "mean_square")
        self.add_state("smallest", torch.tensor(torch.inf, dtype=torch.float64), dist_reduce_fx="min", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        flow = base_and_inverse(elbo.posterior)
        posterior = flow[0] if flow else elbo.posterior
        parameters = gaussian(posterior)
        if parameters is None:
            return
        prior = gaussian(elbo.prior)
        scale = (parameters[1] / (prior[1] if prior and not flow else 1.0)).flatten(1)
        self.accumulate("sigma", scale)
        centre = (parameters[0] if not prior or flow else (parameters[0] - prior[0]) / prior[1]).flatten(1).double()
        for name, numbers in (("square", scale.double().square()), ("mean", centre), ("mean_square", centre.square())):
            self.accumulate(name, numbers)
        self.accumulate("average", scale.double().mean(1))
        self.smallest = torch.minimum(self.smallest, scale.detach().min().double())
        if elbo.kl.ndim > 1:
            self.accumulate("kl", elbo.kl.flatten(1))
        base = getattr(posterior, "base_dist", posterior)
        floor = getattr(base, "scale_floor", None)
        if floor is not None:
            self.accumulate("floored", (parameters[1].flatten(1) <= self.at_floor * floor).double().mean(1))

    def reading(self) -> Tensor:
        """The median over the units whose KL exceeds `carries` (all units, where the KL has none)."""
        spread = self.mean("square") + self.mean("mean_square") - self.mean("mean").square()
        sigma = self.mean("sigma") / spread.clamp(min=1).sqrt()
        if self.count("kl"):
            sigma = sigma[self.mean("kl") > self.carries]
        return sigma.median() if sigma.numel() and self.count("sigma") else torch.tensor(torch.nan).double()

    def findings(self) -> list[Finding]:
        n = self.count("sigma")
        if not n:
            return [undefined("sigma_median", "the posterior is no Gaussian and no flow on one")]
        median = float(self.reading())
        known = median == median
        found = [
            Finding(
                "sigma_median",
                median if known else None,
                None,
                n,
                ("material" if median <= self.collapsed else "absent") if known else "undefined",
                self.collapsed,
                "" if known else "no unit carries KL",
            ),
            Finding("sigma_min", float(self.smallest), None, n),
            Finding("sigma_mean", float(self.mean("average")), self.se("average"), n),
        ]
        quantiles = torch.quantile(self.mean("sigma"), torch.tensor([0.1, 0.9], dtype=torch.float64))
        found += [
            Finding(name, float(quantile), None, n, note="over units, of each one's mean σ")
            for name, quantile in zip(("sigma_q10", "sigma_q90"), quantiles, strict=True)
        ]
        if self.count("floored"):
            share, error = float(self.mean("floored")), self.se("floored")
            found.append(Finding("sigma_at_floor", share, error, n, threshold=self.floored))
        return found

    def per_unit(self) -> dict[str, Tensor]:
        return {"sigma": self.mean("sigma")} if self.count("sigma") else {}
