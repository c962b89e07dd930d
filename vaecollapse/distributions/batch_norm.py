"""A posterior whose means have a fixed variance over examples, so that they cannot all be the prior's."""

import logging

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from ..refusal import Refused
from .posteriors import DeclaredNormal, scale_of, smallest_scale

log = logging.getLogger(__name__)
NEGLIGIBLE = 1e-3  # eps up to this share of the variance takes nothing off what is promised
MEMORY = 20  # batches behind the running statistics


def over_ranks(total: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sum over all processes, with its gradient."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.nn.functional import all_reduce  # not in every build of torch

        return all_reduce(total)
    return total


def batch_moments(
    x: Float[Tensor, "batch units"],
) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"], Float[Tensor, ""]]:
    """Mean and variance (over n) of each unit over the examples of all processes, and their number n.

    >>> [part.tolist() for part in batch_moments(torch.tensor([[0.0], [2.0]]))]
    [[1.0], [1.0], 2.0]
    """
    count = over_ranks(x.new_tensor(float(len(x))))
    mean = over_ranks(x.sum(0)) / count
    return mean, over_ranks((x - mean).square().sum(0)) / count, count


class BatchNormPosterior(nn.Module):
    """q(z|x) = N(μ, σ(h)²), μ = γ (a − mean a)/√(var a + eps) + b over the batch (BN-VAE, Zhu 2020).

    γ is fixed and b learned, so that E KL(q‖N(0, I)) ≥ k(γ² + b²)/2 over k units, by the means alone. That needs
    eps ≤ 1e-3 × var a: refused where a new head's first batch breaks it, warned of where a trained one's statistics do.
    Mean and variance are of the batch on all processes (with gradient, as SyncBatchNorm has them; of each part where
    gradients are accumulated) while training, in evaluation running ones over about the last `MEMORY` batches.

    What is promised is spread of the means and no use of them: active units and information rank are full by
    construction. Needs N(0, I), for a prior that learns its mean takes b² back.
    """

    running_mean: Tensor
    running_variance: Tensor
    batches: Tensor

    def __init__(
        self,
        *,
        features: int,
        units: int,
        gamma: float = 0.6,
        eps: float = 1e-7,
        parametrisation: str = "log_variance",
        scale_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        if not 0 < gamma <= 1:
            raise Refused(
                f"posterior.gamma is the spread of the means, above 0 and at most the prior's own 1, but got {gamma:g}"
                ": try posterior.gamma=0.6, or posterior=normal for a free one"
            )
        if not 0 < eps < 1:
            raise Refused(f"posterior.eps keeps a variance from 0, between 0 and 1, but got {eps:g}: try 1e-7")
        self.scale_floor = smallest_scale(parametrisation, scale_floor)
        self.gamma, self.eps, self.parametrisation = gamma, eps, parametrisation
        self.mean = nn.Linear(features, units, bias=False)  # the shift is its bias
        self.raw_scale = nn.Linear(features, units)
        self.shift = nn.Parameter(torch.zeros(units))
        self.register_buffer("running_mean", torch.zeros(units))
        self.register_buffer("running_variance", torch.ones(units))
        self.register_buffer("batches", torch.tensor(0.0))
        self.checked = self.warned = False

    def forward(self, h: Float[Tensor, "batch features"]) -> Distribution:
        with torch.autocast(h.device.type, enabled=False):
            h = h.to(self.mean.weight.dtype)
            a = self.mean(h)
            mean, variance = self.statistics(a)
            located = self.gamma * (a - mean) * (variance + self.eps).rsqrt() + self.shift
            scale = scale_of(self.raw_scale(h), self.parametrisation, self.scale_floor)
            least = self.gamma**2 / 2
            promise = f"posterior=batch_norm promises a KL of γ²/2 = {least:.3g} nats per unit to N(0, I)"
            q = DeclaredNormal(located, scale, self.scale_floor, least=least, promise=promise, batch_normalised=True)
            return Independent(q, 1)

    def statistics(self, a: Float[Tensor, "batch units"]) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
        """Those of the batch while training, the running ones in evaluation."""
        if not (self.training and torch.is_grad_enabled()):
            self.warn()
            return self.running_mean, self.running_variance
        mean, variance, count = batch_moments(a)
        if not self.checked:
            self.check(variance.detach(), int(count))
        with torch.no_grad():
            self.batches.add_(1)
            share = 1 / self.batches.clamp(max=MEMORY)
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_variance.lerp_((variance * count / (count - 1).clamp(min=1)).to(self.running_variance), share)
        return mean, variance

    def check(self, variance: Float[Tensor, " units"], count: int) -> None:
        """Refused where the first batch cannot be normalised."""
        self.checked = True
        if count < 2:
            raise Refused(
                "posterior=batch_norm takes mean and variance over a batch, but this one holds a single example: type "
                "batch_size=64, or posterior=normal"
            )
        least = float(variance.min())
        if float(self.batches) == 0 and self.eps > NEGLIGIBLE * least:
            remedy = f"posterior.eps={NEGLIGIBLE * least / 2:.0e}" if least > 0 else "posterior=normal"
            raise Refused(
                f"posterior.eps={self.eps:g} is not negligible beside the variance {least:.3g} of a mean before "
                f"normalisation, so that less KL would be sure than promised: type {remedy}"
            )

    def warn(self) -> None:
        """Says once where the variance has shrunk to the size of eps; not to a tracer, who cannot ask for a number."""
        if torch.compiler.is_compiling():
            return
        least = float(self.running_variance.min())
        if float(self.batches) > 0 and self.eps > NEGLIGIBLE * least and not self.warned:
            self.warned = True
            log.warning(
                "warning: a mean before batch normalisation has a variance of %.3g, where posterior.eps=%g is not "
                "negligible: the KL is no longer sure to be what was promised; lower posterior.eps",
                least,
                self.eps,
            )
