"""Laws of the image VAE: any size comes back, every parameter is trained, no image sees another, options act."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from vaecollapse.batch import Batch
from vaecollapse.distributions.likelihoods import (
    BernoulliLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
    SpectralLikelihood,
)
from vaecollapse.distributions.posteriors import FlowPosterior, NormalPosterior
from vaecollapse.distributions.priors import FlowPrior, NormalPrior
from vaecollapse.models.image import ImageVAE
from vaecollapse.nn.conv import plan
from vaecollapse.refusal import Refused

HEADS = {
    "normal": (NormalPosterior, NormalPrior),
    "flows": (partial(FlowPosterior, hidden=(16,), transforms=2), partial(FlowPrior, hidden=(16,), transforms=2)),
}
LIKELIHOODS = {
    "normal": NormalLikelihood,
    "learned": partial(NormalLikelihood, scale_mode="learned"),
    "optimal": partial(NormalLikelihood, scale_mode="optimal"),
    "laplace": LaplaceLikelihood,
    "bernoulli": BernoulliLikelihood,
}
BASE = {"event_shape": (1, 13, 10), "latent_dim": 5, "capacity": 4}
SIZES = [(8, 8), (9, 8), (28, 28), (17, 31), (8, 40), (105, 105), (33, 64)]


def image_vae(*, heads: str = "normal", likelihood: str = "normal", seed: int = 0, **options) -> ImageVAE:
    torch.manual_seed(seed)
    posterior, prior = HEADS[heads]
    parts = {"posterior": posterior, "prior": prior, "likelihood": LIKELIHOODS[likelihood]()}
    return ImageVAE(**BASE | parts | options)


def images(count: int = 6, shape: tuple[int, ...] = (1, 13, 10)) -> Batch:
    """Binary, so that every likelihood takes them; a corner pixel is never on."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(count, *shape, generator=generator) < 0.3).float()
    x[:, :, 0, 0] = 0
    return Batch(x, index=torch.arange(count))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("heads", HEADS)
