"""Laws of the per-unit KL under flows: a lower bound in the base space, exact where it can be; what it leaves out."""

import pytest
import torch
from planted import Planted, blind, collapsed
from torch.distributions import AffineTransform, Distribution, Independent, Normal

from vaecollapse.batch import Batch
from vaecollapse.detectors.flow_faithfulness import FlowFaithfulness, matched_kl
from vaecollapse.distributions.flows import Flow, FlowDistribution, from_standard, moved, to_standard
from vaecollapse.elbo import ELBO, closed_form_kl, noise, pieces

UNITS, COUNT = 4, 64
VAE = Planted(collapsed, blind)  # which is not looked at: everything is in the bound


def gaussian(mean: torch.Tensor, scale: torch.Tensor) -> Independent:
    return Independent(Normal(mean, scale, validate_args=False), 1)


def posterior(count: int = COUNT, seed: int = 0) -> Independent:
    """Two informative units, one that only narrows, one dead."""
    generator = torch.Generator().manual_seed(seed)
    mean = 1.5 * torch.randn(count, UNITS, generator=generator).double() * torch.tensor([1.0, 0.5, 0.0, 0.0])
    return gaussian(mean, torch.tensor([0.3, 0.6, 0.5, 1.0]).double().expand(count, -1))


def standard() -> Independent:
    return gaussian(torch.zeros(UNITS).double(), torch.ones(UNITS).double())


