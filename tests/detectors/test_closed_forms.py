"""Every reading against the linear VAE, whose optimum tells all of them exactly."""

import math

import pytest
import torch
from planted import (
    EIGENVALUES,
    Planted,
    blind,
    collapsed,
    constant,
    findings_on,
    gaussian_data,
    informative,
    optimum,
    probe,
)
from torch.distributions import Independent, Normal

from vaecollapse.detectors.information_rank import InformationRank
from vaecollapse.detectors.mutual_information import mutual_information
from vaecollapse.detectors.posterior_variance import PosteriorVariance
from vaecollapse.detectors.rate import kl_is_low
from vaecollapse.distributions.flows import Flow
from vaecollapse.elbo import closed_form_kl, moments, noise, pairwise_log_prob
from vaecollapse.evaluation import read

CASES = [(units, e, beta) for units in (1, 3, 5, 8) for e, beta in ((1.0, 1.0), (0.35, 1.0), (0.7, 2.0), (0.3, 3.0))]
EXACT = 8_000


@pytest.fixture(scope="module")
def exact() -> torch.Tensor:
    """A sample whose mean and covariance are the population's."""
    x = gaussian_data(EXACT)
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.T @ x / len(x))
    return torch.linalg.solve_triangular(root, x.T, upper=False).T * torch.tensor(EIGENVALUES).double().sqrt()


@pytest.mark.parametrize(("units", "e", "beta"), CASES)
def test_readings_of_the_optimum(exact: torch.Tensor, units: int, e: float, beta: float) -> None:
    found = findings_on(optimum(units, e=e, beta=beta), exact)
    active = [value for value in EIGENVALUES[:units] if value > e]
    rate = sum(0.5 * math.log(value / e) for value in active)
    assert found["rate"].value == pytest.approx(rate, abs=1e-7)
    assert found["active_units"].value == sum(1 - e / value > 0.01 for value in active)
    assert found["information_rank"].value == sum(value / e - 1 > 0.1 for value in active)
    assert found["dead_units"].value == units - sum(0.5 * math.log(value / e) >= 0.01 for value in active)
    assert found["sigma_min"].value == pytest.approx(math.sqrt(e / EIGENVALUES[0]))
    s2 = e / beta
    gap = sum(value - e for value in active) / s2
    assert abs(found["gap"].value - gap) < 4 * found["gap"].se + 1e-9
    error = len(active) * e + sum(value for value in EIGENVALUES if value not in active)
    distortion = error / (2 * s2) + 4 * math.log(2 * math.pi * s2)
    assert abs(found["distortion"].value - distortion) < 4 * found["distortion"].se
    assert abs(found["price_of_a_nat"].value - beta) < 4 * found["price_of_a_nat"].se
    assert abs(found["mi"].value - rate) < 4 * found["mi"].se + 2 * max(0.0, found["mi_growth"].value)


def test_the_price_is_the_weight_under_any_loss_unit(exact: torch.Tensor) -> None:
    """Antithetic draws leave only the noise of ε², so many pairs pin the weight."""

    from vaecollapse.detectors.price_of_a_nat import PriceOfANat

    for beta in (0.01, 1.0, 4.0):
        found, _ = read(optimum(5, e=0.5, beta=beta), probe(exact[:300]), {"p": PriceOfANat(pairs=64, one_in=1)})
        assert found["price_of_a_nat"].value == pytest.approx(beta, rel=0.01)


def test_information_is_zero_at_collapse_and_for_a_constant_code() -> None:
    for encoder in (collapsed, constant):
        assert abs(findings_on(Planted(encoder, blind), gaussian_data(600))["mi"].value) < 1e-12


def test_information_covers_the_truth() -> None:
    """95 % intervals on Gaussian models with known I, where growth says converged."""
    inside = total = 0
    for seed in range(60):
        x = gaussian_data(500, (1.5,), seed)
        q = Independent(Normal(x / 1.5 * 0.5**0.5, torch.full_like(x, (1 / 1.5) ** 0.5)), 1)
        z = q.base_dist.loc + q.base_dist.scale * noise(torch.arange(500), (1,), seed=seed)[0]
        whole, growth = mutual_information(q, z)
        error = 1.96 * float(whole.std()) / 500**0.5
        inside += abs(float(whole.mean()) - 0.5 * math.log(1.5)) < error
        total += 1
        assert abs(float(growth)) < 0.02
    assert inside / total >= 0.9


def test_a_saturated_estimate_says_so() -> None:
    sharp = lambda x: (100 * x[:, :4], torch.full((len(x), 4), 0.1).double())  # noqa: E731
    found = findings_on(Planted(sharp, blind), gaussian_data(600))
    assert found["mi"].note == "saturated"
    assert found["mi"].value <= math.log(600)


@pytest.mark.parametrize("width", [1, 4])
def test_matrix_products_equal_the_broadcast(width: int) -> None:
    mean, scale, z = (torch.randn(50, width).double() for _ in range(3))
    q = Independent(Normal(mean, scale.abs() * 0.01 + 0.01), 1)
    torch.testing.assert_close(pairwise_log_prob(q, z, block=7), q.log_prob(z.unsqueeze(1)))


@pytest.mark.parametrize("transform", [torch.eye(4), torch.triu(torch.ones(4, 4)), torch.randn(4, 4).matrix_exp()])
def test_rank_is_invariant_to_linear_maps_of_z(transform: torch.Tensor) -> None:
    """Correlated codes, as seen through moments: a rotated single direction stays one direction."""
    generator = torch.Generator().manual_seed(0)
    between = torch.diag(torch.tensor([4.0, 1.0, 0.05, 0.0]))
    a = transform.double()
    detector = InformationRank()
    means = (torch.randn(1000, 4, generator=generator).double() * between.double().diagonal().sqrt()) @ a.T
    detector.accumulate("mean", means)
    detector.outer, detector.within = means.T @ means, 1000 * a @ a.T
    assert float(detector.reading()) == 2


