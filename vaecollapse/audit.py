"""What β really is: a loss read as distortion + weight · R on one batch, whatever it sums, averages or leaves out.

Nothing of a loss is believed but its values. They are differenced where the reconstruction moves and where the code
moves, and each difference is held against what every usual reduction would give. Two numbers say what β is: the price
of a direction, e, to compare with eigenvalues of the data's covariance, and β_eff, to compare with 1, the ELBO's own
price (docs/conventions.md).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .batch import Batch
from .distributions.likelihoods import BernoulliLikelihood, ElementwiseLikelihood, LaplaceLikelihood, NormalLikelihood
from .distributions.rain import BernoulliGammaLikelihood, RainDistance, WeightedL1
from .elbo import Progress
from .refusal import Refused
from .regularizers.base import Regularizer
from .vae import VAE

MOVES = 6  # differences per slope: enough to tell a straight line from a bent one
STRAIGHT = 1e-3  # relative misfit up to which a loss follows a reference; float32 losses stay below 1e-4
NAMED = 1e-2  # relative distance up to which a factor is that of a reduction
APART = 0.05  # of the declared weight: beyond it another weight acts
DEAR, CHEAP = 10.0, 0.02  # β_eff from which, and up to which, it is said; 0.02 is the verdicts' variance collapse
LIFTED = 100.0  # nats per unit, above any floor or target, where a regularizer's slope in R is its whole price

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Value = Callable[..., float]
Reference = Callable[[Tensor, Tensor], Tensor]


class Audit(NamedTuple):
    """A loss as D + `weight` · R, R the KL in nats summed over units, mean over examples, D as the loss has it.

    `e`: a direction of the data lives above this variance (cells' units squared; None for a cross-entropy, which has
    no residual, and for a distance). `beta_effective`: `weight` over the price at which the loss would be an ELBO whose
    scale fits the residuals at hand. `declared` is the number that the script or the configuration multiplies the KL
    with, `free` the nats that a floor or target leaves without a price, `faults` what these figures do not cover.
    """

    distortion: str
    penalty: str
    weight: float
    declared: float | None
    e: float | None
    beta_effective: float | None
    free: float = 0.0
    faults: tuple[str, ...] = ()

    @property
    def convention(self) -> str:
        """The loss in words."""
        declared = "w" if self.declared is None else f"{self.declared:.4g}"
        return f"{self.distortion} + {declared} · {self.penalty}"

    def warnings(self) -> list[str]:
        """Sentences on a declared weight that is not the one that acts, on a β_eff far from 1, and on faults."""
        said = list(self.faults)
        if self.declared is not None and abs(self.weight - self.declared) > APART * abs(self.declared):
            said.append(
                f"the declared weight {self.declared:.4g} acts as {self.weight:.4g} per nat of R ({self.penalty})"
            )
        if self.beta_effective is None or DEAR > self.beta_effective > CHEAP or self.weight == 0:
            return said
        factor = 1 / self.beta_effective
        own = (
            f"beta={self.declared * factor:.3g}"
            if self.declared
            else f"a weight of {self.weight * factor:.3g} per nat of R"
        )
        much = "too dear for most of what z could say" if factor < 1 else "next to nothing: an autoencoder"
        said.append(f"a nat costs {self.beta_effective:.3g} times the ELBO's own price, {much}; that price is {own}")
        return said

    def lines(self) -> list[str]:
        """Sentences for the terminal."""
        said = f"audit: {self.convention}: a nat of R costs {self.weight:.4g}"
        said += f", e = {self.e:.3g}" if self.e is not None else ""
        said += f", beta_eff = {self.beta_effective:.3g}" if self.beta_effective is not None else ""
        said += f"; the first {self.free:.3g} nats are free" if self.free > 0 else ""
        return [said, *(f"warning: {sentence}" for sentence in self.warnings())]

    def against(self, price: float, se: float) -> str | None:
        """None where the price of a nat that a trained model pays is this weight (within 5 % or two standard errors),
        else a sentence. Above a floor and at convergence the two are one number, whatever the reductions.

        >>> Audit("D", "KL", 2.0, 2.0, 1.0, 1.0).against(1.97, 0.01) is None
        True
        """
        if abs(price - self.weight) <= max(APART * abs(self.weight), 2 * se):
            return None
        return (
            f"a trained nat costs {price:.4g} ± {2 * se:.2g} where the loss charges {self.weight:.4g}: "
            "training has not converged, a floor acts, or another weight acted than this"
        )


# ---- slopes


class Slope(NamedTuple):
    """`value` of loss against reference, and the relative `misfit` of the straight line."""

    value: float
    misfit: float


def slope(losses: Sequence[float], references: Sequence[float]) -> Slope:
    """The least-squares slope of differences from the first point.

    >>> slope([1.0, 3.0, 5.0], [0.0, 1.0, 2.0])
    Slope(value=2.0, misfit=0.0)
    """
    rise = [value - losses[0] for value in losses[1:]]
    run = [value - references[0] for value in references[1:]]
    square = sum(r * r for r in run)
    if square == 0 or not all(map(math.isfinite, run)):
        return Slope(0.0, math.inf)
    found = sum(a * b for a, b in zip(rise, run, strict=True)) / square
    left = math.sqrt(sum((a - found * b) ** 2 for a, b in zip(rise, run, strict=True)))
    return Slope(found, left / max(math.sqrt(sum(a * a for a in rise)), 1e-300))


def mixtures(*parts: Tensor) -> Iterator[Tensor]:
    """The first, then random convex mixtures of all: no part leaves a range that all of them keep to."""
    generator = torch.Generator().manual_seed(0)
    yield parts[0]
    for _ in range(MOVES):
        share = torch.rand(len(parts), generator=generator, dtype=torch.float64) + 0.05
        share = share / share.sum()
        yield sum((float(s) * part for s, part in zip(share, parts, strict=True)), torch.zeros_like(parts[0]))


# ---- the distortion


def _l2(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square()


def _l1(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs()


def _binary(x: Tensor, p: Tensor) -> Tensor:
    return -(x * p.log().clamp(min=-100) + (1 - x) * (-p).log1p().clamp(min=-100))  # torch clamps alike


def _binary_logits(x: Tensor, logits: Tensor) -> Tensor:
    return F.softplus(logits) - x * logits


def _tokens(x: Tensor, logits: Tensor) -> Tensor:
    last = tuple(logits.shape[:-1]) == tuple(x.shape)
    return F.cross_entropy(logits.movedim(-1, 1) if last else logits, x, reduction="none")


NAMES = {
    "l2": "squared errors",
    "l1": "absolute errors",
    "binary": "binary cross-entropies",
    "binary_logits": "binary cross-entropies",
    "tokens": "token NLLs",
}
REFERENCES: Mapping[str, Reference] = {
    "l2": _l2,
    "l1": _l1,
    "binary": _binary,
    "binary_logits": _binary_logits,
    "tokens": _tokens,
}
DENSITIES = ("binary", "binary_logits", "tokens")  # the ELBO's own price is that of their sum: they have no scale


def possible(x: Tensor, y: Tensor) -> list[str]:
    """The references that these shapes and ranges allow."""
    if not x.is_floating_point():
        tokens = y.ndim == x.ndim + 1 and tuple(x.shape) in (tuple(y.shape[:-1]), (len(y), *y.shape[2:]))
        return ["tokens"] if tokens else []
    if x.shape != y.shape:
        return []
    binary = ["binary_logits"] if bool(((x >= 0) & (x <= 1)).all()) else []
    return ["l2", "l1", *binary, *(["binary"] if binary and bool(((y >= 0) & (y <= 1)).all()) else [])]


class Distortion(NamedTuple):
    """What part of the loss the reconstruction moves: `factor` × the sum over the cells of one example (mean over
    examples), `kind` of `REFERENCES` or `other`."""

    kind: str
    factor: float
    words: str


def read_distortion(
    pairs: Sequence[tuple[Tensor, Tensor]], losses: Sequence[float], cells: float, mask: Tensor | None = None
) -> Distortion:
    """The kind and factor of a distortion by its values at (x, reconstruction) pairs."""
    found: dict[str, Slope] = {}
    for kind in possible(*pairs[0]):
        terms = (REFERENCES[kind](x, y) for x, y in pairs)
        totals = [float((part if mask is None else part * mask).flatten(1).sum(1).mean()) for part in terms]
        found[kind] = slope(losses, totals)
    kind = min(found, key=lambda name: found[name].misfit, default="other")
    if kind == "other" or found[kind].misfit > STRAIGHT or found[kind].value <= 0:
        return named("other", math.nan, cells)
    return named(kind, found[kind].value, cells)


def named(kind: str, factor: float, cells: float) -> Distortion:
    """With the reduction's own words where the factor is that of one."""
    if kind not in NAMES:
        return Distortion(kind, factor, "a distance that is no plain L1, L2 or cross-entropy")
    name = NAMES[kind]
    words = {1.0: f"the sum of {name}", 1 / cells: f"the mean of {name} over {cells:.6g} cells"}
    if kind == "l2":
        words |= {0.5: f"half the sum of {name}", 0.5 / cells: f"half the mean of {name} over {cells:.6g} cells"}
    scale = {"l2": 1 / math.sqrt(2 * factor), "l1": 1 / factor}.get(kind)
    unknown = f"{factor:.4g} × the sum of {name}" + (f" (scale {scale:.3g})" if scale else "")
    return Distortion(kind, factor, nearest(factor, words) or unknown)


