"""The likelihoods of rain: every term is its formula, the density is scipy's."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from vaecollapse.distributions.rain import BernoulliGammaLikelihood, WeightedL1
from vaecollapse.nn.rain import RainTransform
from vaecollapse.refusal import Refused

TRANSFORM = RainTransform(
    log=True, mean=torch.full((1, 1, 1), 0.4), std=torch.full((1, 1, 1), 0.9), context_log=[True],
    context_mean=torch.zeros(1, 1, 1), context_std=torch.ones(1, 1, 1),
)  # fmt: skip
P99, WET, FACTOR = 30.0, 0.1, 2


def fields(seed: int) -> Tensor:
    """Rain from drizzle to above P99, half of the cells dry."""
    generator = torch.Generator().manual_seed(seed)
    amounts = 60 * torch.rand(3, 1, 4, 6, generator=generator, dtype=torch.float64) ** 3
    return amounts * (torch.rand(amounts.shape, generator=generator) < 0.5)


Y, MADE = fields(0), fields(1)
MASK = torch.rand(Y.shape, generator=torch.Generator().manual_seed(2)) < 0.8


def likelihood(**options) -> WeightedL1:
    made = WeightedL1(**options).double()
    made.for_rain(transform=TRANSFORM, p99=P99, wet=WET, factor=FACTOR)
    made.calibrate(Y, MASK)
    return made


def weights(y: np.ndarray, scale=20.0, low=0.1, high=3.0, boost=2.0) -> np.ndarray:
    return np.clip(y / scale, low, high) * (1 + (boost - 1) * (y >= P99))


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_the_weighted_l1_of_a_batch_is_its_formula(mask) -> None:
    """Σ m w |ŷ − y| / Σ m w in mm, as the mean over the examples of the batch."""
    m = np.ones(Y.shape) if mask is None else mask.double().numpy()
    w = m * weights(Y.numpy())
    expected = (w * np.abs(MADE.numpy() - Y.numpy())).sum() / w.sum()
    assert float(likelihood().train().distance(Y, MADE, mask).mean()) == pytest.approx(expected, rel=1e-12)
    assert float(likelihood().distance(Y, Y, mask).abs().max()) == 0


def test_outside_of_training_an_example_costs_the_same_in_any_company() -> None:
    for made in (likelihood().eval(), likelihood(weight_norm="fixed").train()):
        whole = made.distance(Y, MADE, MASK)
        alone = [made.distance(Y[i : i + 1], MADE[i : i + 1], MASK[i : i + 1]) for i in range(3)]
        torch.testing.assert_close(whole, torch.cat(alone))
    fixed = (MASK * torch.from_numpy(weights(Y.numpy())) * (MADE - Y).abs()).sum((1, 2, 3)) / MASK.sum((1, 2, 3))
    torch.testing.assert_close(likelihood(weight_norm="fixed").reconstruction(Y, MADE, MASK), fixed)
    made = likelihood()
    made.calibrate(Y)  # on these very examples the mean weight is the batch's
    assert float(made.eval().distance(Y, MADE).mean()) == pytest.approx(float(made.train().distance(Y, MADE).mean()))


@pytest.mark.parametrize("mode", ["relative", "coarse", "zscore_sum"])
def test_the_error_of_the_mass_is_its_formula_and_0_where_mass_is_kept(mode) -> None:
    made = likelihood(mass=mode, lambda_mass=0.5)
    m, y, x = MASK.double().numpy(), Y.numpy(), MADE.numpy()
    if mode == "relative":
        totals = [(m * each).sum((1, 2, 3)) for each in (x, y)]
        expected = np.abs(totals[0] - totals[1]) / totals[1]
    elif mode == "zscore_sum":
        z = [(m * (np.log1p(each) - 0.4) / 0.9).sum((1, 2, 3)) for each in (x, y)]
        expected = np.abs(z[0] - z[1]) / m.sum((1, 2, 3))
    else:
        blocks = [(each * m).reshape(3, 2, 2, 3, 2).sum((2, 4)) for each in (x, y, np.ones_like(y))]
        there = blocks[2] > 0
        means = [each / np.where(there, blocks[2], 1) for each in blocks[:2]]
        expected = (np.abs(means[0] - means[1]) * there).sum((1, 2)) / there.sum((1, 2))
    assert made.mass(Y, MADE, MASK).numpy() == pytest.approx(expected, rel=1e-6)
    assert float(made.mass(Y, Y, MASK).abs().max()) == 0
    total = made.reconstruction(Y, MADE, MASK) + 0.5 * made.mass(Y, MADE, MASK)
    torch.testing.assert_close(made.distance(Y, MADE, MASK), total)
    assert bool(made.mass(0 * Y, MADE).isfinite().all()), "a dry truth"


def test_edges_are_differences_of_neighbours_that_abs_is_blind_to_the_sign_of() -> None:
    signed, blind = likelihood(lambda_grad=1.0), likelihood(lambda_grad=1.0, gradient="abs")
    y, x = Y.numpy(), MADE.numpy()
    parts = [np.abs(np.diff(x, axis=axis) - np.diff(y, axis=axis)).reshape(3, -1) for axis in (2, 3)]
    assert signed.edges(Y, MADE).numpy() == pytest.approx(np.concatenate(parts, 1).mean(1))
    mirrored = 50 - Y
    assert float(blind.edges(Y, mirrored).abs().max()) < 1e-12
    assert float(signed.edges(Y, mirrored).min()) > 1
    alone = torch.zeros_like(MASK)
    alone[:, :, 0, 0] = True  # no pair of neighbours
    assert float(signed.edges(Y, MADE, alone).abs().max()) == 0


def test_the_distance_is_compared_by_the_laplace_density_that_fits() -> None:
    made, b = likelihood(), 0.7
    n = float(MASK.double().flatten(1).sum(1).mean())
    assert made.nats(b) == pytest.approx(n * (math.log(2 * b) + 1))


def test_members_are_never_below_0_mm_and_a_distance_claims_no_density() -> None:
    decoded = likelihood()(MADE - 5, MASK)
    assert decoded.mean.min() == 0 and not decoded.normalised and not likelihood().normalised
    torch.testing.assert_close(decoded.log_prob(Y), -likelihood().distance(Y, MADE - 5, MASK))


def parts(shape: float) -> Tensor:
    """Log-odds, μ and the shape before its softplus, of one cell each, spread over a grid."""
    odds = torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(1, 1, 4, 6)
    amount = torch.linspace(0.3, 9, 24, dtype=torch.float64).flip(0).reshape(1, 1, 4, 6)
    raw = math.log(math.expm1(shape - 0.1))
    return torch.cat([odds, amount, torch.full_like(odds, raw)], 1)


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.0])
def test_the_bernoulli_gamma_is_scipys(shape) -> None:
    told = BernoulliGammaLikelihood(least_shape=0.1)
    x = Y[:1]
    odds, mean = (part.numpy() for part in parts(shape)[:, :2].split(1, 1))
    wet = 1 / (1 + np.exp(-odds))
    density = stats.gamma(shape, scale=mean / shape)
    expected = np.where(x > 0, np.log(wet) + density.logpdf(np.maximum(x.numpy(), 1e-4)), np.log(1 - wet))
    found = told(parts(shape))
    assert float(found.log_prob(x)) == pytest.approx(expected.sum(), rel=1e-9)
    masked = told(parts(shape), MASK[:1])
    assert float(masked.log_prob(x)) == pytest.approx(expected[MASK[:1].numpy()].sum(), rel=1e-9)
    assert found.mean.numpy() == pytest.approx(wet * mean)


@pytest.mark.parametrize("shape", [1.0, 3.0])
def test_the_bernoulli_gamma_adds_up_to_1(shape) -> None:
    """The dry mass and the integral over amounts, cell by cell."""
    elements = BernoulliGammaLikelihood()(parts(shape)).elements
    x = torch.linspace(1e-3, 400, 100_001, dtype=torch.float64)
    density = elements.log_prob(x[:, None, None, None].expand(-1, 1, 4, 6)).exp()
    total = torch.trapezoid(density, x, dim=0) + elements.log_prob(torch.zeros(1, 1, 4, 6, dtype=torch.float64)).exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=5e-3)


def test_members_of_the_bernoulli_gamma_are_draws_of_it() -> None:
    torch.manual_seed(0)
    many = BernoulliGammaLikelihood()(parts(0.8).expand(4000, -1, -1, -1))
    drawn = many.member()
    wet = many.elements.logit[0].sigmoid()
    assert float(((drawn > 0).double().mean(0) - wet).abs().max()) < 5 * 0.5 / math.sqrt(4000)
    apart = (drawn.mean(0) - many.mean[0]) / (drawn.std(0) / math.sqrt(4000))
    assert float(apart.abs().max()) < 5
    assert float(drawn.min()) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WeightedL1(scale=0.0), "scale"),
        (lambda: WeightedL1(w_min=4.0), "w_min"),
        (lambda: WeightedL1(lambda_mass=-1.0), "lambda_mass"),
        (lambda: WeightedL1(mass="total"), "relative or coarse or zscore_sum"),
        (lambda: WeightedL1(gradient="laplacian"), "signed or abs"),
        (lambda: BernoulliGammaLikelihood(least_shape=0.0), "least_shape"),
        (lambda: BernoulliGammaLikelihood().check(MADE - 5), "rain in mm"),
    ],
)
def test_what_is_no_weight_or_no_rain_is_refused(make, words) -> None:
    with pytest.raises(Refused, match=words):
        make()
