"""Laws of the autoregressive image decoder: what a pixel sees, what is drawn, what is hidden, and what it does to z."""

from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from vaecollapse import probing
from vaecollapse.batch import Batch, collate
from vaecollapse.detectors.decoder_reliance import DecoderReliance
from vaecollapse.detectors.decoder_variance import DecoderVariance
from vaecollapse.detectors.prior_samples import PriorSamples
from vaecollapse.detectors.rate import Rate
from vaecollapse.detectors.temperature import Temperature
from vaecollapse.diagnosis import Facts, diagnose
from vaecollapse.distributions.autoregressive import quantile
from vaecollapse.distributions.likelihoods import BernoulliLikelihood, LaplaceLikelihood, NormalLikelihood
from vaecollapse.distributions.posteriors import NormalPosterior
from vaecollapse.distributions.priors import NormalPrior
from vaecollapse.elbo import Progress
from vaecollapse.evaluation import read
from vaecollapse.models.image import ImageVAE
from vaecollapse.models.image_ar import AutoregressiveImageVAE
from vaecollapse.preflight import survey
from vaecollapse.probing import Plan, probe
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.sampling import prior_samples, reconstructions

LIKELIHOODS = {
    "bernoulli": BernoulliLikelihood,
    "normal": NormalLikelihood,
    "learned": partial(NormalLikelihood, scale_mode="learned"),
    "optimal": partial(NormalLikelihood, scale_mode="optimal"),
    "laplace": LaplaceLikelihood,
}
BASE = {"event_shape": (1, 9, 8), "latent_dim": 3, "capacity": 3}


def model(kind: type = AutoregressiveImageVAE, *, likelihood: str = "bernoulli", loud: bool = True, **options):
    torch.manual_seed(0)
    parts = {"posterior": NormalPosterior, "prior": NormalPrior, "likelihood": LIKELIHOODS[likelihood]()}
    vae = kind(**BASE | parts | options).double()
    if loud and getattr(vae, "causal", None) is not None:
        with torch.no_grad():  # as training would: the pixels before decide
            vae.causal.last.weight.mul_(5)
    return vae


def images(count: int = 5, shape: tuple[int, ...] = (1, 9, 8)) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(count, *shape, generator=generator) < 0.4).double()
    return Batch(x, index=torch.arange(count))


def seen_by(vae, pixel: tuple[int, int], planes: int = 1) -> set[tuple[int, int]]:
    """The pixels on which the output at this one depends, by its gradient."""
    x = images(1, (planes, 9, 8)).x.requires_grad_()
    z = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output = vae.decode(z).given(x).elements.logits[0, :, pixel[0], pixel[1]].sum()
    (gradient,) = torch.autograd.grad(output, x, allow_unused=True)
    return set() if gradient is None else {(int(i), int(j)) for _, _, i, j in gradient.nonzero()}


@pytest.mark.parametrize("pixel", [(0, 0), (0, 5), (4, 0), (5, 3), (8, 7)])
@pytest.mark.parametrize(("field", "planes"), [(1, 1), (2, 3), (4, 1), (7, 1)])
def test_a_pixel_sees_its_field_before_it_and_nothing_else(field, planes, pixel):
    """All of it: no blind spot. Nothing of the pixel itself, of its planes, or after it."""
    i, j = pixel
    vae = model(receptive_field=field, event_shape=(planes, 9, 8))
    rows = {(a, b) for a in range(i - field, i) for b in range(j - field, j + field + 1)}
    left = {(i, b) for b in range(j - field, j)}
    assert seen_by(vae, pixel, planes) == {(a, b) for a, b in rows | left if 0 <= a < 9 and 0 <= b < 8}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_what_is_drawn_is_each_pixels_quantile_given_those_before(likelihood):
    vae = model(likelihood=likelihood).eval()
    levels = torch.rand(4, 1, 9, 8, dtype=torch.float64)
    decoded = vae.decode(20 * torch.randn(4, 3, dtype=torch.float64))
    x = decoded.draw(levels)
    torch.testing.assert_close(quantile(decoded.given(x).elements, levels), x, rtol=1e-9, atol=1e-9)
    alone = vae.decode(torch.zeros(1, 3, dtype=torch.float64)).draw(levels[:1])
    assert not torch.equal(alone, decoded.draw(levels[:1].expand_as(levels))[1:2]), "z is told"


def test_samples_are_as_likely_as_the_density_says():
    """E[−ln p(x|z)] over samples is the mean conditional entropy along them."""
    vae = model().eval()
    decoded = vae.decode(torch.zeros(1, 3, dtype=torch.float64).expand(800, 3))
    with torch.no_grad():
        x = decoded.sample()
        p = decoded.given(x).mean
        entropy = -(p * p.log() + (1 - p) * (1 - p).log()).flatten(1).sum(1)
        difference = -decoded.log_prob(x) - entropy
    assert set(x.unique().tolist()) == {0.0, 1.0} and tuple(decoded.sample((2,)).shape) == (2, 800, 1, 9, 8)
    assert abs(difference.mean()) < 4 * difference.std() / 800**0.5


def test_the_mean_is_a_function_of_z_alone():
    vae, z = model().eval(), torch.randn(3, 3, dtype=torch.float64)
    state = torch.get_rng_state()
    with torch.no_grad():
        means, alone = vae.decode(z).mean, vae.decode(z[1:2]).mean
    torch.testing.assert_close(alone, means[1:2])
    assert torch.equal(torch.get_rng_state(), state) and not torch.allclose(means[0], means[1])
    batch = images()
    assert prior_samples(vae.float(), 2, (3,)).shape == (2, 1, 9, 8)
    assert reconstructions(vae.double(), batch)["other_z"].shape == batch.x.shape


