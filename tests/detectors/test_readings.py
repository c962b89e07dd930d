"""Laws of the readings that explain: (ε, δ), the prices per unit, interventions, conditions, scales, temperatures."""

import math

import pytest
import torch
from planted import (
    EIGENVALUES,
    Planted,
    blind,
    collapsed,
    filling,
    findings_on,
    gaussian_data,
    informative,
    optimum,
    probe,
    reading,
    verdict_on,
)
from torch.distributions import Independent, Normal

from vaecollapse.batch import Batch
from vaecollapse.detectors.active_units import ActiveUnits
from vaecollapse.detectors.conditions import derangements, labels, nearest, within_groups
from vaecollapse.detectors.decoder_reliance import DecoderReliance
from vaecollapse.detectors.decoder_variance import DecoderVariance
from vaecollapse.detectors.epsilon_delta import EpsilonDelta
from vaecollapse.detectors.information_rank import InformationRank
from vaecollapse.detectors.mutual_information import Estimate, MutualInformation, pointwise
from vaecollapse.detectors.posterior_variance import PosteriorVariance
from vaecollapse.detectors.price_of_a_nat import PriceOfANat
from vaecollapse.detectors.rate import Rate
from vaecollapse.detectors.temperature import Temperature
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.distributions.posteriors import DeclaredNormal
from vaecollapse.elbo import ELBO, Objective, Progress, closed_form_kl, noise, pieces, unit_moments
from vaecollapse.evaluation import read
from vaecollapse.models.linear import LinearVAE
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant


def gaussian(mean: torch.Tensor, scale: torch.Tensor | float, dims: int = 1) -> Independent:
    return Independent(Normal(mean, torch.as_tensor(scale, dtype=torch.float64).expand_as(mean)), dims)


def price(weight: float):
    regularizer = Beta(weight=Constant(value=weight)).eval()
    return lambda elbo: regularizer(elbo, Progress(1, 1))


# ---- I(x; z)


@pytest.mark.parametrize(("eigenvalue", "units", "n"), [(1.5, 1, 500), (1.2, 3, 500), (2.0, 2, 800), (4.0, 1, 500)])
def test_information_covers_the_truth_in_two_hundred_draws(eigenvalue: float, units: int, n: int) -> None:
    inside = total = 0
    for seed in range(200):
        x = torch.randn(n, units, generator=torch.Generator().manual_seed(seed)).double()
        mean = (1 - 1 / eigenvalue) ** 0.5 * x
        q = gaussian(mean, eigenvalue**-0.5)
        whole, halves = pointwise(q, mean + eigenvalue**-0.5 * noise(torch.arange(n), (units,), seed=seed)[0])
        if float(whole.mean() - halves.mean()) <= 0.02:
            total += 1
            truth = units * 0.5 * math.log(eigenvalue)
            inside += abs(float(whole.mean()) - truth) < 1.96 * float(whole.std()) / n**0.5
    assert total >= 150
    assert 0.9 <= inside / total <= 0.99


@pytest.mark.parametrize("n", [64, 256, 1000])
@pytest.mark.parametrize("units", [1, 4, 16, 32])
def test_a_bias_above_a_fifth_of_a_nat_is_always_flagged(n: int, units: int) -> None:
    detector, prior = MutualInformation(), gaussian(torch.zeros(units).double(), 1.0)
    for scale in (0.95, 0.9, 0.7, 0.5, 0.3, 0.1, 0.01):
        for seed in range(3):
            x = torch.randn(n, units, generator=torch.Generator().manual_seed(seed)).double()
            q = gaussian((1 - scale**2) ** 0.5 * x, scale)
            z = q.base_dist.loc + scale * noise(torch.arange(n), (units,), seed=seed)[0]
            whole, halves = pointwise(q, z)
            growth, value = whole - halves, float(whole.mean())
            found = Estimate(value, 0.0, float(growth.mean()), float(growth.std()) / n**0.5, math.log(n), n)
            if float((q.log_prob(z) - prior.log_prob(z)).mean()) - value > 0.2:
                assert detector.note(found) in ("lower bound", "saturated"), (scale, seed)