class Affine(AffineTransform):
    """z ↦ u = a + b·z per unit, a flow whose base space is known; its determinant is taken over the event."""

    def __init__(self, loc: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(loc, scale, event_dim=1)

    def call_and_ladj(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u = self(z)
        return u, self.log_abs_det_jacobian(z, u)


def flow(kind: str, spread: float = 0.3, context: int = 0) -> Flow:
    torch.manual_seed(0)
    made = Flow(kind=kind, units=UNITS, context=context, transforms=2, hidden=(16,)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return made


def bound(q: Distribution, p: Distribution, rows: slice = slice(None)) -> tuple[Batch, ELBO]:
    z, kl = pieces(q, p)
    index = torch.arange(COUNT)[rows]
    return Batch(torch.zeros(len(z), 1), index=index), ELBO(torch.zeros(len(z)).double(), kl, z, q, p)


@torch.no_grad()
def read(q: Distribution, p: Distribution, **options) -> tuple[FlowFaithfulness, dict]:
    detector = FlowFaithfulness(**options)
    detector.update(VAE, *bound(q, p))
    return detector, {finding.name: finding for finding in detector.findings()}


# ---- the pieces


@pytest.mark.parametrize("kind", ["maf", "nsf", "realnvp", "iaf"])
@torch.no_grad()
def test_to_the_standard_space_and_back_with_the_density_on_the_way(kind: str) -> None:
    context = torch.randn(COUNT, 3).double()
    distribution = flow(kind, context=3)(posterior(), context)
    eps = torch.randn(5, COUNT, UNITS).double()
    z, log_prob = from_standard(distribution, eps)
    back, again = to_standard(distribution, z)
    torch.testing.assert_close(back, eps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_prob, distribution.log_prob(z), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, log_prob, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("draws", [16, 64])
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (2.0, 0.1), (0.3, 0.9)])
def test_matching_moments_is_unbiased_for_a_gaussian(draws: int, mean: float, scale: float) -> None:
    u = mean + scale * torch.randn(draws, 40_000, 1, generator=torch.Generator().manual_seed(0)).double()
    found = matched_kl(u.sum(0), u.square().sum(0), draws)
    q = gaussian(torch.tensor([[mean]]), torch.tensor([[scale]]))
    exact = closed_form_kl(q, gaussian(torch.zeros(1), torch.ones(1)))
    assert exact is not None
    assert abs(float(found.mean() - exact)) < 4 * float(found.std()) / 200


# ---- the bound


def test_gaussians_are_exact_and_repeat_nothing_in_the_series() -> None:
    q, p = posterior(), standard()
    detector, found = read(q, p)
    assert found["kl_per_unit_residual"].value == 0
    assert found["kl_per_unit_residual"].note == found["kl_per_unit_sum"].note == "exact"
    torch.testing.assert_close(detector.mean("kl_base"), closed_form_kl(q, p).mean(0))
    assert detector.per_unit() == {}


@pytest.mark.parametrize("side", ["posterior", "prior", "both"])
def test_a_flow_that_keeps_units_apart_and_gaussian_has_the_exact_kl_of_each(side: str) -> None:
    """Its base space is a change of units, and KL does not depend on units."""
    q, p = posterior(), standard()
    exact = closed_form_kl(q, p).mean(0)
    shift, stretch = torch.tensor([1.0, -2.0, 0.5, 0.0]).double(), torch.tensor([0.5, 3.0, 1.0, 2.0]).double()
    there = Affine(shift, stretch)
    moved_q, moved_p = FlowDistribution(q, there), FlowDistribution(p, there)  # z = (u − shift)/stretch
    if side == "posterior":
        mean, scale = (p.base_dist.loc - shift) / stretch, p.base_dist.scale / stretch
        pair = moved_q, gaussian(mean, scale)
    elif side == "prior":
        pair = gaussian((q.base_dist.loc - shift) / stretch, q.base_dist.scale / stretch), moved_p
    else:
        pair = moved_q, moved_p
    detector, found = read(*pair, draws=512)
    torch.testing.assert_close(detector.per_unit()["kl_base"], exact, rtol=0.02, atol=0.01)
    assert abs(found["kl_per_unit_residual"].value) < 0.01
    assert found["kl_per_unit_sum"].status == "lower_bound"


def test_the_base_gaussian_of_a_posterior_flow_is_not_what_is_read() -> None:
    """A flow may undo what its base says: base far from N(0, I), posterior the prior."""
    loc, scale = torch.full((COUNT, UNITS), 3.0).double(), torch.full((COUNT, UNITS), 0.2).double()
    q = FlowDistribution(gaussian(loc, scale), Affine(loc[0], scale[0]))
    detector, found = read(q, standard())
    assert detector.per_unit()["kl_base"].abs().max() < 0.02
    assert found["kl_per_unit_residual"].value is None


@pytest.mark.parametrize("kinds", [("realnvp", "maf"), ("iaf", "nsf"), (None, "nsf"), ("realnvp", None)])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_it_never_exceeds_the_rate_and_the_residual_is_what_is_missing(kinds, spread: float) -> None:
    q, p = posterior(), standard()
    q = flow(kinds[0], spread)(q) if kinds[0] else q
    p = flow(kinds[1], spread)(p) if kinds[1] else p
    detector, found = read(q, p)
    residual = found["kl_per_unit_residual"]
    with torch.no_grad():  # R of the same draws, by inverting
        rate = torch.stack([pieces(q, p, eps)[1] for eps in noise(torch.arange(COUNT), (UNITS,), draws=64)]).mean()
    assert float(detector.mean("rate")) == pytest.approx(float(rate), rel=1e-5)
    assert residual.value > -3 * residual.se - 0.01
    assert residual.value == pytest.approx(1 - found["kl_per_unit_sum"].value / float(detector.mean("rate")))
    assert float(detector.per_unit()["kl_base"].sum()) == pytest.approx(found["kl_per_unit_sum"].value)


def test_units_that_share_their_information_are_not_faithful() -> None:
    """A posterior correlated by .99 in the base space: each unit alone looks like the prior."""

    class Shear(Affine):
        """u₀ = z₀, u₁ = (z₁ − ρ z₀)/√(1 − ρ²), the others untouched."""

        def __init__(self, rho: float) -> None:
            super().__init__(torch.zeros(UNITS).double(), torch.ones(UNITS).double())
            self.rho, self.left = rho, (1 - rho**2) ** 0.5

        def _call(self, x):
            return torch.cat([x[..., :1], (x[..., 1:2] - self.rho * x[..., :1]) / self.left, x[..., 2:]], -1)

        def _inverse(self, y):
            return torch.cat([y[..., :1], self.left * y[..., 1:2] + self.rho * y[..., :1], y[..., 2:]], -1)

        def log_abs_det_jacobian(self, x, y):
            return torch.full(x.shape[:-1], -torch.tensor(self.left).log().item(), dtype=x.dtype)

    wide = gaussian(torch.zeros(COUNT, UNITS).double(), torch.ones(COUNT, UNITS).double())
    detector, found = read(FlowDistribution(wide, Shear(0.99)), standard())
    exact = -0.5 * torch.tensor(1 - 0.99**2).log()
    assert float(detector.mean("rate")) == pytest.approx(float(exact), rel=0.05)
    residual = found["kl_per_unit_residual"]
    assert residual.value == pytest.approx(1.0, abs=0.05)
    assert residual.note == "not faithful"
    assert read(FlowDistribution(wide, Shear(0.99)), standard(), faithful=2.0)[1][residual.name].note == ""


# ---- the spline's range


@pytest.mark.parametrize("spread", [0.0, 1.0])
@torch.no_grad()
def test_a_spline_leaves_what_lies_beyond_its_range_and_keeps_what_lies_within(spread: float) -> None:
    """So the share of |z| beyond is the share of |u| beyond, however many layers."""
    prior = flow("nsf", spread)(standard())
    assert prior.spline_range == prior.rebased(standard()).spline_range == 5.0
    z = 4 * torch.randn(2000, UNITS, generator=torch.Generator().manual_seed(0)).double()
    u, _ = prior.pull(z)
    beyond = z.abs() > 5
    assert 0.1 < beyond.double().mean() < 0.4
    assert torch.equal(u.abs() > 5, beyond)
    torch.testing.assert_close(u[beyond], z[beyond])


@pytest.mark.parametrize(("mean", "scale", "share"), [(0.0, 1.0, 0.0), (5.0, 0.5, 0.5), (40.0, 0.1, 1.0)])
def test_the_share_of_z_beyond_is_counted(mean: float, scale: float, share: float) -> None:
    q = gaussian(torch.full((COUNT, UNITS), mean).double(), torch.full((COUNT, UNITS), scale).double())
    found = read(q, flow("nsf")(standard()))[1]["beyond_spline"]
    assert found.value == pytest.approx(share, abs=3 * (found.se or 0) + 1e-4)
    assert found.n == COUNT


@pytest.mark.parametrize(("mean", "share"), [(0.0, 0.0), (5.0, 0.5), (40.0, 1.0)])
@pytest.mark.parametrize("based", [False, True])
def test_the_share_beyond_is_of_the_units_that_the_spline_sees(mean: float, share: float, based: bool) -> None:
    """z = 100 + 20 · z', another order of units, any base: the share of z beyond is that of z'."""
    q = gaussian(torch.full((COUNT, UNITS), 100 + 20 * mean).double(), torch.full((COUNT, UNITS), 10.0).double())
    place, order = torch.full((UNITS,), 100.0).double(), torch.arange(UNITS).flip(0)
    base = gaussian(torch.full((UNITS,), 3.0).double(), torch.full((UNITS,), 2.0).double()) if based else standard()
    prior = moved(flow("nsf")(base), place, torch.full((UNITS,), 20.0).double(), order)
    found = read(q, prior)[1]["beyond_spline"]
    assert found.value == pytest.approx(share, abs=3 * (found.se or 0) + 1e-4)


@pytest.mark.parametrize("kind", ["maf", "realnvp"])
def test_without_a_spline_there_is_no_range(kind: str) -> None:
    found = read(posterior(), flow(kind)(standard()))[1]["beyond_spline"]
    assert found.value is None and found.status == "undefined"
    assert "beyond_spline" not in read(posterior(), standard())[1]


# ---- streaming


@torch.no_grad()
def test_a_stream_of_flows_reads_what_the_whole_reads() -> None:
    prior = flow("nsf")(standard())
    whole, parts = FlowFaithfulness(), FlowFaithfulness()
    q = posterior()
    whole.update(VAE, *bound(q, prior))
    for rows in (slice(40, COUNT), slice(0, 40)):
        part = gaussian(q.base_dist.loc[rows], q.base_dist.scale[rows])
        parts.update(VAE, *bound(part, prior, rows))
    for one, other in zip(whole.findings(), parts.findings(), strict=True):
        assert one[:2] == (other.name, pytest.approx(other.value, rel=1e-6)), one.name
    restored = FlowFaithfulness()
    restored.load_state_dict(whole.state_dict())
    assert restored.findings() == whole.findings()
    torch.testing.assert_close(restored.per_unit(), whole.per_unit())


def test_what_is_no_gaussian_is_not_defined() -> None:
    class Uniformish(Distribution):
        arg_constraints = {}

    q = Uniformish(torch.Size([COUNT]), torch.Size([UNITS]), validate_args=False)
    elbo = ELBO(torch.zeros(COUNT), torch.ones(COUNT), torch.zeros(COUNT, UNITS), q, standard())
    detector = FlowFaithfulness()
    detector.update(VAE, Batch(torch.zeros(COUNT, 1)), elbo)
    assert all(finding.value is None for finding in detector.findings())
