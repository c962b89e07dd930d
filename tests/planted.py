"""Models whose condition is known because it was put there: analytic encoders and decoders on Gaussian data."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaecollapse.batch import Batch
from vaecollapse.callbacks.monitor import all_detectors
from vaecollapse.detectors.base import Finding
from vaecollapse.diagnosis import Facts, Verdict, diagnose
from vaecollapse.evaluation import blocks_of, read
from vaecollapse.models.linear import LinearVAE
from vaecollapse.vae import VAE

EIGENVALUES = (6.0, 3.0, 1.5, 0.8, 0.4, 0.3, 0.2, 0.1)
Encoder = Callable[[Tensor], tuple[Tensor, Tensor]]


def gaussian_data(n: int, eigenvalues: Sequence[float] = EIGENVALUES, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    return torch.randn(n, len(values), generator=generator, dtype=torch.float64) * values.sqrt()


def probe(x: Tensor, block: int = 1000) -> list[Batch]:
    whole = Batch(x, index=torch.arange(len(x)))
    return [whole.part(rows) for rows in blocks_of(len(x), block)]


def optimum(units: int, *, e: float, beta: float = 1.0, eigenvalues: Sequence[float] = EIGENVALUES) -> LinearVAE:
    """The exact minimum of D + βR at e = β s²."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    return LinearVAE.closed_form(
        covariance=torch.diag(values),
        mean=torch.zeros(len(values), dtype=torch.float64),
        latent_dim=units,
        scale=(e / beta) ** 0.5,
        beta=beta,
    )


class Planted(VAE):
    """q(z|x) = N(encoder(x)), x̂ = decoder(z), unit Gaussian likelihood and prior."""

    def __init__(self, encoder: Encoder, decoder: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.anchor = nn.Parameter(torch.zeros(()))

    def encode(self, x: Tensor, context=None, mask=None) -> Distribution:
        mean, scale = self.encoder(x)
        return Independent(Normal(mean, scale), 1)

    def prior(self, context=None) -> Distribution:
        zero = torch.zeros(self.encoder(torch.zeros(1, len(EIGENVALUES), dtype=torch.float64))[0].shape[1]).double()
        return Independent(Normal(zero, torch.ones_like(zero)), 1)

    def decode(self, z: Tensor, context=None, mask=None) -> Distribution:
        mean = self.decoder(z)
        return Independent(Normal(mean, torch.ones_like(mean)), 1)


def blind(z: Tensor) -> Tensor:
    """A decoder that ignores z."""
    return torch.zeros(len(z), len(EIGENVALUES), dtype=torch.float64)


def collapsed(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(len(x), 4).double(), torch.ones(len(x), 4).double()


def constant(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pays 2 nats a unit for the same code whatever x is."""
    return torch.full((len(x), 4), 2.0).double(), torch.ones(len(x), 4).double()


def filling(x: Tensor) -> tuple[Tensor, Tensor]:
    """What x says of four directions, to within σ = ½, so that over all x the prior is filled."""
    return math.sqrt(0.75) * x[:, :4] / scales(), torch.full((len(x), 4), 0.5).double()


def reading(z: Tensor) -> Tensor:
    """The decoder of `filling`: E[x|z]."""
    return torch.cat([math.sqrt(0.75) * z * scales(), torch.zeros_like(z)], 1)


def scales() -> Tensor:
    return torch.tensor(EIGENVALUES[:4], dtype=torch.float64).sqrt()


def informative(x: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * x[:, :4], torch.full((len(x), 4), 0.5).double()


def verdict_on(vae: VAE, x: Tensor, training: Tensor | None = None, facts: Facts | None = None, price=None) -> Verdict:
    held_out = findings_on(vae, x, price)
    return diagnose(held_out, None if training is None else findings_on(vae, training, price), facts)


def findings_on(vae: VAE, x: Tensor, price=None) -> dict[str, Finding]:
    return read(vae, probe(x), all_detectors(), price)[0]
