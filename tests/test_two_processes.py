"""One process and two read and charge the same. All laws share one pair of processes per session."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pair import laws

from vaecollapse.regularizers.free_bits import FORMS


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("pair")
    script = Path(__file__).parent / "pair.py"
    ranks = [subprocess.Popen([sys.executable, script, str(rank), folder]) for rank in (0, 1)]
    assert [process.wait(timeout=180) for process in ranks] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="session")
def alone() -> dict:
    return laws(slice(None))


def test_every_reading_is_the_same(pair: list[dict], alone: dict) -> None:
    for rank in pair:
        assert rank["readings"].keys() == alone["readings"].keys()
        for name, (value, se, n) in alone["readings"].items():
            assert rank["readings"][name][2] == n, name
            for theirs, ours in zip(rank["readings"][name], (value, se), strict=False):
                assert theirs == (None if ours is None else pytest.approx(ours, rel=1e-6, abs=1e-9)), name


@pytest.mark.parametrize("form", FORMS)
def test_a_floor_acts_on_the_mean_over_all_ranks(pair: list[dict], alone: dict, form: str) -> None:
    """DDP averages the ranks' gradients; each rank holds half of the examples, so its own gradient counts half."""
    both = torch.tensor([row for rank in pair for row in rank["gradients"][form]])
    torch.testing.assert_close(both / 2, torch.tensor(alone["gradients"][form]))


def test_an_optimal_scale_is_that_of_all_ranks(pair: list[dict], alone: dict) -> None:
    for rank in pair:
        assert rank["scales"] == pytest.approx(alone["scales"], rel=1e-6)