def test_information_in_rows_of_blocks_is_that_of_the_whole_matrix() -> None:
    mean = torch.randn(1300, 5, generator=torch.Generator().manual_seed(0)).double()
    q, z = gaussian(mean, 0.3), mean + 0.3 * noise(torch.arange(1300), (5,))[0]
    log_q = q.log_prob(z[:, None])
    whole, halves = pointwise(q, z)
    torch.testing.assert_close(whole, log_q.diagonal() - log_q.logsumexp(1) + math.log(1300))
    first = log_q[:650, :650]
    torch.testing.assert_close(halves[:650], first.diagonal() - first.logsumexp(1) + math.log(650))


# ---- conditions


class Conditional(Planted):
    """z says what c says (`copies`), or what x adds to it; the prior knows c, the decoder adds it."""

    def __init__(self, copies: bool) -> None:
        super().__init__(informative, blind)
        self.copies = copies

    def prior(self, context=None):
        assert context is not None
        return gaussian(4 * context.double().reshape(len(context), 1).expand(-1, 4), 1.0)

    def encode(self, x, context=None, mask=None):
        prior = self.prior(context).base_dist.loc
        return gaussian(prior, 1.0) if self.copies else gaussian(prior + 0.9 * x[:, :4], 0.3)

    def decode(self, z, context=None, mask=None):
        return gaussian(torch.nn.functional.pad(z - self.prior(context).base_dist.loc, (0, 4)) / 0.9, 1.0)


def conditioned(context: torch.Tensor, copies: bool, n: int = 600) -> dict:
    batch = Batch(gaussian_data(n, (1.0,) * 8), context=context, index=torch.arange(n))
    return read(Conditional(copies), [batch], {"g": DecoderReliance(), "i": MutualInformation()})[0]


@pytest.mark.parametrize("context", [torch.arange(600) % 5, torch.linspace(-1, 1, 600).double()[:, None]],
                         ids=["discrete", "continuous"])  # fmt: skip
def test_what_the_condition_says_is_not_read_as_the_value_of_z(context: torch.Tensor) -> None:
    dead, alive = conditioned(context, copies=True), conditioned(context, copies=False)
    assert abs(dead["gap"].value) < 3 * dead["gap"].se + 0.05
    assert dead["gap"].status != "material"
    assert alive["gap"].status == "material"
    if context.is_floating_point():
        assert {"gap_5", "gap_100"} <= alive.keys()
        assert "nearest conditions" in alive["gap"].note
        assert alive["mi"].value is None and "continuous" in alive["mi"].note
    else:
        assert abs(dead["mi"].value) < 1e-12
        assert alive["mi"].value > 1
        assert alive["mi_ceiling"].value == pytest.approx(math.log(120))


def test_a_gap_that_depends_on_how_near_the_conditions_are_is_undecided() -> None:
    detector = DecoderReliance()
    for name, size in (("gap", 1.0), ("among_5", 0.6), ("among_100", 1.6), ("own", 1.0), ("rate", 1.0)):
        detector.accumulate(name, torch.full((600,), size).double())
    detector.accumulate("normalised", torch.ones(600).double())
    assert {finding.name: finding for finding in detector.findings()}["gap"].status == "undecided"


def test_conditions_that_nobody_shares_leave_examples_out() -> None:
    orders, paired = within_groups(labels(torch.tensor([1, 2, 1, 3, 2, 1])), 4, (0, 0))
    assert paired.tolist() == [True, True, True, False, True, True]
    of = torch.tensor([1, 2, 1, 3, 2, 1])
    assert (of[orders] == of).all() and not (orders[:, paired] == torch.arange(6)[paired]).any()


