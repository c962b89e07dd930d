"""Schedules as functions of the share of training done."""

import math

import pytest

from vaecollapse.elbo import Progress
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.coefficients import Constant, Cosine, Cyclical, Linear, Logistic

RAMPS = [Linear, Cosine, Logistic]


def at(coefficient, share: float) -> float:
    return coefficient(Progress(step=round(share * 10_000), total=10_000))


@pytest.mark.parametrize("ramp", RAMPS)
def test_a_ramp_rises_monotonically_to_its_value_and_stays(ramp) -> None:
    coefficient = ramp(value=2.0, warmup=0.4)
    values = [at(coefficient, share / 100) for share in range(101)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.0, abs=0.006)
    assert values[20] == pytest.approx(1.0, abs=1e-6)
    assert values[40] == pytest.approx(2.0, rel=0.003)
    assert values[100] == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("ramp", RAMPS)
def test_no_warmup_is_the_constant(ramp) -> None:
    assert [at(ramp(value=0.3, warmup=0.0), s) for s in (0, 0.5, 1)] == [at(Constant(value=0.3), 0)] * 3


@pytest.mark.parametrize(("share", "expected"), [(0.1, 0.2), (0.2, 0.4)])
def test_linear_and_cosine_by_hand(share: float, expected: float) -> None:
    assert at(Linear(value=0.8, warmup=0.4), share) == pytest.approx(expected)
    assert at(Cosine(value=0.8, warmup=0.4), share) == pytest.approx(0.4 * (1 - math.cos(math.pi * share / 0.4)))


def test_logistic_is_steeper_with_more_steepness() -> None:
    assert at(Logistic(value=1.0, warmup=1.0, steepness=12.0), 0.6) > at(Logistic(value=1.0, warmup=1.0), 0.6)


def test_cycles_repeat_start_at_zero_and_end_at_the_value() -> None:
    cyclical = Cyclical(value=2.0, cycles=4, ramp_share=0.5, zero=0.25)
    for start in (0.0, 0.25, 0.5, 0.75):
        assert at(cyclical, start) == at(cyclical, start + 0.0624) == 0.0
        assert at(cyclical, start + 0.125) == pytest.approx(1.0)
        assert at(cyclical, start + 0.2) == 2.0
    assert at(cyclical, 1.0) == 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(value=1.0, warmup=1.5),
        lambda: Linear(value=-1.0),
        lambda: Constant(value=float("nan")),
        lambda: Logistic(value=1.0, steepness=0.0),
        lambda: Cyclical(value=1.0, cycles=0),
        lambda: Cyclical(value=1.0, ramp_share=0.8, zero=0.3),
    ],
)
def test_schedules_that_cannot_be_are_refused(make) -> None:
    with pytest.raises(Refused):
        make()
