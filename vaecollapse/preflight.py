"""Before step 1: what cannot work is refused, and what will happen is forecast."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .batch import Batch
from .distributions.likelihoods import ElementwiseLikelihood, LaplaceLikelihood, NormalLikelihood, SpectralLikelihood
from .elbo import Objective, Progress
from .nn.spectral import LogMel, frame_mask
from .refusal import Refused
from .regularizers.base import Regularizer
from .vae import VAE


def critical_price(eigenvalues: Float[Tensor, " d"], examples: int, e: float) -> float:
    """The eigenvalue a direction must exceed to be alive at e = β s², with room for sampling noise."""
    return e * max(1.1, (1 + math.sqrt(len(eigenvalues) / examples)) ** 2)


Cells = tuple[Float[Tensor, "_ _"], Bool[Tensor, "_ _"]]  # values and their validity, (clips, cells)


class Forecast(NamedTuple):
    """`directions` of the `offered` ones, whose variance exceeds the price `e`, fit the latent. `largest` are the first
    variances, and `residual` is the variance per cell that the living ones leave over (squared units of the cells)."""

    directions: int
    offered: int
    e: float
    largest: tuple[float, ...]
    residual: float


Price = Callable[[float], float]  # residual variance per cell → e, the price of a direction in the same units


def price_of(likelihood: object, beta: float) -> Price | None:
    """What a direction costs under an elementwise likelihood: e = β s², and for a fixed Laplace scale b the curvature
    of its L1 around residuals of variance s², e = β b s √(π/2). None where no formula is known."""
    if isinstance(likelihood, ElementwiseLikelihood) and not likelihood.fixed:
        return lambda residual: beta * residual  # a Laplace scale that fits, b = s √(2/π), gives the same
    if isinstance(likelihood, NormalLikelihood):
        return lambda residual: beta * float(likelihood.scale) ** 2
    if isinstance(likelihood, LaplaceLikelihood):
        return lambda residual: beta * float(likelihood.scale) * math.sqrt(residual * math.pi / 2)
    return None


def settled(values: Float[Tensor, " directions"], total: float, cells: float, price: Price, units: int, *,
            margin: float) -> Forecast:  # fmt: skip
    """The living directions from collapse upwards: e follows from what the living ones leave over, and they from e.

    A likelihood that fits its scale makes a nat cheaper with every direction that lives; starting from the collapsed
    point, none lives where that point is stable (Lucas 2019).
    """
    values, alive, residual = values.sort(descending=True).values, 0, total / cells
    for _ in range(200):
        e = price(residual)
        alive = min(units, int((values > e * margin).sum()))
        left = (total - float(values[:alive].sum()) + alive * e) / cells
        if abs(left - residual) <= 1e-9 * residual:
            break
        residual = left
    e = price(residual)
    return Forecast(alive, int((values > e * margin).sum()), e, tuple(values[:4].tolist()), residual)


def forecast(x: Float[Tensor, "n *event"], *, price: Price, units: int) -> Forecast:
    """How many directions of the data pay for themselves in a linear VAE, at most `units`.

    Local stability of the collapsed point only (Lucas 2019): a nonlinear model may do better.

    >>> x = torch.randn(4096, 3, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.1])
    >>> forecast(x, price=lambda residual: 0.25, units=3).directions
    2
    """
    flat = x.flatten(1).double()
    values = torch.linalg.eigvalsh(torch.cov(flat.T).reshape(flat.shape[1], flat.shape[1])).clamp(min=0)
    margin = critical_price(values, len(flat), 1.0)
    return settled(values, float(values.sum()), float(flat.shape[1]), price, units, margin=margin)


def forecast_cells(training: Cells, held_out: Cells, *, price: Price, units: int) -> Forecast:
    """As `forecast`, for features with more cells than clips: directions of the training clips, their variance on the
    held-out ones."""
    values, valid = training
    mean, known = (values * valid).sum(0) / valid.sum(0).clamp(min=1), valid.any(0)
    train, held = (((v - mean) * m * known).double() for v, m in (training, held_out))
    ways = torch.linalg.svd(train, full_matrices=False).Vh
    variances = (held @ ways.T).square().mean(0)
    total, cells = float(held.square().sum(1).mean()), float(held_out[1].sum(1).double().mean())
    return settled(variances, total, cells, price, units, margin=1.0)


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


def deviations(
    cells: Cells, mean: Float[Tensor, " cells"], known: Bool[Tensor, " cells"]
) -> Float[Tensor, "clips cells"]:
    """Deviations from the training clips' mean, each over √(cells of its clip): their squares sum to a mean. A cell
    that no training clip covers has none."""
    values, valid = cells
    valid = valid * known
    return (values - mean) * valid / valid.sum(1, keepdim=True).clamp(min=1).sqrt()


def forecast_distance(
    training: Iterable[Cells], held_out: Iterable[Cells], *, beta: float, units: int, rounds: int = 4
) -> Forecast:
    """Directions of the data that pay for themselves under Σ over scales of a mean-reduced L1 of log features.

    Around a residual of sd s the L1 is quadratic, D ≈ const + Σ mean δ²/(s√(2π)), so a direction lives iff its
    variance, in units of s and mean-reduced, exceeds ½√(2π)·β. The directions are the training clips', their variance
    is read on the held-out clips (with more cells than clips the training eigenvalues are mostly noise), and s is what
    the living directions leave over, by iteration. The relative L2 term is left out. Local stability only.
    """
    # With more cells than clips everything is read off the clips' inner products, one matrix per scale.
    inner, cross, energy, spread, count = [], [], [], [], 1
    for (values, valid), other in zip(training, held_out, strict=True):
        mean, known = (values * valid).sum(0) / valid.sum(0).clamp(min=1), valid.any(0)
        train, held = deviations((values, valid), mean, known), deviations(other, mean, known)
        inner.append((train @ train.T).double())
        cross.append((held @ train.T).double())
        energy.append(held.square().sum().double())
        spread.append(train.square().sum(1).mean().clamp(min=1e-12).sqrt().double())
        count = len(held)
    alive = 0
    e, variances = 0.5 * math.sqrt(2 * math.pi) * beta, torch.zeros(0)
    for _ in range(rounds):
        values, vectors = torch.linalg.eigh(sum(g / s for g, s in zip(inner, spread, strict=True)))
        kept = values > 1e-9 * values[-1]
        to_direction = vectors[:, kept] / values[kept].sqrt()
        scores = sum(k / s for k, s in zip(cross, spread, strict=True)) @ to_direction
        variances = scores.square().mean(0)
        alive = int((variances > e).sum())
        living = variances.topk(min(units, alive)).indices
        scores, to_direction = scores[:, living], to_direction[:, living]
        left = (
            e - 2 * (k @ to_direction * scores).sum() + (scores @ (to_direction.T @ g @ to_direction) * scores).sum()
            for e, k, g in zip(energy, cross, inner, strict=True)
        )
        spread = [(part / count).clamp(min=1e-12).sqrt() for part in left]
    largest = variances.sort(descending=True).values[:4].tolist()
    return Forecast(min(units, alive), alive, e, tuple(largest), float(sum(s**2 for s in spread)))


class FloorTable(NamedTuple):
    """Mean distances from training clips, per example: what the distance makes of silence, a wrong clip and noise."""

    silence: float
    wrong: float
    noisy: float

    @property
    def warning(self) -> str | None:
        """Where the right clip with −60 dB of noise is not clearly nearer than a wrong one, z is spent on the floor."""
        if self.wrong == 0:
            return "the training clips are copies of one another: there is nothing for z to tell"
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
    beta: float
    forecast: Forecast | None = None
    decides: bool = False
    floor: FloorTable | None = None
    beta_effective: float | None = None

    @property
    def directions(self) -> int | None:
        """How many directions are forecast to live."""
        return self.forecast and self.forecast.directions

    def as_dict(self) -> dict:
        """The content of preflight.json."""
        named = {"forecast": self.forecast, "floor": self.floor}
        return self._asdict() | {name: part and part._asdict() for name, part in named.items()}

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
            roughly = ", an order of magnitude" if self.floor else ""
            said.append(
                f"price: beta {self.beta:.3g}, about {self.beta_effective:.2g} times the ELBO's own (beta_eff{roughly})"
            )
        if self.forecast is not None:
            _, offered, e, largest, _ = self.forecast
            said.append(
                f"forecast: {offered} directions of the data pay for themselves, {self.units} units could hold "
                f"them; a direction lives above e = {e:.3g}, the largest are {', '.join(f'{v:.3g}' for v in largest)}"
            )
        return said


def survey(
    vae: VAE, training: Batch, held_out: Batch, *, beta: float, units: int, steps: int, warmup_ends: int
) -> Survey:
    """Forecast, floor table and price, for the likelihoods whose formulas are known: elementwise ones on the data or on
    fixed features of it (Lucas 2019), and the log term of a spectral distance."""
    plan = Survey(units, steps, warmup_ends, beta)
    likelihood, features = getattr(vae, "likelihood", None), getattr(vae, "features", None)
    if (price := price_of(likelihood, beta)) is not None:
        if features is None:
            found = forecast(training.x, price=price, units=units)
        else:
            parts = [likelihood_cells(features, batch) for batch in (training, held_out)]
            found = forecast_cells(*parts, price=price, units=units)
        # beta is in nats, and the scale may not be the one that fits: what a nat costs beside the residual's own
        effective = found.e / max(found.residual, 1e-300)
        return plan._replace(forecast=found, decides=features is None, beta_effective=effective)
    if not isinstance(likelihood, SpectralLikelihood):
        return plan
    table = floor_table(likelihood, training.part(slice(0, max(16, 2**21 // training.x[0].numel()))))
    found = None
    if likelihood.scales:
        cells = [likelihood.log_magnitudes(batch.x, batch.mask) for batch in (training, held_out)]
        found = forecast_distance(*cells, beta=beta, units=units)
    # as if each sample were Laplace with scale D̄/samples
    samples = training.x[0].numel() if training.mask is None else float(training.mask.sum(1).double().mean())
    effective = beta * samples / table.wrong if table.wrong > 0 else None
    return plan._replace(forecast=found, floor=table, beta_effective=effective)


def likelihood_cells(features: LogMel, batch: Batch) -> Cells:
    """The features a density is applied to, and which of their frames hold data."""
    values = features(batch.x if batch.mask is None else batch.x * batch.mask)
    frames = (
        values.new_ones(1, dtype=torch.bool) if batch.mask is None else frame_mask(batch.mask, features.size)[:, None]
    )
    return values.flatten(1), frames.expand_as(values).flatten(1)
