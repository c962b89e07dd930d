"""What a machine may lack: a run works without it, or says in a sentence what it needs."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
SPEC = importlib.util.spec_from_file_location("fuzz_for_starved", FUZZ)
assert SPEC
assert SPEC.loader
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)
TRAINS = fuzz.BASES["linear"]


class Done(NamedTuple):
    """How a command ended, and the runs it left."""

    code: int | None
    out: str
    err: str
    runs: list[Path]

    @property
    def sentence(self) -> str:
        """The first thing a refused command said."""
        assert self.code == 1, self.err
        assert not any(text in self.err for text in fuzz.FORBIDDEN), self.err
        said = [line for line in self.err.splitlines() if line.startswith("vaecollapse-train: ")]
        return next(line for line in said if not line.startswith("vaecollapse-train: job "))


@pytest.fixture(scope="module", autouse=True)
def preloaded():
    fuzz.preload()


@pytest.fixture
def command(tmp_path) -> Callable[..., Done]:
    def command(*words: str, before: Callable[[], object] = lambda: None) -> Done:
        code = fuzz.waited(fuzz.forked(fuzz.Case(list(words), list(words)), tmp_path, before))
        out, err = ((tmp_path / name).read_text("utf-8", "replace") for name in ("stdout", "stderr"))
        return Done(code, out, err, sorted(path.parent for path in (tmp_path / "work").glob("**/verdict.json")))

    return command


# ---- disks


def test_a_full_disk_is_a_sentence_and_leaves_files_whole(command, tmp_path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(full)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        done = command(*TRAINS, f"hydra.run.dir={full}/run")
        assert "No space left" in done.sentence
        assert [path for path in full.rglob(".*") if path.is_file()] in ([], [full / "run" / ".lock"])
        for file in full.rglob("*.json"):
            json.loads(file.read_text())
    finally:
        subprocess.run(["umount", str(full)], check=True)


def limit_file_size() -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


def test_a_file_that_cannot_grow_is_a_sentence(command) -> None:
    assert "room on its disk" in command(*TRAINS, before=limit_file_size).sentence


@pytest.mark.parametrize("folder", ["/proc/nowhere/run", "a_file/run"])
def test_a_folder_that_cannot_be_written_is_a_sentence(command, folder) -> None:
    done = command(*TRAINS, f"hydra.run.dir={folder}")
    assert "give the run a folder it can write to" in done.sentence
    assert len(done.err.splitlines()) == 1
    done = command("-m", *TRAINS, f"hydra.sweep.dir={folder}")
    assert "give the run a folder it can write to" in done.sentence


def test_outputs_may_lie_on_another_file_system(command) -> None:
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        pytest.skip("no /dev/shm to write to")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        assert command(*TRAINS, f"hydra.run.dir={folder}/run").code == 0
        assert (Path(folder) / "run" / "verdict.json").is_file()


# ---- clocks


def stopped_clock() -> None:
    import datetime

    from hydra.core import utils

    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2020, 1, 1, 12, 0, 0, 5)

    utils.datetime = Stopped


def test_runs_of_the_same_microsecond_get_directories_of_their_own(tmp_path) -> None:
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for folder in folders:
        folder.mkdir()

    def before() -> None:
        stopped_clock()
        os.chdir(tmp_path)

    case = fuzz.Case(list(TRAINS), list(TRAINS))
    codes = [fuzz.waited(pid) for pid in [fuzz.forked(case, folder, before) for folder in folders[:2]]]
    codes.append(fuzz.waited(fuzz.forked(case, folders[2], before)))
    assert codes == [0, 0, 0], (folders[0] / "stderr").read_text() + (folders[1] / "stderr").read_text()
    runs = sorted(tmp_path.glob("outputs/train/*"))
    assert len(runs) == 3
    for run in runs:
        assert (run / "verdict.json").is_file()
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps), "one run's numbers only"
        assert not (run / ".running").exists()


def test_a_second_run_in_the_same_folder_is_refused_and_changes_nothing(command) -> None:
    first = command(*TRAINS, "hydra.run.dir=mine")
    before = {path.name: path.read_bytes() for path in first.runs[0].iterdir() if path.is_file()}
    assert "mine holds a run already" in command(*TRAINS, "hydra.run.dir=mine").sentence
    assert {path.name: path.read_bytes() for path in first.runs[0].iterdir() if path.is_file()} == before


# ---- the environment


def without(*names: str, **given: str) -> Callable[[], None]:
    def before() -> None:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(given)

    return before


def close_stdin() -> None:
    os.close(0)
    sys.stdin = None


def ascii_only() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii", errors="strict")


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(without("PATH"), id="no git"),
        pytest.param(without("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "USER"), id="no home"),
        pytest.param(without(HOME="/proc/nowhere", XDG_CACHE_HOME="/proc/nowhere/c"), id="home unwritable"),
        pytest.param(close_stdin, id="stdin closed"),
        pytest.param(ascii_only, id="a terminal without our letters"),
    ],
)
def test_a_run_needs_no(command, before) -> None:
    done = command(*TRAINS, before=before)
    assert done.code == 0, done.err
    assert len(done.runs) == 1


# ---- sweeps


def test_one_bad_job_of_a_sweep_leaves_the_others_whole(command) -> None:
    done = command("-m", *TRAINS, "seed=0,1", "trainer.limit_train_batches=null,0")
    assert done.code == 1
    assert [run.name for run in done.runs if (run / "config.yaml").is_file()] == ["0", "2"]
    words = {
        file.parent.name: json.loads(file.read_text())["outcome"] == "refused"
        for file in done.runs[0].parent.glob("*/job.json")
    }
    assert words == {"0": False, "1": True, "2": False, "3": True}
    said = [line for line in done.err.splitlines() if "trains nothing" in line]
    assert len(said) == 2, "each job says why it is refused"
