"""Sweeps as commands: jobs that end alone, the table, going on, searches, the ranks of a job. Trainings are stubs, in
forks of this process; tests/test_launchers.py trains."""

import errno
import logging
import os
import signal
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vaecollapse import agreeing, apart, cli, config, sweeping
from vaecollapse.agreeing import Group
from vaecollapse.apart import Said
from vaecollapse.refusal import Refused
from vaecollapse.run import Run

HERE, NO_ROOM = os.getpid(), "No space left on device"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Sweep:
    """The command in this process, in an empty folder, with a stub of a training."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture,
        caplog: pytest.LogCaptureFixture,
        folder: Path,
    ) -> None:
        self.patch, self.capture, self.warned, self.folder = monkeypatch, capfd, caplog, folder
        self.log = folder / "log"
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))
        for name in (None, "vaecollapse"):  # Hydra and the command line add handlers, bound to the stderr of one test
            log = logging.getLogger(name)
            monkeypatch.setattr(log, "handlers", list(log.handlers))
            monkeypatch.setattr(log, "level", log.level)

    def __call__(
        self, *argv: str, kills: float | None = None, fills: float | None = None, full: str | None = None
    ) -> Done:
        """`kills`: the beta whose job is killed; `fills`: whose job meets a full disk; `full`: the file that nobody can
        write any more."""

        def train(cfg, directory: Path, overrides: list[str]) -> types.SimpleNamespace:
            assert os.getpid() != HERE, "a job has a process of its own"
            with self.log.open("a") as log:
                log.write(f"{cfg.beta:g}\n")
            run = Run(directory)
            run.write("config.yaml", OmegaConf.to_yaml(OmegaConf.merge(cfg, {"resume": None}), resolve=True))
            run.write("overrides.txt", "".join(f"{line}\n" for line in overrides))
            if cfg.beta == kills:
                os.kill(os.getpid(), signal.SIGKILL)
            if cfg.beta == fills:
                raise OSError(errno.ENOSPC, NO_ROOM, str(directory / "metrics.jsonl"))
            run.append("metrics.jsonl", {"step": 1, "val/selection": 10 + cfg.beta})
            word = "posterior_collapse" if cfg.beta > 5 else "healthy"
            run.write("verdict.json", {"verdict": word, "readings": {"information_rank": {"value": 3.0}}})
            run.write("trained.json", {})
            return types.SimpleNamespace(verdict=word, diagnosis=None, directory=directory)

        write = Run.write

        def written(run: Run, name: str, content: object) -> None:
            if name == full:
                raise OSError(errno.ENOSPC, NO_ROOM, str(run.directory / name))
            write(run, name, content)

        with self.patch.context() as patch:
            patch.setattr(Run, "write", written)
            patch.setitem(sys.modules, "vaecollapse.tasks", types.SimpleNamespace(train=train))
            patch.setattr(sys, "argv", [cli.NAME, *argv])
            code = cli.train()
        out, err = self.capture.readouterr()
        return Done(code, out, err + self.warned.text)

    def trained(self) -> list[str]:
        found = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return found

    @property
    def directory(self) -> Path:
        (found,) = self.folder.glob("outputs/multirun/*")
        return found


@pytest.fixture(scope="module")
def imported() -> None:
    """What the jobs' configurations name, once, and not in each of the forks."""
    config.check_kinds(config.compose(["logger.csv.directory=none"]))


@pytest.fixture
def sweep(imported, monkeypatch, capfd, caplog, tmp_path) -> Sweep:
    return Sweep(monkeypatch, capfd, caplog, tmp_path)


def test_a_killed_job_and_a_refused_one_leave_the_others_and_only_they_are_run_again(sweep: Sweep) -> None:
    done = sweep("-m", "beta=2,-1,1", kills=2)
    assert done.returncode == cli.FAILED
    assert sweep.trained() == ["2", "1"]
    assert [job.outcome for job in sweeping.jobs(sweep.directory)] == ["killed", "refused", "healthy"]
    assert "SIGKILL" in done.stdout
    assert "beta must be a finite number" in done.stdout, "the reason stands beneath the table"
    assert f"sweep.resume={sweep.directory.relative_to(sweep.folder)}" in done.stderr
    again = sweep(f"sweep.resume={sweep.directory}")
    assert sweep.trained() == ["2"]
    assert [job.outcome for job in sweeping.jobs(sweep.directory)] == ["healthy", "refused", "healthy"]
    assert again.returncode == cli.FAILED, "one is still refused"
    wider = sweep("beta=0.5,2", f"sweep.resume={sweep.directory}")
    assert (wider.returncode, sweep.trained()) == (cli.FAILED, ["0.5"])
    assert {job.directory for job in sweeping.jobs(sweep.directory)} == {"0", "1", "2", "3"}