@pytest.mark.parametrize("n", [2, 3, 50])
def test_derangements_have_no_fixed_point_and_miss_nobody(n: int) -> None:
    for order in derangements(n, 4, (0, 1)):
        assert not (order == torch.arange(n)).any()
        assert order.sort().values.tolist() == list(range(n))


def test_the_nearest_conditions_of_numbers_and_of_words() -> None:
    assert nearest(torch.tensor([[0.0], [0.1], [5.0], [5.2]]), 1)[:, 0].tolist() == [1, 0, 3, 2]
    words = torch.tensor([[7, 8, 9], [9, 8, 7], [1, 2, 3], [1, 2, 4]])
    assert nearest(words, 1)[:, 0].tolist() == [1, 0, 3, 2]


# ---- interventions


def test_the_gap_of_the_linear_model_is_twice_that_of_the_mean_z() -> None:
    found = findings_on(optimum(5, e=0.5), gaussian_data(3000))
    assert found["gap_share"].value == pytest.approx(1, abs=4 * found["gap_share"].se + 0.01)
    assert found["gap"].value == pytest.approx(2 * found["gap_zero"].value, rel=0.1)
    assert 0.3 < found["gap_carriers"].value < 0.9


def test_a_constant_code_pays_for_the_priors_z_and_nothing_for_anothers() -> None:
    decoder = lambda z: torch.nn.functional.pad(z - 2, (0, 4))  # noqa: E731
    constant = lambda x: (torch.full((len(x), 4), 2.0).double(), torch.full((len(x), 4), 0.01).double())  # noqa: E731
    found = findings_on(Planted(constant, decoder), gaussian_data(600))
    assert found["gap_prior"].value > 5
    assert found["gap"].status == "absent"
    assert found["gap_share"].value is None and found["gap_carriers"].value is None


def test_a_unit_that_is_on_for_few_examples_is_seen_in_who_carries_the_gap() -> None:
    rare = lambda x: (100 * (torch.arange(len(x)) % 100 == 0).double()[:, None], torch.ones(len(x), 1).double())  # noqa: E731
    vae = Planted(rare, lambda z: torch.nn.functional.pad((z > 50).double() * 100, (0, 7)))
    x = gaussian_data(2000)
    x[::100, 0] += 100
    assert findings_on(vae, x)["gap_carriers"].value < 0.06  # 1 % that are on, 4 % that were given theirs


# ---- (ε, δ)


def test_epsilon_delta_counts_and_certifies() -> None:
    found = findings_on(optimum(5, e=1.0), gaussian_data(1000))
    assert found["collapsed_units"].value == 2  # the eigenvalues .8 and .4
    few = findings_on(optimum(5, e=1.0), gaussian_data(298))["collapsed_units"]
    assert few.status == "undecided" and "299" in few.note
    assert findings_on(optimum(5, e=1.0), gaussian_data(299))["collapsed_units"].status == "measured"


def test_the_curve_rises_with_epsilon_and_equals_its_whole_array_form() -> None:
    vae, x = optimum(5, e=0.5), gaussian_data(700)
    detector = EpsilonDelta()
    read(vae, probe(x, 100), {"e": detector})
    counts = list(detector.curve().values())
    assert counts == sorted(counts)
    kl = vae.elbo(Batch(x, index=torch.arange(700)), seed=0).kl
    for epsilon, count in detector.curve().items():
        assert count == int(((kl < epsilon).double().mean(0) >= 0.99).sum())


# ---- prices, σ, groups


def test_the_price_of_each_unit_is_the_weight_or_nothing() -> None:
    vae, x = optimum(5, e=0.5, beta=2.0), gaussian_data(500)
    detector = PriceOfANat(pairs=24, one_in=1)
    found, series = read(vae, probe(x, 250), {"p": detector}, price(2.0))
    active = [value > 0.5 for value in EIGENVALUES[:5]]
    for paid, alive in zip(series["price"], active, strict=True):
        assert paid == (pytest.approx(2.0, rel=0.1) if alive else 0.0)
    assert found["units_at_a_floor"].value == 0


