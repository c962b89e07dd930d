"""Launchers carry out good jobs and bad ones: the command itself, training."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vaecollapse import cli, sweeping
from vaecollapse.run import Run

ROOT = str(Path(__file__).parents[1])
TINY = ["model=linear", "max_epochs=1", "dataset.examples=256", "trainer.accelerator=cpu", "report=false",
        "callback=[collapse_monitor,checkpoints]", "callback.collapse_monitor.final_examples=64"]  # fmt: skip
RANKS = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
WANDB = ["logger=wandb", "logger.wandb.offline=true"]


def launched(folder: Path, *argv: str) -> subprocess.CompletedProcess:
    """The command itself, training."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    env |= {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
    line = [sys.executable, "-m", "vaecollapse", "train", "-m", *TINY, *argv]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


def trained(folder: Path, good: list[int]) -> Path:
    """The sweep's directory: its good jobs ended with a verdict and one validation, each of them in one place."""
    (sweep,) = folder.glob("outputs/multirun/*")
    assert [path.name for path in (folder / "outputs").iterdir()] == ["multirun"], "no twin folders"
    rows = sweeping.jobs(sweep)
    assert [job.number for job in rows if job.whole] == good == [job.number for job in rows if job.outcome != "refused"]
    assert [judged(sweep / str(number)) for number in good] == [rows[number].outcome for number in good]
    return sweep


def judged(place: Path) -> str:
    """A run's verdict, after the one validation that it had."""
    assert len([row for row in Run(place).lines("metrics.jsonl") if "val/selection" in row]) == 1, "logged, and once"
    return Run(place).read("verdict.json")["verdict"]


def needs(launcher: str) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")


@pytest.mark.parametrize(("launcher", "second"), [("basic", 8), ("submitit_local", -1)])
def test_jobs_of_two_processes_have_a_directory_and_a_wandb_run_each(tmp_path, launcher: str, second: int) -> None:
    """Two in one process that leads them; in processes of their own one, beside one of a refused plan."""
    needs(launcher)
    done = launched(tmp_path, f"hydra/launcher={launcher}", f"beta=1,{second}", *RANKS, *WANDB)
    good = [number for number, beta in enumerate((1, second)) if beta > 0]
    assert done.returncode == (0 if len(good) == 2 else cli.FAILED), done.stderr
    assert ("beta must be a finite number" in done.stdout) == (second < 0)
    sweep = trained(tmp_path, good)
    kept = sorted(path.parents[1].relative_to(sweep).as_posix() for path in tmp_path.rglob("offline-run-*"))
    assert kept == [str(number) for number in good], "one each, and none elsewhere"


def test_jobs_at_once_on_joblib_train_beside_a_refused_one(tmp_path) -> None:
    needs("joblib")
    done = launched(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "beta=1,-1")
    assert done.returncode == cli.FAILED and "beta must be a finite number" in done.stdout, done.stderr
    trained(tmp_path, [0])


def test_slurms_tasks_are_the_ranks_of_a_job_and_stand_in_one_directory(tmp_path) -> None:
    """In a sweep whose directory 0 is another job's: each by itself would make the next number its own."""
    needs("submitit")
    if not (shutil.which("sinfo") and subprocess.run(["sinfo"]).returncode == 0):
        pytest.skip("no SLURM answers here")
    sweep = tmp_path / "sweep"
    for name in ("0", "7"):
        Run(sweep / name).write("config.yaml", "beta: 7\n")
    slurm = ["timeout_min=20", "cpus_per_task=1", "mem_gb=2", "tasks_per_node=2"]
    line = ["hydra/launcher=submitit_slurm", *(f"hydra.launcher.{word}" for word in slurm), *RANKS, "beta=1,-1"]
    done = launched(tmp_path, *line, f"sweep.resume={sweep}")
    assert done.returncode == cli.FAILED and "beta must be a finite number" in done.stdout, done.stderr
    assert {job.directory: job.outcome for job in sweeping.jobs(sweep) if job.overrides} == {
        "8": judged(sweep / "8"),
        "1": "refused",
    }
    assert sorted(place.name for place in sweeping.places(sweep)) == ["0", "1", "7", "8"], "no twin folders"
    assert not (sweep / ".tasks").exists(), "what the tasks told each other is of no use to anyone"
