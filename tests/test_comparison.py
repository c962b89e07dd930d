"""Runs against runs: pairs of equal seeds, intervals, and what else differs."""

import math
import statistics

import pytest
import torch
from scipy import stats

from vaecollapse import config, tasks
from vaecollapse.comparison import CIRCUMSTANCES, Trial, compare, difference, table, trial
from vaecollapse.refusal import Refused


def made(seed: int, rate: float, verdict: str = "healthy", **circumstances) -> Trial:
    same = dict.fromkeys(CIRCUMSTANCES, 1.0)
    return Trial(f"run {seed}", seed, verdict, {"rate": rate}, {**same, "data": "a", "from": None, **circumstances})


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, generator=generator, dtype=torch.float64)
    b = a + 0.3 + 0.1 * torch.randn(6, generator=generator, dtype=torch.float64)
    found = difference(list(zip(a.tolist(), b.tolist(), strict=True)))
    expected = stats.ttest_rel(b.numpy(), a.numpy()).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(statistics.fmean((b - a).tolist()))


def test_pairing_takes_the_seed_s_part_out() -> None:
    """Seeds that differ by ten and a remedy that adds one: unpaired nothing is seen, paired it is exact."""
    ours = [made(seed, 10.0 * seed) for seed in range(4)]
    theirs = [made(seed, 10.0 * seed + 1.0) for seed in reversed(range(4))]
    found = compare(ours, theirs).differences["rate"]
    assert (found.mean, found.low, found.high, found.settled) == (1.0, 1.0, 1.0, True)


def test_a_single_pair_settles_nothing() -> None:
    found = compare([made(0, 1.0)], [made(0, 9.0)]).differences["rate"]
    assert found.mean == 8.0 and math.isinf(found.high) and not found.settled


def test_seeds_of_one_side_alone_are_left_out_and_named() -> None:
    found = compare([made(0, 1.0), made(1, 1.0)], [made(1, 2.0), made(2, 7.0)])
    assert (found.seeds, found.unpaired, found.differences["rate"].mean) == ([1], [0, 2], 1.0)
    with pytest.raises(Refused, match="share no seed"):
        compare([made(0, 1.0)], [made(1, 1.0)])
    with pytest.raises(Refused, match="twice"):
        compare([made(0, 1.0), made(0, 2.0)], [made(0, 1.0)])


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_whatever_else_differs_is_said(name: str) -> None:
    value = {"data": "b", "from": "c", "likelihood": "x.Laplace", "precision": "64-true"}.get(name, 2.0)
    found = compare([made(0, 1.0)], [made(0, 1.0, **{name: value})]).confounds
    assert len(found) == 1 and found[0].startswith(CIRCUMSTANCES[name])
    assert compare([made(0, 1.0)], [made(0, 2.0)]).confounds == []


def test_the_table_marks_what_is_settled_and_what_is_confounded() -> None:
    runs = {
        "plain": [made(seed, float(seed)) for seed in range(3)],
        "remedy": [made(seed, seed + 2.0, "fake_rate" if seed else "healthy", encoder_steps=9.0) for seed in range(3)],
    }
    lines = table(runs, {"rate": "R"}, "plain")
    assert lines[0] == "|  | R | verdicts |" and lines[2] == "| plain | 1 | `healthy` ×3 |"
    assert lines[3] == "| remedy [1] | 3 (**+2 ± 0**) | `fake_rate` ×2, `healthy` |"
    assert lines[-1].startswith("[1] another number of encoder steps (1 against 9)")


def test_runs_are_compared_from_their_directories_alone(tmp_path) -> None:
    sets = {}
    for beta in ("1", "2"):
        for seed in ("0", "1"):
            place = tmp_path / beta / seed
            given = ["model=linear", f"beta={beta}", f"seed={seed}", "max_epochs=2", "trainer.accelerator=cpu",
                     "dataset.examples=256", "callback=[collapse_monitor]",
                     f"logger.csv.directory={place}"]  # fmt: skip
            tasks.train(config.compose(given), place, given)
            sets.setdefault(beta, []).append(trial(place, f"beta={beta}"))
    found = compare(sets["1"], sets["2"])
    assert found.seeds == [0, 1] and found.confounds == [] and "gap" in found.differences
    assert all(each.circumstances["steps"] == each.circumstances["encoder_steps"] for each in sets["1"])
    assert sets["1"][0].readings["seconds"] > 0
    (tmp_path / "1" / "0" / "verdict.json").unlink()
    with pytest.raises(Refused, match="have ended"):
        trial(tmp_path / "1" / "0")
