"""Loggers: the same numbers wherever they go. W&B runs offline and is read back with its own documented reader."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

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


@functools.cache
def records(directory: Path) -> list[dict]:
    """What W&B kept of a run, by `wandb leet inspect`."""
    kept = list(directory.glob("wandb/offline-run-*/*.wandb"))
    assert len(kept) == 1, f"{directory.name} has {len(kept)} W&B runs of its own"
    done = subprocess.run([BIN / "wandb", "leet", "inspect", "--json", kept[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def own(item: dict) -> dict:
    """A history item or a line of metrics.jsonl without what belongs to the logger."""
    logger_s = ("_", "trainer/", "val/units/", "verdict/", "search/", "samples/")
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


def summary(directory: Path) -> dict:
    found = {}
    for record in records(directory):
        found |= record["summary"].get("update", {}) if record["type"] == "summary" else {}
    return found


def table(directory: Path, name: str) -> list[dict]:
    """The last table of this name that W&B was given."""
    file = next(directory.glob(f"wandb/offline-run-*/files/{summary(directory)[f'verdict/{name}.path']}"))
    content = json.loads(file.read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def test_wandb_is_told_the_verdict_in_words_and_its_evidence(jobs) -> None:
    for job in jobs:
        kept, said = Run(job).read("verdict.json"), summary(job)
        assert (said["verdict"], said["confidence"]) == (kept["verdict"], kept["confidence"])
        (line,) = table(job, "table")
        assert (line["verdict"], line["try_next"]) == (kept["verdict"], kept["prescriptions"][0]["command"])
        assert line["value of z"] == kept["readings"]["gap"]["value"]
        told = {row["reading"]: (row["value"], row["standard error"], row["status"]) for row in table(job, "readings")}
        assert told == {name: (each["value"], each["se"], each["status"]) for name, each in kept["readings"].items()}


def test_wandb_is_told_what_a_search_minimises(jobs) -> None:
    """The best selection value, with a penalty where the verdict is not among those that count."""
    for job in jobs:
        said, word = summary(job), Run(job).read("verdict.json")["verdict"]
        best = min(row["val/selection"] for row in Run(job).lines("metrics.jsonl") if "val/selection" in row)
        assert said["search/feasible"] == (word == "healthy")
        assert said["search/objective"] == pytest.approx(best + 1e6 * (word != "healthy"))


# ---- sounds and pictures


SOUNDS = ["model=audio", "capacity=2", "latent_dim=4", "dataset.clips=160", "dataset.seconds=0.125", "max_epochs=1",
          "trainer.accelerator=cpu", "callback.samples.clips=2", "callback.samples.examples=16", "report=false",
          "callback.collapse_monitor.final_examples=16", "callback.collapse_monitor.examples=16"]  # fmt: skip


@pytest.fixture(scope="module")
def heard(tmp_path_factory) -> Path:
    """A run on sounds with both of W&B and TensorBoard."""
    folder = tmp_path_factory.mktemp("heard")
    lines = [*SOUNDS, "logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true", f"logger.csv.directory={folder}",
             *(f"logger.{name}.save_dir={folder}" for name in ("tensorboard", "wandb"))]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        return trained(folder, *lines)


def events(directory: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory / "tensorboard"), size_guidance={"audio": 0, "images": 0}).Reload()


def test_tensorboard_gets_every_number_of_the_run_directory(heard) -> None:
    """Each under its own name, at its step, in its order."""
    found, lines = events(heard), Run(heard).lines("metrics.jsonl")
    names = {name for row in lines for name in row if name != "step"}
    assert names == {tag for tag in found.Tags()["scalars"] if tag != "hp_metric"}
    for name in names:
        kept = [(row["step"], row[name]) for row in lines if row.get(name) is not None]
        told = [(event.step, event.value) for event in found.Scalars(name)]
        assert [step for step, _ in told] == [step for step, _ in kept], name
        assert [value for _, value in told] == pytest.approx([value for _, value in kept], rel=1e-6, abs=1e-7), name


def test_tensorboard_gets_every_sound_and_picture_of_the_run_directory(heard) -> None:
    found, folder = events(heard), heard / "samples" / "epoch_000"
    written = {file.stem: sf.info(file) for file in folder.glob("*.wav")}
    assert {tag.removeprefix("samples/") for tag in found.Tags()["audio"]} == {*written}
    for name, info in written.items():
        (event,) = found.Audio(f"samples/{name}")
        assert (event.sample_rate, event.length_frames) == (info.samplerate, info.frames) == (8000, 1024)
    assert set(found.Tags()["images"]) == {"samples/spectrograms", "val/units/kl_map"}


def test_wandb_gets_the_same_sounds_and_pictures(heard) -> None:
    items = [record["history"]["item"] for record in records(heard) if record["type"] == "history"]
    kept = {name.partition(".")[0]: item for item in items for name in item if name.endswith("._type")}
    sounds = {file.stem.rpartition("_")[0] for file in (heard / "samples" / "epoch_000").glob("*.wav")}
    assert {f"samples/{name}" for name in sounds} | {"samples/spectrograms", "val/units/kl_map"} <= {*kept}
    assert kept["samples/real"]["samples/real.sampleRates"] == [8000, 8000]


def test_the_map_of_units_has_a_row_for_each_and_grows_with_the_readings() -> None:
    """The unit of the highest KL in the end on top; and a run that goes on remembers the columns."""
    from vaecollapse.callbacks.unit_map import UnitMap

    units = UnitMap()
    units.load_state_dict({"readings": [[0.0, 1.0, 0.5], [0.0, 0.5, 2.0]]})
    bright = units.picture().sum(-1).astype(float)
    rows = bright[:: len(bright) // 3][:3]
    first, last = rows[:, 0], rows[:, -1]
    assert np.argsort(-last).tolist() == [0, 1, 2] and np.argsort(-first).tolist() == [1, 0, 2]
    assert UnitMap.state_dict(units)["readings"] == [[0.0, 1.0, 0.5], [0.0, 0.5, 2.0]]


@pytest.mark.parametrize("name", ["kl", "kl_base"])
def test_the_map_of_units_hears_a_flow_too_and_stays_small_over_any_stop(name) -> None:
    import lightning.pytorch as lightning

    from vaecollapse.callbacks.monitor import CollapseMonitor, Look
    from vaecollapse.callbacks.unit_map import COLUMNS, UnitMap

    def heard(units: UnitMap, readings: range) -> UnitMap:
        monitor = CollapseMonitor()
        trainer = lightning.Trainer(callbacks=[monitor], logger=False, accelerator="cpu", enable_checkpointing=False)
        units.setup(trainer, lightning.LightningModule(), "fit")
        for i in readings:
            for series in ({name: np.array([i, 1.0])}, {"sigma": np.ones(2)}, {}):
                monitor.listeners[-1](Look(i, None, False, set(), series))
        return units

    for count in (1, COLUMNS, COLUMNS + 1, 2 * COLUMNS, 1007):
        units = heard(UnitMap(), range(count))
        steps = [int(reading[0]) for reading in units.readings]
        assert (steps[0], steps[-1]) == (0, count - 1)
        assert min(count, COLUMNS // 2) <= len(steps) <= COLUMNS
        apart = np.diff(steps)
        assert len({*apart[:-1]}) <= 1 and all(0 < last <= apart[0] for last in apart[-1:])
        again = UnitMap()
        again.load_state_dict(heard(UnitMap(), range(count // 2)).state_dict())
        assert heard(again, range(count // 2, count)).state_dict() == units.state_dict()
    assert units.picture().shape[1] <= 2 * COLUMNS


# ---- the workspace and the sweep of W&B


def named(panel: dict) -> set[str]:
    """What a panel of a workspace shows, as W&B's own form of it says."""
    shown = panel["config"]
    columns = [each["accessor"] for each in shown.get("columns", [])]
    axes = [shown[axis] for axis in ("xAxis", "yAxis", "zAxis") if axis in shown]
    tables = [
        f"summary:{name}"
        for name in ("verdict/table", "verdict/readings", "samples/examples")
        if name in json.dumps(shown)
    ]
    return {*columns, *axes, *tables, *shown.get("metrics", []), *shown.get("mediaKeys", [])}


