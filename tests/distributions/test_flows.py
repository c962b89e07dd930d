"""Laws of flows, posteriors and priors: change of variables, what is refused, and a KL that is never negative."""

import sys
from functools import partial

import jaxtyping
import pytest
import torch
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from vaecollapse.distributions.flows import Flow, base_and_inverse, rescaled
from vaecollapse.distributions.posteriors import LOG_VARIANCE_RANGE, FlowPosterior, NormalPosterior
from vaecollapse.distributions.priors import FlowPrior, NormalPrior
from vaecollapse.elbo import closed_form_kl, draw
from vaecollapse.refusal import Refused

KINDS = ["maf", "nsf", "realnvp", "iaf"]


def normal(mean: torch.Tensor, scale: torch.Tensor) -> Independent:
    return Independent(Normal(mean, scale, validate_args=False), 1)


def flow(kind: str, units: int, context: int = 0) -> Flow:
    torch.manual_seed(0)
    return Flow(kind=kind, units=units, context=context, transforms=2, hidden=(16,)).double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", [2, 3, 5])
def test_log_prob_is_the_change_of_variables(kind, units):
    """z = T(u) comes back to u, and ln p(z) = ln base(u) − ln |det ∂T/∂u| with the Jacobian from autograd."""
    context = torch.randn(1, 4, dtype=torch.float64)
    base = normal(torch.randn(1, units, dtype=torch.float64) / 2, torch.full((1, units), 0.6, dtype=torch.float64))
    distribution = flow(kind, units, 4)(base, context)
    _, to_z = base_and_inverse(distribution)
    u = base.sample()
    jacobian = torch.autograd.functional.jacobian(lambda t: to_z(t[None])[0], u[0])
    expected = base.log_prob(u) - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(distribution.log_prob(to_z(u)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_integrates_to_one(kind):
    grid = torch.linspace(-9, 9, 361, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    base = normal(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    with torch.no_grad():
        total = flow(kind, 2)(base).log_prob(z).exp().sum() * (grid[1] - grid[0]) ** 2
    assert abs(total - 1) < 5e-3


@pytest.mark.parametrize("kind", KINDS)
def test_context_moves_the_flow_and_rebasing_keeps_the_transform(kind):
    base = normal(torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64))
    distribution = flow(kind, 3, 2)(base, torch.tensor([[0.0, 0.0], [3.0, -3.0]], dtype=torch.float64))
    z = draw(distribution, torch.ones(2, 3, dtype=torch.float64))
    assert not torch.allclose(z[0], z[1], rtol=1e-3)
    tiny = rescaled(distribution, torch.full((3,), 1e-9, dtype=torch.float64))
    torch.testing.assert_close(tiny.sample(), draw(distribution, torch.zeros(2, 3, dtype=torch.float64)))


@pytest.mark.parametrize("checks", [True, False])
def test_importing_zuko_leaves_torch_checks_as_they_were(monkeypatch, checks):
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(Distribution, "_validate_args", checks)
    Flow(kind="maf", units=2)
    assert Distribution._validate_args is checks


@pytest.fixture
def unchecked(monkeypatch):
    """As in production, where no shape or type is checked and the refusal is what a user meets."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("kind", ["maf", "nsf"])
def test_a_posterior_that_is_slow_to_sample_is_refused(unchecked, kind):
    with pytest.raises(Refused, match="posterior=realnvp"):
        FlowPosterior(features=4, units=4, kind=kind)


@pytest.mark.parametrize(
    "build",
    [
        partial(FlowPrior, units=1),
        partial(FlowPrior, units=4, kind="iaf"),
        partial(NormalPosterior, features=4, units=4, parametrisation="softplus"),
    ],
)
def test_other_impossible_heads_are_refused(unchecked, build):
    with pytest.raises(Refused):
        build()


@pytest.mark.parametrize("units", [1, 4])
def test_the_scale_head_starts_at_one(units):
    """A zero activation means σ = 1, for either parametrisation: prior and posterior start alike."""
    for parametrisation in ("scale", "log_variance"):
        head = NormalPosterior(features=3, units=units, parametrisation=parametrisation)
        head.head.weight.data.zero_()
        head.head.bias.data.zero_()
        scale = head(torch.randn(5, 3)).stddev
        torch.testing.assert_close(scale, torch.ones(5, units), rtol=2e-4, atol=0)


@pytest.mark.parametrize("parametrisation", ["log_variance", "scale"])
@pytest.mark.parametrize("raw", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_the_bounds_are_soft_declared_and_never_infinite(parametrisation, raw):
    head = NormalPosterior(features=1, units=1, parametrisation=parametrisation, scale_floor=1e-3)
    head.head.weight.data.fill_(1.0)
    head.head.bias.data.zero_()
    distribution = head(torch.tensor([[raw]]))
    scale = distribution.stddev
    assert scale.isfinite().all()
    assert (scale >= head.scale_floor * (1 - 1e-5)).all()
    assert distribution.base_dist.scale_floor == head.scale_floor
    if parametrisation == "log_variance":
        assert 2 * scale.log() <= LOG_VARIANCE_RANGE[1] + 1e-4
        if abs(raw) <= 1:
            torch.testing.assert_close(2 * scale.log(), torch.tensor([[raw]]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("parametrisation", ["log_variance", "scale"])
@pytest.mark.parametrize("kind", ["normal", "realnvp", "iaf"])
def test_parametrisation_acts_on_every_posterior_and_gradients_reach_all_of_it(kind, parametrisation):
    torch.manual_seed(0)
    options = {"features": 6, "units": 4, "parametrisation": parametrisation}
    head = NormalPosterior(**options) if kind == "normal" else FlowPosterior(**options, kind=kind)
    distribution = head(torch.randn(8, 6))
    z = distribution.rsample()
    distribution.log_prob(z).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("kind", ["maf", "nsf", "realnvp"])
def test_gradients_reach_every_parameter_of_a_prior(kind):
    torch.manual_seed(0)
    prior = FlowPrior(units=4, kind=kind)
    prior().log_prob(torch.randn(16, 4)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prior.parameters())


def test_heads_compute_in_float32_under_autocast():
    head = NormalPosterior(features=6, units=4)
    h = torch.randn(3, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distribution = head(h)
    assert distribution.mean.dtype == torch.float32
    torch.testing.assert_close(distribution.mean, head(h).mean)


# KL in closed form


@pytest.mark.parametrize("spread", [1e-7, 1e-4, 1e-2])
def test_the_closed_form_kl_is_never_negative_near_collapse(spread):
    torch.manual_seed(0)
    q = normal(spread * torch.randn(4000, 4), 1 + spread * torch.randn(4000, 4))
    kl = closed_form_kl(q, NormalPrior(units=4)())
    assert (kl >= 0).all()


def test_the_closed_form_kl_is_torchs_in_float64():
    torch.manual_seed(0)
    mean, scale = torch.randn(2, 50, 3, dtype=torch.float64), torch.rand(2, 50, 3, dtype=torch.float64) + 0.1
    q, p = Normal(mean[0], scale[0]), Normal(mean[1], scale[1])
    torch.testing.assert_close(closed_form_kl(Independent(q, 1), Independent(p, 1)), kl_divergence(q, p))


@pytest.mark.parametrize("which", ["posterior", "prior"])
def test_a_flow_has_no_closed_form_kl(which):
    gaussian, flowing = NormalPrior(units=3)(), FlowPrior(units=3)()
    pair = (flowing, gaussian) if which == "posterior" else (gaussian, flowing)
    assert closed_form_kl(*pair) is None


@pytest.mark.parametrize("kind", ["maf", "nsf", "realnvp", "iaf"])
def test_a_flow_computes_in_float32_under_autocast(kind):
    """A log-determinant in bfloat16 is wrong in its third digit, and the KL is a difference of two of them."""
    flow = Flow(kind=kind, units=4)
    base = Independent(Normal(torch.zeros(64, 4), torch.ones(64, 4)), 1)
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))

    def read():
        distribution = flow(base)
        return distribution.log_prob(z), distribution.to_z(z), distribution.to_base(z), *distribution.push(z)

    exact = read()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = read()
    for one, other in zip(exact, mixed, strict=True):
        assert other.dtype == torch.float32 and torch.equal(one, other)
