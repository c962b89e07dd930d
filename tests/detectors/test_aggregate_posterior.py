"""Prior holes: planted ones are found, whatever moments they have, and a filled prior is not accused."""

import math
from collections.abc import Callable

import pytest
import torch
from planted import Planted, blind, collapsed, findings_on, gaussian_data, optimum
from torch.distributions import AffineTransform, Distribution, Independent, Normal

from vaecollapse.batch import Batch
from vaecollapse.detectors.aggregate_posterior import AggregatePosterior, matched_gaussian_kl
from vaecollapse.detectors.base import Finding
from vaecollapse.detectors.two_samples import told_apart
from vaecollapse.distributions.flows import FlowDistribution
from vaecollapse.elbo import ELBO, noise, pieces

VAE = Planted(collapsed, blind)  # which is not looked at: everything is in the bound


def standard(units: int) -> Independent:
    return Independent(Normal(torch.zeros(units).double(), torch.ones(units).double()), 1)


def detector_on(q: Distribution, p: Distribution, n: int, seed: int = 0, **options) -> AggregatePosterior:
    detector = AggregatePosterior(seed=seed, **options)
    z, kl = pieces(q, p, noise(torch.arange(n), tuple(q.event_shape), seed=seed)[0])
    detector.update(VAE, Batch(torch.zeros(n, 1), index=torch.arange(n)), ELBO(torch.zeros(n).double(), kl, z, q, p))
    return detector


def read(mean: torch.Tensor, scale: float, prior: Distribution | None = None, **options) -> dict[str, Finding]:
    q = Independent(Normal(mean, torch.full_like(mean, scale)), 1)
    found = detector_on(q, prior or standard(mean.shape[1]), len(mean), **options).findings()
    return {finding.name: finding for finding in found}


def normal(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(1000 + seed)).double()


def corners(n: int, k: int) -> torch.Tensor:
    return 0.99 * normal(n, k, 1).sign()