def test_a_field_of_zero_is_the_factorised_decoder():
    plain, none = model(ImageVAE), model(receptive_field=0)
    none.load_state_dict(plain.state_dict())
    bounds = [vae.elbo(images(), seed=0) for vae in (plain, none)]
    assert torch.equal(bounds[0].distortion, bounds[1].distortion)
    assert none.weaken is None and not none.autoregressive and model().autoregressive


def test_dropped_pixels_are_hidden_while_training_alone():
    vae, sure = model(pixel_dropout=0.6), model()
    readings = {}
    for name, each in {"dropped": vae, "sure": sure}.items():
        torch.manual_seed(1)
        readings[name] = [each.elbo(images(), seed=0).distortion.detach() for _ in range(2)]
        readings[name] += [each.eval().elbo(images(), seed=0).distortion.detach()]
    assert not torch.equal(*readings["dropped"][:2]) and torch.equal(*readings["sure"][:2])
    assert torch.equal(readings["dropped"][2], readings["sure"][2])
    x = images(400).x
    shown = vae.train().shown(x, None)
    hidden = (shown == 0).double().mean()
    assert abs(hidden - 0.6) < 0.02 and set(shown.unique().tolist()) == {-1.0, 0.0, 1.0}


def test_padding_is_neither_shown_nor_scored():
    vae, batch = model().eval(), images()
    mask = torch.ones_like(batch.x, dtype=torch.bool)
    mask[:, :, :, 5:] = False
    other = batch.x.clone()
    other[:, :, :, 5:] = 1 - other[:, :, :, 5:]
    z = torch.randn(5, 3, dtype=torch.float64)
    decoded = vae.decode(z, None, mask)
    assert torch.equal(decoded.log_prob(batch.x), decoded.log_prob(other))
    assert not torch.equal(decoded.log_prob(batch.x), vae.decode(z).log_prob(batch.x))


def test_a_weakened_decoder_sees_no_pixel():
    vae = model().eval()
    assert seen_by(vae, (5, 3))
    vae.weaken()
    assert not seen_by(vae, (5, 3))
    decoded = vae.decode(torch.randn(2, 3, dtype=torch.float64))
    torch.testing.assert_close(decoded.mean, decoded.given(images(2).x).mean)


def test_no_forecast_is_made_and_no_hundreds_of_images_are_drawn():
    """Stability of collapse given the pixels before is known to no formula; the price of a nat still is."""
    batch = images(64)
    for vae, made in ((model(), False), (model(receptive_field=0), True)):
        plan = survey(vae, batch, batch, beta=0.7, units=3, steps=10, warmup_ends=1)
        assert (plan.forecast is not None) == made and plan.beta_effective == 0.7
    found, _ = read(model().eval(), [batch], {"temperature": Temperature(), "prior": PriorSamples()})
    assert found["diversity_prior"].status == found["prior_samples"].status == "undefined"
    learned, _ = read(model(likelihood="learned").eval(), [batch], {"scale": DecoderVariance()})
    assert learned["decoder_scale"].value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"receptive_field": -1}, "receptive_field=8"),
        ({"pixel_dropout": 1.0}, "receptive_field=0 to hide all"),
        ({"pixel_dropout": -0.1}, "pixel_dropout=0.5"),
        ({"pixel_dropout": 0.5, "receptive_field": 0}, "sees none"),
        ({"capacity": 0}, "max_channels"),
    ],
)
def test_impossible_plans_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(Refused, match=sentence):
        model(loud=False, **options)


# ---- what it is for


def blocks(count: int) -> Batch:
    """Four quarters of one colour each: the first pixel of a quarter tells the others."""
    bits = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(count)) < 0.5
    return Batch(bits.float().repeat_interleave(4, 2).repeat_interleave(4, 3), index=torch.arange(count))


def taught(*, steps: int = 60) -> AutoregressiveImageVAE:
    """A decoder that has learned the quarters while the KL was too dear for z."""
    small = {"event_shape": (1, 8, 8), "capacity": 4, "residual_units": 0, "receptive_field": 1, "latent_dim": 4}
    vae, batch = model(loud=False, **small).float(), blocks(64)
    vae.calibrate(batch)
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.02)
    for _ in range(steps):
        elbo = vae.elbo(batch)
        optimizer.zero_grad()
        (elbo.distortion + 20 * elbo.rate).mean().backward()
        optimizer.step()
    return vae


def test_a_weaker_decoder_revives_z_where_the_pixels_before_bypass_it(monkeypatch):
    """The probe's fork applies, and names the cause."""
    monkeypatch.setattr(probing, "WHAT", {"decoder": probing.WHAT["decoder"]})
    vae, data = taught(), blocks(256)
    examples = [data.part(slice(i, i + 1)) for i in range(256)]
    loader = DataLoader([Batch(e.x[0], index=e.index[0]) for e in examples], batch_size=64, shuffle=True,
                        collate_fn=collate, generator=torch.Generator().manual_seed(0))  # fmt: skip
    plan = Plan(partial(torch.optim.Adam, lr=0.02), loader, Progress(1, 1), 50, 0)
    regularizer, held_out = Beta(weight=Constant(value=1.0)), [blocks(600)]
    detectors = {"gap": DecoderReliance(), "rate": Rate()}
    found = probe(vae, regularizer, plan, held_out, data, detectors)
    before, after = (part["gap"] for part in (found.forks["decoder"].before, found.forks["decoder"].after))
    assert before.status == "absent" and after.value > 5
    facts = Facts(forks=found.forks, over_reference=found.over_reference)
    verdict = diagnose(read(vae, held_out, detectors)[0], None, facts)
    assert verdict.verdict == "posterior_collapse" and "decoder_too_strong" in verdict.mechanisms
    assert not vae.hidden, "the model itself still sees"
