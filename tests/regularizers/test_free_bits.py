"""The facts about floors, each a law (Kingma 2016 and what its forms do)."""

import pytest
import torch
from planted import Planted, blind, constant, gaussian_data, verdict_on
from torch import nn

from vaecollapse.batch import Batch
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.elbo import ELBO, Progress
from vaecollapse.models.linear import LinearVAE
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.free_bits import FORMS, FreeBits

CLAMPS = [name for name in FORMS if name != "hinge"]


def bound(kl: torch.Tensor) -> ELBO:
    q = torch.distributions.Normal(torch.zeros_like(kl), 1.0)
    return ELBO(torch.zeros(len(kl)).to(kl), kl, torch.zeros_like(kl), q, q)


def regularizer(form: str, floor: float, *, weight: float = 1.0, **options) -> FreeBits:
    return FreeBits(weight=Constant(value=weight), floor=floor, form=form, **options)


def gradient(form: str, kl: torch.Tensor, floor: float, **options) -> torch.Tensor:
    kl = kl.clone().requires_grad_()
    regularizer(form, floor, **options)(bound(kl), Progress()).loss.backward()
    assert kl.grad is not None
    return kl.grad


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", ["unit", "token", "all"])
def test_below_the_floor_the_price_is_gone(form: str, groups: str) -> None:
    kl = torch.rand(5, 3, 4) * 0.09
    assert gradient(form, kl, 0.1, groups=groups).abs().max() == 0
    assert regularizer(form, 0.1, groups=groups)(bound(kl), Progress()).weight.max() == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weight", [0.01, 1.0, 3.0])
def test_above_the_floor_it_is_plain_kl_times_the_forms_factor(form: str, weight: float) -> None:
    kl = 0.2 + torch.rand(5, 12, dtype=torch.float64)
    plain = kl.clone().requires_grad_()
    Beta(weight=Constant(value=weight))(bound(plain), Progress()).loss.backward()
    factor = 1 / 12 if form == "hinge" else 1.0
    torch.testing.assert_close(gradient(form, kl, 0.1, weight=weight), factor * plain.grad)
    acting = regularizer(form, 0.1, weight=weight)(bound(kl), Progress()).weight
    torch.testing.assert_close(acting, torch.full_like(acting, weight * factor))


def test_the_hinge_scaled_by_units_has_a_clamps_gradient_above_the_floor() -> None:
    kl = 0.2 + torch.rand(5, 12)
    torch.testing.assert_close(gradient("hinge", kl, 0.1, scale="units"), gradient("sample_unit", kl, 0.1))


@pytest.mark.parametrize("form", CLAMPS)
def test_a_clamp_reports_its_floor_on_a_collapsed_posterior(form: str) -> None:
    """128 units × 0.5 print 64 "nats" with R = 0; only raw R, the penalty and the share without price tell."""
    objective = regularizer(form, 0.5)(bound(torch.zeros(7, 128)), Progress())
    assert float(objective.penalty) == (0.0 if form == "sample_unit_mask" else 64.0)
    assert float(objective.scalars["zero_gradient"]) == 1.0
    assert objective.group_kl is not None and float(objective.group_kl.abs().max()) == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_the_floor_is_compared_in_nats_before_weight_and_division(form: str) -> None:
    kl = torch.rand(6, 12)
    one, many = (regularizer(form, 0.5, weight=w)(bound(kl), Progress()) for w in (1.0, 0.01))
    assert torch.equal(one.weight > 0, many.weight > 0)
    assert torch.equal(one.floor, many.floor)
    torch.testing.assert_close(many.penalty, 0.01 * one.penalty)


@pytest.mark.parametrize("form", FORMS)
def test_forms_by_hand(form: str) -> None:
    """Floor 0.5 a unit, 1 in total; the batch mean inside or outside as the name says."""
    kl = torch.tensor([[0.1, 1.0], [0.1, 3.0], [0.1, 2.0], [0.6, 0.9]], dtype=torch.float64)
    by_hand = {
        "batch_unit": max(0.5, kl[:, 0].mean()) + max(0.5, kl[:, 1].mean()),
        "sample_unit": kl.clamp(min=0.5).sum(1).mean(),
        "sample_unit_mask": (kl * (kl > 0.5)).sum(1).mean(),
        "sample_total": kl.sum(1).clamp(min=1.0).mean(),
        "batch_total": max(1.0, kl.sum(1).mean()),
        "hinge": (kl - 0.5).clamp(min=0).mean(),
    }
    penalty = regularizer(form, 0.5)(bound(kl), Progress()).penalty
    assert float(penalty) == pytest.approx(float(by_hand[form]))