def nearest(factor: float, words: Mapping[float, str]) -> str | None:
    """The words of the first factor that this one is, None where it is none."""
    return next((said for value, said in words.items() if abs(factor / value - 1) < NAMED), None)


def prices(
    distortion: Distortion, weight: float, *, cells: float, stretch: float | None, square: float | None
) -> tuple[float | None, float | None]:
    """(e, β_eff) of a weight per nat.

    `stretch` is dD/d ln t of residuals stretched by t, so that β_eff = w·n/stretch: c·Σ|r|ᵖ has the stretch p·D, and is
    a density of the fitting scale where that is n. So a mean L1 gives w·n/L_rec and a mean squared error w·n/(2 MSE),
    weighted or not. `square` is the residuals' mean square ŝ²; e = β_eff·ŝ², for L2 w/2c alone.
    """
    if distortion.kind in DENSITIES:
        return None, weight / distortion.factor
    if distortion.kind == "l1" and square is not None:  # its curvature about Gaussian residuals
        e = weight / distortion.factor * math.sqrt(square * math.pi / 2)
    elif distortion.kind == "l2":
        e = weight / (2 * distortion.factor)
    else:
        e = None
    effective = weight * cells / stretch if stretch is not None and stretch > 0 else None
    if e is None and effective is not None and square is not None:
        e = effective * square
    return e, effective


