"""Rates that are asked for: |R − R*|, its ramp, the controller of the weight, and what no latent can hold."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from vaecollapse.distributions.batch_norm import BatchNormPosterior
from vaecollapse.distributions.delta import DeltaPosterior
from vaecollapse.distributions.posteriors import NormalPosterior
from vaecollapse.elbo import ELBO, Progress
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.base import Weighted
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import PID, Constant, Linear
from vaecollapse.regularizers.free_bits import FreeBits
from vaecollapse.regularizers.kl_capacity import KLCapacity
from vaecollapse.regularizers.target_rate import TargetRate

GAMMA, END = 1.7, Progress(1, 1)


def bound(kl: torch.Tensor) -> ELBO:
    q = Normal(torch.zeros_like(kl), 1.0)
    return ELBO(torch.zeros(len(kl)).to(kl), kl, torch.zeros_like(kl), q, q)


def gradient(regularizer: Weighted, kl: torch.Tensor, progress: Progress = END) -> torch.Tensor:
    kl = kl.clone().requires_grad_()
    regularizer(bound(kl), progress).loss.backward()
    assert kl.grad is not None
    return kl.grad


def held(target: float, *, per: str = "batch") -> TargetRate:
    return TargetRate(weight=Constant(value=GAMMA), target=target, per=per)


def plain(kl: torch.Tensor) -> torch.Tensor:
    return gradient(Beta(weight=Constant(value=GAMMA)), kl)


@pytest.mark.parametrize("per", ["batch", "example"])
@pytest.mark.parametrize(("target", "sign"), [(0.5, 1.0), (50.0, -1.0)])
def test_on_one_side_of_the_target_it_is_plain_kl_or_its_opposite(per: str, target: float, sign: float) -> None:
    kl = 1 + torch.rand(6, 5).double()
    torch.testing.assert_close(gradient(held(target, per=per), kl), sign * plain(kl), rtol=0, atol=1e-15)


def test_batch_and_example_differ_exactly_in_the_examples_on_the_other_side() -> None:
    kl = torch.tensor([[1.0, 1.0], [5.0, 4.0], [0.5, 0.1], [2.0, 3.0]]).double()  # R 2, 9, 0.6, 5; their mean is 4.15
    batch, example = (gradient(held(4.0, per=per), kl) for per in ("batch", "example"))
    torch.testing.assert_close(batch, plain(kl))
    torch.testing.assert_close(example, torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]).double() * plain(kl))
    values = [float(held(4.0, per=per)(bound(kl), Progress()).penalty) for per in ("batch", "example")]
    assert values == pytest.approx([GAMMA * 0.15, GAMMA * (2 + 5 + 3.4 + 1) / 4])
    assert values[0] <= values[1], "the mean of |R_b − C| is at least |mean R_b − C|"


@pytest.mark.parametrize("per", ["batch", "example"])
def test_at_the_ramps_end_a_capacity_is_a_target_and_at_its_start_a_target_of_zero(per: str) -> None:
    kl = torch.rand(6, 5).double() * 3
    capacity = KLCapacity(weight=Constant(value=GAMMA), target=7.0, ramp=0.4, per=per)
    for step, target in ((0, 0.0), (10, 1.75), (20, 3.5), (40, 7.0), (100, 7.0)):
        own, other = (p(bound(kl), Progress(step, 100)) for p in (capacity, held(target, per=per)))
        assert float(own.loss) == pytest.approx(float(other.loss), rel=1e-12)
        assert float(own.scalars["target"]) == pytest.approx(target)
        torch.testing.assert_close(gradient(capacity, kl, Progress(step, 100)), gradient(held(target, per=per), kl))
    assert [capacity.settled(Progress(step, 100)) for step in (39, 40)] == [False, True]


def test_gamma_follows_its_schedule() -> None:
    price = TargetRate(weight=Linear(value=4.0, warmup=0.5), target=1.0)
    acting = [price(bound(torch.full((2, 3), 1.0)), Progress(step, 10)).weight.item() for step in (0, 2, 5)]
    assert acting == pytest.approx([0.0, 1.6, 4.0])


@pytest.mark.parametrize("parts", [2, 4])
def test_batches_of_one_step_are_decided_by_their_common_mean(parts: int) -> None:
    """The first batches lie above the target and the last below it: from the second equal step on the gradient is that
    of one large batch."""
    kl = torch.cat([torch.full((4, 3), 2.0), torch.full((4, 3), 0.5)]).double()
    price, gradients = held(4.0), []
    for step in range(2):
        own = kl.clone().requires_grad_()
        for part, rows in enumerate(own.chunk(parts)):
            (price(bound(rows), Progress(step, 2, 0, part, parts)).loss / parts).backward()
        gradients.append(own.grad)
    whole = gradient(held(4.0), kl)
    torch.testing.assert_close(gradients[1], whole)
    assert not torch.equal(gradients[0], whole), "the planted batches do not disagree"


def test_a_two_sided_target_pushes_up_what_a_floor_leaves_alone() -> None:
    kl = torch.full((4, 3), 0.1)
    assert gradient(FreeBits(weight=Constant(value=GAMMA), floor=1.0), kl).abs().max() == 0
    assert gradient(held(3.0), kl).max() < 0


@pytest.mark.parametrize("rate", [1.0, 4.0, 9.0])
def test_distances_are_compared_at_the_targets_end(rate: float) -> None:
    """A run is not chosen for the low rate of its early epochs, nor for a γ that was still small."""
    price = KLCapacity(weight=Linear(value=GAMMA, warmup=1.0), target=4.0, ramp=0.5)
    assert price.compared(10.0, rate) == pytest.approx(10 + GAMMA * abs(rate - 4))
    assert Beta(weight=Linear(value=GAMMA)).compared(10.0, rate) == pytest.approx(10 + GAMMA * rate)
    controlled = Beta(weight=PID(value=2.0, target=4.0, maximum=3.0))
    controlled.observe(torch.tensor(0.0), torch.tensor(100.0), Progress())
    assert controlled.compared(10.0, rate) == pytest.approx(10 + 6 * abs(rate - 4))


# ---- the controller


def weights(controller: PID, rates: list[float]) -> list[float]:
    found = []
    for rate in rates:
        controller.observe(torch.tensor(rate), Progress())
        found.append(controller(Progress()))
    return found


def controller(**options) -> PID:
    return PID(**{"value": 1.0, "target": 3.0, "kp": 0.01, "ki": 0.01, "maximum": 2.0, **options}).double()


def test_the_weight_is_the_papers_sum_while_it_lies_within_bounds() -> None:
    rates = [8.0, 5.0, 2.5, 3.0, 4.0]
    errors = [3.0 - rate for rate in rates]
    by_hand = [0.01 / (1 + math.exp(e)) - 0.01 * sum(errors[: i + 1]) for i, e in enumerate(errors)]
    assert weights(controller(), rates) == pytest.approx(by_hand)
    assert weights(controller(value=0.5), rates) == pytest.approx([0.5 * w for w in by_hand])


class Wound(PID):
    """What published code does: the sum grows while the weight is clipped."""

    def summed(self, error: float, integral: float) -> float:
        return integral + error


@pytest.mark.parametrize(("stuck", "back", "bound"), [(50.0, 2.0, 2.0), (0.0, 4.0, 0.0)])
def test_after_any_time_at_a_bound_the_weight_leaves_it_within_a_hundred_steps(stuck, back, bound) -> None:
    """An error of one nat against minutes of the opposite: by its size per step, as if there had been no minutes."""
    for kind, recovers in ((controller, True), (lambda: Wound(value=1.0, target=3.0, ki=0.01, maximum=2.0), False)):
        own = kind()
        assert weights(own, [stuck] * 5000)[-1] == pytest.approx(bound, abs=1e-6)
        after = weights(own, [back] * 100)
        assert (abs(after[-1] - bound) > 0.9) == recovers
        assert (abs(after[1] - bound) > 0.01) == recovers


EIGENVALUES = torch.tensor([6.0, 3.0, 1.5, 0.8, 0.4]).double()


def optimal_rate(beta: float) -> float:
    """R of the linear VAE at e = β: ½ Σ ln(λ/e) over the living directions."""
    return 0.5 * float((EIGENVALUES / max(beta, 1e-6)).log().clamp(min=0).sum())


@pytest.mark.parametrize("stuck", [0.0, 50.0])
def test_a_latent_that_comes_free_is_brought_to_its_target_within_a_hundred_steps(stuck: float) -> None:
    """R of the closed form, which takes ten steps to answer, after 5000 steps in which nothing moved it."""
    own = controller(target=1.6479, ki=0.04)
    weight, rate = weights(own, [stuck] * 5000)[-1], stuck
    for _ in range(100):
        rate += (optimal_rate(weight) - rate) / 10
        (weight,) = weights(own, [rate])
    assert rate == pytest.approx(1.6479, rel=0.05)
    assert weight == pytest.approx(1.0, rel=0.1), "e = 1 gives this rate"


# ---- what cannot be


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: held(-1.0), ["regularizer.target=-1", "try regularizer.target=10"]),
        (lambda: held(math.inf), ["regularizer.target=inf", "finite"]),
        (lambda: held(math.nan), ["regularizer.target=nan"]),
        (lambda: held(1.0, per="unit"), ["per=unit", "batch"]),
        (lambda: KLCapacity(weight=Constant(value=1.0), target=1.0, ramp=1.5), ["ramp=1.5", "regularizer.ramp=0.5"]),
        (lambda: TargetRate(weight=controller(), target=1.0), ["pid", "regularizer=beta"]),
        (lambda: controller(target=-2.0), ["regularizer.weight.target=-2"]),
        (lambda: controller(kp=0.0), ["kp=0", "above 0"]),
        (lambda: controller(ki=-0.1), ["ki=-0.1", "above 0"]),
        (lambda: controller(ki=math.nan), ["ki=nan"]),
        (lambda: controller(minimum=3.0), ["minimum=3", "maximum=2"]),
        (lambda: controller(minimum=-1.0), ["minimum=-1"]),
        (lambda: controller(maximum=math.inf), ["maximum=inf"]),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_type(make, words: list[str]) -> None:
    with pytest.raises(Refused) as sentence:
        make()
    assert all(word in str(sentence.value) for word in words), sentence.value


def test_a_flows_noisy_kl_is_held_to_a_target_in_the_mean_only() -> None:
    elbo = bound(torch.zeros(2, 4))._replace(kl=torch.tensor([0.4, 2.0]))
    with pytest.raises(Refused, match=r"per=batch"):
        held(1.0, per="example")(elbo, Progress())
    assert float(held(1.0)(elbo, Progress()).penalty) == pytest.approx(GAMMA * 0.2)


AIMING = [
    held,
    lambda target: KLCapacity(weight=Constant(value=1.0), target=target),
    lambda target: Beta(weight=controller(target=target)),
    lambda target: FreeBits(weight=controller(target=target), floor=0.5),
]


@pytest.mark.parametrize(
    ("head", "least"),
    [
        (lambda: DeltaPosterior(features=3, units=5, rate=0.3), 1.5),
        (lambda: BatchNormPosterior(features=3, units=5, gamma=0.8), 1.6),
    ],
)
@pytest.mark.parametrize("make", AIMING)
def test_a_target_below_what_the_posterior_has_by_construction_is_refused(make, head, least: float) -> None:
    q, p = head().eval()(torch.randn(2, 3)), Independent(Normal(torch.zeros(5), torch.ones(5)), 1)
    elbo = ELBO(torch.zeros(2), torch.zeros(2, 5), torch.zeros(2, 5), q, p)
    make(1.01 * least).check(elbo)
    with pytest.raises(Refused, match=r"by construction.*over 5 latent units.*posterior=normal"):
        make(0.99 * least).check(elbo)


@pytest.mark.parametrize(
    "head", [lambda: DeltaPosterior(features=3, units=5, rate=0.3), lambda: BatchNormPosterior(features=3, units=5)]
)
def test_a_floor_that_no_batch_can_feel_is_a_warning(head, caplog) -> None:
    q, p = head().eval()(torch.randn(2, 3)), Independent(Normal(torch.zeros(5), torch.ones(5)), 1)
    elbo, least = ELBO(torch.zeros(2), torch.zeros(2, 5), torch.zeros(2, 5), q, p), q.base_dist.least
    for floor in (0.0, 1.01 * least):
        FreeBits(weight=Constant(value=1.0), floor=floor).check(elbo)
    FreeBits(weight=Constant(value=1.0), floor=least / 2, form="sample_unit").check(elbo)
    assert not caplog.messages
    FreeBits(weight=Constant(value=1.0), floor=0.99 * least).check(elbo)
    (said,) = caplog.messages
    assert "frees nothing" in said and f"free_bits={2 * least:.3g}" in said


@pytest.mark.parametrize("floor", [1e-4, 0.1])
@pytest.mark.parametrize("make", AIMING)
def test_a_target_beyond_what_the_units_can_hold_is_refused(make, floor: float) -> None:
    """A unit whose σ ends at `floor` and whose codes fill the prior holds −ln floor nats."""
    head = NormalPosterior(features=3, units=5, parametrisation="scale", scale_floor=floor)
    q, p = head(torch.zeros(2, 3)), Independent(Normal(torch.zeros(5), torch.ones(5)), 1)
    elbo, most = ELBO(torch.zeros(2), torch.zeros(2, 5), torch.zeros(2, 5), q, p), -5 * math.log(floor)
    make(0.99 * most).check(elbo)
    with pytest.raises(Refused, match=r"more than 5 latent units can hold.*latent_dim"):
        make(1.01 * most).check(elbo)
