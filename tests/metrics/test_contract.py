"""What every metric in conf/ owes, newcomers included."""

import functools
import inspect
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_class, instantiate
from planted_rain import rain

from vaecollapse import config
from vaecollapse.metrics.base import Metric, Score
from vaecollapse.metrics.fields import FieldMetric, Fields
from vaecollapse.refusal import Refused

FILES = {path.stem: path for path in (config.folder() / "metric").glob("*.yaml")}
SETTINGS = {name: yaml.safe_load(path.read_text("utf-8")) for name, path in sorted(FILES.items())}
SETS = {name for name, content in SETTINGS.items() if "defaults" in content}
NAMES = sorted(set(SETTINGS) - SETS)
FIELDS = [name for name in NAMES if issubclass(get_class(SETTINGS[name][name]["_target_"]), FieldMetric)]
KNOBS = [(name, knob) for name in NAMES for knob in SETTINGS[name][name] if not knob.startswith("_")]
every = pytest.mark.parametrize("name", FIELDS)


def build(name: str, **knobs: Any) -> Metric:
    return instantiate(SETTINGS[name][name] | knobs)


@functools.cache
def made(count: int = 5, times: int = 36) -> tuple[Fields, torch.Tensor]:
    """A real field of nine blocks in two places, with its members, its analogs, and a masked corner."""
    fields = rain(2 * count + 1, times, size=16, seed=1)
    mask = torch.ones(times, 16, 16, dtype=torch.bool)
    mask[:, :3, :2] = False
    real = Fields(
        fields[0], mask, torch.arange(times) // 4, torch.arange(times) % 2, torch.arange(times),
        torch.linspace(1, 2, 16)[None, :, None].expand(times, 16, 16), fields[1 + count :],
    )  # fmt: skip
    return real, 0.5 * fields[1 : 1 + count] + 0.1


def read(metric: Metric, real: Fields, members: torch.Tensor) -> list[Score]:
    metric.update(real, members)
    return metric.scores()


def numbers(scores: list[Score]) -> dict[str, float]:
    """Every number by its name; None as NaN."""
    parts = ("value", "se", "truth", "n")
    found = {f"{each.name} {part}": getattr(each, part) for each in scores for part in parts}
    return {name: torch.nan if value is None else float(value) for name, value in found.items()}