def test_the_place_of_the_batch_mean_makes_two_hinges() -> None:
    kl = torch.tensor([[0.0], [1.0]])
    inside, outside = (
        regularizer("hinge", 0.5, mean_batch=place)(bound(kl), Progress()) for place in ("inside", "outside")
    )
    assert float(inside.penalty) == 0.0
    assert float(outside.penalty) == 0.25


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_encoder_satisfies_every_floor_and_informs_of_nothing(form: str) -> None:
    price = regularizer(form, 1.0)
    verdict = verdict_on(Planted(constant, blind), gaussian_data(600), price=lambda elbo: price(elbo, Progress()))
    assert verdict.readings["zero_gradient"].value == 0.0
    assert verdict.verdict == "fake_rate"


class Deaf(LinearVAE):
    """A linear VAE whose decoder gives z no gradient."""

    def decode(self, z, context=None, mask=None):
        return super().decode(torch.zeros_like(z), context, mask)


def trained(model: type[LinearVAE], price: nn.Module) -> float:
    """R of a linear VAE with s² = 9 above λ_max = 6, trained from a nearly collapsed start on the analytic bound."""
    torch.manual_seed(0)
    x = gaussian_data(512)
    vae = model(event_shape=(8,), latent_dim=4, likelihood=NormalLikelihood(scale=3.0)).double()
    with torch.no_grad():
        for part in (vae.encoder, vae.decoder):
            part.weight.mul_(0.1)
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    for _ in range(400):
        loss = price(vae.elbo(Batch(x)), Progress()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(vae.elbo(Batch(x)).rate.mean())


@pytest.mark.parametrize("form", ["batch_unit", "batch_total", "hinge"])
def test_a_floor_lets_z_revive_where_the_autoencoder_would_and_pushes_nothing(form: str) -> None:
    price = regularizer(form, 0.25, **({"scale": "units"} if form == "hinge" else {}))
    assert 0.6 < trained(LinearVAE, price) < 1.3
    assert trained(Deaf, price) == pytest.approx(trained(Deaf, Beta(weight=Constant(value=0.0))), abs=1e-9)


def test_above_the_largest_eigenvalue_plain_kl_kills_z() -> None:
    assert trained(LinearVAE, Beta(weight=Constant(value=1.0))) < 0.05


@pytest.mark.parametrize("form", [form for form in FORMS if form != "batch_total"])
def test_a_flow_takes_the_total_form_only(form: str) -> None:
    kl = torch.tensor([0.4, 2.0])
    elbo = bound(torch.zeros(2, 4))._replace(kl=kl)
    with pytest.raises(Refused, match="batch_total"):
        regularizer(form, 0.1)(elbo, Progress())
    total = regularizer("auto", 0.1)(elbo, Progress())
    assert float(total.penalty) == pytest.approx(1.2)
    assert total.floor is not None and float(total.floor) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "options",
    [
        {"form": "per_unit"},
        {"floor": -1.0},
        {"floor": float("inf")},
        {"groups": "layer"},
        {"scale": "units"},
        {"mean_batch": "inside"},
        {"form": "hinge", "scale": "tokens"},
        {"form": "hinge", "mean_batch": "both"},
    ],
)
def test_impossible_floors_are_refused(options: dict) -> None:
    with pytest.raises(Refused):
        FreeBits(**{"weight": Constant(value=1.0), "floor": 0.1, "form": "batch_unit", **options})


def accumulated_gradient(k: torch.Tensor, floor: float, parts: int, steps: int) -> torch.Tensor:
    """d loss / d KL of the last of `steps` equal steps, each made of `parts` batches."""
    regularizer = FreeBits(weight=Constant(value=1.0), floor=floor, form="batch_unit")
    gradient = torch.zeros_like(k)
    for step in range(steps):
        kl = k.clone().requires_grad_()
        for part, rows in enumerate(kl.chunk(parts)):
            objective = regularizer(bound(rows), Progress(step, steps, 0, part, parts))
            (objective.loss / parts).backward()
        gradient = kl.grad
    return gradient


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_floor_is_compared_with_the_mean_over_all_batches_of_a_step(parts: int) -> None:
    """From the second equal step on, the gradient is that of one large batch, element by element: units whose batches
    lie on either side of the floor are decided by the whole."""
    k = torch.rand(8, 50, generator=torch.Generator().manual_seed(0)).double()
    whole, split = accumulated_gradient(k, 0.5, 1, 1), accumulated_gradient(k, 0.5, parts, 2)
    assert torch.equal(whole, split)
    first = accumulated_gradient(k, 0.5, parts, 1)
    assert not torch.equal(whole, first), "the planted means lie too far from the floor to tell"


def test_what_a_step_remembers_survives_a_checkpoint() -> None:
    one, two = (FreeBits(weight=Constant(value=1.0), floor=0.5, form="batch_unit") for _ in range(2))
    one.step.before = torch.rand(1, 7)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.step.before, two.step.before)
