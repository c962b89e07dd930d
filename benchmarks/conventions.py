"""The price of a nat that trained scripts pay, beside the weight audited from their loss.

    OMP_NUM_THREADS=1 python benchmarks/conventions.py

Seven losses as people write them, each minimised by the same plain loop on scikit-learn's digits: an MLP with eight
units, tanh, 3000 steps of 256 images, the rate of learning falling to zero. The audit is of one batch and the loss's
values alone, the price of the trained model alone. The weights are such that half of the information or less is left,
so that prices of dead units do not blur the sum. Prints a markdown table.
"""

from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from vaecollapse.audit import audit_loss
from vaecollapse.batch import Batch
from vaecollapse.detectors.price_of_a_nat import PriceOfANat
from vaecollapse.detectors.rate import Rate
from vaecollapse.evaluation import read
from vaecollapse.vae import VAE

UNITS, STEPS, ROWS = 8, 3000, 256


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance)


def cells(error: Callable[[Tensor, Tensor], Tensor], reduce: str) -> Callable[[Tensor, Tensor], Tensor]:
    """An error per cell, averaged or summed over the cells and averaged over the batch."""
    return lambda x, y: getattr(error(x, y).flatten(1), reduce)(1).mean()


def squared(x: Tensor, y: Tensor) -> Tensor:
    return (y - x).square()


def absolute(x: Tensor, y: Tensor) -> Tensor:
    return (y - x).abs()


def entropy(x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(y, x, reduction="none")


# the distortion, what a script calls its KL, its weight
CONVENTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor], float]] = {
    "mean MSE + w·ΣKL": (cells(squared, "mean"), lambda m, v: kl(m, v).sum(1).mean(), 0.004),
    "mean MSE + w·mean KL": (cells(squared, "mean"), lambda m, v: kl(m, v).mean(), 0.032),
    "ΣSE + w·ΣKL": (cells(squared, "sum"), lambda m, v: kl(m, v).sum(1).mean(), 0.25),
    "ΣSE + w·Σ(KL without its ½)": (cells(squared, "sum"), lambda m, v: 2 * kl(m, v).sum(1).mean(), 0.125),
    "mean L1 + w·ΣKL": (cells(absolute, "mean"), lambda m, v: kl(m, v).sum(1).mean(), 0.008),
    "mean BCE + w·ΣKL": (cells(entropy, "mean"), lambda m, v: kl(m, v).sum(1).mean(), 0.008),
    "ΣBCE + w·mean KL": (cells(entropy, "sum"), lambda m, v: kl(m, v).mean(), 4.0),
}


class Script(VAE):
    """Somebody's networks; the distortion of an example is their loss's own first part."""

    normalised = False

    def __init__(self, width: int, error: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width, 128), nn.Tanh(), nn.Linear(128, 2 * UNITS))
        self.decoder = nn.Sequential(nn.Linear(UNITS, 128), nn.Tanh(), nn.Linear(128, width))
        self.error = error

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return mean, log_variance

    def encode(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Independent:
        mean, log_variance = self.moments(x)
        return Independent(Normal(mean, (0.5 * log_variance).exp()), 1)

    def prior(self, context: Tensor | None = None) -> Independent:
        return Independent(Normal(torch.zeros(UNITS), torch.ones(UNITS)), 1)

    def decode(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Independent:
        raise NotImplementedError("a script's loss is no likelihood")

    def distortion(self, batch: Batch, z: Tensor) -> Tensor:
        return torch.stack([self.error(x[None], y[None]) for x, y in zip(batch.x, self.decoder(z), strict=True)])


def train(vae: Script, x: Tensor, latent: Callable[[Tensor, Tensor], Tensor], weight: float) -> None:
    """A plain loop, as a script has it."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    scale = 1 / float(vae.error(x[:ROWS], vae.decoder(torch.zeros(ROWS, UNITS))).detach())  # Adam's ε sees no units
    for _ in range(STEPS):
        batch = x[torch.randint(len(x), (ROWS,))]
        mean, log_variance = vae.moments(batch)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        optimizer.zero_grad()
        (scale * (vae.error(batch, vae.decoder(z)) + weight * latent(mean, log_variance))).backward()
        optimizer.step()
        schedule.step()


def row(name: str, x: Tensor) -> str:
    """Trains under one convention; the audited weight, the price paid, and what is left of R."""
    torch.manual_seed(0)
    error, latent, weight = CONVENTIONS[name]
    vae = Script(x.shape[1], error)
    train(vae, x, latent, weight)

    def loss(x: Tensor, y: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        return error(x, y) + weight * latent(mean, log_variance)

    with torch.no_grad():
        mean, log_variance = vae.moments(x[:ROWS])
        audited = audit_loss(loss, x[:ROWS], vae.decoder(mean), mean, log_variance, declared=weight)
    probe = [Batch(x[start : start + ROWS], index=torch.arange(start, min(start + ROWS, len(x)))) for start in
             range(0, len(x), ROWS)]  # fmt: skip
    found, _ = read(vae, probe, {"price": PriceOfANat(pairs=8, one_in=1), "rate": Rate()})
    paid = found["price_of_a_nat"]
    assert paid.value is not None
    assert paid.se is not None
    beta = "–" if audited.beta_effective is None else f"{audited.beta_effective:.3g}"
    return (
        f"| {name} | {weight:g} | {audited.weight:.4g} | {paid.value:.4g} ± {1.96 * paid.se:.1g} | "
        f"{paid.value / audited.weight:.3f} | {beta} | {found['rate'].value:.3g} |"
    )


def main() -> None:
    x = torch.from_numpy(load_digits().data).float() / 16
    print("| loss | w | audited price | price paid | ratio | β_eff | R (nats) |\n|---|---|---|---|---|---|---|")
    for name in CONVENTIONS:
        print(row(name, x), flush=True)


if __name__ == "__main__":
    main()
