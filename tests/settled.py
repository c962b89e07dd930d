"""Linear VAEs at the exact minimum of a loss: no step size, no sampling noise, no noise of z."""

import math
from collections.abc import Callable

import torch
from planted import EIGENVALUES
from torch import Tensor

from vaecollapse.datasets.gaussian import recoloured
from vaecollapse.models.linear import LinearVAE

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def exact_data(n: int, seed: int = 0) -> Tensor:
    """Gaussian examples whose mean and covariance are the planted ones to rounding."""
    white = torch.randn(n, len(EIGENVALUES), generator=torch.Generator().manual_seed(seed)).double()
    return recoloured(white) * torch.tensor(EIGENVALUES).double().sqrt()


def settle(vae: LinearVAE, loss: Loss, x: Tensor, rounds: int = 300) -> None:
    """The model at the minimum of loss(x, decoded, mean, log_variance), by LBFGS over all examples.

    2k points for each z, μ ± √k σ_i in unit i, average every quadratic of z exactly.
    """
    k = len(vae.log_variance)
    points = math.sqrt(k) * torch.cat([torch.eye(k), -torch.eye(k)]).double()
    optimizer = torch.optim.LBFGS(vae.parameters(), max_iter=rounds, tolerance_grad=1e-10, tolerance_change=1e-14,
                                  history_size=30, line_search_fn="strong_wolfe")  # fmt: skip

    def objective() -> Tensor:
        optimizer.zero_grad()
        mean = vae.encoder(x)
        log_variance = vae.log_variance.expand_as(mean)
        z = mean + points[:, None] * (log_variance / 2).exp()
        many = (part.repeat(2 * k, 1) for part in (mean, log_variance))
        total = loss(x.repeat(2 * k, 1), vae.decoder(z.flatten(0, 1)), *many)
        total.backward()
        return total

    optimizer.step(objective)