def close(scores: list[Score], rel: float = 1e-5) -> Any:
    return pytest.approx(numbers(scores), rel=rel, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_is_keyed_by_its_own_name_and_holds_the_classes_own_numbers(name: str) -> None:
    (key,) = SETTINGS[name]
    given = {knob: value for knob, value in SETTINGS[name][name].items() if knob != "_target_"}
    parameters = inspect.signature(get_class(SETTINGS[name][name]["_target_"]).__init__).parameters
    own = {knob: p.default for knob, p in parameters.items() if knob not in ("self", "seed")}
    assert (key, {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}) == (name, given)


def test_a_set_names_metrics_that_exist() -> None:
    assert all(set(SETTINGS[each]["defaults"]) <= set(NAMES) for each in SETS)
    assert set(FIELDS) <= set(SETTINGS["precipitation"]["defaults"])


@pytest.mark.parametrize(("name", "knob"), [each for each in KNOBS if each[0] in FIELDS], ids=lambda value: value)
def test_no_knob_is_dead(name: str, knob: str) -> None:
    real, members = made()
    value = SETTINGS[name][name][knob]
    other = {"permutations": 19}.get(knob, [3, 7] if knob == "sizes" else [0.9 * v for v in value]
                                     if isinstance(value, list) else 2 * value)  # fmt: skip
    assert read(build(name), real, members) != read(build(name, **{knob: other}), real, members)


@every
def test_a_stream_reads_what_the_whole_reads(name: str) -> None:
    real, members = made()
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    stream = build(name)
    for rows in order.split(7):
        stream.update(real.at(rows), members[:, rows])
    assert numbers(stream.scores()) == close(read(build(name), real, members))


@every
def test_shards_add_up(name: str) -> None:
    """States gathered from two ranks, some blocks seen by both."""
    real, members = made()
    ranks = [build(name), build(name)]
    for rank, metric in enumerate(ranks):
        metric.update(real.at(slice(rank, None, 2)), members[:, rank::2])
    states = [getattr(ranks[1], state) for state in ranks[1]._reductions]
    others = iter([state[0] if isinstance(state, list) else state for state in states])
    ranks[0]._sync_dist(lambda own, group=None: [own, next(others)])
    assert numbers(ranks[0].scores()) == close(read(build(name), real, members))


@every
def test_state_survives_a_checkpoint(name: str) -> None:
    real, members = made()
    before, after = build(name), build(name)
    found = read(before, real, members)
    after.load_state_dict(before.state_dict())
    assert after.scores() == found


@every
def test_the_order_of_members_says_nothing(name: str) -> None:
    real, members = made()
    assert numbers(read(build(name), real, members.flip(0))) == close(read(build(name), real, members), rel=1e-4)


@every
def test_what_is_masked_or_nan_in_the_truth_counts_nowhere(name: str) -> None:
    real, members = made()
    assert real.mask is not None
    hidden = torch.where(real.mask, real.values, torch.nan)
    wild = torch.where(real.mask, members, torch.nan)
    expected = close(read(build(name), real, members))
    assert numbers(read(build(name), real._replace(values=hidden, mask=None), wild)) == expected
    assert numbers(read(build(name), real._replace(values=hidden), members + 99 * ~real.mask)) == expected


@every
def test_fields_without_a_cell_to_compare_are_none(name: str) -> None:
    real, members = made()
    assert real.mask is not None
    some = torch.arange(36) % 3 > 0
    hidden = real._replace(mask=real.mask & some[:, None, None])
    assert numbers(read(build(name), hidden, members)) == close(read(build(name), real.at(some), members[:, some]))
    nothing = read(build(name), real._replace(mask=torch.zeros_like(real.mask)), members)
    assert [(each.value, each.note) for each in nothing] == [(None, "nothing was measured")]


@every
def test_members_without_a_number_or_of_another_shape_are_refused(name: str) -> None:
    real, members = made()
    members = members.clone()
    members[0, 0, 8, 8] = torch.nan
    with pytest.raises(Refused, match="no number in 1 cells"):
        build(name).update(real, members)
    with pytest.raises(Refused, match="one field of each member for each time"):
        build(name).update(real, members[:, :-1])


@every
def test_the_number_of_members_is_enough_and_stays(name: str) -> None:
    real, members = made()
    metric = build(name)
    assert isinstance(metric, FieldMetric)
    if metric.least > 1:
        with pytest.raises(Refused, match="at least 2 members, but got 1"):
            metric.update(real, members[:1])
    metric.update(real, members)
    with pytest.raises(Refused, match="5 members at first and 3 now"):
        metric.update(real, members[:3])


@every
def test_members_like_the_truth_score_otherwise_than_sick_ones(name: str) -> None:
    real, _ = made()
    well = rain(5, 36, size=16, seed=7)
    sick = (0.3 * well.mean(0) + 0.2).expand(5, -1, -1, -1)
    assert read(build(name), real, well)[0].value != pytest.approx(read(build(name), real, sick)[0].value, rel=0.05)


@every
def test_one_block_gives_no_error_and_no_p(name: str) -> None:
    real, members = made()
    for each in read(build(name), real._replace(block=None), members):
        assert each.se is None and each.blocks == 1
        assert not each.name.endswith("_p") or each.value is None


@every
def test_nothing_but_dry_fields_is_undefined_or_a_number_but_no_error(name: str) -> None:
    real, members = made()
    dry = read(build(name), real._replace(values=0 * real.values), 0 * members)
    assert all(each.value is None or each.value == each.value for each in dry)


@every
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_measured_is_not_defined(name: str) -> None:
    assert build(name).scores()[0].value is None
    assert torch.isnan(build(name).compute())
