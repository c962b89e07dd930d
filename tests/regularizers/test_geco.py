"""R + m (D − κ): its gradient, its multiplier, and a plan without a fixed weight."""

import math

import pytest
import torch
from torch.distributions import Normal

from vaecollapse.elbo import ELBO, Progress
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.geco import Geco


def bound(distortion: torch.Tensor, kl: torch.Tensor) -> ELBO:
    q = Normal(torch.zeros_like(kl), 1.0)
    return ELBO(distortion, kl, torch.zeros_like(kl), q, q)


def told(price: Geco, *distortions: float) -> list[float]:
    found = []
    for distortion in distortions:
        price.observe(torch.tensor(distortion), torch.tensor(1.0), Progress())
        found.append(float(price.multiplier))
    return found


@pytest.mark.parametrize("start", [0.04, 1.0, 30.0])
def test_its_gradient_is_that_of_plain_kl_at_one_over_m_and_no_larger_than_a_nat_of_d(start: float) -> None:
    parts = [1 + torch.rand(6).double(), torch.rand(6, 5).double()]

    def gradients(price) -> list[torch.Tensor]:
        own = [part.clone().requires_grad_() for part in parts]
        price(bound(*own), Progress()).loss.backward()
        return [part.grad for part in own]

    geco, beta = Geco(kappa=3.0, start=start).double(), Beta(weight=Constant(value=1 / start))
    for ours, plain in zip(gradients(geco), gradients(beta), strict=True):
        torch.testing.assert_close(ours, min(1, start) * plain)
    objective, plain = geco(bound(*parts), Progress()), beta(bound(*parts), Progress())
    assert float(objective.weight) == pytest.approx(1 / start)
    assert float(objective.penalty) == pytest.approx(float(plain.penalty))
    assert float(objective.loss) == pytest.approx(min(1, start) * (float(plain.loss) - 3.0))


def test_the_multiplier_grows_with_the_smoothed_violation() -> None:
    gaps, average, m = [5.0, -1.0, 2.0, -8.0], 5.0, 1.0
    by_hand = []
    for i, gap in enumerate(gaps):
        average = gap if i == 0 else 0.9 * average + 0.1 * gap
        m *= math.exp(0.05 * average)
        by_hand.append(m)
    price = Geco(kappa=3.0, speed=0.05, smoothing=0.9, limit=math.inf)
    assert told(price, *(3 + gap for gap in gaps)) == pytest.approx(by_hand)


@pytest.mark.parametrize(("distortion", "bound_to"), [(1e9, 1e6), (-1e9, 1e-6)])
def test_the_multiplier_ends_at_its_bound_and_comes_back(distortion: float, bound_to: float) -> None:
    price = Geco(kappa=0.0, smoothing=0.0, limit=math.inf)
    assert told(price, *[distortion] * 50)[-1] == pytest.approx(bound_to)
    back = told(price, -math.copysign(10.0, distortion))[0]
    assert back == pytest.approx(bound_to * math.exp(-0.1 * math.copysign(1, distortion)))


@pytest.mark.parametrize("steps", [1, 30])
def test_a_violation_of_any_size_moves_it_no_faster_than_the_limit_and_is_forgotten_as_fast(steps: int) -> None:
    price = Geco(kappa=90.0, smoothing=0.0, limit=0.02)
    assert told(price, *[600.0] * steps)[-1] == pytest.approx(math.exp(0.02 * steps))
    assert told(price, *[85.0] * steps)[-1] == pytest.approx(1.0), "5 nats below, at a speed of .01 per nat"
    slow = told(Geco(kappa=90.0, smoothing=0.0, limit=0.02), 91.0)
    assert slow == pytest.approx([math.exp(0.01)]), "what is below the limit is left alone"


def test_at_the_constraint_it_stays() -> None:
    assert told(Geco(kappa=2.0, start=7.0), 2.0, 2.0) == [7.0, 7.0]


def test_of_the_checkpoints_that_reach_kappa_the_cheapest_is_best() -> None:
    price = Geco(kappa=10.0)
    ordered = [(9.0, 3.0), (10.0, 5.0), (9.99, 40.0), (10.1, 0.5), (12.0, 0.1)]
    costs = [price.compared(*pair) for pair in ordered]
    assert costs == sorted(costs)
    told(price, 30.0)
    assert costs == [price.compared(*pair) for pair in ordered], "whatever the multiplier of the moment"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kappa": math.inf}, ["regularizer.kappa=inf", "val/distortion"]),
        ({"kappa": math.nan}, ["finite"]),
        ({"speed": 0.0}, ["speed=0", "try"]),
        ({"smoothing": 1.0}, ["smoothing=1"]),
        ({"limit": 0.0}, ["limit=0.02", "got 0"]),
        ({"limit": math.nan}, ["limit", "above 0"]),
        ({"start": 0.0}, ["start=0", "above 0"]),
        ({"start": 1e7}, ["start=1e+07"]),
        ({"minimum": 2.0, "maximum": 1.0}, ["minimum=2", "maximum=1"]),
        ({"minimum": 1.0, "maximum": 1.0}, ["between minimum and maximum"]),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_type(options: dict, words: list[str]) -> None:
    with pytest.raises(Refused) as sentence:
        Geco(**{"kappa": 1.0, **options})
    assert all(word in str(sentence.value) for word in words), sentence.value
