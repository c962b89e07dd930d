"""A run on generated rain: its samples are a CF file, and its scores are those of that file."""

import json
import math
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import hydra
import numpy as np
import pytest

from vaecollapse import config, tasks
from vaecollapse.cli import evaluate as evaluate_command
from vaecollapse.ensembles.reading import Stored
from vaecollapse.metrics.base import Score
from vaecollapse.refusal import Refused
from vaecollapse.tasks.scoring import counted, too_alike

xr = pytest.importorskip("xarray")
TYPED = ["model=precip_cvae", "capacity=2", "latent_dim=4", "dataset.storms=16", "dataset.steps=2", "dataset.size=16",
         "model.hard=mult", "max_epochs=2", "seed=3", "callback=[collapse_monitor]", "trainer.accelerator=cpu",
         "callback.collapse_monitor.final_examples=64",
         "detector=[rate,decoder_reliance,posterior_variance]"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rain")
    typed = [*TYPED, f"logger.csv.directory={folder}"]
    tasks.train(config.compose(typed), folder, typed)
    return folder


def composed(verb: str, *typed: str) -> Any:
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), job_name=verb, version_base="1.3"):
        cfg = hydra.compose(verb, list(typed))
    config.check_evaluation(cfg, config.SampleSchema if verb == "sample" else config.EvaluateSchema)
    return cfg


def sampled(run: Path, folder: Path, *typed: str) -> Path:
    return Path(tasks.sample(composed("sample", f"run={run}", *typed), folder, typed).first)


def pictured(directory: Path) -> list[str]:
    """The files that pictures.json lists, in its order, each there and nothing else."""
    listed = json.loads((directory / "pictures" / "pictures.json").read_text())
    files = [each["file"] for each in listed]
    assert all(each["title"] and each["caption"] for each in listed)
    assert sorted(os.listdir(directory / "pictures")) == sorted([*files, "pictures.json"])
    for svg in (directory / "pictures").glob("*.svg"):
        assert ElementTree.parse(svg).getroot().tag.endswith("svg") and "nan" not in svg.read_text()
    return files


def test_samples_are_members_beside_the_truth_that_rain_as_much(run: Path, tmp_path: Path) -> None:
    first = sampled(run, tmp_path, "n=3")
    assert first.name == "ensemble.nc"
    with xr.open_dataset(first) as found:
        assert found["pr"].dims == ("member", "time", "y", "x") and found.sizes["member"] == 3
        assert found["pr"].attrs["units"] == "mm/h" and found.attrs["mode"] == "prior"
        assert found["time"].dt.year.values.min() == 2000
        members, truth = found["pr"].values, found["pr_truth"].values
        assert np.isfinite(members).all() and members.min() >= 0
        blocks = [each.reshape(*each.shape[:-2], 2, 8, 2, 8).mean((-3, -1)) for each in (members, truth)]
        assert blocks[0] == pytest.approx(np.broadcast_to(blocks[1], blocks[0].shape), rel=1e-4, abs=1e-5)
        assert np.abs(members[0] - members[1]).max() > 0
    assert json.loads((tmp_path / "provenance.json").read_text())["sampled"]["mode"] == "prior"
    assert pictured(tmp_path) == ["maps.png"]


@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_a_temperature_of_0_makes_the_members_of_a_mode_alike(run: Path, tmp_path: Path, mode: str) -> None:
    with xr.open_dataset(sampled(run, tmp_path, "n=2", f"mode={mode}", "temperature=0")) as found:
        first, second = found["pr"].values
    assert first == pytest.approx(second)


def test_what_is_no_ensemble_is_written_too(run: Path, tmp_path: Path) -> None:
    with xr.open_dataset(sampled(run, tmp_path / "nc", "mode=traverse", "n=2", "steps=3")) as found:
        assert found["step_2"].dims == ("sample", "y", "x") and found.sizes["sample"] == 2
    numbers = np.load(next(sampled(run, tmp_path / "npz", "n=4", "format=npz").glob("*.npz")))
    assert numbers["sample"].shape == (4, 1, 16, 16)
    with pytest.raises(Refused, match="type n=3"):
        sampled(run, tmp_path / "draws", "mode=posterior", "draws=3")


