"""A second-stage prior: a density of another model's codes, and the model of both."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Batch
from ..distributions.flows import FlowDistribution, moved
from ..elbo import ELBO
from ..refusal import Refused
from ..vae import VAE


class LatentPrior(VAE):
    """p(z), fitted to the aggregate posterior q(z) = E_x q(z|x) of a trained model by E −ln p(z), in nats.

    It has no latent of its own: an example is a code z, D its −ln p(z), and R = 0. Units are standardised by `location`
    and `scale` and taken in `order` (the most informative first), which are facts of the codes, kept in the checkpoint.

    Two-stage fitting: van den Oord 2017 (VQ-VAE), Dai & Wipf 2019; E −ln p(z) = H(q(z)) + KL(q(z)‖p), of which only
    the KL depends on p.
    """

    density = True
    location: Tensor
    scale: Tensor
    order: Tensor

    def __init__(
        self,
        *,
        event_shape: tuple[int, ...],
        prior: Callable[..., nn.Module],
        location: Sequence[float],
        scale: Sequence[float],
        order: Sequence[int],
    ) -> None:
        super().__init__()
        self.inner = prior(units=event_shape[0])
        for name, values in (("location", location), ("scale", scale)):
            self.register_buffer(name, torch.tensor(values))
        self.register_buffer("order", torch.tensor(order))

    def prior(self, context: Tensor | None = None) -> FlowDistribution:
        return moved(self.inner(), self.location, self.scale, self.order)

    def elbo(self, batch: Batch, *, seed: int | None = None, epoch: int = 0) -> ELBO:
        density = self.prior()
        nll = -density.log_prob(batch.x)
        return ELBO(nll, torch.zeros_like(nll), batch.x, density, density)

    def encode(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        raise Refused("a second-stage prior encodes nothing: TwoStage joins it with the model whose codes it is of")

    def decode(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        raise Refused("a second-stage prior decodes nothing: TwoStage joins it with the model whose codes it is of")


class TwoStage(VAE):
    """q(z|x) and p(x|z) of a trained model, and p(z) of a second stage: the same codes and reconstructions, other
    samples.

    R₂ = R₁ − (E −ln p₁(z) − E −ln p₂(z)), z ~ q(z): what the second stage saves is the fall of KL(q(z)‖p(z)).
    """

    def __init__(self, *, first: VAE, second: LatentPrior) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.decodes, self.autoregressive, self.bottleneck = first.decodes, first.autoregressive, first.bottleneck

    @property
    def likelihood(self) -> Any:
        return getattr(self.first, "likelihood", None)

    @property
    def normalised(self) -> bool:
        return self.first.normalised

    def encode(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        return self.first.encode(x, context, mask)

    def prior(self, context: Tensor | None = None) -> Distribution:
        return self.second.prior()

    def decode(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        return self.first.decode(z, context, mask)

    def condition(self, batch: Batch) -> Tensor | None:
        return self.first.condition(batch)

    def distortion(self, batch: Batch, z: Float[Tensor, "batch *unit"]) -> Float[Tensor, " batch"]:
        return self.first.distortion(batch, z)
