"""Laws of heads that promise a KL, of the parametrisations of σ, and of what they are refused with."""

import logging
import math
from functools import partial

import pytest
import torch
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional as F

from vaecollapse.batch import Batch
from vaecollapse.distributions.batch_norm import BatchNormPosterior
from vaecollapse.distributions.delta import MARGIN, SIDES, DeltaPosterior, log_variance_range
from vaecollapse.distributions.flows import Flow
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.distributions.posteriors import PARAMETRISATIONS, NormalPosterior, check_promise, scale_of
from vaecollapse.distributions.priors import FlowPrior, NormalPrior
from vaecollapse.elbo import closed_form_kl, gaussian
from vaecollapse.models.image import ImageVAE
from vaecollapse.preflight import rehearse
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant

RATES = [1e-3, 0.01, 0.1, 1.0, 10.0]
EXTREMES = [0.0, 1e-30, 1e-8, 1e-3, 0.3, 1.0, 4.0, 12.0, 30.0, 90.0, 1e3, 1e6, 1e15]


def standard(units: int, **kind) -> Distribution:
    return Independent(Normal(torch.zeros(units, **kind), torch.ones(units, **kind)), 1)


# ---- σ


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_sigma_is_one_at_start_bounded_and_its_gradient_alive_far_out(parametrisation):
    """Where a head has run far off, in float32, the KL still pulls it back: no parametrisation is a trap."""
    raw = torch.tensor([0.0, 20.0, -20.0, 60.0, -60.0], requires_grad=True)
    scale = scale_of(raw[None], parametrisation, 1e-4)[0]
    torch.testing.assert_close(scale[0].item(), 1.0, rtol=2e-3, atol=0)
    assert scale.isfinite().all() and (scale > 0).all()
    kl = closed_form_kl(Independent(Normal(torch.zeros(5), scale), 1), standard(5))
    (gradient,) = torch.autograd.grad(kl.sum(), raw)
    assert gradient.isfinite().all()
    assert (gradient[1:].sign() == torch.tensor([1.0, -1.0, 1.0, -1.0])).all()


# ---- δ-VAE