def test_every_panel_of_the_workspace_shows_what_runs_log(jobs, heard) -> None:
    """No dead panel: each name is one that a run gave W&B, and every panel but the text has some."""
    pytest.importorskip("wandb_workspaces")
    from vaecollapse import dashboard

    kept = [record for run in (*jobs, heard) for record in records(run)]
    history = {key.partition(".")[0] for each in kept if each["type"] == "history" for key in each["history"]["item"]}
    told = {key.partition(".")[0] for run in (*jobs, heard) for key in summary(run)}
    seen = {"samples/examples", "summary:samples/examples"}  # a picture or a table: tests/callbacks/test_samples.py
    knobs = {key for each in kept if each["type"] == "config" for key in each["config"]["update"]}
    known = history | seen | {f"summary:{key}" for key in told} | {f"config:{key}.value" for key in knobs}
    board = dashboard.workspace(entity="us", project="vaecollapse", name="collapse", x="beta", y="free_bits")
    spec = board._spec["spec"]["section"]
    panels = [panel for section in spec["panelBankConfig"]["sections"] for panel in section["panels"]]
    for panel in panels:
        assert named(panel) <= known
        assert named(panel) or panel["viewType"] == "Markdown Panel"
    columns = {
        name.replace("config:", "").removeprefix("summary:") for name in spec["runSets"][0]["runFeed"]["columnPinned"]
    }
    assert columns - {"run:displayName"} <= told | knobs


