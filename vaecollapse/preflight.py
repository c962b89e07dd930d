"""Before step 1: what cannot work is refused, and what will happen is forecast."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .batch import Batch
from .distributions.likelihoods import NormalLikelihood, SpectralLikelihood
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


Cells = tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]]  # values and their validity, (clips, cells)


def deviations(cells: Cells, mean: Float[Tensor, " cells"]) -> Float[Tensor, "clips cells"]:
    """Deviations from the mean over clips, each over √(cells of its clip): their squares sum to a mean."""
    values, valid = cells
    return (values - mean) * valid / valid.sum(1, keepdim=True).clamp(min=1).sqrt()


def forecast_distance(training: list[Cells], held_out: list[Cells], *, beta: float, rounds: int = 4) -> int:
    """Directions of the data that pay for themselves under Σ over scales of a mean-reduced L1 of log features.

    Around a residual of sd s the L1 is quadratic, D ≈ const + Σ mean δ²/(s√(2π)), so a direction lives iff its
    variance, in units of s and mean-reduced, exceeds ½√(2π)·β. The directions are the training clips', their variance
    is read on the held-out clips (with more cells than clips the training eigenvalues are mostly noise), and s is what
    the living directions leave over, by iteration. The relative L2 term is left out. Local stability only.
    """
    means = [(v * m).sum(0) / m.sum(0).clamp(min=1) for v, m in training]
    train, held = ([deviations(c, mean) for c, mean in zip(part, means, strict=True)] for part in (training, held_out))
    # With more cells than clips everything is read off the clips' inner products, one matrix per scale.
    inner = [(a @ a.T).double() for a in train]
    cross = [(b @ a.T).double() for a, b in zip(train, held, strict=True)]
    energy = [b.square().sum().double() for b in held]
    spread, alive = [a.square().sum(1).mean().sqrt().double() for a in train], 0
    for _ in range(rounds):
        values, vectors = torch.linalg.eigh(sum(g / s for g, s in zip(inner, spread, strict=True)))
        kept = values > 1e-9 * values[-1]
        to_direction = vectors[:, kept] / values[kept].sqrt()
        scores = sum(k / s for k, s in zip(cross, spread, strict=True)) @ to_direction
        living = scores.square().mean(0) > 0.5 * math.sqrt(2 * math.pi) * beta
        scores, to_direction, alive = scores[:, living], to_direction[:, living], int(living.sum())
        left = (
            e - 2 * (k @ to_direction * scores).sum() + (scores @ (to_direction.T @ g @ to_direction) * scores).sum()
            for e, k, g in zip(energy, cross, inner, strict=True)
        )
        spread = [(part / len(held[0])).clamp(min=1e-12).sqrt() for part in left]
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


def floor_table(likelihood: SpectralLikelihood, batch: Batch, *, seed: int = 0) -> FloorTable:
    """The distance of each clip to silence, to another clip (D̄), and to itself with noise 60 dB below its own level."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch.x.shape, generator=generator).to(batch.x)
    noisy = batch.x + noise * batch.x.square().mean(1, keepdim=True).sqrt() * 10 ** (-60 / 20)
    with torch.no_grad():
        others = (torch.zeros_like(batch.x), batch.x.roll(1, 0), noisy)
        return FloorTable(*(float(likelihood.distance(batch.x, y, batch.mask).mean()) for y in others))


class Survey(NamedTuple):
    """What is known before step 1. `directions` is the forecast at the price the schedule ends at (None: no formula);
    where the likelihood is a distance it is shown and decides nothing."""

    units: int
    steps: int
    warmup_ends: int
    directions: int | None = None
    decides: bool = False
    floor: FloorTable | None = None
    beta_effective: float | None = None

    def lines(self) -> list[str]:
        """Sentences for the terminal."""
        said = [f"plan: {self.steps} steps, the KL weight has reached its end by step {self.warmup_ends}"]
        if self.floor is not None:
            silence, wrong, noisy = self.floor
            said.append(
                f"distance of a clip to silence {silence:.3g}, to another clip {wrong:.3g}, to itself with -60 dB "
                f"of noise {noisy:.3g}"
            )
            said += [f"warning: {self.floor.warning}"] if self.floor.warning else []
        if self.beta_effective is not None:
            said.append(f"price: about {self.beta_effective:.2g} times the ELBO's own (an order of magnitude)")
        if self.directions is not None:
            said.append(
                f"forecast: the data offers {self.directions} directions at this price, {self.units} units could "
                "hold them"
            )
        return said


def survey(
    vae: VAE, training: Batch, held_out: Batch, *, beta: float, units: int, steps: int, warmup_ends: int
) -> Survey:
    """Forecast, floor table and price, for the likelihoods whose formulas are known (definitions of Lucas 2019 for a
    fixed Gaussian on the data; the log term of a spectral distance)."""
    plan = Survey(units, steps, warmup_ends)
    scale, likelihood = declared_scale(vae), getattr(vae, "likelihood", None)
    if scale is not None:
        return plan._replace(directions=forecast(training.x, e=beta * scale**2, units=units), decides=True)
    if not isinstance(likelihood, SpectralLikelihood):
        return plan
    table = floor_table(likelihood, training.part(slice(0, 256)))
    cells = [likelihood.log_magnitudes(batch.x, batch.mask) for batch in (training, held_out)]
    offered = min(units, forecast_distance(*cells, beta=beta))
    # as if each sample were Laplace with scale D̄/samples
    return plan._replace(directions=offered, floor=table, beta_effective=beta * training.x[0].numel() / table.wrong)
