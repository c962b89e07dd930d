"""What every metric of two sets in conf/ owes, newcomers included."""

from typing import Any

import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate

from vaecollapse import config
from vaecollapse.metrics.base import Score
from vaecollapse.metrics.sets import SetMetric
from vaecollapse.refusal import Refused

FILES = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (config.folder() / "metric").glob("*.yaml")}
SETTINGS = {name: content[name] for name, content in sorted(FILES.items()) if "defaults" not in content}
NAMES = [name for name, node in SETTINGS.items() if issubclass(get_class(node["_target_"]), SetMetric)]
KNOBS = [(name, knob) for name in NAMES for knob in SETTINGS[name] if not knob.startswith("_")]
OTHER = {"most": 20, "block": 10, "degree": 2}
every = pytest.mark.parametrize("name", NAMES)


def build(name: str, **knobs: Any) -> SetMetric:
    return instantiate(SETTINGS[name] | {"splits": 4} | knobs)


def rows(n: int, seed: int, shift: float = 0.0, d: int = 6) -> torch.Tensor:
    return shift + torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def read(metric: SetMetric, real: torch.Tensor, generated: torch.Tensor) -> list[Score]:
    metric.update(real, generated)
    return metric.scores()


def test_the_audio_set_is_all_of_them() -> None:
    assert {*FILES["audio"]["defaults"]} == {*NAMES, "embedding"}


@pytest.mark.parametrize(("name", "knob"), KNOBS, ids=lambda value: value)
def test_no_knob_is_dead(name: str, knob: str) -> None:
    real, generated = rows(60, 0), rows(60, 1, 0.5)
    usual = {key: value for key, value in SETTINGS[name].items() if not key.startswith("_")} | {"splits": 4}
    before = read(build(name, **usual), real, generated)
    assert read(build(name, **usual | {knob: OTHER.get(knob, usual[knob] - 1)}), real, generated) != before


@every
def test_neither_the_parts_nor_the_order_nor_the_ranks_say_anything(name: str) -> None:
    real, generated = rows(50, 0), rows(40, 1, 0.5)
    whole = read(build(name), real, generated)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    stream = build(name)
    for start in range(0, 50, 7):
        stream.update(real[order[start : start + 7]], generated[start : start + 7])
    assert stream.scores() == whole
    ranks = [build(name), build(name)]
    for rank, metric in enumerate(ranks):
        metric.update(real[rank::2], generated[rank::2])
    others = iter([getattr(ranks[1], state)[0] for state in ranks[1]._reductions])
    ranks[0]._sync_dist(lambda own, group=None: [own, next(others)])
    assert ranks[0].scores() == whole


@every
def test_state_survives_a_checkpoint(name: str) -> None:
    before, after = build(name), build(name)
    found = read(before, rows(40, 0), rows(40, 1))
    after.load_state_dict(before.state_dict())
    assert after.scores() == found


@every
def test_real_against_real_lies_in_its_own_interval_and_another_set_does_not(name: str) -> None:
    """At equal n. Of 12 real sets one may lie outside; the intervals are wide rather than narrow."""
    outside = 0  # 3.182: Student's t of 4 splits
    for seed in range(12):
        first, *_ = read(build(name, seed=seed), rows(120, 2 * seed), rows(120, 2 * seed + 1))
        assert first.value is not None and first.truth is not None and first.se is not None and first.n == 60
        outside += abs(first.value - first.truth) > 3.182 * first.se
    assert outside <= 1
    others = read(build(name), rows(120, 0), 0.2 * rows(120, 1, 1.0))
    assert any(abs((o.value or 0.0) - (o.truth or 0.0)) > 3.182 * (o.se or 0.0) for o in others)


@every
def test_copies_of_one_row_on_either_side_are_scores_or_none_but_no_error(name: str) -> None:
    one, many = rows(1, 0).expand(40, -1), rows(40, 1)
    for real, generated in ((many, one), (one, many), (one, one)):
        for score in read(build(name), real, generated):
            assert score.value is None or score.value == score.value


@every
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_too_few_are_not_defined(name: str) -> None:
    metric = build(name)
    assert metric.scores()[0] == Score(name, None, note="nothing was measured")
    (few, *_) = read(metric, rows(50, 0), rows(1, 1))
    assert few.value is None and "there are 50 and 1" in few.note
    assert torch.isnan(metric.compute())


@every
def test_rows_of_two_widths_or_without_a_number_are_refused(name: str) -> None:
    metric = build(name)
    metric.update(rows(5, 0), rows(5, 1))
    with pytest.raises(Refused, match="rows of 4 and 6 numbers"):
        metric.update(rows(5, 0), rows(5, 1, d=4))
    spoilt = rows(5, 0)
    spoilt[2, 1] = torch.nan
    with pytest.raises(Refused, match="1 of 5 generated rows have no number"):
        metric.update(rows(5, 0), spoilt)
    with pytest.raises(InstantiationException, match=f"metric.{name}.splits must be at least 2"):
        build(name, splits=1)
