"""The rate R and the KL of each unit: raw nats, never weighted, clamped or averaged over units."""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor

from ..batch import Batch
from ..elbo import ELBO, Objective, noise, pieces
from ..refusal import check_least
from ..vae import VAE
from .base import Z95, Detector, Finding, undefined


def kl_is_low(kl: Tensor | float, threshold: float = 0.1) -> bool:
    """Is the KL per example below `threshold` nats? The flag people ask for; alone it decides nothing.

    `kl` is a rate in nats, or the KL of shape (batch, *unit), summed over units and averaged over examples here.

    >>> kl_is_low(0.05), kl_is_low(torch.full((8, 16), 0.1))
    (True, False)
    """
    if isinstance(kl, Tensor):
        kl = float(kl.flatten(1).sum(1).mean() if kl.ndim > 1 else kl.mean())
    return kl < threshold


class Rate(Detector):
    """R = mean_b Σ_i kl[b, i], and how many units are dead (mean KL < `dead` nats) or weak (< `weak`).

    Absent: upper limit below R0 = max(`absent_nats`, `absent_nats_per_unit` × units), on at least `absent_examples`
    examples. Of a latent with groups, (tokens, features) or (C, H, W), also in how many groups every unit is dead, and
    the dead share of each.
    """

    def __init__(
        self,
        *,
        low: float = 0.1,
        absent_nats: float = 0.1,
        absent_nats_per_unit: float = 1e-3,
        dead: float = 0.01,
        weak: float = 0.1,
        absent_examples: int = 500,
        draws: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        nats = {"absent_nats": absent_nats, "absent_nats_per_unit": absent_nats_per_unit, "dead": dead, "weak": weak}
        check_least("detector.rate", 0, low=low, seed=seed, **nats)
        check_least("detector.rate", 1, absent_examples=absent_examples, draws=draws)
        self.low, self.dead, self.weak, self.absent_examples = low, dead, weak, absent_examples
        self.draws, self.seed = draws, seed
        self.absent_nats, self.absent_nats_per_unit = absent_nats, absent_nats_per_unit
        self.add_column("rate", "kl")
        for name in ("units", "groups"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        self.accumulate("rate", elbo.rate if elbo.kl.ndim > 1 else self.monte_carlo(batch, elbo))
        self.units = self.units.clamp(min=elbo.units)
        if elbo.kl.ndim > 1:
            self.accumulate("kl", elbo.kl.flatten(1))
            self.groups = self.groups.clamp(min=elbo.kl.shape[1] if elbo.kl.ndim > 2 else 0)

    def dead_share(self) -> Float[Tensor, " groups"]:
        """Of the units of each group."""
        return (self.mean("kl").reshape(int(self.groups), -1) < self.dead).double().mean(1)

    def monte_carlo(self, batch: Batch, elbo: ELBO) -> Float[Tensor, " batch"]:
        """The rate of a flow: the plain log-ratio, mean of `draws` draws (a single one is negative for nearly half of
        the nearly collapsed examples)."""
        unit = tuple(elbo.posterior.event_shape)
        eps = noise(batch.positions(), unit, draws=self.draws, seed=self.seed, epoch=3)
        return torch.stack([pieces(elbo.posterior, elbo.prior, e.to(elbo.z))[1] for e in eps]).mean(0)

    def light(self) -> "Rate":
        one = deepcopy(self)
        one.draws = 1
        return one

    def reading(self) -> Tensor:
        return self.mean("rate") if self.count("rate") else torch.tensor(torch.nan, dtype=torch.float64)

    def findings(self) -> list[Finding]:
        if not self.count("rate"):
            return [undefined("rate", "no example was read")]
        value, se, n = float(self.reading()), self.se("rate"), self.count("rate")
        least = max(self.absent_nats, self.absent_nats_per_unit * int(self.units))
        low = kl_is_low(value, self.low)
        absent = value + Z95 * se < least and n >= self.absent_examples
        found = [
            Finding("rate", value, se, n, "absent" if absent else "measured", least),
            Finding("units", float(self.units), None, n),
            Finding("kl_is_low", float(low), None, n, threshold=self.low, note="decides nothing alone"),
        ]
        if not self.count("kl"):
            return [*found, undefined("dead_units", "a flow has no KL per unit")]
        kl = self.mean("kl")
        if self.groups > 0:
            dead = float((self.dead_share() == 1).sum())
            of = f"of {int(self.groups)} groups (the latent's first axis)"
            found.append(Finding("dead_groups", dead, None, n, threshold=self.dead, note=of))
            found.append(Finding("groups", float(self.groups), None, n))
        return [
            *found,
            Finding("dead_units", float((kl < self.dead).sum()), None, n, threshold=self.dead),
            Finding("weak_units", float((kl < self.weak).sum()), None, n, threshold=self.weak),
        ]

    def per_unit(self) -> dict[str, Tensor]:
        if not self.count("kl"):
            return {}
        return {"kl": self.mean("kl")} | ({"dead_share": self.dead_share()} if self.groups > 0 else {})
