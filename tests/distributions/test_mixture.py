"""Laws of the autoregressive prior: its maps are those of the mixtures' distribution functions, unit after unit."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from vaecollapse.distributions.mixture import LOG_RANGE, LOG_SCALE, REACH, MixtureTransform
from vaecollapse.distributions.priors import FlowPrior
from vaecollapse.refusal import Refused


def parameters(units: int = 3, components: int = 4) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(units, components, dtype=torch.float64) for _ in range(3)]


def test_a_unit_is_mapped_by_the_mixtures_own_distribution_function():
    """Against torch's mixture: density, and u at which Φ(u) = F(z)."""
    logits, means, log_scales = parameters()
    scale = (LOG_SCALE + LOG_RANGE * torch.tanh(log_scales / LOG_RANGE)).exp()
    shifted = means + torch.linspace(-REACH, REACH, 4).double()
    law = MixtureSameFamily(Categorical(logits=logits), Normal(shifted, scale))
    z = 2 * torch.randn(50, 3, dtype=torch.float64)
    transform = MixtureTransform(logits, means, log_scales)
    u = transform(z)
    torch.testing.assert_close(transform.log_density(z), law.log_prob(z))
    torch.testing.assert_close(Normal(0.0, 1.0).cdf(u), law.cdf(z), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(transform.inv(u), z, rtol=1e-7, atol=1e-7)


def test_far_out_nothing_is_infinite_and_the_density_is_still_the_mixtures():
    transform = MixtureTransform(*(each.float() for each in parameters()))
    z = torch.tensor([[-80.0, 0.0, 300.0]], requires_grad=True)
    u = transform(z)
    log_prob = Normal(0.0, 1.0).log_prob(u) + transform.log_abs_det_jacobian(z, u)
    torch.testing.assert_close(log_prob, transform.log_density(z))
    (gradient,) = torch.autograd.grad(log_prob.sum(), z)
    assert gradient.isfinite().all()


def test_the_inverse_is_the_same_bits_with_a_gradient_as_without():
    """Far out too; and the gradient is (du/dz)⁻¹."""
    transform = MixtureTransform(*(each.float() for each in parameters()))
    u = torch.tensor([[-7.0, 0.3, 9.0]], requires_grad=True)
    z = transform.inv(u)
    with torch.no_grad():
        assert torch.equal(z, transform.inv(u.detach()))
    (gradient,) = torch.autograd.grad(z[0, 1], u)
    at = z.detach()
    expected = (-transform.log_abs_det_jacobian(at, transform(at))).exp()
    torch.testing.assert_close(gradient[0, 1], expected[0, 1])


def test_a_unit_is_given_those_before_it_and_no_other():
    prior = FlowPrior(units=4, kind="mixture", transforms=1)()
    with torch.enable_grad():
        z = torch.randn(4, requires_grad=True)
        jacobian = torch.autograd.functional.jacobian(prior.to_base, z)
    assert torch.equal(jacobian.triu(1), torch.zeros(4, 4))
    assert (jacobian.diagonal() > 0).all()
    assert jacobian.tril(-1).abs().sum() > 0


def test_a_mixture_without_components_is_refused():
    with pytest.raises(Refused, match="components=0"):
        FlowPrior(units=4, kind="mixture", components=0)
