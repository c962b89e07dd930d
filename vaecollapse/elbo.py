"""The two pieces of the bound, D and R, per example, and the price a regularizer puts on them.

Everything is in nats, per example and unweighted until `Objective.loss`, the last line.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from .distributions.flows import FlowDistribution, base_and_inverse, can_rescale, from_standard, to_standard


class ELBO(NamedTuple):
    """−ELBO = mean(distortion) + mean over examples of the sum of `kl` over units.

    `kl` is per unit where posterior and prior are Gaussian, else (batch,): a flow has no per-unit KL.
    """

    distortion: Float[Tensor, " batch"]
    kl: Float[Tensor, "batch *unit"]
    z: Float[Tensor, "batch *event_unit"]
    posterior: Distribution
    prior: Distribution

    @property
    def rate(self) -> Float[Tensor, " batch"]:
        """R per example: the KL summed over units, in nats."""
        return self.kl.flatten(1).sum(1) if self.kl.ndim > 1 else self.kl

    @property
    def units(self) -> int:
        """How many latent units one example has."""
        return self.z[0].numel()

    def relative_posterior(self) -> Distribution:
        """The law of u = (z − μ_p)/σ_p, on which spread and rank are read; z itself where the prior is no Gaussian."""
        return relative(self.posterior, self.prior)

    def standardised(self) -> Float[Tensor, "batch *unit"] | None:
        """z where the prior is N(0, I): (z − μ_p)/σ_p, or the base of a flow; None where the prior is no such thing."""
        return to_standard(self.prior, self.z)[0] if can_rescale(self.prior) else None

    def from_prior_units(self, u: Float[Tensor, "batch *unit"]) -> Float[Tensor, "batch *unit"]:
        """The inverse of `standardised`, under each example's own condition."""
        return from_standard(self.prior, u)[0]


class Progress(NamedTuple):
    """Where training is, so that a schedule can be a share of it; `total` counts optimizer steps, and this batch is the
    `part`th (from 0) of `parts` whose gradients add up to one step."""

    step: int = 0
    total: int = 1
    epoch: int = 0
    part: int = 0
    parts: int = 1

    @property
    def share(self) -> float:
        return min(1.0, self.step / max(1, self.total))


class Objective(NamedTuple):
    """What the optimizer minimises, and what really acted.

    `weight` is the price of a nat in units of D, (d loss / d KL)/(d loss / d D), for each of the form's own groups
    (zero where a floor has removed the price), `declared` the coefficient before any floor acted (None where the form
    only bounds the price), `penalty` what the KL costs beside D, `floor` and `group_kl` in nats; `group_kl` is
    (groups,) where the form compares batch means and (batch, groups) where it compares examples.
    """

    loss: Float[Tensor, ""]
    weight: Float[Tensor, "*groups"]
    declared: Float[Tensor, ""] | None
    penalty: Float[Tensor, ""]
    floor: Float[Tensor, "*groups"] | None = None
    group_kl: Float[Tensor, "*shape"] | None = None
    scalars: dict[str, Tensor] = {}


