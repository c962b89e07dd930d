"""InfoVAE: the ELBO as its special case, an estimate without bias, and a pull towards the prior."""

import pytest
import torch
from torch.distributions import Independent, Normal

from vaecollapse.distributions.priors import FlowPrior
from vaecollapse.elbo import ELBO, Progress, closed_form_kl
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.mmd import KERNELS, MMD, ROWS, WIDTHS, kernel_sum, mmd_squared


def normal(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).double()


def defined(x: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """The mean over the widths, by the broadcast."""
    distance = (x[:, None] - y).square().sum(-1) / (2 * x.shape[1])
    each = [torch.exp(-distance / width) if kind == "rbf" else width / (width + distance) for width in WIDTHS]
    return torch.stack(each).mean(0)


def bound(z: torch.Tensor, prior=None) -> ELBO:
    q = Independent(Normal(z, 0.5 * torch.ones_like(z)), z.ndim - 1)
    unit = torch.zeros(z.shape[1:]).double()
    standard = Independent(Normal(unit, torch.ones_like(unit)), z.ndim - 1)
    kl = closed_form_kl(q, standard)
    assert kl is not None
    return ELBO(z.flatten(1).square().sum(1), kl, z, q, prior or standard)


def price(**options) -> MMD:
    return MMD(weight=Constant(value=1.3), **options)


def test_alpha_zero_and_lambda_one_is_plain_kl() -> None:
    z = normal(8, 3, 0)
    ours, plain = (
        price(alpha=0.0, lambda_w=1.0)(bound(z), Progress()),
        Beta(weight=Constant(value=1.3))(bound(z), Progress()),
    )
    assert torch.equal(ours.loss, plain.loss) and torch.equal(ours.weight, plain.weight)


def test_alpha_one_prices_no_nat_and_what_lies_between_is_linear() -> None:
    elbo = bound(normal(8, 3, 0))
    none, half, full = (price(alpha=a, lambda_w=9.0 - a).eval()(elbo, Progress()) for a in (1.0, 0.5, 0.0))
    assert float(none.weight) == 0.0
    assert float(half.loss) == pytest.approx(float(none.loss + full.loss) / 2)
    assert float(none.penalty) == pytest.approx(1.3 * 8 * float(none.scalars["mmd"]))


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("k", [2, 16, 128])
def test_it_is_zero_in_the_mean_where_the_prior_is_filled(kind: str, k: int) -> None:
    """225 batches of ten: the biased estimate would be off by at least twenty standard errors."""
    values = torch.stack([mmd_squared(normal(10, k, i), normal(10, k, 10_000 + i), kind=kind) for i in range(225)])
    error = values.std() / 15
    assert abs(float(values.mean())) < 4 * float(error)
    assert float(values.min()) < 0
    biased = 2 * (1 - float(defined(normal(300, k, 1), normal(300, k, 2), kind).mean())) / 10
    assert biased > 20 * float(error), "what k(x, x) = 1 in both means would add"


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (ROWS, ROWS), (2 * ROWS + 1, 7), (7, ROWS + 1)])
def test_it_is_its_definition_and_so_is_its_gradient_in_both_arguments(kind, precision, n, m) -> None:
    x, y = ((1.5 * normal(rows, 5, rows)).to(precision).requires_grad_() for rows in (n, m + 1))
    slack = 1e-5 if precision is torch.float32 else 1e-10
    for other in (x, y):  # a row's distance to itself too
        ours, theirs = kernel_sum(x, other, kind) / (n * len(other)), defined(x, other, kind).mean()
        assert ours.item() == pytest.approx(theirs.item(), rel=slack, abs=slack)
        pairs = zip(torch.autograd.grad(ours, (x, other)), torch.autograd.grad(theirs, (x, other)), strict=True)
        for mine, truth in pairs:
            assert float((mine - truth).abs().max()) < slack * float(truth.abs().max())


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("k", [2, 16, 128])
@pytest.mark.parametrize("wrong", [lambda z: 0.2 * z, lambda z: z + 1, lambda z: 3 * z])
def test_it_sees_a_narrow_a_shifted_and_a_wide_code_and_pulls_them_back(kind: str, k: int, wrong) -> None:
    z = wrong(normal(200, k, 0)).requires_grad_()
    value = mmd_squared(z, normal(200, k, 1), kind=kind)
    assert value.item() > 0.01
    (gradient,) = torch.autograd.grad(value, z)
    nearer = mmd_squared((z - 20 * gradient).detach(), normal(200, k, 1), kind=kind)
    assert nearer.item() < value.item()


def test_the_widths_follow_the_dimension() -> None:
    """The same relative error is as visible in 128 dimensions as in 8; a fixed width sees nothing there."""
    seen = [float(mmd_squared(0.5 * normal(300, k, 0), normal(300, k, 1), kind="rbf")) for k in (8, 128)]
    assert 0.5 < seen[1] / seen[0] < 3


@pytest.mark.parametrize("shape", [(3,), (3, 2), (1, 2, 3)])
def test_priors_of_ones_own_and_latents_of_any_shape_are_taken(shape: tuple) -> None:
    centre = torch.linspace(-3, 3, 64).double().reshape(-1, *[1] * len(shape)).expand(64, *shape)
    own = Independent(Normal(centre, torch.ones_like(centre)), len(shape))
    z = centre + normal(64, centre[0].numel(), 0).reshape(64, *shape)
    fits, misses = (float(price().eval()(bound(z, p), Progress()).scalars["mmd"]) for p in (own, None))
    assert abs(fits) < 0.1 * misses


def test_a_learned_prior_gets_its_gradient() -> None:
    flow = FlowPrior(units=3, kind="realnvp", hidden=(8,)).double()
    price()(bound(normal(16, 3, 0), flow()), Progress()).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in flow.flow.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 1.5}, ["alpha=1.5"]),
        ({"alpha": 0.2, "lambda_w": 0.5}, ["lambda_w=0.5", "alpha=0 lambda_w=1"]),
        ({"lambda_w": float("inf")}, ["lambda_w=inf"]),
        ({"alpha": float("nan")}, ["alpha=nan"]),
        ({"kernel": "linear"}, ["rbf or imq"]),
    ],
)
def test_what_cannot_be_is_refused(options: dict, words: list[str]) -> None:
    with pytest.raises(Refused) as sentence:
        price(**options)
    assert all(word in str(sentence.value) for word in words), sentence.value


def test_one_example_has_no_pair() -> None:
    with pytest.raises(Refused, match="batch_size=2"):
        price()(bound(normal(1, 3, 0)), Progress())
