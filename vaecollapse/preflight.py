"""Before step 1: what cannot work is refused, and what will happen is forecast."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .batch import Batch
from .distributions.likelihoods import NormalLikelihood
from .elbo import Objective, Progress
from .refusal import Refused
from .regularizers.base import Regularizer
from .vae import VAE


def critical_price(eigenvalues: Float[Tensor, " d"], examples: int, e: float) -> float:
    """The eigenvalue a direction must exceed to be alive at e = β s², with room for sampling noise."""
    return e * max(1.1, (1 + math.sqrt(len(eigenvalues) / examples)) ** 2)


def forecast(x: Float[Tensor, "n *event"], *, e: float, units: int) -> int:
    """How many directions of the data pay for themselves in a linear VAE at e = β s², at most `units`.

    Local stability of the collapsed point only (Lucas 2019): a nonlinear model may do better.

    >>> x = torch.randn(4096, 3, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.1])
    >>> forecast(x, e=0.25, units=3), forecast(x, e=0.25, units=1), forecast(x, e=100.0, units=3)
    (2, 1, 0)
    """
    flat = x.flatten(1).double()
    values = torch.linalg.eigvalsh(torch.cov(flat.T).reshape(flat.shape[1], flat.shape[1]))
    return min(units, int((values > critical_price(values, len(flat), e)).sum()))


def rehearse(vae: VAE, regularizer: Regularizer, batch: Batch) -> Objective:
    """One objective on real examples, so that a plan which cannot be priced is refused before step 1."""
    training = vae.training, regularizer.training
    with torch.no_grad(), torch.random.fork_rng():
        objective = regularizer.eval()(vae.eval().elbo(batch, seed=0), Progress())
    vae.train(training[0])
    regularizer.train(training[1])
    if not torch.isfinite(objective.loss):
        raise Refused(
            f"the objective of the untrained model is {float(objective.loss)} on the first examples: "
            "look at the data's scale, or start with a smaller lr"
        )
    return objective


def declared_scale(vae: VAE) -> float | None:
    """The fixed σ of a Gaussian likelihood on the data itself, or None where there is no such number."""
    likelihood = getattr(vae, "likelihood", None)
    on_features = getattr(vae, "features", None) is not None
    if not isinstance(likelihood, NormalLikelihood) or not likelihood.fixed or on_features:
        return None
    return float(likelihood.scale)


Cells = tuple[Float[Tensor, "clips cells"], Float[Tensor, "clips cells"]]


def deviations(cells: Cells, mean: Float[Tensor, " cells"]) -> Float[Tensor, "clips cells"]:
    """Deviations from the mean over clips, each over √(cells of its clip): their squares sum to a mean."""
    values, valid = cells
    return (values - mean) * valid / valid.sum(1, keepdim=True).clamp(min=1).sqrt()


def forecast_distance(training: list[Cells], held_out: list[Cells], *, beta: float, rounds: int = 4) -> int:
    """Directions of the data that pay for themselves under Σ over scales of a mean-reduced L1 of log features.

    Around a residual of sd s the L1 is quadratic, D ≈ const + Σ mean δ²/(s√(2π)), so a direction lives iff its
    variance, in units of s and mean-reduced, exceeds ½√(2π)·β. The directions are the training clips', their variance is
    read on the held-out clips (with more cells than clips the training eigenvalues are mostly noise), and s is what
    the living directions leave over, by iteration. The relative L2 term is left out. Local stability only.
    """
    sums = [(v * m).sum(0) / m.sum(0).clamp(min=1) for v, m in training]
    train, held = ([deviations(c, mean) for c, mean in zip(part, sums, strict=True)] for part in (training, held_out))
    spread = [part.square().sum(1).mean().sqrt() for part in train]
    alive = 0
    for _ in range(rounds):
        a, b = (torch.cat([p / s.sqrt() for p, s in zip(part, spread, strict=True)], 1) for part in (train, held))
        values, vectors = torch.linalg.eigh((a @ a.T).double())
        kept = values.flip(0) > 1e-9 * values[-1]
        directions = (a.T.double() @ vectors.flip(1)[:, kept] / values.flip(0)[kept].sqrt()).float()
        scores = b @ directions
        living = scores.square().mean(0) > 0.5 * math.sqrt(2 * math.pi) * beta
        left = (b - scores[:, living] @ directions[:, living].T).split([p.shape[1] for p in held], 1)
        spread = [
            (part.square().sum(1).mean().sqrt() * s.sqrt()).clamp(min=1e-6)
            for part, s in zip(left, spread, strict=True)
        ]
        alive = int(living.sum())
    return alive


class FloorTable(NamedTuple):
    """Mean distances from training clips, per example: what the distance makes of silence, a wrong clip and noise."""

    silence: float
    wrong: float
    noisy: float

    @property
    def warning(self) -> str | None:
        """Where the right clip with −60 dB of noise is not clearly nearer than a wrong one, z is spent on the floor."""
        if min(self.silence, self.wrong) >= 2 * self.noisy:
            return None
        worse = "silence" if self.silence < self.wrong else "a wrong clip"
        return (
            f"the distance does not tell clips apart: {worse} is {min(self.silence, self.wrong):.3g} away and the "
            f"clip itself with -60 dB of noise {self.noisy:.3g}; raise likelihood.floor_db"
        )


def floor_table(vae: VAE, batch: Batch, *, seed: int = 0) -> FloorTable:
    """The distance of each clip to silence, to another clip (D̄), and to itself with noise 60 dB below its own level."""
    generator = torch.Generator().manual_seed(seed)
    level = batch.x.flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * (batch.x.ndim - 1))
    noise = torch.randn(batch.x.shape, generator=generator).to(batch.x) * level * 10 ** (-60 / 20)
    with torch.no_grad():
        z = vae.elbo(batch, seed=seed).z
        far = [vae.between(batch, z, y) for y in (torch.zeros_like(batch.x), batch.x.roll(1, 0), batch.x + noise)]
    return FloorTable(*(float(d.mean()) if d is not None else math.nan for d in far))
