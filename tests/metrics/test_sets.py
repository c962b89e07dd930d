"""Distances of two sets against float64 references and closed forms on Gaussians."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from vaecollapse.metrics.frechet import FrechetInfinity, frechet_distance
from vaecollapse.metrics.kernel import polynomial_mmd
from vaecollapse.metrics.precision_recall import PrecisionRecall, among
from vaecollapse.metrics.vendi import Vendi, vendi_score


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(n: int, mean: torch.Tensor, covariance: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Rows of exactly this mean and unbiased covariance."""
    x = rows(n, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(covariance).T


# ---- Fréchet


@pytest.mark.parametrize(("n", "m", "d"), [(500, 300, 16), (40, 40, 64), (10, 200, 32), (300, 8, 32), (3, 3, 5)])
@pytest.mark.parametrize("rank", [None, 4])
def test_the_frechet_distance_is_that_of_the_covariances_root_whatever_their_rank(n, m, d, rank):
    a, b = rows(n, rank or d, 0), 0.5 + 1.5 * rows(m, rank or d, 1)
    if rank:
        plane = rows(rank, d, 2)
        a, b = a @ plane, b @ plane
    means, covariances = zip(*((x.mean(0).numpy(), np.cov(x.numpy().T)) for x in (a, b)), strict=True)
    root = np.asarray(sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(d)))
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert frechet_distance(a.float(), b.float()) == pytest.approx(frechet_distance(a, b), rel=1e-4)


def test_of_gaussians_with_common_axes_it_is_the_closed_form():
    """‖m − m′‖² + Σ(√λ − √λ′)²."""
    mean, other = torch.tensor([1.0, -2.0, 0.5]).double(), torch.zeros(3).double()
    first, second = torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.25]).double()
    turn = torch.linalg.qr(rows(3, 3)).Q
    a, b = (exact(50, m, turn @ torch.diag(v) @ turn.T, s) for s, (m, v) in enumerate([(mean, first), (other, second)]))
    expected = float(mean.square().sum() + (first.sqrt() - second.sqrt()).square().sum())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b @ turn + 7, a @ turn + 7) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * expected, rel=1e-9)


def test_copies_of_one_row_cost_its_distance_and_the_variance_it_lacks():
    a = rows(60, 4)
    expected = float((a[:1] - a.mean(0)).square().sum() + a.var(0).sum())
    assert frechet_distance(a, a[:1].expand(60, -1)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a.flip(0)) == 0.0


def test_the_extrapolation_takes_the_bias_of_few_clips_away():
    """Two sets of one law, and two of laws 1 apart, whose distances at n = 200 read about 1 too much."""
    for shift in (0.0, 1.0):
        b = rows(400, 20, 1)
        b[:, 0] += shift
        metric = FrechetInfinity(splits=4)
        metric.update(rows(400, 20, 0), b)
        (found,) = metric.scores()
        biased = frechet_distance(rows(400, 20, 0)[:200], b[:200])
        assert biased > shift**2 + 0.8
        assert found.value == pytest.approx(shift**2, abs=0.3)
        assert float(found.note.split()[1]) > 0.98


# ---- kernel


def moments(mean: torch.Tensor, covariance: torch.Tensor) -> list[torch.Tensor]:
    """E x, E xxᵀ, E x⊗x⊗x of a Gaussian."""
    third = torch.einsum("i,j,k->ijk", mean, mean, mean)
    for axes in ("i,jk->ijk", "j,ik->ijk", "k,ij->ijk"):
        third = third + torch.einsum(axes, mean, covariance)
    return [mean, covariance + torch.outer(mean, mean), third]


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_kernel_distance_is_unbiased_for_the_closed_form_on_gaussians(degree):
    """Σ_i binomial(degree, i) ‖E x^⊗i − E y^⊗i‖²/s^i."""
    laws = [(torch.zeros(2).double(), torch.eye(2).double()),
            (torch.tensor([0.6, -0.2]).double(), torch.diag(torch.tensor([1.5, 0.5])).double())]  # fmt: skip
    pairs = zip(*(moments(*law) for law in laws), strict=True)
    expected = sum(
        math.comb(degree, i) * float((p - q).square().sum()) / 2**i for i, (p, q) in enumerate(pairs, 1) if i <= degree
    )
    found = []
    for seed in range(100):
        a, b = (mean + rows(40, 2, 2 * seed + side) * covariance.diagonal().sqrt()
                for side, (mean, covariance) in enumerate(laws))  # fmt: skip
        found.append(polynomial_mmd(a, b, centre=torch.zeros(2).double(), scale=2.0, degree=degree))
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / 10)
    assert expected > 4 * np.std(found) / 10


def test_the_kernel_distance_is_that_of_a_sum_over_pairs():
    a, b = rows(12, 3, 0), 0.4 + rows(9, 3, 1)
    centre, scale = a.mean(0), 2.5

    def k(x, y):
        return ((float((x - centre) @ (y - centre)) / scale) + 1) ** 3

    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    across = np.mean([k(x, y) for x in a for y in b])
    exact_ = sum(within) - 2 * across
    assert polynomial_mmd(a, b, centre=centre, scale=scale) == pytest.approx(exact_, rel=1e-9)
    low = polynomial_mmd(a.float(), b.float(), centre=centre.float(), scale=scale)
    assert low == pytest.approx(exact_, rel=1e-4, abs=1e-4)


# ---- neighbours and kinds


def shares(real, generated) -> tuple[float, float]:
    found = PrecisionRecall().compare(real, generated)
    return found["precision"], found["recall"]


def test_a_collapse_has_precision_without_recall_and_a_stranger_has_neither():
    real = rows(200, 4)
    assert shares(real, real) == (1.0, 1.0)
    assert shares(real, real[:1].expand(200, -1)) == (1.0, 1 / 200)
    assert shares(real, real + 100) == (0.0, 0.0)
    assert shares(0.01 * real, real)[1] > 0.9 > 0.2 > shares(0.01 * real, real)[0]


def test_balls_do_not_depend_on_the_unit_and_hold_their_own_centre():
    real, other = rows(50, 3), rows(40, 3, 1)
    assert torch.equal(among(1e4 * other, 1e4 * real, 3), among(other, real, 3))
    assert among(real, real, 1).all()


@pytest.mark.parametrize("kinds", [1, 3, 10])
def test_the_vendi_score_of_copies_is_the_number_of_their_kinds(kinds):
    far = 1e3 * rows(kinds, 4)
    assert vendi_score(far.repeat(7, 1), 1.0) == pytest.approx(kinds, rel=1e-6)
    assert vendi_score(far + 1e-9 * rows(kinds, 4, 1), 1e6) == pytest.approx(1, abs=0.05)


def test_of_two_kinds_it_is_the_entropy_of_their_similarity():
    """Eigenvalues (1 ± k)/2."""
    k = math.exp(-4.0)
    values = [(1 + k) / 2, (1 - k) / 2]
    expected = math.exp(-sum(v * math.log(v) for v in values))
    assert vendi_score(torch.tensor([[0.0], [2.0]]).double(), 1.0) == pytest.approx(expected, rel=1e-9)


def test_the_ratio_does_not_depend_on_the_unit_or_the_place():
    real, generated = rows(60, 3), 0.3 * rows(60, 3, 1)
    ratio = Vendi().compare(real, generated)["vendi_ratio"]
    assert Vendi().compare(50 * real - 9, 50 * generated + 9)["vendi_ratio"] == pytest.approx(ratio, rel=1e-9)
    assert Vendi().compare(real, real)["vendi_ratio"] == 1.0
    assert ratio < 0.9
