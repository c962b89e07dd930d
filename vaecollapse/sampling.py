"""What a latent does when it is decoded: reconstructions, prior samples, traversals, interpolations."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from .batch import Batch
from .detectors.information_rank import information_directions
from .distributions.flows import FlowDistribution
from .elbo import draw, moments, noise
from .refusal import Refused
from .vae import VAE


class Aggregate(NamedTuple):
    """The aggregate posterior's mean, and its informative directions in z: one column each, one standard deviation
    of E[z|x] long, the most informative first."""

    mean: Float[Tensor, " k"]
    directions: Float[Tensor, "k k"]


def aggregate(vae: VAE, batch: Batch) -> Aggregate:
    """Mean and directions of E[z|x] over a batch (for a flow, from its draws)."""
    mean, covariance, draws = moments(vae.encode(batch.x, batch.context, batch.mask), batch.positions())
    within = covariance.mean(0)
    between = torch.cov(mean.T).reshape(within.shape) - (within / draws if draws else 0)
    values, vectors = information_directions(between, within)
    return Aggregate(mean.mean(0), vectors * values.sqrt())


def decode(vae: VAE, z: Float[Tensor, "batch *unit"], like: Batch | None = None) -> Tensor:
    """The decoder's mean for each z; silent where `like` has padding, on which no loss ever acted.

    Raises Refused where there is none: tokens are drawn.
    """
    decoded = vae.decode(z) if like is None else vae.decode(z, like.context, like.mask)
    mean = mean_of(decoded)
    if mean is None:
        raise Refused(f"a {type(decoded).__name__} has no mean: draw from it, decode(z, context).sample()")
    return mean if like is None or like.mask is None else mean * like.mask


def mean_of(decoded: Distribution) -> Tensor | None:
    """The mean of what was decoded; None where the values have none, as tokens."""
    try:
        return decoded.mean
    except NotImplementedError:
        return None


def reconstructions(vae: VAE, batch: Batch, *, seed: int = 0) -> dict[str, Tensor]:
    """`real`, `reconstruction` from its own z, and `other_z`: from the next example's z."""
    z = vae.elbo(batch, seed=seed).z
    return {"real": batch.x, "reconstruction": decode(vae, z, batch), "other_z": decode(vae, z.roll(1, 0), batch)}


def prior_samples(vae: VAE, count: int, unit: tuple[int, ...], *, seed: int = 0) -> Tensor:
    """Decoded draws from the prior; sample i is the same whatever `count` is."""
    eps = noise(torch.arange(count), unit, seed=seed, epoch=2)[0]
    return decode(vae, draw(vae.prior(), eps))


def traversals(vae: VAE, found: Aggregate, *, directions: int = 3, steps: int = 5, reach: float = 2.0) -> Tensor:
    """Decoded walks through the mean along the most informative directions, ±`reach` standard deviations:
    (directions, steps, *event)."""
    at = torch.linspace(-reach, reach, steps).to(found.mean)
    ways = found.directions[:, :directions].T
    z = found.mean + at[None, :, None] * ways[:, None]
    dtype = next(vae.parameters()).dtype
    return torch.stack([decode(vae, walk.to(dtype)) for walk in z])


def interpolation(vae: VAE, first: Float[Tensor, " k"], last: Float[Tensor, " k"], *, steps: int = 5) -> Tensor:
    """Decoded points between two codes, straight in the base space of the prior's flow (in z, where it has none)."""
    prior, ends = vae.prior(), torch.stack([first, last])
    flow = prior if isinstance(prior, FlowDistribution) else None
    u = flow.to_base(ends) if flow else ends
    at = torch.linspace(0, 1, steps).to(u)[:, None]
    line = u[0] * (1 - at) + u[1] * at
    return decode(vae, flow.to_z(line) if flow else line)