# ---- somebody's own loss


def audit_loss(
    loss: Loss,
    x: Tensor,
    decoded: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    *,
    declared: float | None = None,
    cells: float | None = None,
) -> Audit:
    """e and β_eff of loss(x, decoded, mean, log_variance) → scalar, by finite differences on one batch.

    q(z|x) = N(mean, exp(log_variance)), first axis examples, prior N(0, I). `decoded` is whatever the loss takes:
    values, probabilities or logits; take a trained model's batch, since β_eff is relative to its residuals. `declared`
    is the script's number before the KL; `cells` the valid ones of an example where some are padding.

    Raises Refused where the loss is no deterministic number of one batch.

    >>> x, y, code = torch.zeros(4, 100), torch.ones(4, 100), torch.zeros(4, 8)
    >>> def loss(x, y, mean, log_variance):
    ...     kld = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp(), 1).mean()
    ...     return F.mse_loss(y, x) + 0.02 * kld
    >>> audit_loss(loss, x, y, code, code, declared=0.02).lines()[0]
    'audit: the mean of squared errors over 100 cells + 0.02 · KL summed over 8 units: a nat of R costs 0.02, e = 1, beta_eff = 1'
    """  # noqa: E501
    x, decoded, mean, log_variance = (_prepared(part) for part in (x, decoded, mean, log_variance))
    _check(x, decoded, mean, log_variance, declared, cells)
    with torch.no_grad():
        value = partial(number, loss)
        if value(x, decoded, mean, log_variance) != value(x, decoded, mean, log_variance):
            raise Refused(
                "this loss gives two numbers for one input: pass what was decoded, and draw no noise in the loss"
            )
        known = float(cells or x[0].numel())
        once = _measured(value, x, decoded, mean, log_variance, cells=known)
        doubled = [torch.cat([part, part]) for part in (x, decoded, mean, log_variance)]
        twice = _measured(value, *doubled, cells=known)
    return _concluded(once, twice, mean, known, declared)


