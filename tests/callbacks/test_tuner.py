"""The plan's rules one by one, limits included, and what they make of epoch means; resuming: test_acting.py."""

import math
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Trainer
from planted import optimum
from torch.distributions import Independent, Normal

from vaecollapse.callbacks.epoch_means import EpochMeans
from vaecollapse.callbacks.tuner import Seen, State, Tuner, decide, overfit_ratio
from vaecollapse.elbo import ELBO, Progress
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.free_bits import FORMS, FreeBits
from vaecollapse.training import Training

WRITTEN, CORRECTED = True, False
PINNED = {"klr": 0.005, "kla": 0.0005, "fb_percent": 90.0}
CALM = {"klr": 0.03, "kla": 0.021, "fb_percent": 30.0}


def seen(epoch: int = 5, stage: int = 3, settled: bool = True, **more) -> Seen:
    return Seen(epoch, stage, settled, **{**CALM, **more})


def decided(state: State, at: Seen, written: bool) -> tuple[State, list[str]]:
    after, made = decide(state, at, written=written, floor_step=0.002, cap=4.0)
    return after, [each.rule for each in made]


@pytest.mark.parametrize("written", [WRITTEN, CORRECTED])
@pytest.mark.parametrize(
    ("fb", "floor", "rules"),
    [(50.0, 0.005, []), (50.001, 0.003, ["R1"]), (10.0, 0.005, []), (9.999, 0.007, ["R2"]), (30.0, 0.005, [])],
)
def test_r1_and_r2_move_the_floor_beyond_strict_limits(written: bool, fb: float, floor: float, rules: list) -> None:
    state, made = decided(State(0.005, 1.0), seen(fb_percent=fb), written)
    assert (state.floor, made) == (floor, rules)


def floors(written: bool, start: float, percents: list[float], **more) -> list[float]:
    state, found = State(start, 1.0), []
    for number, percent in enumerate(percents, 1):
        state, _ = decided(state, seen(5 * number, stage=number, fb_percent=percent, **more), written)
        found.append(state.floor)
    return found


def test_as_written_a_pinned_model_ends_without_a_floor() -> None:
    """The arithmetic of the plan, if fb% follows the floor: above 50 while there is one, 0 where there is none."""
    assert floors(WRITTEN, 0.005, [90, 90, 90, 0, 90]) == [0.003, 0.001, 0.0, 0.002, 0.0]


def test_corrected_a_floor_never_reaches_zero_and_a_flip_halves_the_step() -> None:
    assert floors(CORRECTED, 0.005, [90, 90, 90, 90]) == pytest.approx([0.003, 0.001, 0.0005, 0.00025])
    assert floors(CORRECTED, 0.01, [90, 5, 5, 90]) == pytest.approx([0.008, 0.009, 0.01, 0.0095])
    assert floors(WRITTEN, 0.01, [90, 5, 5, 90]) == pytest.approx([0.008, 0.01, 0.012, 0.01])


@pytest.mark.parametrize("klr", [0.0, 9.9e-7, math.nan, math.inf])
def test_without_kl_the_corrected_plan_sounds_an_alarm_and_without_a_number_it_aborts(klr: float) -> None:
    at = seen(klr=klr, kla=0.0, fb_percent=0.0)
    assert decided(State(0.005, 1.0), at, CORRECTED)[1] == ["collapse" if math.isfinite(klr) else "abort"]
    assert decided(State(0.005, 1.0), at, CORRECTED)[0].floor == 0.005
    assert decided(State(0.005, 1.0), at, WRITTEN)[0].floor == 0.007


@pytest.mark.parametrize(
    ("before", "now", "still"),
    [(0.01, 0.011, True), (0.01, 0.01101, False), (0.1, 0.105, True), (0.1, 0.1051, False), (0.03, 0.02, True)],
)
def test_r3_acts_on_a_klr_that_grew_by_no_more_than_a_thousandth_or_five_percent(before, now, still: bool) -> None:
    state = State(0.005, 1.0, last=(5, 3, before))
    for written, factor in ((WRITTEN, 1.25), (CORRECTED, 0.8)):
        after, made = decided(state, seen(10, klr=now), written)
        assert after.weight == pytest.approx(factor if still else 1.0)
        assert made == (["R3"] if still else [])
        assert after.last == (10, 3, now)


@pytest.mark.parametrize(("last", "more"), [((5, 2, 0.03), {}), (None, {}), ((5, 3, 0.03), {"settled": False})])
def test_r3_waits_for_two_checkpoints_of_one_stage_and_for_the_warm_up(last, more: dict) -> None:
    assert decided(State(0.005, 1.0, last=last), seen(10, **more), WRITTEN)[1] == []


def test_r3_as_written_stops_at_the_cap() -> None:
    state, made = decided(State(0.005, 3.9, last=(5, 3, 0.03)), seen(10), WRITTEN)
    assert (state.weight, made) == (4.0, ["R3"])
    assert decided(state, seen(15), WRITTEN)[1] == []