def test_a_disk_that_fills_up_names_the_job_that_met_it_and_the_others_go_on(sweep: Sweep) -> None:
    done = sweep("-m", "beta=1,2,4", fills=2)
    assert (done.returncode, sweep.trained()) == (cli.FAILED, ["1", "2", "4"])
    assert [job.outcome for job in sweeping.jobs(sweep.directory)] == ["healthy", "failed", "healthy"]
    assert "No space left on device" in done.stdout and "Traceback" not in done.stderr


def test_a_yaml_that_names_the_jobs_otherwise_is_told_that_they_have_numbers(sweep: Sweep) -> None:
    named = sweep.folder / "conf" / "experiment" / "named.yaml"
    named.parent.mkdir(parents=True)
    named.write_text("# @package _global_\nhydra:\n  sweep:\n    subdir: b${beta}\n")
    done = sweep("-m", "--config-dir", str(named.parents[1]), "experiment=named", "beta=1,2")
    assert [job.directory for job in sweeping.jobs(sweep.directory)] == ["0", "1"]
    said = [line for line in done.stderr.splitlines() if line.startswith("hydra.sweep.subdir: b${beta} is left out")]
    assert len(said) == 1


@pytest.mark.parametrize("file", [sweeping.PLAN, sweeping.ENDED])
def test_a_sweep_is_told_to_its_end_though_its_own_files_have_no_room(sweep: Sweep, file: str) -> None:
    done = sweep("-m", "beta=1,-1", full=file)
    assert (done.returncode, sweep.trained()) == (cli.FAILED, ["1"])
    assert file in done.stderr and "Traceback" not in done.stderr
    assert "healthy" in done.stdout and "beta must be a finite number" in done.stdout, "the table, with the reason"


def test_the_code_of_a_sweep_is_that_of_its_worst_job(sweep: Sweep) -> None:
    assert sweep("-m", "beta=1,6", "fail_on=[posterior_collapse]").returncode == cli.FAIL_ON
    assert [job.code for job in sweeping.jobs(sweep.directory)] == [0, cli.FAIL_ON]


def test_two_sweeps_of_one_moment_have_directories_of_their_own(sweep: Sweep) -> None:
    taken = sweep.folder / "outputs" / "multirun" / "now"
    assert sweep("-m", "beta=1", f"hydra.sweep.dir={taken}").returncode == 0
    assert sweep("-m", "beta=3", f"hydra.sweep.dir={taken}").returncode == 0
    assert sorted(path.name for path in taken.parent.iterdir()) == ["now", "now-2"]
    assert [job.overrides for job in sweeping.jobs(taken.with_name("now-2"))] == [("beta=3",)]


def test_a_search_minimises_under_its_constraint_and_goes_on(sweep: Sweep) -> None:
    pytest.importorskip("optuna")
    study = f"sqlite:///{sweep.folder}/study.db"
    line = ["-m", "hydra/sweeper=optuna", "beta=interval(0.1,10)", f"hydra.sweeper.storage={study}",
            "hydra.sweeper.study_name=price", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
            "hydra.sweeper.sampler.seed=1", "search.penalty=1000"]  # fmt: skip
    done = sweep(*line)
    assert done.returncode == 0, done.stderr
    rows = sweeping.jobs(sweep.directory)
    for job in rows:
        beta = float(next(line for line in job.overrides if line.startswith("beta=")).partition("=")[2])
        assert job.objective == pytest.approx(10 + beta + (1000 if beta > 5 else 0))
        assert job.feasible == (beta <= 5)
    assert {job.feasible for job in rows} == {True, False}, "both kinds were met"
    best = OmegaConf.load(sweep.directory / "optimization_results.yaml")
    assert best.best_value == pytest.approx(min(job.objective for job in rows))
    assert sweep(*line, "hydra.sweeper.n_trials=1").returncode == 0
    import optuna

    assert len(optuna.load_study(study_name="price", storage=study).trials) == 4, "the study goes on"