def ring(n: int, k: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.rand(n, k // 2, generator=torch.Generator().manual_seed(0)).double()
    return 1.4 * torch.cat([angle.cos(), angle.sin()], 1)


def mixture(n: int, k: int) -> torch.Tensor:
    """Eight codes on a circle: the prior's mean and covariance."""
    angle = 2 * math.pi / 8 * torch.randint(8, (n, k // 2), generator=torch.Generator().manual_seed(0)).double()
    return 1.38 * torch.cat([angle.cos(), angle.sin()], 1)


# ---- what fills the prior


@pytest.mark.parametrize(("n", "k", "seeds"), [(500, 1, 40), (500, 8, 40), (500, 32, 10), (10_000, 4, 5)])
@pytest.mark.parametrize("scale", [0.5, 0.02])
def test_a_filled_prior_is_not_accused(n: int, k: int, seeds: int, scale: float) -> None:
    """Also where R is far above ln N, so that R − Î says nothing."""
    said = [
        read(normal(n, k, seed) * math.sqrt(1 - scale**2), scale, seed=seed)["prior_hole"].status
        for seed in range(seeds)
    ]
    assert sum(status != "absent" for status in said) <= 0.05 * seeds


@pytest.mark.parametrize("n", [500, 10_000])
@pytest.mark.parametrize(("units", "e"), [(1, 1e-3), (3, 1.0), (8, 1.0), (5, 3.0)])
def test_the_linear_optimum_has_no_hole(n: int, units: int, e: float) -> None:
    found = findings_on(optimum(units, e=e), gaussian_data(n))
    assert found["prior_hole"].status == "absent"
    lower = found["marginal_kl_lower"]
    assert abs(lower.value) < 3 * lower.se + 0.01  # of the sample: its moments are the population's but for 1/√N


def test_collapse_leaves_no_hole_but_a_constant_code_is_one() -> None:
    zero = torch.zeros(600, 4).double()
    assert read(zero, 1.0)["prior_hole"].status == "absent"
    found = read(zero + 2, 1.0)  # KL(q(z)‖p) = R = 8
    assert found["marginal_kl_lower"].value == pytest.approx(8, abs=3 * found["marginal_kl_lower"].se)
    assert found["prior_hole"].status == "material"


# ---- what does not


@pytest.mark.parametrize("n", [500, 2000])
@pytest.mark.parametrize(("shift", "spread"), [(1.5, 1.0), (0.0, 2.0), (2.0, 0.5)])
def test_a_shifted_or_scaled_aggregate_has_its_known_kl(n: int, shift: float, spread: float) -> None:
    k, scale = 3, 0.4
    found = read(normal(n, k, 0) * math.sqrt(spread**2 - scale**2) + shift, scale)
    truth = k * (0.5 * (shift**2 + spread**2 - 1) - math.log(spread))
    for name in ("marginal_kl_lower", "marginal_kl_by_unit"):
        assert abs(found[name].value - truth) < 3.5 * found[name].se + 0.05, name
    assert found["marginal_kl_upper"].value > truth - 3.5 * found["marginal_kl_upper"].se


@pytest.mark.parametrize("n", [500, 2000])
@pytest.mark.parametrize(("plant", "units", "scale"), [(corners, 1, 0.14), (corners, 8, 0.14), (ring, 2, 0.1),
                                                        (mixture, 2, 0.2), (mixture, 6, 0.2)])  # fmt: skip
def test_holes_that_moments_cannot_see(n: int, plant: Callable, units: int, scale: float) -> None:
    found = read(plant(n, units), scale)
    assert found["marginal_kl_lower"].status == "absent"
    assert "material" in (found["marginal_kl_by_unit"].status, found["hole_auc"].status)
    assert found["prior_hole"].status != "absent"


def test_a_known_mixture_is_within_the_bracket() -> None:
    """±.99 with σ .14: R = 1.97 and I = ln 2 to four digits."""
    found = read(corners(3000, 1), 0.14)
    truth = 0.5 * (0.99**2 + 0.14**2 - 1) - math.log(0.14) - math.log(2)
    for name in ("marginal_kl_by_unit", "marginal_kl_upper"):
        assert abs(found[name].value - truth) < 3 * found[name].se + 0.01, name


# ---- the pieces


@pytest.mark.parametrize(("n", "k"), [(320, 4), (500, 16), (2000, 32)])
def test_the_bias_is_gone_and_the_error_covers(n: int, k: int) -> None:
    results = [matched_gaussian_kl(normal(n, k, seed)) for seed in range(100)]
    values = torch.tensor([value for value, _ in results])
    assert abs(float(values.mean())) < 0.1 * k * (k + 3) / (4 * n) + 3 * float(values.std()) / 10
    assert sum(abs(value) < 1.96 * se for value, se in results) >= 85


def test_too_few_examples_are_not_judged() -> None:
    assert read(normal(100, 20, 0) + 3, 0.3)["marginal_kl_lower"].status == "undecided"
    assert read(normal(12, 20, 0), 0.3)["marginal_kl_lower"].status == "undefined"


def test_the_same_sample_is_not_told_apart() -> None:
    values = [told_apart(normal(500, k, s), normal(500, k, s + 500), seed=s) for k in (1, 6) for s in range(10)]
    inside = sum(value - 1.96 * se < 0.5 + 0.02 for value, se, _ in values)
    assert inside == len(values) and max(value for value, _, _ in values) < 0.6


def test_a_flow_prior_is_read_in_its_base_space() -> None:
    """z = 3 + 2u with u ~ N(0, I): a filled prior, though nothing like N(0, I)."""

    class Affine(AffineTransform):
        def call_and_ladj(self, z):
            u = self(z)
            return u, self.log_abs_det_jacobian(z, u)

    prior = FlowDistribution(standard(3), Affine(torch.full((3,), -1.5).double(), 0.5 * torch.ones(3).double(), 1))
    filled = read(3 + 2 * 0.8 * normal(1000, 3, 0), 2 * 0.6, prior)
    assert filled["prior_hole"].status == filled["hole_auc"].status == "absent"
    assert read(normal(1000, 3, 0) * 0.8, 0.6, prior)["prior_hole"].status == "material"


def test_a_spatial_latent_is_read_in_patches() -> None:
    mean = normal(600, 4 * 36, 0).reshape(600, 4, 6, 6) * 0.8
    prior = Independent(Normal(torch.zeros(4, 6, 6).double(), torch.ones(4, 6, 6).double()), 3)
    for shift, status in ((0.0, "absent"), (15.0, "material")):
        q = Independent(Normal(mean + shift, torch.full_like(mean, 0.6)), 3)
        found = {finding.name: finding for finding in detector_on(q, prior, 600).findings()}
        assert found["hole_auc"].status == status
        assert found["marginal_kl_by_unit"].value is None


def test_a_thousand_units_are_read_in_bounded_memory_and_time() -> None:
    q = Independent(Normal(normal(256, 4096, 0), torch.full((256, 4096), 0.5).double()), 1)
    detector = detector_on(q, standard(4096), 256)
    assert {finding.name: finding for finding in detector.findings()}["marginal_kl_lower"].value is None