def delta(rate: float, sides: str, raw: torch.Tensor) -> Distribution:
    """q of a head that puts out `raw` (batch, 2 · units)."""
    head = DeltaPosterior(features=raw.shape[1], units=raw.shape[1] // 2, rate=rate, sides=sides).to(raw.dtype)
    with torch.no_grad():
        head.head.weight.copy_(torch.eye(raw.shape[1]))
        head.head.bias.zero_()
    return head(raw)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("rate", RATES)
def test_the_kl_of_every_unit_is_at_least_delta_whatever_the_head_says(rate, sides, kind):
    """In the precision of training, far out too, with finite gradients; the least there is is δ and its margin."""
    around = torch.cat([torch.tensor(EXTREMES), torch.linspace(0, 20, 200)])
    values = torch.cat([around, -around]).to(kind)
    raw = torch.cartesian_prod(values, values).requires_grad_()
    kl = closed_form_kl(delta(rate, sides, raw), standard(1, dtype=kind))
    assert kl.min() >= rate
    (gradient,) = torch.autograd.grad(kl.sum(), raw)
    assert kl.isfinite().all() and gradient.isfinite().all()
    assert kl.min() <= rate * (1 + 2 * MARGIN) + 1e-7


@pytest.mark.parametrize("rate", RATES)
def test_the_bounds_of_sigma_are_where_the_variance_alone_costs_delta(rate):
    for log_variance in log_variance_range(rate):
        kl = 0.5 * (math.exp(log_variance) - 1 - log_variance)
        assert kl == pytest.approx(rate, rel=1e-9)
    low, high = log_variance_range(rate)
    assert low < 0 < high


@pytest.mark.parametrize(("sides", "signs"), [("one", {1.0}), ("both", {-1.0, 1.0})])
def test_the_mean_takes_the_signs_it_may_and_sigma_starts_at_one(sides, signs):
    raw = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    mean, _ = gaussian(delta(0.1, sides, raw))
    assert set(mean.sign().flatten().tolist()) == signs
    _, start = gaussian(delta(0.1, sides, torch.zeros(1, 2)))
    torch.testing.assert_close(start, torch.ones(1, 1))


@pytest.mark.parametrize(
    "options", [{"rate": 0.0}, {"rate": -1.0}, {"rate": 11.0}, {"rate": math.nan}, {"sides": "two"}]
)
def test_what_is_no_promise_is_refused_with_what_to_type(options):
    with pytest.raises(Refused, match="try posterior"):
        DeltaPosterior(features=3, units=2, **options)


# ---- BN-VAE


def head(*, features: int = 6, units: int = 4, **options) -> BatchNormPosterior:
    torch.manual_seed(0)
    return BatchNormPosterior(features=features, units=units, **options)


def features(count: int = 64, wide: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(count, wide, generator=generator) + 5


@pytest.mark.parametrize("shift", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("gamma", [0.1, 0.6, 1.0])
def test_the_mean_kl_of_a_batch_is_at_least_what_the_means_alone_cost(gamma, shift):
    """E KL ≥ k(γ² + b²)/2, reached where σ = 1; μ has mean b and variance γ² in every unit."""
    posterior = head(gamma=gamma)
    with torch.no_grad():
        posterior.shift.fill_(shift)
        posterior.raw_scale.weight.zero_()
        posterior.raw_scale.bias.zero_()
    mean, _ = gaussian(q := posterior(features()))
    torch.testing.assert_close(mean.mean(0), torch.full((4,), shift), rtol=0, atol=1e-5)
    torch.testing.assert_close(mean.var(0, unbiased=False), torch.full((4,), gamma**2), rtol=1e-4, atol=0)
    promised = 4 * (gamma**2 + shift**2) / 2
    assert closed_form_kl(q, standard(4)).sum(1).mean().item() == pytest.approx(promised, rel=1e-3)
    with torch.no_grad():
        posterior.raw_scale.weight.normal_()
    assert closed_form_kl(posterior(features()), standard(4)).sum(1).mean() > promised * (1 - 1e-3)


def test_value_and_gradient_are_those_of_batch_normalisation():
    posterior, h = head(gamma=0.5).double(), features().double()
    mean, _ = gaussian(posterior(h))
    ours = torch.autograd.grad(mean.pow(3).sum(), posterior.mean.weight)[0]
    expected = 0.5 * F.batch_norm(posterior.mean(h), None, None, training=True, eps=posterior.eps)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.pow(3).sum(), posterior.mean.weight)[0])


def test_evaluation_uses_running_statistics_and_moves_nothing():
    """Of one batch seen again and again they are that batch's; then no example sees another."""
    posterior, h = head(), features()
    for _ in range(3):
        trained, _ = gaussian(posterior(h))
    kept = {name: tensor.clone() for name, tensor in posterior.state_dict().items()}
    whole, _ = gaussian(posterior.eval()(h))
    torch.testing.assert_close(whole, trained * math.sqrt(63 / 64), rtol=1e-4, atol=1e-4)  # n − 1 in evaluation
    alone, _ = gaussian(posterior(h[5:6]))
    torch.testing.assert_close(alone, whole[5:6])
    with torch.no_grad():
        posterior.train()(2 * h)  # a look without gradients is no training either
    assert all(torch.equal(kept[name], tensor) for name, tensor in posterior.state_dict().items())


def test_the_running_statistics_forget_what_lies_many_batches_back():
    posterior = head()
    for step in range(200):
        posterior(features() * (10 if step < 50 else 1))
    old, _ = gaussian(posterior.eval()(features()))
    torch.testing.assert_close(old.std(0), torch.full((4,), 0.6), rtol=0.05, atol=0)


def test_one_example_and_a_variance_beside_eps_are_refused_at_the_first_batch(caplog):
    with pytest.raises(Refused, match="type batch_size="):
        head()(features(1))
    with pytest.raises(Refused, match=r"posterior\.eps=0\.1 .* type posterior\.eps="):
        head(eps=0.1)(features())
    with pytest.raises(Refused, match="type posterior=normal"):
        head()(torch.ones(8, 6))
    posterior = head()
    posterior(features())
    for _ in range(400):
        posterior(1e-3 * features())  # weights that shrink: too late to refuse
    with caplog.at_level(logging.WARNING):
        posterior.eval()(features())
        posterior(features())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "posterior.eps" in caplog.text


@pytest.mark.parametrize("options", [{"gamma": 0.0}, {"gamma": 1.5}, {"gamma": math.nan}, {"eps": 0.0}, {"eps": 2.0}])
def test_impossible_normalisations_are_refused(options):
    with pytest.raises(Refused, match="try"):
        head(**options)


# ---- what a promise is refused with

PROMISING = {
    "delta": partial(DeltaPosterior, rate=0.2),
    "batch_norm": BatchNormPosterior,
}


class LearnedPrior(torch.nn.Module):
    """N(m, I) that starts as N(0, I): its mean will follow the posterior's."""

    def __init__(self, *, units: int) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(units))

    def forward(self, context=None) -> Distribution:
        return Independent(Normal(self.mean, torch.ones_like(self.mean)), 1)


class ShiftedPrior(NormalPrior):
    def forward(self, context=None) -> Distribution:
        return Independent(Normal(self.get_buffer("mean") + 0.5, torch.ones(3)), 1)


def plan(posterior, prior) -> tuple[ImageVAE, Batch]:
    vae = ImageVAE(event_shape=(1, 8, 8), latent_dim=3, capacity=2, posterior=posterior, prior=prior,
                   likelihood=NormalLikelihood())  # fmt: skip
    return vae, Batch(torch.rand(4, 1, 8, 8))


@pytest.mark.parametrize(
    ("prior", "named"),
    [(FlowPrior, "a flow"), (LearnedPrior, "a learned Gaussian"), (ShiftedPrior, "another Gaussian")],
)
@pytest.mark.parametrize("posterior", PROMISING)
def test_a_promise_to_the_standard_prior_is_refused_with_another_before_step_one(posterior, prior, named):
    vae, batch = plan(PROMISING[posterior], prior)
    with pytest.raises(Refused, match=f"posterior={posterior} .*{named}.*type prior=normal"):
        rehearse(vae, Beta(weight=Constant(value=1.0)), batch)
    vae, batch = plan(NormalPosterior, prior)
    rehearse(vae, Beta(weight=Constant(value=1.0)), batch)


@pytest.mark.parametrize("posterior", PROMISING)
def test_a_promise_is_kept_with_the_standard_prior_and_not_through_a_flow(posterior):
    vae, batch = plan(PROMISING[posterior], NormalPrior)
    rehearse(vae, Beta(weight=Constant(value=1.0)), batch)
    own = vae.encode(batch.x)
    through = Flow(kind="realnvp", units=3)(own)
    with pytest.raises(Refused, match="a flow"):
        check_promise(through, vae.prior())
