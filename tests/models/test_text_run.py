"""A text model under everything that moves while it trains: stages, a tuner, ranges, a floor per token."""

import json
from pathlib import Path

import pytest

from vaecollapse import config
from vaecollapse.tasks import train

TINY = ["model=text_tokens", "latent_dim=4", "capacity=1", "model.layers=1", "model.tokens=2", "dataset.numbers=5",
        "batch_size=32", "max_epochs=6",
        "detector=[rate,decoder_reliance,mutual_information,floor_saturation,temperature]"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "run"
    overrides = [*TINY, "regularizer=free_bits", "regularizer.form=hinge", "regularizer.groups=token", "free_bits=0.01",
                 "callback=[collapse_monitor,checkpoints,stages,tuner,expected_consistent]",
                 "callback.tuner.mode=corrected", "callback.tuner.after=[4]",
                 f"logger.csv.directory={folder}"]  # fmt: skip
    train(config.compose(overrides), folder, overrides)
    return folder


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]


def test_stages_tuner_and_ranges_act_on_a_text_model(run: Path) -> None:
    assert {"stage", "tuner", "expected"} <= {event["event"] for event in events(run)}


def test_a_text_run_ends_in_a_verdict_that_knows_its_tokens(run: Path) -> None:
    readings = json.loads((run / "verdict.json").read_text("utf-8"))["readings"]
    assert readings["groups"]["value"] == 2 and readings["units"]["value"] == 8
    assert readings["gap"]["status"] != "undefined" and readings["mi"]["status"] != "undefined"
    assert readings["diversity_prior"]["status"] == "undefined"
    assert "no formula" in json.loads((run / "preflight.json").read_text("utf-8"))["unforeseen"]
    floor, after = (readings[name]["value"] for name in ("kl_mean_per_unit", "kl_after_floor"))
    assert 0 <= after <= floor, "KLa of a hinge over tokens"