# ---- a job's process, and the ranks of one


@pytest.fixture
def hydras():
    """Hydra's settings of a job, as they are in its process."""
    config.register()
    with initialize_config_dir(str(config.folder()), version_base="1.3"):
        cfg = compose("train", ["regularizer=beta", "hydra.job.num=0"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    yield HydraConfig.get()
    HydraConfig.instance().cfg = None


def test_a_job_in_another_process_knows_the_line_of_its_sweep(hydras, monkeypatch) -> None:
    """submitit's have another sys.argv."""
    cloudpickle = pytest.importorskip("cloudpickle")
    line = ["-m", "--config-dir", "conf2", "regularizer=choice(beta)", "free_bits=0.3"]
    session = cli.TrainSession(line)
    monkeypatch.setattr(sys, "argv", ["train", *line])
    monkeypatch.setattr(cli.TrainSession, "run", lambda self, main: 0)
    assert session.command() == 0
    there = cloudpickle.loads(cloudpickle.dumps(session))
    monkeypatch.setattr(sys, "argv", ["_submit.py", "folder"])
    assert there.sweeps_a_group(), "a knob without effect is then no refusal"
    assert sweeping.flags(there.line) == ["--config-dir=conf2"]


class Ranks:
    """The processes of a job, one after the other in this one, each with what SLURM tells it; they do not train."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sweep: Path) -> None:
        self.patch, self.sweep, self.lines, self.vain = monkeypatch, sweep, [], []
        monkeypatch.setitem(sys.modules, "vaecollapse.tasks", types.ModuleType("vaecollapse.tasks"))
        monkeypatch.setattr(sweeping.Watch, "directory", None)
        monkeypatch.setattr(agreeing, "PATIENCE", 0.3)
        self.task("SLURM_STEP_ID", 0)
        self.task("SLURM_STEP_NUM_TASKS", 2)
        self.task("SLURM_JOB_ID", 4711)

    def task(self, name: str, value: int) -> None:
        self.patch.setenv(name, str(value))

    def __call__(self, rank: int, then=lambda place: None, code: int = 0) -> list[str] | None:
        """The command line of the job's process; `then` is what it does, with its directory."""
        self.task("SLURM_PROCID", rank)
        self.lines.clear()

        def work(call, in_vain) -> Said:
            self.lines.append(call.args[0])
            then(Path(call.args[0][-1].partition("=")[2].strip("'")))
            self.vain.append(in_vain())
            return Said(code)

        self.patch.setattr(apart, "apart", work)
        cli.TrainSession(["-m", "beta=2"]).lead(self.composed(self.sweep / "0"))
        return self.lines[0] if self.lines else None

    def composed(self, place: Path, beta: int = 2) -> DictConfig:
        """The configuration of a job, as it is where it runs."""
        place.mkdir(parents=True, exist_ok=True)
        typed = [f"beta={beta}", "hydra.job.num=0", f"hydra.runtime.output_dir={place}"]
        with initialize_config_dir(str(config.folder()), version_base="1.3"):
            cfg = compose("train", typed, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])

    def written(self, place: Path, beta: int = 2) -> None:
        """What a process of a job writes first."""
        (place / "config.yaml").write_text(OmegaConf.to_yaml(self.composed(place, beta), resolve=True))


@pytest.fixture
def ranks(monkeypatch, tmp_path) -> Ranks:
    config.register()
    yield Ranks(monkeypatch, tmp_path / "sweep")
    HydraConfig.instance().cfg = None


def test_a_rank_that_looks_after_the_first_has_begun_to_write_begins_as_it_did(ranks: Ranks) -> None:
    first = ranks(0, ranks.written)
    assert first and first[-1] == f"hydra.run.dir='{ranks.sweep / '0'}'"
    assert ranks(1) == first
    assert ranks(0)[-1] == f"resume='{ranks.sweep / '0'}'", "which is what another first would do"


def test_a_job_put_back_into_the_queue_goes_on_with_all_its_ranks(ranks: Ranks) -> None:
    assert ranks(0, ranks.written) == ranks(1)
    ranks.task("SLURM_RESTART_COUNT", 1)
    assert ranks(1) is None, "what was said of its first start is no word on this one"
    again = ranks(0)
    assert again == ranks(1) and again[-1].startswith("resume=")


@pytest.mark.parametrize("beta", [2, 3])
def test_the_ranks_of_a_sweep_that_goes_on_stand_in_one_directory(ranks: Ranks, beta: int) -> None:
    """The job's own run of before, or, where its directory is another job's, a new number: one, and not one each."""
    ranks.written(ranks.sweep / "0", beta)
    first = ranks(0, ranks.written)
    assert ranks(1) == first
    assert first[-1].startswith("resume=") == (beta == 2)
    assert sorted(place.name for place in sweeping.places(ranks.sweep)) == (["0"] if beta == 2 else ["0", "1"])


def test_a_job_that_is_finished_is_trained_by_no_rank(ranks: Ranks) -> None:
    ranks.written(ranks.sweep / "0")
    for file in ("verdict.json", "trained.json"):
        (ranks.sweep / "0" / file).write_text("{}")
    assert (ranks(0), ranks(1)) == (None, None)


def test_a_rank_that_is_told_nothing_says_so_and_trains_nothing(ranks: Ranks, capsys) -> None:
    assert ranks(1) is None
    assert "give the sweep a folder that all nodes see" in capsys.readouterr().err
    assert list(ranks.sweep.glob("*/config.yaml")) == []


@pytest.mark.parametrize(("code", "waits"), [(0, True), (cli.FAIL_ON, True), (1, False), (-9, False)])
def test_a_rank_does_not_wait_for_one_that_came_to_nothing(ranks: Ranks, code: int, waits: bool) -> None:
    ranks(0, code=code)
    ranks.vain.clear()
    ranks(1)
    assert ranks.vain == [not waits]


def test_a_rank_does_not_wait_for_a_first_that_cannot_decide(tmp_path) -> None:
    def full() -> dict:
        raise OSError("No space left on device")

    first, other = (Group(tmp_path / "words", rank, 2) for rank in range(2))
    with pytest.raises(OSError, match="No space left"):
        first.agreed(full)
    with pytest.raises(Refused, match="the first of 2 tasks could not decide"):
        other.agreed(full)


def test_a_rank_that_is_ended_as_another_came_to_nothing_tells_its_result(ranks: Ranks) -> None:
    """Nobody puts that job back into the queue, and whoever leads the sweep waits for all of its ranks."""
    ranks(0, ranks.written, code=1)
    ranks(1, code=cli.TERMINATED)
    assert sweeping.job_of(ranks.sweep / "0").code == 1, "the first's word stands"


@pytest.mark.parametrize(("code", "kept"), [(0, False), (1, False), (cli.INTERRUPTED, True), (cli.TERMINATED, True)])
def test_what_ranks_told_each_other_is_kept_where_some_may_go_on(tmp_path, code: int, kept: bool) -> None:
    (tmp_path / agreeing.FOLDER).mkdir()
    sweeping.note(tmp_path / "0", sweeping.Job(0, (), "0", "healthy"))
    assert cli.TrainSession(["-m"]).told(tmp_path, code) == code
    assert (tmp_path / agreeing.FOLDER).exists() == kept


def test_a_job_that_slurm_ends_leaves_its_word_and_tells_no_result(ranks: Ranks) -> None:
    """It may be put back into the queue, and whoever leads the sweep waits for that."""
    with pytest.raises(SystemExit):
        ranks(0, ranks.written, code=cli.TERMINATED)
    assert sweeping.job_of(ranks.sweep / "0").outcome == "interrupted"


def test_a_sweep_that_srun_starts_several_times_is_refused(ranks: Ranks, capsys) -> None:
    ranks.patch.setattr(sweeping.Watch, "directory", ranks.sweep)
    assert (ranks(0), ranks(1)) == (None, None)
    assert "leave srun out" in capsys.readouterr().err
