"""A run that was ended at any moment and resumed says and weighs the same as one that never was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import killing
import pytest

from vaecollapse.refusal import Refused
from vaecollapse.resuming import replayed
from vaecollapse.run import Run

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


@pytest.mark.parametrize("moment", killing.MOMENTS)
def test_a_run_ended_at_any_moment_goes_on_to_the_same_bits(ended, moment: str) -> None:
    """Parameters, optimizer, best weights, metrics, per-unit series and the verdict."""
    codes = {"ctrl-c 5": 130, "sigterm 12": 143}
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


@pytest.mark.parametrize("line", ["beta=3", "model=audio", "+x=1", "~callback.samples", "dataset.seed=2", "seed=1"])
def test_what_would_make_it_another_run_is_refused(run, line: str) -> None:
    with pytest.raises(Refused, match="init_from"):
        replayed([f"resume={run}", line])


@pytest.mark.parametrize("line", ["hydra.callbacks.x._target_=os.system", "--config-dir=/tmp", "hydra/launcher=joblib"])
def test_a_planted_command_line_is_refused(run, line: str) -> None:
    (run / "overrides.txt").write_text(f"{line}\n")
    with pytest.raises(Refused, match="no run writes"):
        replayed([f"resume={run}"])


def test_a_folder_that_is_no_run_and_a_sweep_are_refused(run, tmp_path_factory) -> None:
    with pytest.raises(Refused, match="no run directory"):
        replayed([f"resume={tmp_path_factory.mktemp('empty')}"])
    with pytest.raises(Refused, match="drop -m"):
        replayed([f"resume={run}", "-m"])


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
