"""The contract of a model: encode, prior, decode. The bound is written once, here."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from .batch import Batch
from .elbo import ELBO, noise, pieces

PART = 64


class VAE(nn.Module, ABC):
    """q(z|x,c), p(z|c) and p(x|z,c) as distributions; everything else follows.

    A likelihood that is a distance and no density is marked `normalised = False`, on the model and on the distribution
    it decodes to: `log_prob` is then minus the distance, no NLL is claimed, and `between(x, y, mask)` of the
    distribution gives the distance of two examples.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> class Tiny(VAE):
    ...     def encode(self, x, context=None, mask=None):
    ...         return Independent(Normal(x, torch.ones_like(x)), 1)
    ...     def prior(self, context=None):
    ...         return Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    ...     def decode(self, z, context=None, mask=None):
    ...         return Independent(Normal(z, torch.ones_like(z)), 1)
    >>> Tiny().elbo(Batch(torch.ones(3, 2))).rate.tolist()
    [1.0, 1.0, 1.0]
    """

    decodes = True  # False for a model of which only the encoder is known
    autoregressive = False  # True where p(x|z) sees x itself: what z is worth beside that, no formula foretells
    density = False  # True for p(x) alone, without a latent: D is its NLL, and there is no R
    bottleneck = False  # True where q(z|·) never sees x, but c alone: z tells what c says of x

    @abstractmethod
    def encode(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        """q(z | x, c); the event shape is the latent's, *unit."""

    @abstractmethod
    def prior(self, context: Tensor | None = None) -> Distribution:
        """p(z | c)."""

    @abstractmethod
    def decode(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        """p(x | z, c)."""

    def calibrate(self, batch: Batch) -> None:
        """Fixes constants from training data before step 1 (a distance's floor, say); most models have none."""

    def condition(self, batch: Batch) -> Tensor | None:
        """What of c p(x|z, c) and p(z|c) depend on: with equal ones, one z may stand in for another."""
        return batch.context

    @property
    def normalised(self) -> bool:
        """Is p(x|z) a density? (False for a spectral, weighted or mean-reduced distance.)"""
        return getattr(getattr(self, "likelihood", None), "normalised", True)

    def elbo(self, batch: Batch, *, seed: int | None = None, epoch: int = 0) -> ELBO:
        """D and R per example at one draw of z. With `seed` the noise is keyed by (seed, epoch, index), else random."""
        posterior, prior = self.encode(batch.x, batch.context, batch.mask), self.prior(batch.context)
        eps = None
        if seed is not None:
            eps = noise(batch.positions(), tuple(posterior.event_shape), seed=seed, epoch=epoch)[0]
        z, kl = pieces(posterior, prior, eps)
        return ELBO(self.distortion(batch, z), kl, z, posterior, prior)

    def distortion(self, batch: Batch, z: Float[Tensor, "batch *unit"]) -> Float[Tensor, " batch"]:
        """−ln p(x | z, c) summed over the event, in nats (or the distance, where the likelihood is one).

        Without gradients a large batch is decoded in parts: 64 clips stay in the processor's cache, 256 do not and take
        three times as long each.
        """
        if not torch.is_grad_enabled() and len(z) > PART:
            rows = [slice(start, start + PART) for start in range(0, len(z), PART)]
            return torch.cat([self.distortion(batch.part(part), z[part]) for part in rows])
        log_prob = self.decode(z, batch.context, batch.mask).log_prob(batch.x)
        return -(log_prob.flatten(1).sum(1) if log_prob.ndim > 1 else log_prob)

    def between(self, batch: Batch, z: Float[Tensor, "batch *unit"], other: Int[Tensor, " batch"]) -> Tensor | None:
        """The distance of each example to the example at position `other`; None where p(x|z) is a density."""
        if self.normalised:
            return None
        context, mask = (None if part is None else part[:1] for part in (batch.context, batch.mask))
        likelihood: Any = self.decode(z[:1], context, mask)
        return likelihood.between(batch.x, batch.x[other], batch.mask)
