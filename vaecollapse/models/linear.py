"""The linear VAE, whose optimum is known in closed form: the house's truth."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..distributions.likelihoods import NormalLikelihood
from ..distributions.priors import NormalPrior
from ..refusal import Refused
from ..vae import VAE


class LinearVAE(VAE):
    """q(z|x) = N(Vx + v, diag σ²) with one σ per unit for all x; x̂ = Wz + m; p(z) = N(0, I) (Lucas 2019).

    x of any shape is one vector to it. With a Gaussian likelihood the optimum is probabilistic PCA (Tipping & Bishop
    1999), see `closed_form`.
    """

    def __init__(self, *, event_shape: tuple[int, ...], latent_dim: int, likelihood: nn.Module) -> None:
        super().__init__()
        size = math.prod(event_shape)
        if not event_shape or not size:
            raise Refused(
                f"the linear VAE needs numbers, but got event shape {tuple(event_shape)}: use dataset=gaussian"
            )
        if latent_dim < 1:
            raise Refused(f"expected at least one latent unit, but got latent_dim={latent_dim}: try latent_dim=5")
        self.event_shape = tuple(event_shape)
        self.encoder = nn.Linear(size, latent_dim)
        self.decoder = nn.Linear(latent_dim, size)
        self.log_variance = nn.Parameter(torch.zeros(latent_dim))
        self.prior_head = NormalPrior(units=latent_dim)
        self.likelihood = likelihood
        with torch.no_grad():
            # Orthogonal columns, and the encoder as their transpose: the slow part of training is turning the units
            # into the eigenvectors, and from a Gaussian start it takes three times as long.
            nn.init.orthogonal_(self.decoder.weight)
            self.encoder.weight.copy_(self.decoder.weight.T)
            nn.init.zeros_(self.encoder.bias)
            nn.init.zeros_(self.decoder.bias)

    def encode(
        self, x: Float[Tensor, "batch *event"], context: Tensor | None = None, mask: Tensor | None = None
    ) -> Distribution:
        mean = self.encoder(x.flatten(1))
        scale = (self.log_variance / 2).exp().expand_as(mean)
        return Independent(Normal(mean, scale, validate_args=False), 1)

    def prior(self, context: Tensor | None = None) -> Distribution:
        return self.prior_head(context)

    def decode(
        self,
        z: Float[Tensor, "batch units"],
        context: Tensor | None = None,
        mask: Bool[Tensor, "batch *event"] | None = None,
    ) -> Distribution:
        return self.likelihood(self.decoder(z).unflatten(1, self.event_shape), mask)

    @classmethod
    def closed_form(
        cls,
        *,
        covariance: Float[Tensor, "d d"],
        mean: Float[Tensor, " d"],
        latent_dim: int,
        scale: float,
        beta: float = 1.0,
    ) -> "LinearVAE":
        """The exact minimum of E[D + βR] for data of this covariance and mean, likelihood N(Wz + m, scale² I).

        With e = β·scale² and eigenpairs (λ_i, u_i), λ descending: unit i is active iff λ_i > e, then
        w_i = √(λ_i − e)·u_i, σ_i² = e/λ_i, E[z_i|x] = w_iᵀ(x − mean)/λ_i; else w_i = 0 and q(z_i|x) = N(0, 1).
        """
        values, vectors = torch.linalg.eigh(covariance.double())
        values, vectors = values.flip(0)[:latent_dim], vectors.flip(1)[:, :latent_dim]
        likelihood = NormalLikelihood(scale=scale)
        model = cls(event_shape=tuple(mean.shape), latent_dim=latent_dim, likelihood=likelihood).double()
        price = beta * float(likelihood.double().scale) ** 2
        columns = vectors * (values - price).clamp_min(0).sqrt()
        used = values.shape[0]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.decoder.weight[:, :used] = columns
            model.decoder.bias.copy_(mean)
            model.encoder.weight[:used] = (columns / values.clamp_min(price)).T
            model.encoder.bias.copy_(-model.encoder.weight @ mean.double())
            model.log_variance[:used] = (price / values.clamp_min(price)).log()
        return model