def number(loss: Loss, *parts: Tensor) -> float:
    """The loss as a number; what it objects to becomes one sentence."""
    try:
        value: Any = loss(*parts)
    except Exception as error:
        lines = str(error).splitlines() or ["no message"]
        raise Refused(
            f"the loss cannot be called as loss(x, decoded, mean, log_variance): {type(error).__name__}: {lines[0]}: "
            "wrap it in a function of these four"
        ) from error
    if not isinstance(value, Tensor | float | int) or (isinstance(value, Tensor) and value.numel() != 1):
        raise Refused(
            f"expected the loss to be one number, but got a {type(value).__name__}: wrap it in a function that returns "
            "the total alone"
        )
    if not math.isfinite(float(value)):
        raise Refused(f"the loss of this batch is {float(value)}: pass a batch of a model that has not diverged")
    return float(value)


class _Measured(NamedTuple):
    distortion: Distortion
    rate: Slope
    free: float
    stretch: float | None
    square: float | None


def _prepared(part: Tensor) -> Tensor:
    part = part.detach()
    return part.double() if part.is_floating_point() else part


def _check(
    x: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor, declared: float | None, cells: float | None
) -> None:
    if mean.shape != log_variance.shape or mean.ndim < 2:
        raise Refused(
            f"expected mean and log_variance of one shape (batch, units), but got {tuple(mean.shape)} and "
            f"{tuple(log_variance.shape)}: pass the encoder's two outputs"
        )
    if not len(x) == len(decoded) == len(mean) or len(x) < 2:
        raise Refused(
            f"expected at least two examples in each of x, decoded and mean, but got {len(x)}, {len(decoded)} and "
            f"{len(mean)}: pass one whole batch"
        )
    if declared is not None and not (math.isfinite(declared) and declared >= 0):
        raise Refused(f"a declared KL weight is a finite number of at least 0, but declared={declared}: leave it out")
    if cells is not None and not 0 < cells < math.inf:
        raise Refused(f"cells is how many values of an example are data, but cells={cells}: leave it out for all")


def _measured(
    value: Value, x: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor, *, cells: float
) -> _Measured:
    alike = x.is_floating_point() and x.shape == decoded.shape
    towards = [x] if alike else [0.5 * decoded]
    moved = list(mixtures(decoded, decoded.roll(1, 0), *towards))
    losses = [value(x, y, mean, log_variance) for y in moved]
    found = read_distortion([(x, y) for y in moved], losses, cells)
    stretch = square = None
    if alike:
        step = 0.01
        wider, nearer = (value(x, x + t * (decoded - x), mean, log_variance) for t in (1 + step, 1 - step))
        stretch = (wider - nearer) / (2 * step)
        square = float((x - decoded).square().flatten(1).sum(1).mean()) / cells
    codes = list(_codes(mean))
    rates = [float(0.5 * (m.square() + torch.expm1(v) - v).flatten(1).sum(1).mean()) for m, v in codes]
    values = [value(x, decoded, m, v) for m, v in codes]
    rate = slope(values, rates)
    nothing = value(x, decoded, torch.zeros_like(mean), torch.zeros_like(mean))
    free = abs(nothing - (values[0] - rate.value * rates[0])) / abs(rate.value) if rate.value else 0.0
    return _Measured(found, rate, free if free > 1e-3 * rates[0] else 0.0, stretch, square)


