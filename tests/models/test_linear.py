"""The linear VAE against its closed form (definitions.md, section 4), in float64 and without sampling noise."""

import math

import pytest
import torch

from vaecollapse.batch import Batch
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.elbo import gaussian, pieces
from vaecollapse.models.linear import LinearVAE
from vaecollapse.refusal import Refused

EIGENVALUES = torch.tensor([6, 3, 1.5, 0.8, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
UNITS = 5
CASES = [(1.0, 1.0, 3, 1.64792), (0.35, 1.0, 5, 3.70276), (0.35, 2.0, 4, 2.2497), (0.1, 3.0, 5, 4.08813)]
cases = pytest.mark.parametrize(("variance", "beta", "active", "rate"), CASES)


def points(rotated: bool = True) -> torch.Tensor:
    """16 points whose covariance has exactly these eigenvalues, about a mean that is not zero."""
    generator = torch.Generator().manual_seed(0)
    d = len(EIGENVALUES)
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0] if rotated else torch.eye(d)
    half = (d * EIGENVALUES).sqrt()[:, None] * axes.double().T
    return torch.cat([half, -half]) + torch.linspace(-1, 2, d, dtype=torch.float64)


def bound(vae: LinearVAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(D, R), exact: D is quadratic in z, so the 2k points ±√k e_i stand for the whole of N(0, I)."""
    half = torch.eye(vae.log_variance.shape[0], dtype=torch.float64) * math.sqrt(vae.log_variance.shape[0])
    eps, rows = torch.cat([half, -half]).repeat_interleave(len(x), 0), x.repeat(2 * len(half), 1)
    z, kl = pieces(vae.encode(rows), vae.prior(), eps)
    return vae.distortion(Batch(rows), z).mean(), kl.sum(1).mean()


def optimum(variance: float, beta: float, latent_dim: int = UNITS) -> LinearVAE:
    x = points()
    return LinearVAE.closed_form(
        covariance=(x - x.mean(0)).T @ (x - x.mean(0)) / len(x),
        mean=x.mean(0),
        latent_dim=latent_dim,
        scale=math.sqrt(variance),
        beta=beta,
    )


@cases
def test_the_closed_form_is_stationary_and_no_neighbour_is_better(variance, beta, active, rate):
    vae, x = optimum(variance, beta), points()
    distortion, r = bound(vae, x)
    best = distortion + beta * r
    best.backward()
    assert max(p.grad.abs().max() for p in vae.parameters()) < 1e-9
    with torch.no_grad():
        for seed in range(8):
            torch.manual_seed(seed)
            moved = optimum(variance, beta)
            for parameter in moved.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            d, r = bound(moved, x)
            assert d + beta * r > best


@cases
def test_rate_distortion_gap_and_active_units_are_the_closed_forms(variance, beta, active, rate):
    vae, x = optimum(variance, beta), points()
    e = beta * variance
    used = EIGENVALUES[:active]
    distortion, r = bound(vae, x)
    torch.testing.assert_close(r.item(), rate, rtol=1e-5, atol=0)
    squared = active * e + EIGENVALUES[active:].sum()
    d = len(EIGENVALUES)
    expected = squared / (2 * variance) + d / 2 * math.log(2 * math.pi * variance)
    torch.testing.assert_close(distortion, expected)
    mean, scale = gaussian(vae.encode(x))
    torch.testing.assert_close(mean.var(0, correction=0), (1 - e / EIGENVALUES[:UNITS]).clamp_min(0))
    torch.testing.assert_close(scale[0, :active], (e / used).sqrt())
    assert (scale[0, active:] == 1).all()
    own = vae.distortion(Batch(x), mean)
    gaps = [(vae.distortion(Batch(x), mean.roll(shift, 0)) - own).mean() for shift in range(len(x))]
    torch.testing.assert_close(torch.stack(gaps).mean(), ((used - e) / variance).sum())


@pytest.mark.parametrize(("latent_dim", "beta"), [(12, 1.0), (8, 0.01), (1, 1.0), (3, 7.0)])
def test_any_width_and_price_is_stationary(latent_dim, beta):
    """More units than dimensions leaves the rest at the prior; above the largest eigenvalue all collapse: R = 0."""
    vae, x = optimum(1.0, beta, latent_dim), points()
    distortion, rate = bound(vae, x)
    (distortion + beta * rate).backward()
    assert max(p.grad.abs().max() for p in vae.parameters()) < 1e-9
    torch.testing.assert_close(rate, 0.5 * (EIGENVALUES[:latent_dim] / beta).log().clamp_min(0).sum())


@cases
def test_training_from_the_start_reaches_it(variance, beta, active, rate):
    torch.manual_seed(0)
    x = points()
    likelihood = NormalLikelihood(scale=math.sqrt(variance))
    vae = LinearVAE(event_shape=(8,), latent_dim=UNITS, likelihood=likelihood).double()
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 700)
    for _ in range(700):
        distortion, r = bound(vae, x)
        optimizer.zero_grad()
        (distortion + beta * r).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        distortion, r = bound(vae, x)
        expected, _ = bound(optimum(variance, beta), x)
    torch.testing.assert_close(r.item(), rate, rtol=0.005, atol=0)
    torch.testing.assert_close(distortion, expected, rtol=0.005, atol=0)
    assert (gaussian(vae.encode(x))[0].var(0) > 0.01).sum() == active


def test_gradients_reach_every_parameter_and_one_sigma_serves_all_x():
    torch.manual_seed(0)
    vae = LinearVAE(event_shape=(8,), latent_dim=UNITS, likelihood=NormalLikelihood(scale_mode="learned")).double()
    elbo = vae.elbo(Batch(points()))
    (elbo.distortion + elbo.rate).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())
    scale = vae.encode(points()).stddev
    assert (scale == scale[0]).all()


def test_x_of_any_shape_is_one_vector():
    vae, x = optimum(1.0, 1.0), points()
    image = LinearVAE(event_shape=(1, 2, 4), latent_dim=UNITS, likelihood=NormalLikelihood()).double()
    image.load_state_dict(vae.state_dict())
    flat, shaped = vae.elbo(Batch(x), seed=0), image.elbo(Batch(x.reshape(-1, 1, 2, 4)), seed=0)
    torch.testing.assert_close(shaped.distortion, flat.distortion)
    torch.testing.assert_close(shaped.kl, flat.kl)
    assert image.decode(flat.z).mean.shape == (len(x), 1, 2, 4)


@pytest.mark.parametrize("options", [{"event_shape": ()}, {"event_shape": (0,)}, {"latent_dim": 0}])
def test_impossible_plans_are_refused(options):
    with pytest.raises(Refused):
        LinearVAE(**{"event_shape": (8,), "latent_dim": 2, "likelihood": NormalLikelihood()} | options)
