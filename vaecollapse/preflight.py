"""Before step 1: what cannot work is refused, and what will happen is forecast."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .audit import Audit
from .batch import Batch
from .detectors.conditions import are_shared, labels
from .distributions.likelihoods import (
    BernoulliLikelihood,
    ElementwiseLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
    SpectralLikelihood,
)
from .distributions.posteriors import check_promise
from .elbo import Objective, Progress
from .nn.spectral import LogMel, frame_mask
from .refusal import Refused
from .regularizers.base import Regularizer
from .vae import VAE

DOUBT = 2.5  # standard errors by which a direction must exceed its price to be forecast alive
MOST_NUMBERS = 2**25  # of the examples that a forecast is made from
FEW = 20  # examples for a number that is fitted to them
WIDE = 1024  # cells beyond which half as many examples do: the directions are then those of the examples


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
            errors: Float[Tensor, " directions"] | None = None) -> Forecast:  # fmt: skip
    """The living directions from collapse upwards: e follows from what the living ones leave over, and they from e.

    A likelihood that fits its scale makes a nat cheaper with every direction that lives; starting from the collapsed
    point, none lives where that point is stable (Lucas 2019). With standard `errors` a direction lives where its
    variance less `DOUBT` of them exceeds e.
    """
    least = values if errors is None else values - DOUBT * errors
    order = least.argsort(descending=True)
    values, least, alive, residual = values[order], least[order], 0, total / cells
    for _ in range(200):
        e = price(residual)
        alive = min(units, int((least > e).sum()))
        left = (total - float(values[:alive].sum()) + alive * e) / cells
        if abs(left - residual) <= 1e-9 * residual:
            break
        residual = left
    e = price(residual)
    largest = values.sort(descending=True).values[:4]
    return Forecast(alive, int((least > e).sum()), e, tuple(largest.tolist()), residual)


def crossed(
    x: Float[Tensor, "n cells"],
) -> tuple[Float[Tensor, " directions"], Float[Tensor, " directions"]]:
    """The variance of the data along their principal directions, in order, with its standard error: directions of one
    half of the examples, variance on the other half, both ways.

    Eigenvalues of the sample's own covariance are too large where there are many cells (noise of variance 1 reads up to
    (1 + √(cells/n))²), and a bar as high as that misses directions of data that are not noise.
    """
    centred = x - x.mean(0)
    halves = centred[::2], centred[1::2]
    scores = [held @ principal(own) for own, held in (halves, halves[::-1])]
    count = min(part.shape[1] for part in scores)
    squares = torch.cat([part[:, :count].square() for part in scores])
    return squares.mean(0), squares.std(0) / math.sqrt(len(squares))


def principal(x: Float[Tensor, "n cells"]) -> Float[Tensor, "cells directions"]:
    """Orthonormal principal directions of centred examples, the largest first; at most as many as examples."""
    if x.shape[1] <= len(x):
        return torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)
    values, vectors = torch.linalg.eigh(x @ x.T)
    kept = values > 1e-9 * values[-1]
    return (x.T @ (vectors[:, kept] / values[kept].sqrt())).flip(1)


def cells_of(x: Float[Tensor, "n *event"]) -> Float[Tensor, "few cells"]:
    """Examples as rows in float64, as many of them as are affordable."""
    flat = x.flatten(1)
    most = max(32, min(len(flat), MOST_NUMBERS // max(1, flat.shape[1]), 2048 if flat.shape[1] > WIDE else len(flat)))
    return flat[torch.arange(most) * len(flat) // most if most < len(flat) else slice(None)].double()


def expected(
    x: Float[Tensor, "n *event"], context: Shaped[Tensor, "n *context"], label: Int[Tensor, " n"]
) -> Float[Tensor, "n *event"]:
    """E[x|c] of each example. Where c is discrete (`label` is shared) the mean of its condition; where c is continuous
    what is linear in its first principal components, fitted on the other half of the examples, which explains no more
    than E[x|c] does; of tokens that nobody shares, nothing."""
    flat = x.flatten(1).double()
    if are_shared(label):
        _, row, count = label.unique(return_inverse=True, return_counts=True)
        total = torch.zeros(len(count), flat.shape[1], dtype=torch.float64).index_add_(0, row, flat)
        return (total / count[:, None])[row].reshape(x.shape)
    if not context.is_floating_point():
        return flat.mean(0).expand_as(flat).reshape(x.shape)
    seen = context.flatten(1).double()
    seen = (seen - seen.mean(0)) @ principal(seen - seen.mean(0))[:, : max(1, len(x) // (2 * FEW))]
    seen = torch.nn.functional.pad(seen, (0, 1), value=1.0)
    out = torch.empty_like(flat)
    for mine, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        out[mine] = seen[mine] @ torch.linalg.lstsq(seen[other], flat[other]).solution
    return out.reshape(x.shape)


def unexplained(batch: Batch) -> Float[Tensor, "rest *event"]:
    """x − E[x|c], without a condition x − E[x]. Deviations from a mean of n examples are √(n/(n − 1)) larger."""
    if batch.context is None:
        return batch.x - batch.x.mean(0)
    label = labels(batch.context)
    rest = batch.x.double() - expected(batch.x, batch.context, label)
    if not are_shared(label):
        return rest
    _, row, count = label.unique(return_inverse=True, return_counts=True)
    alone = (count == 1)[row]
    widened = (count / (count - 1).clamp(min=1)).sqrt()[row]
    rest = rest * widened.reshape(-1, *[1] * (rest.ndim - 1))
    return rest[~alone]  # of whom nothing is left


def forecast(x: Float[Tensor, "n *event"], *, price: Price, units: int) -> Forecast:
    """How many directions of the data pay for themselves in a linear VAE, at most `units`.

    Local stability of the collapsed point only (Lucas 2019): a nonlinear model may do better. Of a conditional model
    give what its condition leaves `unexplained`.

    >>> x = torch.randn(4096, 3, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.1])
    >>> forecast(x, price=lambda residual: 0.25, units=3).directions
    2
    """
    flat = cells_of(x)
    total, cells = float(flat.var(0).sum()), float(flat.shape[1])
    values, errors = crossed(flat)
    return settled(values, total, cells, price, units, errors=errors)


def forecast_binary(
    x: Float[Tensor, "n *event"], *, beta: float, units: int, odds: Float[Tensor, "n *event"] | None = None
) -> Forecast:
    """As `forecast`, for a Bernoulli likelihood whose intercept is at the log-odds: directions of F^−½ Cov F^−½ above
    β, F = diag p(1 − p), which is the correlation matrix of binary cells. Constant cells are left out. Of conditional
    data, `odds` are E[x|c], and F the mean of p(1 − p) over them.

    ln p(x|z) is quadratic about the intercept with curvature F alone, so that collapse is stable where no direction
    lives; how many live at the optimum, where F is smaller, this only suggests.

    >>> x = (torch.rand(4096, 1, dtype=torch.float64) > 0.3).double().repeat(1, 3)  # one bit, three times
    >>> [forecast_binary(x, beta=beta, units=2).directions for beta in (2.8, 3.1)]
    [1, 0]
    """
    odds = cells_of(x.mean(0).expand_as(x) if odds is None else odds)
    flat = cells_of(x) - odds
    spread = (odds * (1 - odds)).clamp(min=0).mean(0).sqrt()
    kept = spread > 1e-6
    if not kept.any():
        return Forecast(0, 0, beta, (), 0.0)
    return forecast(flat[:, kept] / spread[kept], price=lambda _: beta, units=units)


def forecast_cells(training: Cells, held_out: Cells, *, price: Price, units: int) -> Forecast:
    """As `forecast`, for features with more cells than clips: directions of the training clips, their variance on the
    held-out ones."""
    values, valid = training
    mean, known = (values * valid).sum(0) / valid.sum(0).clamp(min=1), valid.any(0)
    train, held = (((v - mean) * m * known).double() for v, m in (training, held_out))
    ways = torch.linalg.svd(train, full_matrices=False).Vh
    variances = (held @ ways.T).square().mean(0)
    total, cells = float(held.square().sum(1).mean()), float(held_out[1].sum(1).double().mean())
    return settled(variances, total, cells, price, units)


def check_data(vae: VAE, *batches: Batch) -> None:
    """Refused where the likelihood is no density of such data."""
    check = getattr(getattr(vae, "likelihood", None), "check", None)
    if callable(check):
        for batch in batches:
            check(batch.x, batch.mask)


def rehearse(vae: VAE, regularizer: Regularizer, batch: Batch) -> Objective:
    """One objective on real examples, so that a plan which cannot be priced is refused before step 1."""
    check_data(vae, batch)
    training = vae.training, regularizer.training
    vae.eval()
    with torch.enable_grad():  # a prior that has a gradient is learned
        check_promise(vae.encode(batch.x, batch.context, batch.mask), vae.prior(batch.context))
    with torch.no_grad(), torch.random.fork_rng():
        elbo = vae.eval().elbo(batch, seed=0)
        regularizer.check(elbo)
        objective = regularizer.eval()(elbo, Progress())
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
    """What is known before step 1. `beta` is the price the schedule ends at (None where training finds it: then there
    is no forecast), `directions` the forecast at it (None: no formula); where the likelihood is a distance or Bernoulli
    it is shown and decides nothing; `certain` says that collapse is locally stable where it is 0 (Bernoulli too).
    `at_one` are the directions that the data offers at the ELBO's own price, with the scale that fits. `unforeseen`
    says why there is no forecast where none is known."""

    units: int
    steps: int
    warmup_ends: int
    beta: float | None
    forecast: Forecast | None = None
    decides: bool = False
    certain: bool = False
    floor: FloorTable | None = None
    beta_effective: float | None = None
    at_one: int | None = None
    audit: Audit | None = None
    unforeseen: str = ""

    @property
    def directions(self) -> int | None:
        """How many directions are forecast to live."""
        return self.forecast and self.forecast.directions

    def as_dict(self) -> dict:
        """The content of preflight.json."""
        named = {"forecast": self.forecast, "floor": self.floor, "audit": self.audit}
        parts = {name: part and part._asdict() for name, part in named.items()}
        return self._asdict() | parts | {"directions": self.directions}

    def lines(self) -> list[str]:
        """Sentences for the terminal."""
        moved = "the KL weight" if self.beta is not None else "what the plan moves"
        said = [f"plan: {self.steps} steps, {moved} has reached its end by step {self.warmup_ends}"]
        if self.beta is None:
            said.append("price: what a nat costs is found while training, so nothing is forecast")
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
        said += self.audit.lines() if self.audit else []
        said += [f"forecast: none, {self.unforeseen}"] if self.unforeseen else []
        if self.forecast is not None:
            _, offered, e, largest, _ = self.forecast
            said.append(
                f"forecast: {offered} directions of the data pay for themselves, {self.units} units could hold "
                f"them; a direction lives above e = {e:.3g}, the largest are {', '.join(f'{v:.3g}' for v in largest)}"
            )
        return said


def survey(
    vae: VAE, training: Batch, held_out: Batch, *, beta: float | None, units: int, steps: int, warmup_ends: int
) -> Survey:
    """Forecast, floor table and price, for the likelihoods whose formulas are known: elementwise ones on the data or on
    fixed features of it (Lucas 2019), Bernoulli, and the log term of a spectral distance. Of conditional data the
    directions of x − E[x|c] count; where c is continuous, E[x|c] is read linearly, and nothing is decided by it."""
    plan = Survey(units, steps, warmup_ends, beta)
    likelihood, features = getattr(vae, "likelihood", None), getattr(vae, "features", None)
    check_data(vae, training, held_out)
    if beta is None:
        return plan._replace(floor=table_of(likelihood, training))
    if vae.autoregressive:  # collapse is stable or not given the elements before, which no covariance says
        plan = plan._replace(unforeseen="the decoder sees the elements before each: beside them no formula prices z")
        scaled = likelihood is not None and not isinstance(likelihood, BernoulliLikelihood)
        return plan if scaled else plan._replace(beta_effective=beta)
    label = None if training.context is None else labels(training.context)
    if isinstance(likelihood, BernoulliLikelihood) and features is None:
        context = training.context
        given = None if context is None or label is None else expected(training.x, context, label)
        found = forecast_binary(training.x, beta=beta, units=units, odds=given)
        # it has no scale that could be another than its own
        return plan._replace(forecast=found, certain=True, beta_effective=beta)
    if (price := price_of(likelihood, beta)) is not None:
        at_one = None
        if features is None:
            rest = unexplained(training)
            found = forecast(rest, price=price, units=units)
            at_one = forecast(rest, price=lambda residual: residual, units=units).directions
        else:
            parts = [likelihood_cells(features, batch) for batch in (training, held_out)]
            found = forecast_cells(*parts, price=price, units=units)
        # beta is in nats, and the scale may not be the one that fits: what a nat costs beside the residual's own
        effective = found.e / max(found.residual, 1e-300)
        decides = features is None and (label is None or are_shared(label))
        return plan._replace(forecast=found, decides=decides, certain=decides, beta_effective=effective, at_one=at_one)
    if not isinstance(likelihood, SpectralLikelihood) or (table := table_of(likelihood, training)) is None:
        return plan
    found = None
    if likelihood.scales:
        cells = [likelihood.log_magnitudes(batch.x, batch.mask) for batch in (training, held_out)]
        found = forecast_distance(*cells, beta=beta, units=units)
    # as if each sample were Laplace with scale D̄/samples
    samples = training.x[0].numel() if training.mask is None else float(training.mask.sum(1).double().mean())
    effective = beta * samples / table.wrong if table.wrong > 0 else None
    return plan._replace(forecast=found, floor=table, beta_effective=effective)


def table_of(likelihood: object, training: Batch) -> FloorTable | None:
    """The floor table on as many clips as are affordable; None where the likelihood is no spectral distance."""
    if not isinstance(likelihood, SpectralLikelihood):
        return None
    return floor_table(likelihood, training.part(slice(0, max(16, 2**21 // training.x[0].numel()))))


def likelihood_cells(features: LogMel, batch: Batch) -> Cells:
    """The features a density is applied to, and which of their frames hold data."""
    values = features(batch.x if batch.mask is None else batch.x * batch.mask)
    frames = (
        values.new_ones(1, dtype=torch.bool) if batch.mask is None else frame_mask(batch.mask, features.size)[:, None]
    )
    return values.flatten(1), frames.expand_as(values).flatten(1)
