"""The conditional VAE of rain: what each head, injection and hard layer promises."""

import functools
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vaecollapse import config
from vaecollapse.audit import audit
from vaecollapse.batch import Batch
from vaecollapse.datasets.base import VAEData
from vaecollapse.elbo import gaussian
from vaecollapse.models.spatial import PrecipitationVAE
from vaecollapse.nn.downscaling import by_block, conserved, on_grid
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.sampling import Held, from_prior
from vaecollapse.tasks.building import build_model

SMALL = ["model=precip_cvae", "latent_dim=4", "capacity=2"]
FACTOR = 8


@functools.cache
def data() -> VAEData:
    made = instantiate(config.compose(SMALL).dataset, storms=12, steps=2, size=16, batch_size=8)
    made.setup()
    return made


def made(*typed: str, seed: int = 0) -> tuple[PrecipitationVAE, Batch]:
    torch.manual_seed(seed)
    vae: Any = build_model(config.compose([*SMALL, *typed]), data())
    batch = data().examples("train", 8)
    vae.calibrate(batch)
    return vae.eval(), batch


def decoded(vae: PrecipitationVAE, batch: Batch, scale: float = 3.0) -> Tensor:
    """Fields of codes far from 0, through a decoder whose last weights are not small."""
    torch.manual_seed(1)
    with torch.no_grad():
        vae.decoder.last.weight.mul_(20)
        return vae.decode(scale * torch.randn(len(batch.x), 4), batch.context, batch.mask).mean


# ---- heads


@pytest.mark.parametrize("head", ["softplus", "linear"])
def test_rain_is_never_negative_and_starts_at_what_it_is_on_average(head) -> None:
    vae, batch = made(f"model.head={head}")
    with torch.no_grad():
        start = vae.decode(torch.zeros(8, 4), batch.context).mean.mean()
    rain = (
        batch.x if head == "softplus" else vae.transform.inverse(vae.transform(batch.x).mean()[None, None, None, None])
    )
    assert float(start) == pytest.approx(float(rain.mean()), rel=0.5)
    field = decoded(vae, batch)
    assert float(field.min()) >= 0
    assert float(field.std()) > 0.1


def test_a_linear_head_can_be_dry_and_a_softplus_cannot() -> None:
    dry = {head: (decoded(*made(f"model.head={head}")) == 0).double().mean() for head in ("linear", "softplus")}
    assert dry["linear"] > 0.05 and dry["softplus"] == 0


def test_a_bernoulli_gamma_is_a_density_whose_members_are_dry_in_places() -> None:
    vae, batch = made("likelihood=bernoulli_gamma")
    assert vae.normalised
    member: Any = vae.decode(torch.zeros(8, 4), batch.context)
    share = float((batch.x == 0).double().mean())
    assert float((member.member() == 0).double().mean()) == pytest.approx(share, abs=0.15)
    assert float(member.mean.min()) > 0


# ---- hard layers


