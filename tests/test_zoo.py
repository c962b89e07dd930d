"""The planted zoo, judged by the package and by two rules of thumb; and what must change no verdict."""

from collections import Counter
from collections.abc import Callable
from functools import cache

import planted_zoo as zoo
import pytest
import torch
from planted_zoo import BEYOND, ZOO, Case, Outcome, Padded, Permuted, Scaled, crossed, factors, judged, outcomes

SEEDS, FEW = range(1), range(1)  # five in benchmarks/zoo.py


@cache
def judgements() -> list[Outcome]:
    """All constructions at five seeds: benchmarks/zoo.py."""
    return outcomes(ZOO, SEEDS, FEW)


def test_every_condition_has_three_constructions() -> None:
    assert all(len(makes) >= 3 for makes in ZOO.values())


@pytest.mark.parametrize("condition", ZOO)
def test_every_condition_is_named(condition: str) -> None:
    named = [each for each in judgements() if each.condition == condition]
    wrong = [(each.construction, each.seed, each.verdict) for each in named if each.named != condition]
    assert len(wrong) <= 0.05 * len(named), wrong


def test_no_sick_one_is_called_healthy_and_no_healthy_one_sick() -> None:
    assert crossed(judgements(), "verdict") == (0, 0)


@pytest.mark.parametrize("rule", ["by_kl", "by_units"])
def test_a_rule_of_thumb_calls_most_sick_ones_healthy(rule: str) -> None:
    missed, accused = crossed(judgements(), rule)
    assert missed > 0.5 * len(judgements()), (missed, accused, len(judgements()))
    assert (accused > 0) == (rule == "by_units"), "units accuse what σ carries"


@pytest.mark.parametrize("rule", ["by_kl", "by_units"])
def test_a_decoder_that_does_not_listen_looks_healthy_to_a_rule_of_thumb(rule: str) -> None:
    said = Counter(getattr(each, rule) for each in judgements() if each.condition == "bypassed_latent")
    assert set(said) == {"healthy"}


@pytest.mark.parametrize(("condition", "make"), [(name, make) for name, makes in BEYOND.items() for make in makes])
@pytest.mark.xfail(strict=True, reason="beyond the readings so far; once it is read right it belongs into the zoo")
def test_what_lies_beyond_the_readings(condition: str, make: Callable[[int], Case]) -> None:
    assert judged(make(0), 0).verdict == condition


@pytest.mark.parametrize("seed", range(2))
def test_what_cannot_be_decided_is_left_open(seed: int) -> None:
    """Two rings, whose q(z) is 3.1 nats from the prior where 2.3 matter, an optimum worth .09 nats, and z that tells a
    name which hardly two examples share."""
    assert judged(zoo.a_leak_of_strangers(seed), seed).verdict == "inconclusive"
    assert judged(zoo.rings(seed), seed).verdict != "healthy"
    assert judged(zoo.a_whisper(seed), seed).verdict in ("healthy", "inconclusive")


def unchanged(vae: torch.nn.Module, units: int, seed: int) -> dict[str, torch.nn.Module]:
    return {
        "scaled": Scaled(vae, factors(units, seed)),
        "permuted": Permuted(vae, torch.randperm(units, generator=torch.Generator().manual_seed(seed))),
    }


@pytest.mark.parametrize(
    "make",
    [
        zoo.what_training_leaves, zoo.constant_code, zoo.unheard, zoo.autoencoder, zoo.too_wide, zoo.corners,
        zoo.half_squeezed_out, zoo.some_silent, zoo.the_optimum, zoo.in_sigma_alone,
    ],
)  # fmt: skip
def test_what_the_decoder_undoes_changes_no_verdict(make: Callable[[int], Case]) -> None:
    """Each unit scaled, units permuted, and examples read in blocks of another size."""
    one = make(0)
    before = judged(one, 0)
    assert judged(one, 0, block=300).verdict == before.verdict
    for how, vae in unchanged(one.vae, one.facts.units, 1).items():
        after = judged(one._replace(vae=vae), 0)
        assert (after.verdict, after.deciding) == (before.verdict, before.deciding), how


@pytest.mark.parametrize("make", [zoo.what_training_leaves, zoo.constant_code, zoo.unheard, zoo.autoencoder,
                                  zoo.the_optimum])  # fmt: skip
def test_a_hundred_ignored_units_change_no_verdict(make: Callable[[int], Case]) -> None:
    one = make(0)
    padded = one._replace(vae=Padded(one.vae, 100), facts=one.facts._replace(units=one.facts.units + 100))
    assert judged(padded, 0).verdict == judged(one, 0).verdict
