"""A model of ours with its regularizer."""

import math
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..distributions.likelihoods import BernoulliLikelihood, ElementwiseLikelihood, LaplaceLikelihood, NormalLikelihood
from ..distributions.rain import BernoulliGammaLikelihood, RainDistance, WeightedL1
from ..elbo import Progress
from ..regularizers.base import Regularizer
from ..vae import VAE
from .conclusion import APART, Audit
from .distortions import NAMES, STRAIGHT, Distortion, prices, read_distortion
from .losses import penalty_words
from .slopes import MOVES, mixtures, slope

LIFTED = 100.0  # nats per unit, above any floor or target, where a regularizer's slope in R is its whole price


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
