"""The reference command on real recordings, cut to some fifty steps: every promise but the training time."""

import logging
import math
from pathlib import Path

import pytest
import torch

from vaecollapse import config
from vaecollapse.diagnosis import Verdict
from vaecollapse.prescriptions import STATES
from vaecollapse.run import Run
from vaecollapse.tasks import train


@pytest.fixture(scope="module")
def reference(fsdd: Path, tmp_path_factory) -> tuple[Run, Verdict, str]:
    """The run directory, the verdict and what was said before training."""
    folder = tmp_path_factory.mktemp("reference")
    overrides = [
        "model=audio_nf", "regularizer=free_bits", "free_bits=0.005", "dataset=audio_folder", f"dataset.root={fsdd}",
        "capacity=4", "dataset.fraction=0.4", "max_epochs=1", "trainer.limit_val_batches=4", "trainer.accelerator=cpu",
        "callback.collapse_monitor.final_examples=96", f"logger.csv.directory={folder}",
    ]  # fmt: skip
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("vaecollapse")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        outcome = train(config.compose(overrides), folder, overrides)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    assert outcome.diagnosis is not None
    return Run(folder), outcome.diagnosis, "\n".join(said)


def test_a_few_steps_on_speech_give_finite_readings_over_real_examples(reference) -> None:
    run, verdict, _ = reference
    steps = [row for row in run.lines("metrics.jsonl") if "train/lr" in row]
    assert 40 <= steps[-1]["step"] <= 60
    assert verdict.verdict in set(STATES) - {"diverged"}
    assert verdict.readings["gap"].n >= 64
    for name in ("rate", "gap", "distortion", "information_rank", "price_of_a_nat", "mi"):
        assert math.isfinite(verdict.readings[name].value), name
    assert steps[-1]["train/distortion"] < steps[0]["train/distortion"]
    assert verdict.readings["distortion"].value < verdict.readings["distance_between_examples"].value


def test_health_needs_more_than_the_absence_of_illness(reference) -> None:
    """Whatever fifty steps reach: `healthy` only with a material gap and information beside it."""
    _, verdict, _ = reference
    if verdict.verdict == "healthy":
        assert verdict.readings["gap"].status == "material"
        assert verdict.readings["mi"].status == "material" or verdict.readings["information_rank"].value >= 1


def test_the_value_of_z_is_measured_in_distances_of_two_real_clips(reference) -> None:
    """D̄ is a property of the data and of the distance, no model in it; 1 % of it is the size that matters."""
    _, verdict, _ = reference
    unit = verdict.readings["distance_between_examples"]
    assert 5 < unit.value < 15
    assert verdict.readings["gap"].threshold == pytest.approx(0.01 * unit.value)


def test_a_flow_has_no_units_to_call_dead(reference) -> None:
    run, verdict, _ = reference
    for name in ("dead_units", "train/dead_units"):
        assert (verdict.readings[name].value, verdict.readings[name].status) == (None, "undefined")
    assert "flow" in verdict.readings["dead_units"].note
    units = (run.directory / "units.csv").read_text() if (run.directory / "units.csv").exists() else ""
    assert ",kl," not in units


def test_the_floor_is_the_total_of_all_units(reference) -> None:
    """16 units of 0.005 nats: said before training, logged at every step, and compared as one number."""
    run, verdict, said = reference
    assert "0.005 nats per unit are free, 0.08 in total" in said
    floors = [row["train/objective/floor"] for row in run.lines("metrics.jsonl") if "train/objective/floor" in row]
    assert floors
    assert floors == pytest.approx([0.08] * len(floors))
    assert verdict.readings["floor"].value == pytest.approx(0.08)
    rate, above = verdict.readings["rate"], verdict.readings["kl_over_floor"].value
    # the floor compares one draw of the total, the rate is the mean of sixteen
    assert abs(above * 0.08 - rate.value) < 3 * rate.se


def test_the_run_directory_is_complete_and_names_the_recordings(reference) -> None:
    run, _, said = reference
    names = {path.relative_to(run.directory).as_posix() for path in run.directory.rglob("*") if path.is_file()}
    assert {"config.yaml", "overrides.txt", "provenance.json", "metrics.jsonl", "metrics.csv", "events.jsonl",
            "verdict.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= names  # fmt: skip
    data = run.read("provenance.json")["data"]
    assert (data["files"], len(data["hash"])) == (3000, 64)
    assert "3000 recordings" in said
    assert "8000 Hz: 3000" in said
    state = torch.load(run.directory / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())
