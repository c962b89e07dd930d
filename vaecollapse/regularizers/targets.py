"""Targets of R in nats per example: which numbers can be one, and what a latent can hold."""

import math

import torch
from torch.distributions import Independent

from ..elbo import ELBO
from ..refusal import Refused


def checked_target(key: str, target: float) -> float:
    """The target as it was given; Refused where no rate could be it."""
    if not (math.isfinite(target) and target >= 0):
        raise Refused(f"a rate is a finite number of nats of at least 0, but {key}={target:g}: try {key}=10")
    return float(target)


def nats_that_fit(elbo: ELBO) -> float:
    """The nats per example that the units hold while together they fill a standard Gaussian: there R is the mean of
    Σ −ln σ_i, and σ ends at the smallest that the head declares, or at the spacing of the numbers of z. More is paid by
    means far from the prior, whatever they say.

    >>> from torch.distributions import Normal
    >>> z = torch.zeros(2, 4)
    >>> standard = Normal(z, torch.ones_like(z))
    >>> round(nats_that_fit(ELBO(z[:, 0], z, z, standard, standard)), 1)
    63.8
    """
    smallest = max(declared(elbo, "scale_floor"), torch.finfo(elbo.z.dtype).eps)
    return max(0.0, -elbo.units * math.log(smallest))


def declared(elbo: ELBO, name: str) -> float:
    """A number that the posterior's head knows of itself; 0 where it knows none."""
    posterior = elbo.posterior
    while isinstance(posterior, Independent):
        posterior = posterior.base_dist
    return float(getattr(posterior, name, 0.0))


def check_fits(key: str, target: float, elbo: ELBO) -> None:
    """Refused where the latent cannot hold the target, or holds more by construction."""
    least, most = elbo.units * declared(elbo, "least"), nats_that_fit(elbo)
    if target < least:
        raise Refused(
            f"{key}={target:g} nats are fewer than this posterior has by construction ({least:.4g} over {elbo.units} "
            f"latent units): type {key}={min(2 * least, (least + most) / 2):.3g} or more, or posterior=normal"
        )
    if target > most:
        raise Refused(
            f"{key}={target:g} nats are more than {elbo.units} latent units can hold ({most:.4g} at the smallest "
            f"sigma): type {key}={most / 2:.3g} or less, or raise latent_dim"
        )