@pytest.mark.parametrize(("width", "status"), [(0.0, "measured"), (0.02, "measured"), (0.3, "undecided")])
def test_units_that_make_up_no_direction_together_cost_no_examples(width: float, status: str) -> None:
    """Two directions and 100 units whose codes hardly move, from 300 examples: at .3 their noise could be one."""
    idle = torch.randn(300, 100, generator=torch.Generator().manual_seed(1)).double()

    def encoder(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.cat([x[:, :2], width * idle[: len(x)]], 1)
        return mean, torch.ones_like(mean)

    readings, _ = read(Planted(encoder, blind), probe(gaussian_data(300), 300), {"rank": InformationRank()})
    found = readings["information_rank"]
    assert found.status == status
    assert found.value == 2 or status == "undecided"


@pytest.mark.parametrize("widening", [1.0, 0.1, 30.0])
def test_a_wide_code_is_as_noiseless_as_a_narrow_sigma(widening: float) -> None:
    """σ a thirtieth of the codes' spread, codes as wide as the prior or wider; of narrower codes the prior's counts."""
    sd = torch.tensor(EIGENVALUES[:2]).double().sqrt()
    coded = lambda x: (widening * x[:, :2] / sd, widening * torch.full((len(x), 2), 0.07).double())  # noqa: E731
    readings, _ = read(Planted(coded, blind), probe(gaussian_data(2000)), {"sigma": PosteriorVariance()})
    found = readings["sigma_median"]
    assert found.value == pytest.approx(0.07 * (min(1.0, widening)), rel=0.05)
    assert found.status == "material"


def test_a_collapsed_flow_has_rank_zero_after_debiasing() -> None:
    """q(z|x) the same for every x: means of 16 draws spread by 1/16 of its covariance, information or none."""
    torch.manual_seed(0)
    flow = Flow(kind="realnvp", units=6).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    q = flow(Independent(Normal(torch.zeros(400, 6).double(), torch.ones(400, 6).double()), 1))
    mean, covariance, draws = moments(q, torch.arange(400))
    detector = InformationRank(eigenvalue=0.04)
    detector.accumulate("mean", mean)
    detector.outer, detector.within = mean.T @ mean, covariance.sum(0)
    detector.draws = torch.tensor(0.0)
    undebiased = float(detector.reading())
    detector.draws = torch.tensor(float(draws or 0))
    assert undebiased == 6
    assert float(detector.reading()) == 0


def test_kl_never_goes_negative_near_collapse_in_float32() -> None:
    torch.manual_seed(0)
    q = Independent(Normal(1e-4 * torch.randn(1000, 64), 1 + 1e-4 * torch.randn(1000, 64)), 1)
    p = Independent(Normal(torch.zeros(64), torch.ones(64)), 1)
    kl = closed_form_kl(q, p)
    assert kl is not None and float(kl.min()) >= 0


def test_the_flag_sums_over_units() -> None:
    assert kl_is_low(torch.full((10, 4), 0.02)) and not kl_is_low(torch.full((10, 8), 0.02))
    assert kl_is_low(0.3, threshold=0.5) and not kl_is_low(0.3)


def test_noise_belongs_to_the_example_not_to_the_batch() -> None:
    whole = noise(torch.arange(10), (3,), seed=1)
    assert torch.equal(whole[:, 4:6], noise(torch.tensor([4, 5]), (3,), seed=1))
    assert not torch.equal(whole, noise(torch.arange(10), (3,), seed=2))
    assert not torch.equal(whole, noise(torch.arange(10), (3,), seed=1, epoch=1))


def test_duplicated_examples_buy_no_evidence() -> None:
    from vaecollapse.batch import Batch
    from vaecollapse.callbacks.probes import into_blocks

    x = informative(gaussian_data(40))[0]
    blocks = into_blocks(Batch(x.repeat(20, 1), index=torch.arange(800)), 256)
    assert sum(len(block.x) for block in blocks) == 40


def test_the_rate_of_a_flow_is_the_mean_of_many_draws() -> None:
    """A flow that is a known shift and scale: its rate is the Gaussian's closed form, and more draws come closer."""
    from vaecollapse.batch import Batch
    from vaecollapse.detectors.rate import Rate
    from vaecollapse.distributions.flows import FlowDistribution
    from vaecollapse.elbo import ELBO

    mean, scale = torch.linspace(-1, 1, 256).double()[:, None].expand(256, 3), torch.full((256, 3), 0.5).double()
    gaussian = Independent(Normal(mean, scale), 1)
    prior = Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1)
    exact = closed_form_kl(gaussian, prior)
    assert exact is not None

    affine = torch.distributions.transforms.AffineTransform(1.0, 2.0, event_dim=1)
    Flow(kind="maf", units=2)  # zuko gives torch's transforms call_and_ladj
    inner = Independent(Normal((mean - 1) / 2, scale / 2), 1)
    flow = FlowDistribution(inner, affine, inverted=True)
    errors = []
    for draws in (1, 64):
        detector, z = Rate(draws=draws), mean
        detector.update(optimum(3, e=1.0), Batch(z, index=torch.arange(256)),
                        ELBO(torch.zeros(256).double(), torch.zeros(256).double(), z, flow, prior))  # fmt: skip
        errors.append(abs(float(detector.reading()) - float(exact.sum(1).mean())))
    assert errors[1] < 0.03 and errors[1] < errors[0]
