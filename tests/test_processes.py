"""One process, two and four read and charge the same. All laws share one start of each per session."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from group import REMEDIES, laws

from vaecollapse.regularizers.free_bits import FORMS


@pytest.fixture(scope="session", params=[2, 4])
def group(request, tmp_path_factory) -> list[dict]:
    folder, world = tmp_path_factory.mktemp("group"), request.param
    line = [sys.executable, str(Path(__file__).parent / "group.py")]
    ranks = [subprocess.Popen([*line, str(rank), str(world), str(folder)]) for rank in range(world)]
    assert [process.wait(timeout=180) for process in ranks] == [0] * world
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="session")
def alone() -> dict:
    return laws(slice(None))


def test_every_reading_is_the_same(group: list[dict], alone: dict) -> None:
    for rank in group:
        assert rank["readings"].keys() == alone["readings"].keys()
        assert {"linear/price_of_a_nat", "flow/gap", "flow/mi"} <= rank["readings"].keys()
        for name, (value, se, n) in alone["readings"].items():
            assert rank["readings"][name][2] == n, name
            for theirs, ours in zip(rank["readings"][name], (value, se), strict=False):
                assert theirs == (None if ours is None else pytest.approx(ours, rel=1e-6, abs=1e-9)), name


@pytest.mark.parametrize("form", FORMS)
def test_a_floor_acts_on_the_mean_over_all_ranks(group: list[dict], alone: dict, form: str) -> None:
    """DDP averages the ranks' gradients; each rank holds its part of the examples, its gradient counts as much."""
    whole = torch.tensor([row for rank in group for row in rank["gradients"][form]])
    torch.testing.assert_close(whole / len(group), torch.tensor(alone["gradients"][form]))


@pytest.mark.parametrize("remedy", REMEDIES)
def test_a_remedy_acts_on_all_ranks_as_on_one(group: list[dict], alone: dict, remedy: str) -> None:
    """The gradient that DDP takes, by D, the KL and z of every example: targets compare the mean over all ranks, MMD
    the rows of all."""
    whole = torch.tensor([row for rank in group for row in rank["remedies"][remedy]])
    torch.testing.assert_close(whole / len(group), torch.tensor(alone["remedies"][remedy]))


@pytest.mark.parametrize("controller", ["geco", "pid"])
def test_a_controller_stands_where_it_stands_on_one_process(group: list[dict], alone: dict, controller: str) -> None:
    for rank in group:
        assert rank["controllers"][controller] == pytest.approx(alone["controllers"][controller], rel=1e-12)
    assert all(value != 0 for value in alone["controllers"][controller].values())


def test_an_optimal_scale_is_that_of_all_ranks(group: list[dict], alone: dict) -> None:
    for rank in group:
        assert rank["scales"] == pytest.approx(alone["scales"], rel=1e-6)


def test_a_batch_is_normalised_over_all_ranks(group: list[dict], alone: dict) -> None:
    """Means, what evaluation will use, and the gradient that DDP's averaging makes of the ranks'."""
    found, whole = [rank["batch_norm"] for rank in group], alone["batch_norm"]
    rows, gradients = [row for rank in found for row in rank["means"]], [rank["gradient"] for rank in found]
    torch.testing.assert_close(torch.tensor(rows), torch.tensor(whole["means"]))
    torch.testing.assert_close(torch.tensor(gradients).mean(0), torch.tensor(whole["gradient"]))
    for rank in found:
        assert rank["running"] == pytest.approx(whole["running"])


def test_an_encoder_trains_ahead_as_long_on_all_ranks_as_on_one(group: list[dict], alone: dict) -> None:
    """Decided on the mean loss of all: on one rank's own it rises from the start, on another's it falls."""
    assert alone["bursts"] and alone["bursts"][0][0] > 9
    assert all(rank["bursts"] == alone["bursts"] for rank in group)


def test_an_epochs_means_are_those_of_all_ranks_to_the_bit_on_each(group: list[dict], alone: dict) -> None:
    """Decisions rest on them; saved by the first rank and loaded by all, they are as good."""
    for whole, resumed in (rank["means"] for rank in group):
        assert (whole, resumed) == tuple(group[0]["means"])
        assert whole == pytest.approx(alone["means"][0], rel=1e-6)
        assert resumed == pytest.approx(whole, rel=1e-6)