@pytest.mark.parametrize(
    ("ratio", "factor", "rules"), [(None, 1.0, []), (2.0, 1.0, []), (2.01, 1.0, ["R4"]), (2.5, 1.0, ["R4"]),
                                   (2.51, 0.5, ["R4"])]
)  # fmt: skip
def test_r4_halves_the_decoders_rate_down_to_a_twentieth(ratio, factor: float, rules: list) -> None:
    state, made = decided(State(0.005, 1.0), seen(ratio=ratio), CORRECTED)
    assert (state.decoder_lr, made) == (factor, rules)
    for _ in range(8):
        state, _ = decided(state, seen(ratio=9.0), CORRECTED)
    assert state.decoder_lr == 0.05


def test_a_ratio_of_distortions_is_not_defined_below_a_hundredth_of_a_nat_a_number() -> None:
    assert overfit_ratio(5.0, 1.0, 100.0) == 5.0
    assert [overfit_ratio(5.0, training, 100.0) for training in (0.99, 0.0, -4.0)] == [None] * 3


def test_r5_a_pinned_model_is_told_to_lower_or_sweep_the_weight_and_left_alone() -> None:
    state, at = State(0.005, 1.0, last=(5, 3, 0.005)), seen(10, pinned=True, **PINNED)
    after, made = decide(state, at, written=False, floor_step=0.002, cap=4.0)
    assert [each.rule for each in made] == ["R5"] and "lower or sweep the weight" in made[0].says
    assert (after.floor, after.weight) == (0.005, 1.0)
    assert decided(state, at, WRITTEN)[1] == ["R1", "R3"]


@pytest.mark.parametrize(("mode", "follows"), [("advise", True), ("corrected", False)])
def test_advice_is_on_the_floor_and_weight_that_stand_now(mode: str, follows: bool) -> None:
    """An intervention may have moved them; a plan that acts owns them."""
    price = FreeBits(weight=Constant(value=1.0), floor=0.005)
    module = Training(vae=optimum(3, e=1.0), regularizer=price, optimizer=torch.optim.Adam)
    module._trainer = SimpleNamespace(global_step=0, accumulate_grad_batches=1, current_epoch=1)  # pyright: ignore
    tuner = Tuner(mode=mode)
    tuner.plan = State(price.floor, price.weight.value)
    price.floor, price.weight.value = 0.001, 0.1
    tuner.on_train_epoch_start(Mock(spec=Trainer), module)
    stands = (0.001, 0.1) if follows else (0.005, 1.0)
    assert (tuner.plan.floor, tuner.plan.weight) == (price.floor, price.weight.value) == stands


# ---- the means it reads


def bound(kl: torch.Tensor) -> ELBO:
    q = Independent(Normal(torch.zeros_like(kl), torch.ones_like(kl)), kl.ndim - 1)
    return ELBO(kl.flatten(1).sum(1), kl, torch.zeros_like(kl), q, q)


def test_means_are_over_examples_of_batches_of_any_size_and_a_reading_adds_nothing() -> None:
    kl, floor = torch.rand(10, 6, 4).double(), 0.4
    regularizer, means = FreeBits(weight=Constant(value=1.0), floor=floor, form="hinge", groups="token"), EpochMeans()
    means.listen(regularizer)
    for rows in (slice(0, 7), slice(7, 10)):
        regularizer.train()(bound(kl[rows]), Progress())
        regularizer.eval()(bound(kl[rows] + 1), Progress())
    twin = EpochMeans()
    twin.load_state_dict(means.state_dict())
    found = means.take()
    assert found == twin.take() and found is not None and means.take() is None
    after = (kl.mean(2) - floor).clamp(min=0).mean()
    assert (found.klr, found.kla, found.floor) == pytest.approx((float(kl.mean()), float(after), floor), rel=1e-6)
    assert found.fb_percent == pytest.approx(100 * float(1 - after / kl.mean()), rel=1e-6)
    assert found.rate == pytest.approx(float(kl.sum((1, 2)).mean()), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_klr_in_nats_per_unit_and_says_what_is_pinned(form: str) -> None:
    for level, expected in ((0.19, True), (2.0, False)):
        regularizer, means = FreeBits(weight=Constant(value=1.0), floor=0.2, form=form), EpochMeans()
        means.listen(regularizer)
        regularizer.train()(bound(torch.full((8, 5), level).double()), Progress())
        found = means.take()
        assert found is not None and found.klr == pytest.approx(level) and found.pinned is expected
        assert found.kla == pytest.approx(max(level - 0.2, 0))


def test_a_price_without_a_floor_has_a_klr_and_no_kla() -> None:
    regularizer, means = Beta(weight=Constant(value=1.0)), EpochMeans()
    means.listen(regularizer)
    regularizer.train()(bound(torch.full((8, 5), 0.3).double()), Progress())
    found = means.take()
    assert found is not None and found.klr == pytest.approx(0.3) and (found.kla, found.fb_percent) == (None, None)


@pytest.mark.parametrize("given", [{"mode": "act"}, {"after": [5, 5]}, {"after": []}, {"floor_step": 0.0}])
def test_a_plan_that_is_none_is_refused(given: dict) -> None:
    with pytest.raises(Refused, match=r"callback\.tuner"):
        Tuner(**given)
