"""A run that was ended at any moment and resumed says and weighs the same as one that never was."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import killing
import pytest
import torch
from omegaconf import OmegaConf

from vaecollapse import cli, config, loading
from vaecollapse.refusal import Refused
from vaecollapse.resuming import replayed
from vaecollapse.run import Run
from vaecollapse.tasks import train

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, dict]:
    """Each moment: the exit codes of the ended and of the resumed run, and what differs in the end."""
    folder = tmp_path_factory.mktemp("ended")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"}
    line = [sys.executable, str(HERE / "killing.py"), str(folder)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("moment", [*killing.MOMENTS, killing.SWEPT])
def test_a_run_ended_at_any_moment_goes_on_to_the_same_bits(ended, moment: str) -> None:
    """Parameters, optimizer, callbacks, best and average weights, metrics, per-unit series, verdict, files."""
    codes = {"ctrl-c 5": 130, "sigterm 12": 143, killing.SWEPT: cli.FAILED}
    assert ended[moment] == {"ended": codes.get(moment, 9), "resumed": 0, "differ": []}


@pytest.fixture
def run(tmp_path) -> Path:
    (tmp_path / "overrides.txt").write_text("model=linear\nbeta=2\nmax_epochs=3\n")
    (tmp_path / "config.yaml").write_text("beta: 2\n")
    return tmp_path


def test_resume_replays_the_runs_own_overrides(run) -> None:
    quoted = f"'{run}'"
    tail = [f"resume={quoted}", f"hydra.run.dir={quoted}"]
    assert replayed([f"resume={run}"]) == ["model=linear", "beta=2", "max_epochs=3", *tail]
    assert replayed([f"resume={run}", "max_epochs=9"]) == ["model=linear", "beta=2", "max_epochs=9", *tail]
    assert replayed(["beta=3"]) == ["beta=3"] and replayed(["resume=null"]) == ["resume=null"]


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        (["--config-dir", "x=1"], "--config-dir=x=1"),
        (["-cd", "conf2"], "--config-dir=conf2"),
        (["--cfg=job"], "--cfg=job"),
        (["-c", "job"], "--cfg=job"),
    ],
)
def test_a_flag_and_its_value_are_no_override(run, flag: list[str], word: str) -> None:
    assert word in replayed([*flag, f"resume={run}"])


@pytest.mark.parametrize("line", ["beta=3", "model=audio", "+x=1", "~callback.samples", "dataset.seed=2", "seed=1"])
def test_what_would_make_it_another_run_is_refused(run, line: str) -> None:
    with pytest.raises(Refused, match="init_from"):
        replayed([f"resume={run}", line])


@pytest.mark.parametrize("line", ["hydra.callbacks.x._target_=os.system", "--config-dir=/tmp", "hydra/launcher=joblib"])
def test_a_planted_command_line_is_refused(run, line: str) -> None:
    (run / "overrides.txt").write_text(f"{line}\n")
    with pytest.raises(Refused, match="no run writes"):
        replayed([f"resume={run}"])


@pytest.mark.parametrize("line", ["trust=[evil]", "resume=elsewhere"])
def test_trust_is_what_is_typed_now(run, line: str) -> None:
    (run / "overrides.txt").write_text(f"model=linear\n{line}\n")
    with pytest.raises(Refused, match="no run writes"):
        replayed([f"resume={run}"])


@pytest.mark.parametrize("given", ["~nobody-of-this-name/x", "a" * 300, "nothing"])
def test_a_path_that_cannot_be_is_refused(given: str) -> None:
    with pytest.raises(Refused, match="resume="):
        replayed([f"resume={given}"])


def test_an_unreadable_command_line_is_refused(run) -> None:
    (run / "overrides.txt").write_bytes(b"model=\xff\n")
    with pytest.raises(Refused, match="cannot be read"):
        replayed([f"resume={run}"])


def test_a_folder_that_is_no_run_and_a_sweep_are_refused(run, tmp_path_factory) -> None:
    with pytest.raises(Refused, match="no run directory"):
        replayed([f"resume={tmp_path_factory.mktemp('empty')}"])
    with pytest.raises(Refused, match="drop -m"):
        replayed([f"resume={run}", "-m"])


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_every_rank_goes_on_with_the_run_whoever_starts_it(run, monkeypatch, name: str) -> None:
    """One that Lightning starts is given the line of the first; one of SLURM, torchrun or another node what was
    typed."""

    def carried_out(argv: list[str]) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["train", *argv])
        assert cli.TrainSession(argv).command() == 0
        return sys.argv[1:]

    monkeypatch.setattr(cli.TrainSession, "run", lambda self, main: 0)
    first = carried_out([f"resume={run}"])
    monkeypatch.setenv(name, "1")
    assert carried_out([f"resume={run}"]) == carried_out(first) == first


def test_append_only_files_are_cut_back_to_a_checkpoints_marks(tmp_path) -> None:
    run = Run(tmp_path)
    run.append("metrics.jsonl", {"step": 1})
    marks = run.marks()
    run.append("metrics.jsonl", {"step": 2})
    run.append("events.jsonl", {"step": 2})
    run.cut_back(marks)
    assert run.lines("metrics.jsonl") == [{"step": 1}] and run.lines("events.jsonl") == []


def test_one_process_at_a_time_trains_in_a_directory(tmp_path) -> None:
    code = f"""if True:
        from vaecollapse.run import Run
        from vaecollapse.refusal import Refused
        try:
            with Run({str(tmp_path)!r}).alone():
                print("in")
        except Refused:
            print("refused")"""

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()

    with Run(tmp_path).alone():
        assert other() == "refused"
    assert other() == "in"


# ---- in one process, on one small run

LINE = ["model=linear", "dataset.examples=300", "batch_size=64", "max_epochs=2", "trainer.accelerator=cpu"]


def trained(folder: Path, *more: str) -> Path:
    whole = [*LINE, f"logger.csv.directory={folder}", *more]
    train(config.compose(whole), folder, whole)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("small"))


@pytest.fixture
def copied(small, tmp_path) -> Path:
    shutil.copytree(small, tmp_path / "run")
    return tmp_path / "run"


def goes_on(directory: Path, *more: str) -> None:
    whole = [*(line for line in LINE if "max_epochs" not in line), f"logger.csv.directory={directory}", "max_epochs=4",
             f"resume={directory}", *more]  # fmt: skip
    train(config.compose(whole), directory, whole)


def test_a_finished_run_is_trained_longer_and_remembers_it(copied) -> None:
    goes_on(copied)
    epochs = [row["epoch"] for row in Run(copied).lines("metrics.jsonl") if "val/selection" in row]
    assert epochs[-1] == 3
    assert (
        "max_epochs=4" in (copied / "overrides.txt").read_text()
        and "resume" not in (copied / "overrides.txt").read_text()
    )
    assert "max_epochs: 4" in (copied / "config.yaml").read_text()
    with pytest.raises(Refused, match="has done its 4 epochs"):
        goes_on(copied)


def test_files_that_lead_out_of_the_directory_are_not_written_to(copied, tmp_path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (copied / "metrics.jsonl").unlink()
    (copied / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(Refused, match="leads out"):
        goes_on(copied)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("group", ["callback", "logger"])
def test_a_planted_writer_is_refused(copied, tmp_path, group: str) -> None:
    target = {"callback": "callbacks.ModelCheckpoint", "logger": "loggers.CSVLogger"}[group]
    place = {"callback": "dirpath", "logger": "save_dir"}[group]
    planted = [f"+{group}.x._target_=lightning.pytorch.{target}", f"+{group}.x.{place}={tmp_path}/outside"]
    kept = OmegaConf.load(copied / "config.yaml")
    kept[group]["x"] = {"_target_": f"lightning.pytorch.{target}", place: f"{tmp_path}/outside"}
    OmegaConf.save(kept, copied / "config.yaml")
    with pytest.raises(Refused, match="outside its directory"):
        goes_on(copied, *planted)
    assert not (tmp_path / "outside").exists()


def test_a_checkpoint_that_is_none_is_one_sentence(copied) -> None:
    for name in ("last", "previous"):
        torch.save({"state_dict": {}}, copied / "checkpoints" / f"{name}.ckpt")
    with pytest.raises(Refused, match="no checkpoint to go on from"):
        goes_on(copied)


@pytest.mark.parametrize(
    "more", ["trainer.accumulate_grad_batches=2", "trainer.precision=32-true", "trainer.devices=2"]
)
def test_a_trainer_that_takes_other_steps_is_refused(copied, more: str) -> None:
    with pytest.raises(Refused, match="another run"):
        goes_on(copied, more)


def test_other_data_are_refused(copied) -> None:
    content = Run(copied).read("provenance.json")
    Run(copied).write("provenance.json", content | {"data": content["data"] | {"hash": "0" * 64}})
    with pytest.raises(Refused, match="not those of the run"):
        goes_on(copied)


def test_a_table_cut_back_to_nothing_gets_its_header_again(tmp_path) -> None:
    run = Run(tmp_path)
    run.append_csv("units.csv", ["step", "kl"], [[1, 2.0]])
    run.cut_back({})
    run.append_csv("units.csv", ["step", "kl"], [[1, 2.0]])
    assert (tmp_path / "units.csv").read_text() == "step,kl\n1,2.0\n"


def test_init_from_starts_a_new_run_from_the_weights_alone(small, tmp_path) -> None:
    """With a step of length 0 they are also what it ends with; where they came from is recorded."""
    new = trained(tmp_path / "new", f"init_from={small}", "lr=1e-30", "seed=3")
    one, two = (loading.load_weights(each / "checkpoints" / name).state for each, name in
                ((small, "best.ckpt"), (new, "last.ckpt")))  # fmt: skip
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-6, atol=1e-7)
    assert Run(new).read("provenance.json")["init_from"]["file"].endswith("best.ckpt")


def test_weights_of_another_architecture_are_refused(small, tmp_path) -> None:
    with pytest.raises(Refused, match="holds another"):
        trained(tmp_path / "new", f"init_from={small}", "latent_dim=3")


def test_a_run_begun_from_another_goes_on_without_it(small, tmp_path) -> None:
    """Its last checkpoint holds every weight; before the first one the other run is needed again."""
    source = Path(shutil.copytree(small, tmp_path / "source"))
    run = trained(tmp_path / "run", f"init_from={source}")
    shutil.rmtree(source)
    own = [*LINE, f"logger.csv.directory={run}", f"init_from={source}"]
    (run / "overrides.txt").write_text("".join(f"{line}\n" for line in own))
    line = [*own, f"resume={run}", "max_epochs=3"]
    train(config.compose(line), run, line)
    assert loading.load_weights(run / "checkpoints" / "last.ckpt").epoch == 2
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(Refused, match=r"init_from=.*is no folder"):
        train(config.compose(line), run, line)
