"""One-dimensional mixtures of Gaussians as maps to N(0, 1): what an autoregressive prior is made of."""

import math

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

REACH = 2.0  # the components' means lie from −REACH to REACH before anything is learned
LOG_SCALE, LOG_RANGE = math.log(0.5), 4.0  # ln σ before that, and how far it can move from there
DEEPEST = -80.0  # ln of the smallest tail that float32 can turn into a quantile
HALVINGS, TAILS = 60, 14.0


class MixtureTransform(Transform):
    """u = Φ⁻¹(F(z)), F(z) = Σ_c w_c Φ((z − μ_c)/σ_c): z is of the mixture's law iff u is of N(0, 1).

    ln |du/dz| = ln f(z) − ln φ(u), so that ln φ(u) + ln |du/dz| is the mixture's own log-density. The last axis of the
    parameters is that of the components; w = softmax(`logits`), and ln σ is softly bounded. The inverse is found by
    halving, and differentiable.

    >>> one = MixtureTransform(torch.zeros(1), torch.full((1,), 3.0), torch.zeros(1))
    >>> (one(torch.tensor(2.0)) - 2 * (2.0 - 1.0)).abs().item() < 1e-5  # mean 3 − 2, σ ½
    True
    """

    domain, codomain, bijective = constraints.real, constraints.real, True

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor) -> None:
        super().__init__()
        start = torch.linspace(-REACH, REACH, means.shape[-1]).to(means)
        self.log_weights, self.means = logits.log_softmax(-1), means + start
        self.log_scales = LOG_SCALE + LOG_RANGE * torch.tanh(log_scales / LOG_RANGE)

    def _standard(self, z: Tensor) -> Tensor:
        return (z.unsqueeze(-1) - self.means) * (-self.log_scales).exp()

    def _call(self, x: Tensor) -> Tensor:
        t = self._standard(x)
        below, above = (torch.logsumexp(self.log_weights + torch.special.log_ndtr(side), -1) for side in (t, -t))
        tail = torch.special.ndtri(torch.minimum(below, above).clamp(min=DEEPEST).exp())  # the smaller one is exact
        return torch.where(below < above, tail, -tail)

    def log_density(self, z: Tensor) -> Tensor:
        """ln f(z)."""
        each = self.log_weights - self.log_scales - 0.5 * self._standard(z).square()
        return torch.logsumexp(each, -1) - 0.5 * math.log(2 * math.pi)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_density(x) + 0.5 * y.square() + 0.5 * math.log(2 * math.pi)

    def _inverse(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            reach = TAILS * self.log_scales.exp()
            low, high = (self.means - reach).amin(-1), (self.means + reach).amax(-1)
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                under = self._call(middle) < y
                low, high = torch.where(under, middle, low), torch.where(under, high, middle)
            middle = (low + high) / 2
            slope = self.log_abs_det_jacobian(middle, self._call(middle)).exp().clamp(min=1e-6)
        if not torch.is_grad_enabled():
            return middle
        step = (y - self._call(middle)) / slope  # Newton's, of which only the gradient is taken
        return middle + (step - step.detach())