@pytest.mark.parametrize("how", ["add", "mult", "softmax"])
def test_hard_layers_keep_the_mass_of_every_block_and_what_is_dry_dry(how) -> None:
    vae, batch = made(f"model.hard={how}")
    assert batch.context is not None
    context = batch.context.clone()
    context[:, :, :FACTOR] = 0  # a dry row of blocks
    field = decoded(vae, batch._replace(context=context))
    torch.testing.assert_close(avg_pool2d(field, FACTOR), avg_pool2d(context, FACTOR), rtol=1e-5, atol=1e-6)
    assert float(field[:, :, :FACTOR].max()) == 0
    assert float(field.min()) >= 0
    mask = torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    masked = decoded(vae, batch._replace(mask=mask)) * mask
    valid = avg_pool2d(mask.float(), FACTOR)
    torch.testing.assert_close(
        avg_pool2d(masked, FACTOR) / valid, avg_pool2d(batch.context, FACTOR), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("how", ["add", "mult", "softmax"])
def test_members_of_prior_mode_keep_the_mass_of_the_cells_that_have_data(how) -> None:
    vae, batch = made(f"model.hard={how}")
    mask = torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    masked = batch._replace(mask=mask)
    held = Held(8, lambda rows: Batch(*(each[list(rows)] for each in masked)), True, of_places=True)
    with torch.no_grad():
        sample = torch.from_numpy(next(from_prior(vae, held, 8)).columns["sample"])
    assert not sample[~mask].any() and batch.context is not None
    means = avg_pool2d(sample, FACTOR) / avg_pool2d(mask.float(), FACTOR)
    torch.testing.assert_close(means, avg_pool2d(batch.context, FACTOR), rtol=1e-5, atol=1e-5)


def test_add_is_the_nearest_field_of_that_mass() -> None:
    """A projection: what has the mass already stays, and no other field of that mass is nearer."""
    generator = torch.Generator().manual_seed(0)
    field = 4 * torch.randn(5, 1, 4, 4, generator=generator, dtype=torch.float64)
    coarse = 2 * torch.rand(5, 1, 2, 2, generator=generator, dtype=torch.float64)
    found = conserved(field, coarse, 2, "add")
    torch.testing.assert_close(conserved(found, coarse, 2, "add"), found)
    for _ in range(20):
        other = torch.rand(field.shape, generator=generator, dtype=torch.float64).pow(4)
        other = conserved(other, coarse, 2, "mult")
        assert bool(((field - found) * (other - found)).flatten(1).sum(1).le(1e-9).all())


@pytest.mark.parametrize("how", ["add", "mult", "softmax"])
def test_hard_layers_have_the_gradient_of_their_values(how) -> None:
    generator = torch.Generator().manual_seed(0)
    field = 1 + torch.rand(1, 1, 4, 4, generator=generator, dtype=torch.float64)
    field.requires_grad_(True)
    coarse = torch.rand(1, 1, 2, 2, generator=generator, dtype=torch.float64) + 0.2
    assert torch.autograd.gradcheck(lambda f: conserved(f, coarse, 2, how), (field,))


def test_blocks_are_put_back_where_they_were() -> None:
    field = torch.arange(48.0).reshape(1, 1, 4, 12)
    assert torch.equal(on_grid(by_block(field, 2), 2), field)
    assert by_block(field, 2)[0, 1, 2].tolist() == [28, 29, 40, 41]


# ---- z and the condition


@pytest.mark.parametrize("injection", ["film", "spatial"])
def test_z_and_the_condition_both_act(injection) -> None:
    vae, batch = made(f"model.injection={injection}")
    assert batch.context is not None
    z = torch.randn(8, 4)
    with torch.no_grad():
        own = vae.decode(z, batch.context).mean
        assert not torch.allclose(vae.decode(z + 1, batch.context).mean, own)
        assert not torch.allclose(vae.decode(z, 2 * batch.context).mean, own)


def test_a_prior_of_the_condition_is_gaussian_and_one_without_is_not_moved() -> None:
    for prior_input, moved in (("nothing", False), ("context", True)):
        vae, batch = made(f"model.prior_input={prior_input}")
        assert batch.context is not None
        laws = [gaussian(vae.prior(context)) for context in (batch.context, 2 * batch.context)]
        (first, _), (second, _) = laws[0] or (), laws[1] or ()
        assert moved == (not torch.allclose(first.expand_as(second), second))


@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_temperature_is_the_spread_of_members_and_0_makes_them_alike(mode) -> None:
    """Of a linear decoder's z, for small noise: diversity in z grows with T²."""
    vae, batch = made()
    law = vae.prior(batch.context) if mode == "prior" else vae.encode(batch.x, batch.context)
    parameters = gaussian(law)
    assert parameters is not None
    eps = torch.randn(64, 8, 4, generator=torch.Generator().manual_seed(0))
    spread = []
    with torch.no_grad():
        for temperature in (0.0, 0.05, 0.1):
            z = parameters[0] + temperature * parameters[1] * eps
            fields = torch.stack([vae.decode(each, batch.context).mean for each in z])
            spread.append(float(fields.var(0).mean()))
    assert spread[0] < 1e-12
    assert spread[2] / spread[1] == pytest.approx(4, rel=0.1)


def test_the_condition_is_read_on_the_coarse_grid() -> None:
    vae, batch = made()
    condition = vae.condition(batch)
    assert condition is not None and condition.shape == (8, 1, 2, 2)


# ---- what a nat costs


def test_the_auditor_prints_beta_times_cells_over_the_reconstruction() -> None:
    vae, batch = made()
    found = audit(vae, Beta(weight=Constant(value=0.01)), batch)
    rebuilt: Any = vae.decode(vae.elbo(batch, seed=0).z, batch.context)
    l_rec = float(vae.likelihood.reconstruction(batch.x, rebuilt.field).mean())  # pyright: ignore[reportCallIssue]
    assert found.weight == pytest.approx(0.01)
    assert found.beta_effective == pytest.approx(0.01 * 256 / l_rec, rel=1e-4)
    assert "the weighted mean of absolute errors over 256 cells" in found.lines()[0]


# ---- refused


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["model.head=relu"], "cannot go below the mean: drizzle everywhere"),
        (["model.head=bernoulli_gamma"], "type likelihood=bernoulli_gamma"),
        (["model.injection=concat"], "film or spatial"),
        (["model.hard=mult", "model.head=linear"], "type model.hard=add"),
        (["likelihood=bernoulli_gamma", "model.hard=add"], "no density of a fixed mass"),
        (["likelihood=spectral"], "none of rain"),
        (["dataset=digits"], "type dataset=rain or dataset=precipitation"),
        (["model.residual_units=-1"], "type 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(typed, words) -> None:
    cfg = config.compose([*SMALL, *typed])
    given = instantiate(cfg.dataset) if "dataset=digits" in typed else data()
    with pytest.raises(Refused, match=words):
        build_model(cfg, given)


def test_hard_layers_need_the_targets_own_means() -> None:
    facts = data().facts | {"channels": ("psl",)}
    node = config.compose([*SMALL, "model.hard=add"]).model
    names = ("event_shape", "context_shape", "factor", "channels", "transform", "p99", "wet")
    with pytest.raises(Refused, match=r"predictors\.mode=coarsen"):
        instantiate(node, _partial_=True, _convert_="all")(**{name: facts[name] for name in names})
