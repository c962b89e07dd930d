"""What the page shows as laws: thinning, heat maps, knobs and their levels, the frontier, pairs."""

import math
import random

import pytest
from planted_runs import plant

from vaecollapse.comparison import compare, trial
from vaecollapse.report import knobs, pairs, plane
from vaecollapse.report.folders import Place
from vaecollapse.report.reading import read
from vaecollapse.report.series import heat, rounded, smaller, spread, thinned


@pytest.mark.parametrize(("count", "most"), [(3, 10), (10, 10), (1000, 12), (1001, 13), (50, 400)])
def test_a_thinned_series_is_a_part_of_it_with_its_ends_and_extremes(count, most):
    steps, values = list(range(0, 3 * count, 3)), [random.Random(i).gauss(0, 1) for i in range(count)]
    kept, shown = thinned(steps, values, most)
    assert len(kept) <= max(most, min(count, most))
    assert kept == sorted(set(kept))
    assert all(values[step // 3] == value for step, value in zip(kept, shown, strict=True))
    assert (kept[0], kept[-1]) == (steps[0], steps[-1])
    assert (min(shown), max(shown)) == (min(values), max(values))
    if count <= most:
        assert kept == steps
    assert thinned(kept, shown, most) == (kept, shown), "what fits stays"


@pytest.mark.parametrize(("units", "looks"), [(5, 3), (2000, 4), (3, 900)])
def test_a_heat_map_has_the_units_by_their_final_kl_and_every_number_where_it_was_read(units, looks):
    readings = {10 * j: {u: abs(math.sin(u * 7 + j)) for u in range(units) if j or u} for j in range(looks)}
    found = heat(readings, rows=64, columns=100)
    final = [row[-1] for row in found["kl"]]
    assert final == sorted(final, reverse=True)
    assert found["of"] == units
    assert len(found["units"]) == min(units, 64) and len(found["steps"]) == min(looks, 100)
    last = readings[10 * (looks - 1)]
    assert found["units"][0] == max(last, key=lambda u: last[u]) and found["units"][-1] == min(
        last, key=lambda u: last[u]
    )
    for unit, row in zip(found["units"], found["kl"], strict=True):
        assert row == [rounded(readings[step].get(unit), 3) for step in found["steps"]]
    small = smaller(found, 3, 2)
    assert small["units"] == spread(found["units"], 3) and small["steps"] == spread(found["steps"], 2)
    assert all(len(row) == len(small["steps"]) for row in small["kl"])


def test_of_knobs_that_move_together_the_one_that_is_typed_stands_for_all():
    configs = [{"beta": b, "lr": 1, "seed": s, "dataset.seed": s, "regularizer._target_": f"a.B{b}", "trainer.x": b * s}
               for b in (1, 8) for s in (0, 1)]  # fmt: skip
    assert knobs.varying(configs) == ["beta", "seed"]
    assert knobs.varying(configs, [["trainer.x=3"]]) == ["beta", "seed", "trainer.x"]
    assert knobs.varying(configs[:1]) == []


@pytest.mark.parametrize("values", [
    [8, 0.5, 8, 2], [10.0**-i for i in range(60)], [0.1 * i - 3 for i in range(80)], ["a", None, 3, "b"],
    [f"name{i}" for i in range(90)], [True, False, None], [1, 1.0, 1],
], ids=str)  # fmt: skip
def test_every_run_has_a_level_and_levels_of_numbers_are_in_order(values):
    words, index = knobs.levels("beta", values)
    assert len(index) == len(values) and {*index} <= {*range(len(words))}
    assert len({*words}) == len(words) <= knobs.LEVELS
    if all(isinstance(value, float | int) for value in values):
        pairs_ = sorted(zip(values, index, strict=True))
        assert [i for _, i in pairs_] == sorted(index), "a larger number never has a lower level"


def test_the_phase_table_counts_every_run_once():
    rng = random.Random(1)
    across, down = ([rng.randrange(4) for _ in range(300)] for _ in range(2))
    words = [rng.choice(["healthy", "overfit", "underfit"]) for _ in across]
    found = knobs.phase(across, down, words)
    assert sum(sum(counts.values()) for counts in found.values()) == 300
    assert found[2, 3]["overfit"] == sum(c == (2, 3, "overfit") for c in zip(across, down, words, strict=True))


def test_the_frontier_is_what_no_other_betters():
    rng = random.Random(2)
    points = [(rng.randrange(8), rng.randrange(8)) for _ in range(60)]  # with ties and twins
    found = plane.frontier(points)
    for point, kept in zip(points, found, strict=True):
        bettered = any(p[0] <= point[0] and p[1] <= point[1] and p != point for p in points)
        assert kept is not bettered


def test_groups_keep_apart_what_is_of_other_data_or_another_distortion(tmp_path):
    records = [read(Place(plant(tmp_path / str(seed), seed=seed), str(seed))) for seed in (0, 1)]
    other = plant(tmp_path / "other")
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("NormalL", "LaplaceL"))
    names, of = plane.groups([*records, read(Place(other, "other"))])
    assert of == [0, 0, 1], "generated data are what generates them, whatever the seed"
    assert names == ["GaussianData, NormalLikelihood", "GaussianData, LaplaceLikelihood"]
    files = [
        dict(each, group=[*each["group"][:1], each["circumstances"]["data"], each["group"][2]]) for each in records
    ]
    assert plane.groups(files)[1] == [0, 1]


def test_the_best_run_is_the_healthy_one_of_lowest_selection_value(tmp_path):
    records = [read(Place(plant(tmp_path / f"{beta}", beta=beta, verdict=word), f"{beta}"))
               for beta, word in ((0.5, "overfit"), (1, "healthy"), (2, "healthy"))]  # fmt: skip
    chosen = [record["selection"][0] for record in records]
    assert plane.best(records, [0, 0, 0], 0) == min((1, 2), key=lambda i: chosen[i])
    assert plane.best(records[:1], [0], 0) is None


def test_pairs_are_those_of_the_comparison(tmp_path):
    runs = {(b, s): plant(tmp_path / f"{b}{s}", beta=b, seed=s) for b in (1, 2) for s in (0, 1, 2)}
    records = [read(Place(path, path.name)) for path in runs.values()]
    found = pairs.settings(records, ["beta", "seed"])
    assert [setting.name for setting in found] == ["beta=1", "beta=2"]
    both = {(a, b): each for a, b, each in pairs.compared(found)}
    sides = [[trial(runs[b, s]) for s in (0, 1, 2)] for b in (1, 2)]
    expected = compare(*sides, names=("gap", "rate", "distortion"))
    assert both[0, 1].seeds == [0, 1, 2] and both[0, 1].confounds == []
    for name, each in expected.differences.items():
        assert both[0, 1].differences[name] == pytest.approx(each)
        assert both[1, 0].differences[name].mean == pytest.approx(-each.mean)
