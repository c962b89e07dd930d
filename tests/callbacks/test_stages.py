"""A schedule in stages as a function of training done, and an encoder that trains ahead; resuming: test_acting.py."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from vaecollapse import config
from vaecollapse.callbacks.aggressive import AggressiveEncoder, Burst
from vaecollapse.callbacks.stages import Stages
from vaecollapse.elbo import Progress
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.coefficients import Staged
from vaecollapse.run import Run
from vaecollapse.tasks import train

THREE = [{"epochs": 2, "weight": [0, 0]}, {"epochs": 3, "weight": [0, 1]}, {"weight": [1, 1]}]


def staged(stages=THREE, epochs: int = 10, value: float = 2.0) -> Staged:
    weight = Staged(value=value, stages=stages)
    weight.plan(epochs)
    return weight


def test_the_weight_goes_straight_from_one_multiple_to_the_other_over_each_stage() -> None:
    weight = staged()
    assert [weight(Progress(step, 100)) for step in (0, 10, 19, 20, 35, 50, 100)] == pytest.approx(
        [0, 0, 0, 0, 1, 2, 2]
    )
    assert [weight.at(step / 100) + 1 for step in (0, 19, 20, 49, 50, 100)] == [1, 1, 2, 2, 3, 3]
    assert [weight.settled(Progress(step, 100)) for step in (0, 20, 49, 50, 100)] == [False, False, False, True, True]
    assert weight.end == 2.0


@pytest.mark.parametrize("epochs", [6, 7, 9, 13, 30, 150])
def test_a_stage_begins_with_the_first_step_of_its_epoch(epochs: int) -> None:
    """However training is divided: neither a step before nor one after."""
    weight, steps = staged(epochs=epochs), 7
    found = [weight.at(step / (epochs * steps)) for step in range(epochs * steps)]
    assert found == [0] * 2 * steps + [1] * 3 * steps + [2] * (epochs - 5) * steps


def test_shares_and_epochs_make_the_same_plan() -> None:
    shares = [{"share": 0.2, "weight": [0, 0]}, {"share": 0.3, "weight": [0, 1]}, {"weight": [1, 1]}]
    one, two = staged(), staged(shares)
    assert [one(Progress(step, 100)) for step in range(101)] == pytest.approx(
        [two(Progress(step, 100)) for step in range(101)]
    )


def test_a_longer_run_keeps_the_plan_it_began_with() -> None:
    """In a checkpoint the plan goes with the weight that a tuner may have moved."""
    moved, longer = staged(), staged(epochs=40)
    moved.value = 0.5
    longer.load_state_dict(moved.state_dict())
    assert [longer(Progress(step, 100)) for step in (35, 100)] == pytest.approx([0.25, 0.5])
    assert longer.end == 2.0


@pytest.mark.parametrize(
    ("stages", "word"),
    [
        ([], "no stage"),
        ([{"epochs": 11, "weight": [0, 1]}], "11 of 10 epochs"),
        ([{"epochs": 10, "weight": [0, 1]}, {"weight": [1, 1]}], "10 of 10 epochs"),
        ([{"weight": [0, 1]}, {"weight": [1, 1]}], "only the last stage"),
        ([{"epochs": 1, "share": 0.5, "weight": [0, 1]}], "one of the two"),
        ([{"epochs": 1.5, "weight": [0, 1]}], "whole number"),
        ([{"weight": [1]}], "two multiples"),
        ([{"weight": [0, -1]}], "two multiples"),
        ([{"share": 2.0, "weight": [0, 1]}], "from 0 to 1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(stages: list, word: str) -> None:
    with pytest.raises(Refused, match=word):
        staged(stages)


@pytest.mark.parametrize("more", [{"rate": 2}, {"lr": {"encoder": 0}}, {"lr": {"encoder": -1}}])
def test_what_a_stage_cannot_do_is_refused(more: dict) -> None:
    with pytest.raises(Refused, match="stage 1"):
        Stages(stages=[{"weight": [0, 1], **more}])


# ---- in training

LINE = ["model=linear", "dataset.examples=256", "dataset.val_examples=64", "batch_size=64", "detector=[rate]",
        "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "lr=0.01"]  # fmt: skip


def trained(folder: Path, monkeypatch, name: str, *more: str) -> list[dict]:
    """The weights after each step, the first before all, of a run of four steps an epoch."""
    seen: list[dict] = []
    kind = AggressiveEncoder if name == "aggressive" else Stages
    begin, end = kind.on_train_start, kind.on_train_batch_end

    def note(module) -> None:
        seen.append({key: own.detach().clone() for key, own in module.vae.named_parameters()})

    monkeypatch.setattr(kind, "on_train_start", lambda self, t, m: (note(m), begin(self, t, m))[1])
    monkeypatch.setattr(kind, "on_train_batch_end", lambda self, t, m, *a: (end(self, t, m, *a), note(m))[0])
    line = [
        *LINE,
        f"callback=[learning_rate,collapse_monitor,checkpoints,{name}]",
        *more,
        f"logger.csv.directory={folder}",
    ]
    train(config.compose(line), folder, line)
    return seen


def moved(one: dict, two: dict) -> set[str]:
    return {name.partition(".")[0] for name in one if not torch.equal(one[name], two[name])}


def test_pretrain_and_reset_starts_the_decoder_anew_without_moments_and_keeps_the_rest(tmp_path, monkeypatch) -> None:
    """At the start of the second quarter: one step of Adam from the first weights of all, the encoder going on."""
    seen = trained(tmp_path, monkeypatch, "pretrain_reset", "max_epochs=4", "warmup=0.5")
    first, before, after = seen[0], seen[4], seen[5]
    rows = [row for row in Run(tmp_path).lines("metrics.jsonl") if "train/lr" in row]
    lr = rows[4]["train/lr"]
    step = (after["decoder.weight"] - first["decoder.weight"]).abs()
    torch.testing.assert_close(step, torch.full_like(step, lr), rtol=1e-3, atol=0.0)  # Adam's first step is lr itself
    assert (after["encoder.weight"] - before["encoder.weight"]).abs().max() <= 3 * lr
    assert (before["decoder.weight"] - first["decoder.weight"]).abs().max() > 2 * lr
    ramp = [0.0] * 4 + [k / 8 for k in range(8)] + [1.0] * 4
    assert [row["train/objective/weight_applied"] for row in rows] == pytest.approx(ramp)


def test_a_stage_trains_what_it_names_and_nothing_else(tmp_path, monkeypatch) -> None:
    stages = (
        "[{epochs: 1, weight: [0, 0], trains: [encoder]}, {epochs: 1, weight: [1, 1], trains: [decoder, log_var]},"
        "{weight: [1, 1]}]"
    )
    seen = trained(tmp_path, monkeypatch, "stages", "max_epochs=3", f"callback.stages.stages={stages}")
    sides = [{"encoder", "log_variance"}, {"decoder", "log_variance"}, {"encoder", "decoder", "log_variance"}]
    assert [moved(*pair) for pair in pairwise(seen)] == [side for side in sides for _ in range(4)]


@pytest.mark.parametrize(
    ("losses", "most", "turn"),
    [
        ([3.0, 2.0, 1.5, 1.4, 1.4, 1.41], 100, 12),  # falls or stays, then rises: six windows of two
        ([3.0, 2.0, 1.5], 5, 5),
        ([1.0, 2.0], 100, 4),
    ],
)
def test_the_decoders_turn_comes_when_a_windows_mean_rises_or_after_the_most(losses, most: int, turn: int) -> None:
    burst, due = Burst(), False
    while not due:
        filled = burst.steps % 2 == 1
        burst, due = burst.after(losses[burst.steps // 2] if filled else None, most=most)
    assert burst.steps == turn


def test_an_aggressive_step_moves_one_side_and_after_that_both_for_good(tmp_path, monkeypatch) -> None:
    settings = [f"callback.aggressive.{each}" for each in ("most=3", "window=1", "every=1", "examples=64")]
    read = iter([1.0, 1.1, 1.1])
    monkeypatch.setattr("vaecollapse.callbacks.aggressive.read", lambda *a, **k: ({"mi": Found(next(read))}, {}))
    seen = trained(tmp_path, monkeypatch, "aggressive", "max_epochs=6", *settings)
    encoder, decoder = {"encoder", "log_variance"}, {"decoder"}
    steps = [moved(*pair) for pair in pairwise(seen)]
    both = steps.index(encoder | decoder)
    assert steps[:both].count(decoder) == 3 and steps[both - 1] == decoder
    assert all(each in (encoder, decoder) for each in steps[:both])
    assert steps[both:] == [encoder | decoder] * (24 - both)
    told = [row for row in Run(tmp_path).lines("events.jsonl") if row["event"] in ("aggressive", "steps")]
    assert [row.get("aggressive") for row in told] == [True, True, False, None]
    assert (told[-1]["encoder"], told[-1]["decoder"]) == (24 - 3, 24 - both + 3)


class Found:
    note = ""

    def __init__(self, value: float) -> None:
        self.value = value
