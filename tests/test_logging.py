"""Loggers: the same numbers wherever they go. W&B runs offline and is read back with its own documented reader."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaecollapse import cli, config
from vaecollapse.run import Run
from vaecollapse.tasks import train

BIN = Path(sys.executable).parent
SHORT = ["model=linear", "max_epochs=4", "trainer.check_val_every_n_epoch=2", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> list[Path]:
    """Two jobs of one process, both with W&B offline."""
    folder = tmp_path_factory.mktemp("wandb")
    line = [BIN / cli.NAME, "-m", *SHORT, "beta=1,8", "logger=wandb", "logger.wandb.offline=true"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(folder.glob("outputs/multirun/*/[0-9]"))


def records(directory: Path) -> list[dict]:
    """What W&B kept of a run, by `wandb leet inspect`."""
    kept = list(directory.glob("wandb/offline-run-*/*.wandb"))
    assert len(kept) == 1, f"{directory.name} has {len(kept)} W&B runs of its own"
    done = subprocess.run([BIN / "wandb", "leet", "inspect", "--json", kept[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def own(item: dict) -> dict:
    """A history item or a line of metrics.jsonl without what belongs to the logger."""
    logger_s = ("_", "trainer/", "val/units/")
    return {name: value for name, value in item.items() if not name.startswith(logger_s) and name != "step"}


@pytest.mark.parametrize("job", [0, 1])
def test_wandb_keeps_the_numbers_of_the_run_directory(jobs, job: int) -> None:
    """Every line, in order, to the last digit; and each job of a sweep is a W&B run of its own."""
    history = [record["history"]["item"] for record in records(jobs[job]) if record["type"] == "history"]
    lines = Run(jobs[job]).lines("metrics.jsonl")
    told = [(item["trainer/global_step"], own(item)) for item in history if own(item)]
    assert told == [(row["step"], own(row)) for row in lines]
    names = {name for item in history for name in item}
    assert {"val/latent/rate", "val/latent/gap", "collapse/verdict", "train/objective/weight_applied"} <= names


def test_wandb_knows_the_configuration_of_each_run(jobs) -> None:
    """Without it the runs of a sweep cannot be told apart."""
    for job, beta in ((0, 1), (1, 8)):
        said = json.dumps([record["run"] for record in records(jobs[job]) if record["type"] == "run"]
                          + [record for record in records(jobs[job]) if record["type"] == "config"])  # fmt: skip
        assert f'"beta": {beta}' in said.replace(f"{beta}.0", str(beta))


def test_wandb_gets_a_histogram_of_each_series_over_units(jobs) -> None:
    """And its counts add up to the units."""
    items = [record["history"]["item"] for record in records(jobs[0]) if record["type"] == "history"]
    last = [item for item in items if "val/units/kl.values" in item][-1]
    assert sum(last["val/units/kl.values"]) == 5
    assert {"val/units/sigma._type", "val/units/var_mean._type"} <= {name for item in items for name in item}


def test_wandb_is_alerted_of_alarms_and_verdicts(jobs) -> None:
    """β = 8 lies above the data's largest eigenvalue: known before step 1."""
    alerts = [[r["alert"]["title"] for r in records(job) if r["type"] == "alert"] for job in jobs]
    assert "alarm forecast_collapse" in alerts[1]
    assert not [title for title in alerts[0] if title.startswith("alarm")]
    assert all(any(title.startswith("verdict ") for title in titles) for titles in alerts)


def test_tensorboard_gets_scalars_histograms_and_alarms(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = trained(tmp_path, "beta=8", "logger=tensorboard", f"logger.csv.directory={tmp_path}",
                        f"logger.tensorboard.save_dir={tmp_path}")  # fmt: skip
    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    assert events.Histograms("val/units/kl")[-1].histogram_value.num == 5
    (alarm, *_) = events.Tensors("collapse/alarms/text_summary")
    assert b"forecast_collapse" in alarm.tensor_proto.string_val[0] and alarm.step == 0
    rates = {event.step: event.value for event in events.Scalars("val/latent/gap")}
    kept = {
        row["step"]: row["val/latent/gap"] for row in Run(directory).lines("metrics.jsonl") if "val/latent/gap" in row
    }
    assert rates == pytest.approx(kept, rel=1e-6, abs=1e-7)


def trained(folder: Path, *overrides: str) -> Path:
    whole = [*SHORT, *overrides]
    train(config.compose(whole), folder, whole)
    return folder


def test_csv_alone_writes_nothing_of_wandb(tmp_path) -> None:
    directory = trained(tmp_path, f"logger.csv.directory={tmp_path}")
    assert not list(directory.rglob("*wandb*"))
    assert {"metrics.jsonl", "metrics.csv"} <= {path.name for path in directory.iterdir()}


def test_several_loggers_at_once_are_told_the_same(tmp_path) -> None:
    """A second csv beside the first, as anybody's own logger could stand there."""
    more = ["+logger.mine._target_=vaecollapse.callbacks.run_logger.RunLogger", f"+logger.mine.directory={tmp_path}/b"]
    directory = trained(tmp_path / "a", f"logger.csv.directory={tmp_path}/a", *more)
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (directory / name).read_text() == (tmp_path / "b" / name).read_text() != ""


def test_no_logger_at_all_still_ends_in_a_verdict(tmp_path) -> None:
    directory = trained(tmp_path, "logger=[]")
    assert Run(directory).read("verdict.json")["verdict"]
    assert not (directory / "metrics.jsonl").exists()