def _codes(mean: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Codes that cost at least 2 nats in every unit, more than most floors."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(MOVES):
        size, sign, spread = (torch.rand(mean.shape, generator=generator, dtype=torch.float64) for _ in range(3))
        scale = 2 + 2 * float(torch.rand(1, generator=generator))
        yield ((scale + size) * (sign - 0.5).sign()).to(mean.device), (spread - 0.5).to(mean.device)


def _concluded(once: _Measured, twice: _Measured, mean: Tensor, cells: float, declared: float | None) -> Audit:
    """From the batch and the same batch twice over, what is summed over examples, and from that the price of one."""
    faults, batch = [], len(mean)
    data, code = (_summed(of(once), of(twice)) for of in (_force, lambda measured: measured.rate.value))
    per_example = batch if data else 1
    distortion = once.distortion
    if data:
        distortion = named(distortion.kind, distortion.factor / per_example, cells)
        distortion = distortion._replace(words=f"{distortion.words}, over the batch too")
    weight = once.rate.value / per_example
    if once.rate.misfit > STRAIGHT and weight != 0:
        faults.append("the loss is no straight line in R: a target, a power or another divergence acts on the KL")
    if code != data and weight != 0:
        which = ("KL", "distortion", "grows") if code else ("distortion", "KL", "falls")
        faults.append(
            f"the {which[0]} is summed over the batch and the {which[1]} is not: the price of a nat {which[2]} with "
            f"the batch size, here {batch}"
        )
    acting = once.rate.value / (batch if code else 1)
    penalty = penalty_words(acting, declared, tuple(mean.shape[1:]), cells) + (", over the batch too" if code else "")
    stretch = None if once.stretch is None else once.stretch / per_example
    e, effective = prices(distortion, weight, cells=cells, stretch=stretch, square=once.square)
    return Audit(distortion.words, penalty, weight, declared, e, effective, once.free, tuple(faults))


def _force(measured: _Measured) -> float:
    """How strongly the loss follows the reconstruction."""
    return (measured.stretch or 0.0) if measured.distortion.kind == "other" else measured.distortion.factor


def _summed(once: float, twice: float) -> bool:
    return once != 0 and abs(twice / once - 2) < 2 * NAMED


def penalty_words(
    acting: float, declared: float | None, unit: tuple[int, ...], cells: float, over_batch: bool = False
) -> str:
    """What stands behind a declared weight, by the ratio of what acts to it.

    >>> penalty_words(0.1 * 2 / 30, 0.1, (30, 4), 999.0)
    'KL without its ½, averaged over 30 frames'
    """
    units = math.prod(unit)
    if acting == 0:
        return "no KL at all"
    if not declared:
        return "KL"
    ways = {1.0: f"summed over {units} units", 1 / units: f"averaged over {units} units"}
    if len(unit) > 1:
        ways |= {1 / unit[0]: f"averaged over {unit[0]} frames"}
        ways |= {1 / size: f"averaged over an axis of {size}" for size in unit[1:]}
    ways |= {1 / cells: f"divided by {cells:.6g} cells"}
    said = {share: f"KL {how}" for share, how in ways.items()}
    for share, how in ways.items():  # after all plain ones: 2/2 is 1
        said.setdefault(2 * share, f"KL without its ½, {how}")
    ratio = acting / declared
    return nearest(ratio, said) or f"{ratio:.4g} × KL"


# ---- our own


def expected(likelihood: object, weight: float, square: float) -> float | None:
    """e by the likelihood's own scale, for residuals of this mean square: w·s², and for Laplace w·b·√(ŝ²π/2)."""
    if isinstance(likelihood, NormalLikelihood):
        return weight * float(likelihood.scale.detach()) ** 2
    if isinstance(likelihood, LaplaceLikelihood):
        return weight * float(likelihood.scale.detach()) * math.sqrt(square * math.pi / 2)
    return None


def audit(
    vae: VAE,
    regularizer: Regularizer,
    batch: Batch,
    *,
    residual: float | None = None,
    beta_effective: float | None = None,
) -> Audit:
    """The same of a model and its regularizer at the schedule's end, measured through both and held against what the
    likelihood's own scale says.

    `residual` is the mean square that the forecast leaves over, against which β_eff is taken (else this batch's own);
    `beta_effective`, of a declared weight, is used as it is where the distortion is a distance.
    """
    training = vae.training, regularizer.training
    vae.eval()
    regularizer.eval()
    with torch.no_grad(), torch.random.fork_rng():
        weight, declared, words, faults = _priced(vae, regularizer, batch)
        distortion, cells, square, stretch = _decoded(vae, batch)
    vae.train(training[0])
    regularizer.train(training[1])
    likelihood = getattr(vae, "likelihood", None)
    if residual is not None and stretch is not None and distortion.kind in ("l1", "l2"):
        # the stretch that residuals of this size have, Gaussian ones under an L1
        each = 2 * residual if distortion.kind == "l2" else math.sqrt(residual * 2 / math.pi)
        square, stretch = residual, cells * distortion.factor * each
    e, effective = prices(distortion, weight, cells=cells, stretch=stretch, square=square)
    by_scale = expected(likelihood, weight, square) if square is not None else None
    if e is not None and by_scale is not None and abs(e - by_scale) > APART * abs(by_scale):
        faults.append(f"by the likelihood's own scale e is {by_scale:.4g}, on a batch it is {e:.4g}")
    what = distortion.words
    if isinstance(likelihood, ElementwiseLikelihood) and not likelihood.fixed:
        # its scale becomes the one that fits what is left over
        effective, e = weight, e if residual is None else weight * residual
        what = f"a density of {NAMES.get(distortion.kind, 'errors')} whose scale is fitted"
    elif isinstance(likelihood, BernoulliGammaLikelihood):
        what, effective, e = "the NLL of a Bernoulli-gamma", weight, None  # its amounts' spread is fitted
    elif isinstance(likelihood, BernoulliLikelihood) or (likelihood is None and not batch.x.is_floating_point()):
        effective = weight  # bits and tokens have no scale
    elif stretch is None:
        effective = beta_effective * weight / declared if beta_effective is not None and declared else None
    return Audit(what, words, weight, declared, e, effective, faults=tuple(faults))


def _priced(vae: VAE, regularizer: Regularizer, batch: Batch) -> tuple[float, float | None, str, list[str]]:
    """d objective/d R over d objective/d D at the end of the schedule, where every unit is above any floor."""
    elbo, end, faults = vae.elbo(batch, seed=0), Progress(1, 1), []
    generator = torch.Generator().manual_seed(0)
    lift = LIFTED * (1 + getattr(regularizer, "floor", 0.0)) * (1 if elbo.kl.ndim > 1 else elbo.units)
    lifted = [lift * (1 + torch.rand(elbo.kl.shape, generator=generator)) for _ in range(MOVES)]
    points = [elbo._replace(kl=_wide(kl.to(elbo.kl.device))) for kl in lifted]
    rate = slope([float(regularizer(p, end).loss) for p in points], [float(p.rate.mean()) for p in points])
    parts = [_wide(elbo.distortion) * t for t in (1.0, 1.5, 2.0)]
    losses = [float(regularizer(elbo._replace(distortion=d), end).loss) for d in parts]
    share = slope(losses, [float(d.mean()) for d in parts]).value
    said = regularizer(elbo, end).declared
    declared = None if said is None else float(said)
    if rate.misfit > STRAIGHT and rate.value != 0:
        faults.append("the objective is no straight line in R: its price depends on where R is")
    if share <= 0:
        faults.append("the objective does not rise with the distortion, so that a nat has no price in it")
    weight = rate.value / share if share > 0 else rate.value
    words = penalty_words(weight, declared, tuple(elbo.z.shape[1:]), float(batch.x[0].numel()))
    return weight, declared, words, faults


def _decoded(vae: VAE, batch: Batch) -> tuple[Distortion, float, float | None, float | None]:
    """What the likelihood's distortion is, its cells per example, mean square of residuals, and stretch."""
    z = vae.elbo(batch, seed=0).z
    decoded: Any = vae.decode(z, batch.context, batch.mask)
    inner, x, mask = getattr(decoded, "density", decoded), batch.x, batch.mask
    unknown = Distortion("other", math.nan, "the model's own distortion"), float(x[0].numel()), None, None
    if not x.is_floating_point() and vae.normalised:
        cells = float(x[0].numel() if mask is None else mask.flatten(1).sum(1).double().mean())
        return Distortion("tokens", 1.0, f"the sum of token NLLs over {cells:.3g} tokens"), cells, None, None
    if isinstance(decoded, RainDistance):
        return _weighted(decoded.likelihood, x, decoded.field, mask)
    if not x.is_floating_point() or not vae.normalised or vae.autoregressive:
        return unknown
    if inner is not decoded:  # a density of fixed features
        x, mask = decoded.features(x if mask is None else x * mask), inner.mask
    valid = torch.ones_like(x) if mask is None else mask.expand_as(x).to(x)
    cells = float(valid.flatten(1).sum(1).mean())

    def cost(moved: Tensor) -> float:
        log_prob = inner.log_prob(moved)
        return -float(_wide(log_prob.flatten(1).sum(1) if log_prob.ndim > 1 else log_prob).mean())

    try:
        x, y = _wide(x), _wide(inner.mean)
        moved = list(mixtures(x, x.roll(1, 0), x.roll(2, 0)))
        found = read_distortion([(m, y) for m in moved], [cost(m) for m in moved], cells, valid)
        wider, nearer = (cost(y + t * (x - y)) for t in (1.01, 0.99))
    except (ValueError, NotImplementedError, AttributeError):
        return unknown  # a distribution without a mean, or one that scores nothing but its own support
    square = float(((x - y).square() * valid).sum() / valid.sum())
    return found, cells, square, (wider - nearer) / 0.02


def _weighted(
    likelihood: WeightedL1, x: Tensor, y: Tensor, mask: Tensor | None
) -> tuple[Distortion, float, float | None, float | None]:
    """The same of a weighted L1, by its reconstruction term alone: L_rec is its own stretch, so β_eff = β·n/L_rec."""
    valid = torch.ones_like(x) if mask is None else mask.expand_as(x).to(x)
    cells = float(valid.flatten(1).sum(1).mean())
    wider, nearer = (float(likelihood.reconstruction(x, x + t * (y - x), mask).mean()) for t in (1.01, 0.99))
    square = float(((x - y).square() * valid).sum() / valid.sum().clamp(min=1))
    words = f"the weighted mean of absolute errors over {cells:.6g} cells"
    terms = {"mass": likelihood.lambda_mass, "gradient": likelihood.lambda_grad}
    words += "".join(f" + {weight:.4g} · L_{name}" for name, weight in terms.items() if weight)
    return Distortion("other", math.nan, words), cells, square, (wider - nearer) / 0.02


def _wide(part: Tensor) -> Tensor:
    """In float64 where the device has it."""
    return part if part.device.type == "mps" else part.double()
