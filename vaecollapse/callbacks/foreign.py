"""Somebody else's LightningModule, seen through up to three functions as the VAE that detectors read."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..batch import Batch
from ..elbo import ELBO, noise, pieces
from ..refusal import Refused
from ..vae import VAE

Latents = Callable[[nn.Module, Any], Distribution]
Decode = Callable[[nn.Module, Tensor], Distribution | Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]


def whole_event(q: Distribution) -> Distribution:
    """Everything but the first axis as the event: Normal(mu, sigma) of shape (batch, *unit) becomes one of *unit."""
    return Independent(q, len(q.batch_shape) - 1) if len(q.batch_shape) > 1 else q


def first_tensor(batch: Any) -> Tensor:
    """The data of a foreign batch: the tensor itself, or the first one inside a tuple, list or dict."""
    if isinstance(batch, Tensor):
        return batch
    parts = list(batch.values()) if isinstance(batch, dict) else batch
    for part in parts if isinstance(parts, list | tuple) else []:
        if isinstance(part, Tensor | tuple | list | dict):
            return first_tensor(part)
    raise Refused(
        f"found no tensor in a batch of type {type(batch).__name__}: let the loader yield a tensor, a tuple, "
        "a list or a dict of tensors"
    )


class Foreign(VAE):
    """Reads a module that is not ours: `latents(module, batch)` → q(z|x); `decode(module, z)` → a Distribution or a
    tensor, then with `distance(x, decoded)` → (batch,). The prior is N(0, I) unless `prior(module)` says otherwise.

    A distance is taken for no density (`normalised` False); a decoded Distribution without `distance` for one.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        raw: Any,
        latents: Latents,
        decode: Decode | None = None,
        distance: Distance | None = None,
        prior: Callable[[nn.Module], Distribution] | None = None,
    ) -> None:
        super().__init__()
        self.module, self.whole = module, raw
        self.latents, self.decoder, self.distance, self.own_prior = latents, decode, distance, prior
        self.decodes = decode is not None

    @property
    def normalised(self) -> bool:
        return self.distance is None

    def raw(self, index: Int[Tensor, " batch"]) -> Any:
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        return apply_to_collection(self.whole, Tensor, lambda t: t[index.to(t.device)].to(device))

    def encode(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        return self.posterior(x)

    def posterior(self, raw: Any) -> Distribution:
        """q(z|x) of a batch as the module's own loader yields it."""
        q = self.latents(self.module, raw)
        if not isinstance(q, Distribution):
            raise Refused(
                f"expected latents(module, batch) to return a torch Distribution, but got {type(q).__name__}: "
                "return Normal(mean, scale)"
            )
        return whole_event(q)

    def prior(self, context: Tensor | None = None) -> Distribution:
        if self.own_prior is not None:
            return whole_event(self.own_prior(self.module))
        like = self.posterior(self.raw(torch.zeros(1, dtype=torch.long))).sample()[0]
        return Independent(Normal(torch.zeros_like(like), torch.ones_like(like)), like.ndim)

    def decode(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Any:
        if self.decoder is None:
            raise Refused("the decoder was asked for but not given: pass decode=f(module, z)")
        return self.decoder(self.module, z)

    def elbo(self, batch: Batch, *, seed: int | None = None, epoch: int = 0) -> ELBO:
        posterior, prior = self.posterior(self.raw(batch.positions())), self.prior()
        eps = noise(batch.positions(), tuple(posterior.event_shape), seed=seed or 0, epoch=epoch)[0]
        z, kl = pieces(posterior, prior, eps)
        distortion = self.distortion(batch, z) if self.decodes else torch.full((len(z),), torch.nan)
        return ELBO(distortion, kl, z, posterior, prior)

    def distortion(self, batch: Batch, z: Float[Tensor, "batch *unit"]) -> Float[Tensor, " batch"]:
        decoded = self.decode(z)
        x = batch.x.to(z.device)
        if self.distance is not None:
            return self.distance(x, decoded.mean if isinstance(decoded, Distribution) else decoded)
        if isinstance(decoded, Distribution):
            log_prob = decoded.log_prob(x)
            return -(log_prob.flatten(1).sum(1) if log_prob.ndim > 1 else log_prob)
        raise Refused(
            "decode(module, z) returned a tensor, which has no likelihood: pass distance=f(x, decoded) -> "
            "(batch,), or return a Distribution"
        )

    def between(self, batch: Batch, z: Tensor, other: Int[Tensor, " batch"]) -> Tensor | None:
        return None if self.distance is None else self.distance(batch.x, batch.x[other.to(batch.x.device)])
