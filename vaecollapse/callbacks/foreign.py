"""Somebody else's LightningModule, seen through up to three functions as the VAE that detectors read."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Laplace, Normal

from ..batch import Batch
from ..detectors.base import Z95, Finding
from ..detectors.conditions import are_shared, labels
from ..elbo import ELBO, noise, pieces
from ..evaluation import quiet
from ..preflight import Survey, forecast, forecast_binary, unexplained
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


# ---- what the data offers it


def foreseen(vae: VAE, training: Sequence[Batch], found: Mapping[str, Finding]) -> Survey | None:
    """The forecast for a model that is not ours, at the price of a nat that was measured on it; None where no price
    was, or no formula is known for what it decodes to.

    A Gaussian or Laplace p(x|z) whose scale is the same for all examples has one: e = β̂s², for which x is taken in
    units of s. It decides unless the condition is continuous. That of a Bernoulli is shown, and of a distance there is
    none.
    """
    price, gap = (found.get(name) for name in ("price_of_a_nat", "gap"))
    if price is None or gap is None or gap.status != "material" or not price.value or price.se is None:
        return None
    contexts = [batch.context for batch in training]
    context = None if contexts[0] is None else torch.cat([each for each in contexts if each is not None])
    x = torch.cat([batch.x for batch in training])
    with quiet(vae, 0):
        elbo = vae.elbo(training[0], seed=0)
        decoded = vae.decode(elbo.z, training[0].context) if vae.decodes else None
        likelihood = density_of(decoded, training[0].x, elbo.distortion)
    low, high = price.value - Z95 * price.se, price.value + Z95 * price.se
    if likelihood is None or low <= 0:
        return None
    plan, units = Survey(elbo.units, 0, 0, price.value), elbo.units
    if isinstance(likelihood, Bernoulli):
        shown = forecast_binary(x.double(), beta=high, units=units) if context is None else None
        return plan._replace(forecast=shown)
    x = x.double() / likelihood.scale[0].double().to(x.device)
    rest = unexplained(Batch(x, context))
    laplace = isinstance(likelihood, Laplace)

    def costs(beta: float) -> Callable[[float], float]:
        return lambda residual: beta * math.sqrt(residual * math.pi / 2) if laplace else beta

    at_price = forecast(rest, price=costs(price.value), units=units)
    return plan._replace(
        forecast=forecast(rest, price=costs(high), units=units),  # nobody is convicted by the price's noise
        decides=context is None or are_shared(labels(context)),
        beta_effective=at_price.e / max(at_price.residual, 1e-300),
        at_one=forecast(rest, price=lambda residual: residual, units=units).directions,
    )


def density_of(decoded: Any, x: Tensor, cost: Tensor) -> Any:
    """The elementwise Gaussian, Laplace or Bernoulli that D is minus the log-density of, with one scale for all
    examples; None where it is no such thing."""
    base = decoded
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal | Laplace | Bernoulli) or base.batch_shape != x.shape:
        return None
    own = -base.log_prob(x).flatten(1).sum(1)
    if not torch.allclose(own, cost.to(own), rtol=1e-4, atol=1e-4):
        return None
    if isinstance(base, Bernoulli):
        return base
    spread = (base.scale - base.scale[:1]).abs().max()
    return base if float(spread) <= 1e-5 * float(base.scale.max()) else None
