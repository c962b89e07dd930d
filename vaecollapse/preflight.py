"""Before step 1: what cannot work is refused, and what will happen is forecast."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .batch import Batch
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
    known = getattr(likelihood, "scale", None)
    return None if known is None else float(known)