def test_a_unit_that_pays_half_sits_at_a_floor() -> None:
    found, _ = read(optimum(5, e=0.5), probe(gaussian_data(500), 250), {"p": PriceOfANat(pairs=24)}, price(2.0))
    assert found["units_at_a_floor"].value == 4


def test_sigma_quantiles_and_mean() -> None:
    found, _ = read(optimum(5, e=1.0), probe(gaussian_data(200)), {"s": PosteriorVariance()})
    sigma = torch.tensor([math.sqrt(1 / max(value, 1.0)) for value in EIGENVALUES[:5]])
    assert found["sigma_mean"].value == pytest.approx(float(sigma.mean()))
    assert found["sigma_q10"].value == pytest.approx(float(sigma.quantile(0.1)))
    assert found["sigma_q90"].value == pytest.approx(1.0)


def spatial(n: int = 400, side: int = 16) -> tuple[Batch, ELBO]:
    """Three channels: one informative, one with a fixed picture for all x, one dead."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.zeros(n, 3, side, side).double()
    mean[:, 0] = 2 * torch.randn(n, side, side, generator=generator).double()
    mean[:, 1] = 3 * torch.randn(side, side, generator=generator).double()
    scale = torch.tensor([0.5, 1.0, 1.0]).double()[:, None, None].expand_as(mean)
    q, p = gaussian(mean, scale, 3), gaussian(torch.zeros(3, side, side).double(), 1.0, 3)
    z, kl = pieces(q, p)
    return Batch(torch.zeros(n, 1), index=torch.arange(n)), ELBO(torch.zeros(n).double(), kl, z, q, p)


def test_spatial_latents_are_read_by_channel() -> None:
    """At 64 × 64 × 3 a dense covariance per example would be 480 GB."""
    batch, elbo = spatial(side=64)
    rank, rate, active = InformationRank(), Rate(), ActiveUnits()
    for detector in (rank, rate, active):
        detector.update(Planted(collapsed, blind), batch, elbo)
    found = {f.name: f for detector in (rank, rate, active) for f in detector.findings()}
    assert found["information_rank"].value == 1 and found["information_rank"].status == "measured"
    assert found["information_eigenvalue_max"].value == pytest.approx(16, rel=0.02)
    assert found["dead_groups"].value == 1
    assert rate.per_unit()["dead_share"][[0, 2]].tolist() == [0.0, 1.0]
    assert found["active_units"].value == 64 * 64


def test_pooled_moments_are_those_of_the_dense_form() -> None:
    torch.manual_seed(0)
    scale = torch.rand(7, 3, 2, 2).double()
    found = unit_moments(gaussian(torch.zeros(7, 3, 2, 2).double(), scale, 3), torch.arange(7))
    torch.testing.assert_close(found.within(3).diagonal(), scale.square().sum((0, 2, 3)))
    torch.testing.assert_close(found.within(), torch.diag(scale.square().flatten(1).sum(0)))


# ---- the likelihood's scale


def linear(scale: float, mode: str, units: int = 4) -> LinearVAE:
    vae = LinearVAE(event_shape=(8,), latent_dim=units, likelihood=NormalLikelihood(scale=scale, scale_mode=mode))
    return vae.double()


def test_a_scale_at_its_floor_is_a_decoder_variance_collapse() -> None:
    vae, blocks = linear(1.0, "learned"), probe(gaussian_data(200))
    assert read(vae, blocks, {"d": DecoderVariance()})[0]["decoder_variance"].status == "absent"
    torch.nn.init.constant_(vae.likelihood.raw_log_scale, -40.0)
    found = read(vae, blocks, {"d": DecoderVariance()})[0]
    assert found["decoder_variance"].status == found["decoder_scale_at_floor"].status == "material"


def test_a_fixed_scale_with_nothing_left_to_explain_is_one_too() -> None:
    exact = optimum(8, e=1e-8)
    found = read(exact, probe(gaussian_data(200)), {"d": DecoderVariance()})[0]
    assert found["residual_share"].status == found["decoder_variance"].status == "material"
    usual = read(optimum(4, e=0.5), probe(gaussian_data(200)), {"d": DecoderVariance()})[0]
    assert usual["decoder_variance"].status == "absent"
    assert usual["residual_share"].value == pytest.approx((4 * 0.5 + 0.4 + 0.3 + 0.2 + 0.1) / 12.3, rel=0.2)
    assert usual["data_numbers"].value == 8
    assert usual["data_spread"].value == pytest.approx((12.3 / 8) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("weight", "status"), [(1.0, "absent"), (1.8, "material")])
def test_a_learned_scale_has_no_solution_where_the_units_cost_all_dimensions(weight: float, status: str) -> None:
    vae = linear(1.0, "learned")
    torch.nn.init.constant_(vae.log_variance, -2.0)  # four units that carry KL, of eight dimensions
    found = read(vae, probe(gaussian_data(100)), {"d": DecoderVariance()}, price(weight))[0]
    assert found["decoder_scale_margin"].value == pytest.approx(8 - 4 * weight)
    assert found["decoder_scale_margin"].status == status


# ---- temperature


def test_a_linear_decoder_grows_with_the_square_of_the_temperature() -> None:
    found = findings_on(optimum(5, e=1.0), gaussian_data(600))
    for mode in ("prior", "posterior", "live"):
        assert found[f"diversity_growth_{mode}"].value == pytest.approx(9), mode
    assert found["diversity_growth_dead"].value == pytest.approx(1)
    assert found["diversity_reference"].value == pytest.approx(sum(EIGENVALUES) / 8, rel=0.1)


def test_a_threshold_decoder_grows_more_and_a_blind_one_not_at_all() -> None:
    steps = Planted(informative, lambda z: torch.nn.functional.pad((z > 2.2).double(), (0, 4)))
    assert findings_on(steps, gaussian_data(2000))["diversity_growth_prior"].value > 9.5
    found = findings_on(Planted(collapsed, blind), gaussian_data(600))
    assert found["diversity_prior"].value == 0 and found["diversity_growth_prior"].value is None


def test_a_temperature_of_one_is_needed() -> None:
    from vaecollapse.refusal import Refused

    with pytest.raises(Refused, match="1 is among them"):
        Temperature(temperatures=(0.5, 2.0))


def test_closed_form_kl_is_what_the_price_sees() -> None:
    """The objective's type, so that a planted price is one."""
    elbo = optimum(2, e=1.0).elbo(Batch(gaussian_data(4), index=torch.arange(4)), seed=0)
    assert isinstance(price(1.0)(elbo), Objective)
    assert torch.equal(elbo.kl, closed_form_kl(elbo.posterior, elbo.prior))


class BatchNormalised(Planted):
    """Declares what a batch-normalising head does."""

    def encode(self, x, context=None, mask=None):
        mean, scale = self.encoder(x)
        return Independent(DeclaredNormal(mean, scale, 1e-4, batch_normalised=True), 1)


@pytest.mark.parametrize("decoder", [blind, reading], ids=["ignored", "used"])
def test_under_batch_normalised_means_units_and_rank_say_that_they_say_nothing(decoder) -> None:
    """The verdict is the same without them: a deaf decoder's code is bypassed, a code that is read is healthy."""
    x = gaussian_data(4000)
    plain, declared = (verdict_on(kind(filling, decoder), x) for kind in (Planted, BatchNormalised))
    assert plain.verdict == declared.verdict == ("bypassed_latent" if decoder is blind else "healthy")
    rank, units = (declared.readings[name] for name in ("information_rank", "active_units"))
    assert rank.value is None and rank.status == "undefined" and "by construction" in rank.note
    assert units.value == 4 and "by construction" in units.note and not plain.readings["active_units"].note
    assert "information_rank" not in declared.deciding and "directions carry" not in declared.findings[0]
