"""The likelihood's own scale: at its floor, or running to it, D has no lower bound and every other price is nothing."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Laplace, Normal

from ..batch import Batch
from ..distributions.likelihoods import LOWEST_LOG_SCALE, ElementwiseLikelihood
from ..elbo import ELBO, Objective
from ..refusal import check_least
from ..vae import PART, VAE
from .base import Detector, Finding, Status, undefined

CARRIES = 0.01  # nats: a unit that counts as active, eigenvalue ratio 1.02


def elements_of(decoded: Any) -> Distribution | None:
    """The elementwise Gaussian or Laplace inside p(x|z), None where there is none."""
    while not isinstance(decoded, Normal | Laplace):
        inner = [getattr(decoded, name, None) for name in ("elements", "base_dist", "density")]
        decoded = next((each for each in inner if isinstance(each, Distribution)), None)
        if decoded is None:
            return None
    return decoded


def scale_floor(vae: VAE, elements: Any) -> float | None:
    """The smallest scale the likelihood can have: as its distribution or head declares, e⁻⁸ of ours, None unknown."""
    likelihood: Any = getattr(vae, "likelihood", None)
    for owner in (elements, likelihood):
        if (declared := getattr(owner, "scale_floor", None)) is not None:
            return float(declared)
    free = isinstance(likelihood, ElementwiseLikelihood) and not likelihood.fixed
    return float(torch.tensor(LOWEST_LOG_SCALE, dtype=torch.float64).exp()) if free else None


class DecoderVariance(Detector):
    """Has the likelihood's scale collapsed? Material if any of these holds, each a finding of its own:

    `decoder_scale_at_floor`: at least `at_floor` of the scales lie within `near` × their floor; `residual_share`: the
    scale is fixed and E(x − x̂)²/Var(x) < `residual`, so that D falls without end; `decoder_scale_margin`: the scale
    is learned and d − aβ < `margin`, a the units that carry KL: the self-consistent s² = Σ λ_inactive/(d − aβ) of the
    linear VAE has no solution there (Lucas 2019). `data_numbers` of an example and their `data_spread`, a standard
    deviation, are what a cure starts from.
    """

    def __init__(
        self, *, at_floor: float = 0.5, near: float = 1.01, residual: float = 1e-6, margin: float = 1.0
    ) -> None:
        super().__init__()
        check_least("detector.decoder_variance", 0, at_floor=at_floor, near=near, residual=residual, margin=margin)
        self.at_floor, self.near, self.residual, self.margin = at_floor, near, residual, margin
        self.add_column("scale", "floored", "error", "variance", "kl", "declared")
        for name in ("event", "learned"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        n = len(batch.x)
        if not vae.decodes or not vae.normalised or n < 2 or not batch.x.is_floating_point():  # tokens have no scale
            return
        parts = [slice(start, start + PART) for start in range(0, n, PART)]
        read = [self.part(vae, batch.part(rows), elbo.z[rows]) for rows in parts]
        if any(each is None for each in read):
            return
        scale, floored, error = (torch.cat(column) for column in zip(*read, strict=True))  # pyright: ignore[reportArgumentType]
        mask = torch.ones_like(batch.x, dtype=torch.float64) if batch.mask is None else batch.mask.double()
        x, count = batch.x.double(), mask.sum(0).clamp(min=1)
        around = (x - (x * mask).sum(0) / count).square() * mask * count / (count - 1).clamp(min=1)
        self.accumulate("scale", scale)
        if bool((floored >= 0).all()):
            self.accumulate("floored", floored)
        self.accumulate("error", error)
        self.accumulate("variance", around.flatten(1).sum(1))
        self.event = self.event.clamp(min=float(mask.flatten(1).sum(1).max()))
        likelihood: Any = getattr(vae, "likelihood", None)
        fixed = getattr(likelihood, "fixed", bool(scale.max() == scale.min()))
        self.learned = self.learned.clamp(min=float(not fixed))
        if elbo.kl.ndim > 1:
            self.accumulate("kl", elbo.kl.flatten(1))
        if objective is not None and objective.declared is not None:
            self.accumulate("declared", objective.declared.expand(n))

    def part(self, vae: VAE, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Per example: mean scale, share of scales at the floor (−1: no floor known), Σ(x − x̂)²."""
        decoded: Any = vae.decode(z, batch.context, batch.mask)
        given = getattr(decoded, "given", None)  # of an autoregressive likelihood, each element given those before it
        elements: Any = elements_of(given(batch.x) if given else decoded)
        if elements is None or elements.mean.shape != batch.x.shape:
            return None
        scale = elements.scale.expand(elements.mean.shape).double().flatten(1)
        floor = scale_floor(vae, elements)
        floored = torch.full((len(z),), -1.0) if floor is None else (scale <= self.near * floor).double().mean(1)
        square = (batch.x.double() - elements.mean.double()).square()
        square = square if batch.mask is None else square * batch.mask
        return scale.mean(1), floored.double(), square.flatten(1).sum(1)

    def residual_share(self) -> float:
        """E(x − x̂)²/Var(x) over all elements, each around its own mean of the block."""
        return float(self.mean("error") / self.mean("variance").clamp(min=1e-300))

    def left(self) -> float:
        """d − aβ, NaN unless the scale is learned and both are known."""
        if not self.learned or not self.count("kl") or not self.count("declared"):
            return float("nan")
        active = float((self.mean("kl") >= CARRIES).sum())
        return float(self.event) - active * float(self.mean("declared"))

    def reading(self) -> Tensor:
        """1 if the likelihood's scale has collapsed, else 0 (NaN where it has none)."""
        if not self.count("scale"):
            return torch.tensor(torch.nan, dtype=torch.float64)
        return torch.tensor(float(any(finding.status == "material" for finding in self.parts())), dtype=torch.float64)

    def parts(self) -> list[Finding]:
        """The three ways, each with its threshold."""
        n = self.count("scale")

        def said(holds: bool) -> Status:
            return "material" if holds else "absent"

        found = [undefined("decoder_scale_at_floor", "the scale has no floor that is known")]
        if self.count("floored"):
            share = float(self.mean("floored"))
            status = said(share >= self.at_floor)
            found = [Finding("decoder_scale_at_floor", share, self.se("floored"), n, status, self.at_floor)]
        share = self.residual_share()
        error = self.se("error") / max(float(self.mean("variance")), 1e-300)
        status = "measured" if self.learned else said(share + 1.96 * error < self.residual)
        found.append(Finding("residual_share", share, error, n, status, self.residual))
        left = self.left()
        if left == left:
            found.append(Finding("decoder_scale_margin", left, None, n, said(left < self.margin), self.margin))
        return found

    def findings(self) -> list[Finding]:
        n = self.count("scale")
        if not n:
            return [undefined("decoder_variance", "p(x|z) is no elementwise density with a scale")]
        parts, collapsed = self.parts(), float(self.reading())
        why = ", ".join(finding.name for finding in parts if finding.status == "material")
        return [
            Finding("decoder_variance", collapsed, None, n, "material" if collapsed else "absent", note=why),
            Finding("decoder_scale", float(self.mean("scale")), self.se("scale"), n),
            Finding("data_numbers", float(self.event), None, n, note="of an example"),
            Finding("data_spread", (float(self.mean("variance")) / float(self.event)) ** 0.5, None, n),
            *parts,
        ]