@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_the_scores_of_a_run_are_those_of_the_file_it_samples(run: Path, tmp_path: Path, mode: str, capsys) -> None:
    metrics = "metric=[crps,diversity,mass_bias,rank_histogram,spectrum]"
    own = tasks.evaluate(
        composed("evaluate", f"run={run}", "members=3", f"mode={mode}", "samples=2", metrics), tmp_path / "run", []
    )
    file = sampled(run, tmp_path / "samples", "n=3", f"mode={mode}")
    of_file = tasks.score_file(composed("evaluate", f"file={file}", metrics), tmp_path / "file", [])
    ours, theirs = ({score.name: score.value for score in each.scores} for each in (own, of_file))
    assert ours["diversity_ratio"] is not None and theirs["diversity_ratio"] is None
    for name in ("crps", "diversity", "mass_bias"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-4), name
    assert ("has seen the truth" in own.scored) == (mode == "posterior")
    assert pictured(tmp_path / "run") == ["maps.png", "rank_histogram.svg", "spectra.svg", "temperature.svg"]
    assert pictured(tmp_path / "file") == ["maps.png", "rank_histogram.svg", "spectra.svg"]
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {each["name"] for each in written["scores"]} == set(ours) and written["verdict"]
    assert Stored(file).blocks == "blocks as the file has them"


def test_members_that_are_too_much_alike_are_named() -> None:
    alike, apart = Score("diversity_ratio", 0.2, note="outside 0.5 to 2"), Score("diversity_ratio", 0.85, note="within")
    (said,) = too_alike([Score("crps", 1.0), alike])
    assert "0.2 of what fields under nearly equal conditions do (outside 0.5 to 2)" in said
    assert too_alike([apart]) == too_alike([]) == too_alike([alike._replace(value=3.0)]) == []
    assert counted([alike]) == "1 independent block, so no intervals" and "7" in counted([alike._replace(blocks=7)])


def test_the_price_is_printed_before_and_epochs_are_chosen_by_the_calibrated_bound(run: Path) -> None:
    audit = json.loads((run / "preflight.json").read_text())["audit"]
    assert audit["beta_effective"] > 0
    for row in [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]:
        if "val/selection" in row and row["val/selection"] is not None:
            nats = 256 * (1 + math.log(2 * row["val/distortion"]))
            assert row["val/selection"] == pytest.approx(nats + row["val/latent/rate"], rel=1e-5)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["file=a.nc", "run=b"], "give one of the two"),
        (["run=b", "truth=obs"], "truth names a variable of file="),
        (["file=a.nc", "members=3"], "members is of a run's own ensemble"),
        (["run=b", "mode=interpolate"], "none of prior, posterior"),
        (["run=b", "members=0"], "members must be at least 1"),
        (["run=b", "temperature=-1"], "temperature must be finite"),
    ],
)
def test_what_an_evaluation_cannot_mean_is_refused(typed, words) -> None:
    with pytest.raises(Refused, match=words):
        composed("evaluate", *typed)


def test_a_file_is_scored_from_the_command_line(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    file = sampled(run, tmp_path / "samples", "n=2")
    with xr.open_dataset(file) as given:  # two variables of the truth's shape: one is to be named
        given.load().assign(other=given["pr_truth"]).rename(pr_truth="gauge").to_netcdf(tmp_path / "theirs.nc")
    typed = ["vaecollapse-evaluate", f"file={tmp_path}/theirs.nc", "metric=[crps]", f"hydra.run.dir={tmp_path}/out"]
    monkeypatch.setattr("sys.argv", typed)
    assert evaluate_command() == 1
    assert "type truth=gauge" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*typed, "metric=fad"])
    assert evaluate_command() == 1
    assert "metric names no score of fields" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*typed, "truth=gauge"])
    assert evaluate_command() == 0
    assert "crps" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["scores"][0]["name"] == "crps"
