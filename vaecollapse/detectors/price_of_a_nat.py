"""The price of a nat: the KL weight that really acts, read off the trained model without its config."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..batch import Batch
from ..distributions.flows import can_rescale, rescaled
from ..elbo import ELBO, Objective, noise, pieces
from ..refusal import Refused, check_least
from ..vae import VAE
from .base import Z95, Detector, Finding, undefined


def slopes(
    vae: VAE, batch: Batch, elbo: ELBO, eps: Float[Tensor, "batch *unit"]
) -> tuple[Float[Tensor, "batch units"], Float[Tensor, "batch units"]]:
    """∂D/∂ln σ_i and −∂KL/∂ln σ_i of each example at one draw (pathwise, through a flow's transform too)."""
    with torch.enable_grad():
        log_factor = torch.zeros_like(eps).requires_grad_()
        z, kl = pieces(rescaled(elbo.posterior, log_factor.exp()), elbo.prior, eps)
        d_distortion, d_kl = (slope(part, log_factor) for part in (vae.distortion(batch, z), kl))
    return d_distortion.flatten(1), -d_kl.flatten(1)


def slope(values: Float[Tensor, "batch *unit"], at: Tensor) -> Tensor:
    """∂ Σ values / ∂ at; zero where a decoder ignores z altogether."""
    if not values.requires_grad:
        return torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(values.sum(), at, retain_graph=True, allow_unused=True)
    return torch.zeros_like(at) if gradient is None else gradient


class PriceOfANat(Detector):
    """β̂ = Σ_i E[∂D/∂ln σ_i] / Σ_i E[−∂R/∂ln σ_i], which for a Gaussian prior is E[1 − σ_i²/σ_p²].

    At any stationary point of D + wR this is w, in loss units per nat, whatever the reductions. Antithetic draws;
    `least` is the smallest denominator (nats) at which the ratio is defined. Far from convergence it is no weight.
    `priceless` is the share of the ELBO's own price below which σ is as good as free. One example in
    `one_in` is read, `chunk` at a time, which bounds the memory of the backward pass. `inert` is the ratio of the
    penalty's slope in ln σ to the distortion's (root mean squares) below which the penalty exerts no force.
    Per unit the same ratio, β̂_i: where all of its 95 % interval lies within `partly` × the declared weight, a floor
    takes part of the price away (`units_at_a_floor`).
    """

    def __init__(
        self,
        *,
        least: float = 1e-3,
        priceless: float = 0.02,
        inert: float = 1e-3,
        partly: Sequence[float] = (0.05, 0.95),
        pairs: int = 1,
        one_in: int = 2,
        chunk: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_least("detector.price_of_a_nat", 0, least=least, priceless=priceless, inert=inert, seed=seed)
        check_least("detector.price_of_a_nat", 1, pairs=pairs, one_in=one_in, chunk=chunk)
        self.least, self.priceless, self.inert = least, priceless, inert
        if len(partly) != 2 or not 0 <= partly[0] < partly[1]:
            raise Refused(
                f"detector.price_of_a_nat.partly is a lower and a higher share of the weight, but got {list(partly)}: "
                "type detector.price_of_a_nat.partly=[0.05,0.95]"
            )
        self.partly = tuple(partly)
        self.pairs, self.one_in, self.chunk, self.seed = pairs, one_in, chunk, seed
        self.add_column("loss", "nats", "product", "distortion", "pull", "push")
        self.add_column("unit_loss", "unit_nats", "unit_product", "declared")
        self.add_state("normalised", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)
        self.add_state("size", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        if not vae.decodes or not can_rescale(elbo.posterior):
            return
        self.normalised = self.normalised.clamp(min=float(vae.normalised))
        self.size = self.size.clamp(min=batch.x[0].numel())
        stride = self.chunk * self.one_in
        for start in range(0, len(batch.x), stride):
            part = batch.part(slice(start, start + stride, self.one_in))
            with torch.no_grad():
                own = vae.elbo(part, seed=self.seed)
            eps = noise(part.positions(), tuple(own.posterior.event_shape), draws=self.pairs, seed=self.seed, epoch=1)
            both = [slopes(vae, part, own, sign * e.to(own.z)) for e in eps for sign in (1, -1)]
            loss, nats = (torch.stack(column).mean(0).double() for column in zip(*both, strict=True))
            if objective is not None:
                self.accumulate("pull", loss.square().mean(1))
                self.accumulate("push", (float(objective.weight.mean()) * nats).square().mean(1))
            if objective is not None and objective.declared is not None:
                self.accumulate("declared", objective.declared.expand(len(loss)))
            self.accumulate("unit_loss", loss)
            self.accumulate("unit_nats", nats)
            self.accumulate("unit_product", loss * nats)
            loss, nats = loss.sum(1), nats.sum(1)
            self.accumulate("loss", loss)
            self.accumulate("nats", nats)
            self.accumulate("product", loss * nats)
            self.accumulate("distortion", own.distortion)

    def reading(self) -> Tensor:
        if not self.count("nats") or self.mean("nats") < self.least:
            return torch.tensor(torch.nan, dtype=torch.float64)
        return self.mean("loss") / self.mean("nats")

    def error(self) -> float:
        """Standard error of the ratio by the delta method."""
        n, ratio, nats = self.count("nats"), float(self.reading()), float(self.mean("nats"))
        spread = (self.loss_square - 2 * ratio * self.product_sum + ratio**2 * self.nats_square) / n
        return math.sqrt(max(0.0, float(spread)) / n) / nats if n > 1 else math.inf

    def of_units(self) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """β̂_i and its standard error (delta method), NaN where a unit has fewer than `least` nats to price."""
        n, loss, nats = self.count("unit_nats"), self.mean("unit_loss"), self.mean("unit_nats")
        price = torch.where(nats >= self.least, loss / nats, torch.nan)
        spread = self.unit_loss_square - 2 * price * self.unit_product_sum + price.square() * self.unit_nats_square
        return price, (spread / n).clamp(min=0).sqrt() / math.sqrt(max(1, n)) / nats

    def at_a_floor(self) -> list[Finding]:
        """How many units pay part of the declared weight; nothing where no weight is known or it is 0."""
        weight = float(self.mean("declared")) if self.count("declared") else 0.0
        if weight <= 0:
            return []
        price, error = self.of_units()
        low, high = (share * weight for share in self.partly)
        within = (price - Z95 * error > low) & (price + Z95 * error < high)
        priced = int(torch.isfinite(price).sum())
        return [Finding("units_at_a_floor", float(within.sum()), None, self.count("nats"), note=f"of {priced} priced")]

    def per_unit(self) -> dict[str, Tensor]:
        """β̂_i, 0 where it is not defined."""
        return {"price": self.of_units()[0].nan_to_num(0.0)} if self.count("unit_nats") else {}

    def findings(self) -> list[Finding]:
        price, n = float(self.reading()), self.count("nats")
        if price != price:
            return [undefined("price_of_a_nat", "there are no nats to price" if n else "the model was not decoded")]
        error = self.error()
        # Relative to the likelihood's own scale: nats per nat for a density; for a distance, as if each cell were
        # Laplace with scale D/cells (an order of magnitude, but free of the loss's unit).
        own = 1.0 if self.normalised > 0 else float(self.size) / max(abs(float(self.mean("distortion"))), 1e-12)
        force = []
        if self.count("pull") and self.mean("pull") > 0:
            ratio = float((self.mean("push") / self.mean("pull")).sqrt())
            force = [Finding("penalty_force", ratio, None, self.count("pull"), threshold=self.inert)]
        return [
            Finding("price_of_a_nat", price, error, n),
            Finding(
                "beta_effective",
                price * own,
                error * own,
                n,
                "absent" if price * own < self.priceless else "material",
                self.priceless,
                note="" if self.normalised > 0 else "order of magnitude: the likelihood is a distance",
            ),
            *force,
            *self.at_a_floor(),
        ]

    def light(self) -> None:
        """Too dear while training."""
        return