def test_gradients_reach_every_parameter(heads, likelihood):
    vae, batch = image_vae(heads=heads, likelihood=likelihood), images()
    vae.calibrate(batch)
    elbo = vae.elbo(batch)
    (elbo.distortion + elbo.rate).mean().backward()
    assert not [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_back(size, planes, stride):
    shape = (planes, *size)
    vae, batch = image_vae(event_shape=shape, stride=stride), images(2, shape)
    assert vae.elbo(batch).distortion.isfinite().all()
    assert vae.decode(torch.zeros(2, 5)).mean.shape == batch.x.shape
    assert sum(part.parameters for part in vae.parameter_table()) == sum(p.numel() for p in vae.parameters())


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("smallest", [1, 4, 7])
@pytest.mark.parametrize("size", SIZES)
def test_the_grids_end_where_the_next_would_be_too_small(size, smallest, stride):
    grids = plan(height=size[0], width=size[1], capacity=4, max_channels=16, stride=stride, smallest=smallest)
    for before, after in pairwise(grids):
        assert after[:2] == tuple(-(-side // by) for side, by in zip(before[:2], after.strides, strict=True))
        assert after.channels == min(2 * before.channels, 16)
    for side, first in zip(grids[-1][:2], size, strict=True):
        assert side >= min(smallest, first)
        assert side == 1 or -(-side // stride) < smallest


def test_every_pixel_of_the_image_reaches_z_and_z_reaches_every_pixel():
    vae, batch = image_vae(event_shape=(3, 29, 18)), images(2, (3, 29, 18))
    x = batch.x.clone().requires_grad_()
    vae.encode(x).mean.square().sum().backward()
    assert (x.grad.abs().sum(0) > 0).all()
    z = torch.randn(64, 5)
    assert (vae.decode(z).mean.std(0) > 0).all()


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli"])
@pytest.mark.parametrize("heads", HEADS)
def test_no_image_sees_another(heads, likelihood):
    vae, batch = image_vae(heads=heads, likelihood=likelihood).eval(), images()
    vae.calibrate(batch)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        straight, permuted, alone = (vae.elbo(batch.part(rows), seed=1) for rows in (slice(None), order, slice(2, 3)))
    for name in ("distortion", "kl", "z"):
        expected = getattr(straight, name)
        torch.testing.assert_close(getattr(permuted, name), expected[order], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(getattr(alone, name), expected[2:3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_calibration_starts_the_output_where_it_is_best_without_z(likelihood):
    """At the mean, or at the log-odds: the gradient of the mean log-likelihood vanishes there."""
    vae, batch = image_vae(likelihood=likelihood), images(2000)
    vae.calibrate(batch)
    expected = batch.x.mean(0)
    mean = vae.likelihood(vae.intercept[None].detach()).mean[0]
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-3)
    assert vae.intercept.isfinite().all(), "though a pixel never changes"
    seen = (batch.x - vae.level) / vae.spread
    torch.testing.assert_close(torch.stack(torch.std_mean(seen)), torch.tensor([1.0, 0.0]), rtol=1e-4, atol=1e-4)
    vae.calibrate(images()._replace(x=torch.zeros(6, 1, 13, 10)))
    assert vae.elbo(batch).distortion.isfinite().all()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("capacity", 6),
        ("latent_dim", 4),
        ("max_channels", 4),
        ("stride", 3),
        ("smallest", 2),
        ("residual_units", 2),
        ("residual_units", 0),
        ("event_shape", (1, 12, 10)),
        ("posterior", HEADS["flows"][0]),
        ("prior", HEADS["flows"][1]),
        ("likelihood", "laplace"),
        ("likelihood", "bernoulli"),
    ],
)
def test_every_option_changes_something(option, value):
    readings = []
    for options in ({}, {option: value}):
        vae = image_vae(**options)
        batch = images(6, dict(BASE | options)["event_shape"])
        elbo = vae.elbo(batch, seed=1)
        readings.append(torch.cat([elbo.distortion, elbo.rate]).detach())
    assert not torch.allclose(*readings, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"event_shape": (100,)}, "dataset=digits"),
        ({"event_shape": (1, 7, 28)}, "at least 8 pixels"),
        ({"capacity": 0}, "max_channels"),
        ({"capacity": 256}, "max_channels"),
        ({"latent_dim": 0}, "latent_dim=16"),
        ({"stride": 1}, "stride=2"),
        ({"stride": 5}, "stride=2"),
        ({"smallest": 0}, "smallest"),
        ({"residual_units": -1}, "residual_units"),
        ({"likelihood": SpectralLikelihood()}, "likelihood=normal"),
    ],
)
def test_impossible_plans_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(Refused, match=sentence) as refused:
        image_vae(**options) if "likelihood" not in options else ImageVAE(
            **BASE, posterior=NormalPosterior, prior=NormalPrior, **options
        )
    assert "\n" not in str(refused.value)


def test_a_collapsed_code_is_revived_by_training_alone():
    """Sixteen bars, each a code word: in 400 steps the bound pays for telling them apart."""
    torch.manual_seed(0)
    x = torch.zeros(16, 1, 8, 8)
    for i in range(8):
        x[i, 0, i], x[8 + i, 0, :, i] = 1, 1
    vae = image_vae(event_shape=(1, 8, 8), likelihood="bernoulli", latent_dim=4)
    vae.calibrate(Batch(x))
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    for _ in range(400):
        elbo = vae.elbo(Batch(x.repeat(2, 1, 1, 1)))
        optimizer.zero_grad()
        (elbo.distortion + elbo.rate).mean().backward()
        optimizer.step()
    with torch.no_grad():
        elbo = vae.elbo(Batch(x), seed=0)
        wrong = vae.distortion(Batch(x), elbo.z.roll(1, 0))
    assert elbo.rate.mean() > 1.5
    assert (wrong - elbo.distortion).mean() > 3