def test_the_workspace_has_the_colours_of_the_report() -> None:
    from vaecollapse import dashboard
    from vaecollapse.prescriptions import STATES

    script = Path(dashboard.__file__).with_name("report") / "assets" / "base.js"
    there = dict(re.findall(r'(\w+): \["(#\w{6})"', script.read_text("utf-8")))
    assert there == dashboard.COLOURS and set(there) == set(STATES)


@pytest.mark.parametrize(
    ("typed", "why"),
    [([], "entity has no value"), (["colour=red"], "colour=red is not known"), (["entity="], "entity= is not known")],
)
def test_a_workspace_is_refused_in_a_sentence(typed, why, capsys) -> None:
    from vaecollapse import dashboard

    assert dashboard.main(typed) == 1
    assert why in capsys.readouterr().err


def test_a_workspace_can_be_written_and_needs_a_key_to_be_saved(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("wandb_workspaces")
    from vaecollapse import dashboard

    monkeypatch.setenv("HOME", str(tmp_path))  # whoever tests may be logged in
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    assert dashboard.main([f"out={tmp_path}/board.json", "x=lr", "y=latent_dim"]) == 0
    assert "phase diagram: lr, latent_dim" in (tmp_path / "board.json").read_text()
    assert dashboard.main(["entity=nobody"]) == 1
    assert "wandb login" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["first", "last"])
def test_the_sweep_of_wandb_types_commands_of_ours(jobs, end: str) -> None:
    """What an agent makes of the file, by W&B's own code, composes; what it minimises is logged."""
    import yaml
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((Path(__file__).parents[1] / "docs" / "wandb_sweep.yaml").read_text("utf-8"))
    at = {"first": 0, "last": -1}[end]
    drawn = {name: {"value": [*each.get("values", []), *(each[key] for key in ("min", "max") if key in each)][at]}
             for name, each in sweep["parameters"].items()}  # fmt: skip
    words, args = create_sweep_command(sweep["command"]), create_sweep_command_args({"args": drawn})
    line = [word for each in words for word in (args["args_no_hyphens"] if each == "${args_no_hyphens}" else [each])]
    assert line[:3] == ["${env}", cli.NAME, "logger=wandb"], "the agent puts /usr/bin/env there"
    cfg = config.compose(line[2:])
    assert {name: cfg[name] for name in drawn} == {name: each["value"] for name, each in drawn.items()}
    assert "wandb" in cfg.callback and sweep["metric"]["name"] in summary(jobs[0])


# ---- TensorBoard alone


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
