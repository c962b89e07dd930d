"""Models that nobody here wrote, read by the adapters that docs/diagnose.md shows."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from vaecollapse import diagnose

PAGE = Path(__file__).parents[2] / "docs" / "diagnose.md"


def adapter(name: str) -> Any:
    """The class of that name, as the page shows it."""
    (block,) = re.findall(r"^```python\n(class PlainVAE.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    space: dict[str, Any] = {"Normal": Normal, "F": F}
    exec(block, space)
    return space[name]


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """1797 digits of 8 × 8 pixels in [0, 1]: (train, held out)."""
    datasets = pytest.importorskip("sklearn.datasets")
    x = torch.from_numpy(datasets.load_digits().data).float() / 16
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    return x[:1200], x[1200:]


# ---- a plain script, after the VAE example of the PyTorch examples (BSD 3-clause), at the size of these digits


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 100)
        self.fc21 = nn.Linear(100, 8)
        self.fc22 = nn.Linear(100, 8)
        self.fc3 = nn.Linear(8, 100)
        self.fc4 = nn.Linear(100, 64)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def decode(self, z):
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def forward(self, x):
        mu, logvar = self.encode(x.view(-1, 64))
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


def loss_function(recon_x, x, mu, logvar, beta):
    bce = F.binary_cross_entropy(recon_x, x.view(-1, 64), reduction="sum")
    return bce + beta * -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def trained(x: Tensor, beta: float, epochs: int = 12) -> VAE:
    torch.manual_seed(1)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in x[torch.randperm(len(x))].split(64):
            optimizer.zero_grad()
            recon, mu, logvar = model(batch)
            (loss_function(recon, batch, mu, logvar, beta) / len(batch)).backward()
            optimizer.step()
    return model


def test_a_plain_script_is_alive_or_dead_as_its_beta_says(digits) -> None:
    train, held_out = digits
    alive = diagnose(module=adapter("PlainVAE")(trained(train, 1.0)), data=(train, held_out), examples=597)
    assert alive.readings["gap"].status == "material", alive
    assert alive.readings["mi"].status == "material"
    assert alive.readings["price_of_a_nat"].value == pytest.approx(1.0, rel=0.3), "its beta, read without its config"
    assert any(line.startswith("posterior_collapse") for line in alive.refuted)
    assert "training mode" in " ".join(alive.findings)
    dead = diagnose(module=adapter("PlainVAE")(trained(train, 50.0)), data=(train, held_out), examples=597)
    assert dead.verdict == "posterior_collapse"


# ---- pythae


def test_a_pythae_model(digits) -> None:
    pytest.importorskip("pythae")
    from pythae.models import VAE as PythaeModel
    from pythae.models import VAEConfig

    train, held_out = (x.reshape(-1, 1, 8, 8) for x in digits)
    torch.manual_seed(0)
    model = PythaeModel(VAEConfig(input_dim=(1, 8, 8), latent_dim=6, reconstruction_loss="bce"))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(8):
        for batch in train.split(64):
            optimizer.zero_grad()
            model({"data": batch}).loss.backward()
            optimizer.step()
    verdict = diagnose(module=adapter("PythaeVAE")(model), data=(train, held_out), examples=597)
    assert verdict.readings["units"].value == 6
    assert verdict.readings["gap"].status == "material"
    assert verdict.readings["mi"].status == "material"


# ---- a spatial latent; a stand-in with the calling convention of diffusers' AutoencoderKL, which is not installed here


class DiagonalGaussian:
    """As diffusers' DiagonalGaussianDistribution: one tensor of means and log-variances along the channels."""

    def __init__(self, parameters: Tensor) -> None:
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.std = torch.exp(0.5 * logvar.clamp(-30, 20))


class AutoencoderKL(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 2, 2), nn.ConvTranspose2d(2, 1, 2, 2)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        return SimpleNamespace(latent_dist=DiagonalGaussian(self.down(x)))

    def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        return SimpleNamespace(sample=self.up(z))


@pytest.mark.parametrize("alive", [True, False])
def test_a_spatial_latent(digits, alive: bool) -> None:
    train, held_out = (x.reshape(-1, 1, 8, 8) for x in digits)
    torch.manual_seed(0)
    model = AutoencoderKL()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    for batch in (train.split(64) * 9)[: 160 if alive else 0]:
        posterior = model.encode(batch).latent_dist
        z = posterior.mean + posterior.std * torch.randn_like(posterior.std)
        variance = posterior.std.square()
        kl = 0.5 * (posterior.mean.square() + variance - 1 - variance.log()).flatten(1).sum(1).mean()
        loss = 50 * (model.decode(z).sample - batch).square().flatten(1).sum(1).mean() + kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not alive:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    verdict = diagnose(module=adapter("SpatialVAE")(model), data=held_out, examples=597)
    assert verdict.readings["units"].value == 2 * 4 * 4
    assert (verdict.readings["gap"].status == "material") == alive
    assert (verdict.verdict == "posterior_collapse") != alive