def gaussian(distribution: Distribution) -> tuple[Tensor, Tensor] | None:
    """(mean, scale) of a factorised Gaussian, or None for anything else."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return (distribution.loc, distribution.scale) if isinstance(distribution, Normal) else None


def relative(posterior: Distribution, prior: Distribution) -> Distribution:
    """The law of u = (z − μ_p)/σ_p where both are Gaussian, else the posterior itself."""
    q, p = gaussian(posterior), gaussian(prior)
    if q is None or p is None:
        return posterior
    return Independent(Normal((q[0] - p[0]) / p[1], q[1] / p[1], validate_args=False), q[0].ndim - 1)


def closed_form_kl(posterior: Distribution, prior: Distribution) -> Float[Tensor, "batch *unit"] | None:
    """KL(q‖p) per unit in nats, ½[(μ_q−μ_p)²/σ_p² + σ_q²/σ_p² − 1 − ln(σ_q²/σ_p²)]; None unless both are Gaussian.

    Written with expm1 the value is never negative in float32; the naive form is in a quarter of the near-collapsed
    cases.

    >>> q = Independent(Normal(torch.zeros(1, 2), torch.ones(1, 2)), 1)
    >>> closed_form_kl(q, q).tolist()
    [[0.0, 0.0]]
    """
    q, p = gaussian(posterior), gaussian(prior)
    if q is None or p is None:
        return None
    log_ratio = 2 * (q[1].log() - p[1].log())
    return 0.5 * (((q[0] - p[0]) / p[1]).square() + torch.expm1(log_ratio) - log_ratio)


def noise(
    index: Int[Tensor, " batch"], unit: tuple[int, ...], *, draws: int = 1, seed: int = 0, epoch: int = 0
) -> Float[Tensor, "draws batch *unit"]:
    """Standard normal noise keyed by (seed, epoch, index): the same on any rank, in any batch, in any order."""
    columns = [
        np.random.Generator(
            np.random.Philox(key=[seed & 0xFFFFFFFF, int(i)], counter=[0, 0, 0, epoch])
        ).standard_normal((draws, *unit))
        for i in index.tolist()
    ]
    return torch.from_numpy(np.stack(columns, axis=1))


def draw(distribution: Distribution, eps: Float[Tensor, "*shape"] | None = None) -> Float[Tensor, "*shape"]:
    """A reparametrised draw of z; with `eps` the noise is given (a distribution that is no Gaussian and no flow on
    one takes its own)."""
    if eps is None:
        return distribution.rsample()
    flow = base_and_inverse(distribution)
    base, inverse = flow if flow else (distribution, None)
    parameters = gaussian(base)
    if parameters is None:
        return distribution.rsample(eps.shape[: eps.ndim - len(distribution.batch_shape + distribution.event_shape)])
    mean, scale = parameters
    u = mean + scale * eps.to(mean)
    return inverse(u) if inverse else u


def pieces(posterior: Distribution, prior: Distribution, eps: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """z ~ q and the KL: per unit in closed form where there is one, else the plain log-ratio at z, shape (batch,).

    The plain log-ratio is unbiased and its spread is 0 at collapse; single draws may be negative.
    """
    z = draw(posterior, eps)
    kl = closed_form_kl(posterior, prior)
    if kl is None:
        ratio = posterior.log_prob(z) - prior.log_prob(z)
        kl = ratio.flatten(1).sum(1) if ratio.ndim > 1 else ratio
    return z, kl


class Moments(NamedTuple):
    """E[z|x] and Var(z_i|x) of each example in float64, and the number S of draws they rest on (None: exact).

    Memory grows with batch × k; a covariance is only ever summed over examples.
    """

    mean: Float[Tensor, "batch k"]
    variance: Float[Tensor, "batch k"]
    draws: int | None
    centred: Float[Tensor, "S batch k"] | None = None

    def within(self, channels: int | None = None) -> Float[Tensor, "c c"]:
        """Σ over examples of Cov(z|x), (k, k); with `channels` summed over the positions of a (C, …) latent, (C, C)."""
        c = channels or self.variance.shape[1]
        if self.centred is None or self.draws is None:
            return torch.diag(self.variance.reshape(len(self.variance), c, -1).sum((0, 2)))
        rows = self.centred.reshape(-1, c, self.variance.shape[1] // c).transpose(1, 2).reshape(-1, c)
        return rows.T @ rows / (self.draws - 1)


def unit_moments(posterior: Distribution, index: Int[Tensor, " batch"], *, seed: int = 0) -> Moments:
    """Means and variances per unit: exact for a Gaussian, else of S = 16 keyed draws up to 32 units, 64 beyond.

    Whoever uses draws removes the bias of order 1/S.
    """
    parameters = gaussian(posterior)
    if parameters is not None:
        mean, scale = (t.flatten(1).double() for t in parameters)
        return Moments(mean, scale.square(), None)
    unit = tuple(posterior.event_shape)
    draws = 16 if math.prod(unit) <= 32 else 64
    z = draw(posterior, noise(index, unit, draws=draws, seed=seed)).flatten(2).double()
    mean = z.mean(0)
    centred = z - mean
    return Moments(mean, centred.square().sum(0) / (draws - 1), draws, centred)


def moments(
    posterior: Distribution, index: Int[Tensor, " batch"], *, seed: int = 0
) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch k k"], int | None]:
    """E[z|x] and Cov(z|x) of each example, dense: for latents of up to some hundred units, else `unit_moments`."""
    found = unit_moments(posterior, index, seed=seed)
    if found.centred is None or found.draws is None:
        return found.mean, torch.diag_embed(found.variance), None
    centred = found.centred.transpose(0, 1)
    return found.mean, centred.transpose(1, 2) @ centred / (found.draws - 1), found.draws


def pairwise_log_prob(
    posterior: Distribution, z: Float[Tensor, "rows *unit"], *, block: int = 1024
) -> Float[Tensor, "rows batch"]:
    """ln q(z_m | x_n) for every row m and example n, see `pairwise_blocks`."""
    return torch.cat(list(pairwise_blocks(posterior, z, block=block)))


def pairwise_blocks(
    posterior: Distribution, z: Float[Tensor, "rows *unit"], *, block: int = 512
) -> Iterator[Float[Tensor, "part batch"]]:
    """ln q(z_m | x_n) for `block` rows m at a time and every example n: memory linear in the number of examples.

    Gaussian: two matrix products in float64, −½[z², z]·[1/σ², −2μ/σ²]ᵀ + c_n; float32 operands are wrong by 0.11 nats
    at σ = 0.01, the cancellation being inside the product. Anything else: `log_prob` by broadcast.
    """
    parameters = gaussian(posterior)
    if parameters is None:
        for part in z.split(max(1, block // 8)):
            yield posterior.log_prob(part.unsqueeze(1)).double()
        return
    mean, scale = (t.flatten(1).double() for t in parameters)
    precision = scale.pow(-2)
    right = torch.cat([-0.5 * precision, mean * precision], 1).T.contiguous()
    constant = -0.5 * (mean.square() * precision + 2 * scale.log() + math.log(2 * math.pi)).sum(1)
    for part in z.flatten(1).double().split(block):
        yield torch.addmm(constant, torch.cat([part.square(), part], 1), right)


def importance_weighted_nll(
    posterior: Distribution,
    prior: Distribution,
    log_likelihood: Callable[[Float[Tensor, "draws batch *unit"]], Float[Tensor, "draws batch"]],
    index: Int[Tensor, " batch"],
    *,
    samples: int = 64,
    chunk: int = 8,
    seed: int = 0,
    epoch: int = 0,
) -> Float[Tensor, " batch"]:
    """−ln (1/K) Σ_k p(x | z_k) p(z_k)/q(z_k | x) per example in nats, K = `samples` draws z_k ~ q (Burda 2016).

    Its mean over the noise is at least −ln p(x), falls with K, and is that very number for any K where q is p(z | x).
    `log_likelihood` gives ln p(x | z) of every draw; `chunk` draws at a time are decoded, so that memory does not grow
    with K. The noise is keyed by (seed, epoch, index), its first draw being that of `VAE.elbo`; sums are in float64.

    >>> standard = Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 1)
    >>> importance_weighted_nll(standard, standard, lambda z: torch.zeros(z.shape[:2]), torch.arange(3)).abs().tolist()
    [0.0, 0.0, 0.0]
    """
    eps = noise(index, tuple(posterior.event_shape), draws=samples, seed=seed, epoch=epoch)
    total = torch.full((len(index),), -math.inf, dtype=torch.float64, device=index.device)
    for part in eps.split(chunk):
        z, log_q = _drawn(posterior, part)
        log_p = prior.log_prob(z)
        ratio = _per_draw(log_p).double() - _per_draw(log_q).double()
        weights = log_likelihood(z).double() + ratio
        total = torch.logaddexp(total.to(weights.device), weights.logsumexp(0))
    return math.log(samples) - total


def _drawn(posterior: Distribution, eps: Tensor) -> tuple[Tensor, Tensor]:
    """z ~ q with its log-density; of a flow from its base, which needs no inverse."""
    if isinstance(posterior, FlowDistribution):
        u = draw(posterior.base, eps)
        z, log_det = posterior.push(u)
        return z, posterior.base.log_prob(u) - log_det
    z = draw(posterior, eps)
    return z, posterior.log_prob(z)


def _per_draw(log_prob: Tensor) -> Float[Tensor, "draws batch"]:
    return log_prob.flatten(2).sum(2) if log_prob.ndim > 2 else log_prob


def unit_information(
    mean: Float[Tensor, "count k"], variance: Float[Tensor, "count k"], draws: int | None = None
) -> Float[Tensor, " k"]:
    """½ ln(1 + Var_x(E[z_i|x]) / E_x[Var(z_i|x)]) in nats: I(x; z_i) of each unit, were both Gaussian. Means of so
    many draws scatter by Var(z_i|x) over their number, which is taken off."""
    within = variance.mean(0)
    between = mean.var(0) - within / (draws or torch.inf)
    return 0.5 * torch.log1p((between / within.clamp(min=1e-300)).clamp(min=0))
