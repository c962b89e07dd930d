"""Sweeps: jobs that end alone, the table of what became of them, going on, and what a search is told."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from vaecollapse import cli, config, sweeping
from vaecollapse.apart import Said, _pass_on, apart
from vaecollapse.refusal import Refused
from vaecollapse.resuming import replayed
from vaecollapse.run import Run
from vaecollapse.search import Search, best_selection
from vaecollapse.sweeping import Job

ROOT = str(Path(cli.__file__).parents[1])

# ---- a process of its own


def test_work_apart_tells_its_end_and_is_another_process() -> None:
    said = apart(lambda: Said(3, str(os.getpid()), "there"))
    assert said == Said(3, said.reason, "there")
    assert said.reason != str(os.getpid())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_a_signal_ends_the_work_alone_and_is_named(number: signal.Signals) -> None:
    said = apart(lambda: os.kill(os.getpid(), number))
    assert said.code == -number
    assert number.name in (said.reason or "")


def test_work_that_raises_or_leaves_is_an_end_too(capfd) -> None:
    assert apart(lambda: 1 / 0).code == 1
    assert apart(lambda: os._exit(7)) == Said(7, "its process ended with code 7 and said nothing")


def wait_and_note(file: Path) -> Said:
    try:
        file.write_text("here")
        time.sleep(30)
    except KeyboardInterrupt:
        file.write_text("interrupted")
    return Said(130)


def test_an_interruption_reaches_the_work_once_and_is_raised_again(tmp_path) -> None:
    file = tmp_path / "state"

    def interrupt() -> None:
        while not file.exists() or not file.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            apart(partial(wait_and_note, file))
    finally:
        signal.signal(signal.SIGINT, heard)
    thread.join()
    assert file.read_text() == "interrupted"


@pytest.mark.skipif(sys.platform != "linux", reason="work is a fork on Linux alone")
def test_an_interruption_reaches_work_that_leads_no_group_yet() -> None:
    process = multiprocessing.get_context("fork").Process(target=signal.pause)
    process.start()
    _pass_on(process, signal.SIGKILL)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_work_does_not_outlive_who_asked_for_it(tmp_path) -> None:
    file = tmp_path / "pid"
    code = (
        "import os, pathlib, time\\n"
        "from vaecollapse.apart import apart\\n"
        f"apart(lambda: (pathlib.Path({str(file)!r}).write_text(str(os.getpid())), time.sleep(60)))"
    ).replace("\\n", "\n")
    asking = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT})
    while not file.exists() or not file.read_text():
        time.sleep(0.01)
    asking.kill()
    asking.wait()
    for _ in range(1000):
        if not Path(f"/proc/{file.read_text()}").exists() or "Z" in Path(f"/proc/{file.read_text()}/stat").read_text():
            break
        time.sleep(0.01)
    else:
        pytest.fail("it goes on")


# ---- directories


def planted(sweep: Path, name: str, config: str = "beta: 1\n", **files: str) -> Path:
    place = sweep / name
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(config.replace("{}", str(place)))
    for file, text in files.items():
        (place / f"{file}.json").write_text(text)
    return place


DONE = {"verdict": '{"verdict": "healthy"}', "trained": "{}"}


def test_a_job_belongs_where_its_plan_is(tmp_path) -> None:
    cfg = OmegaConf.create({"beta": 1, "at": str(tmp_path / "5")})
    text = "beta: 1\nat: {}\n"
    assert sweeping.place_for(cfg, tmp_path / "5") == tmp_path / "5", "a new one: its own directory"
    planted(tmp_path, "0", text)
    assert sweeping.place_for(cfg, tmp_path / "5").name == "0", "begun: there"
    planted(tmp_path, "3", text, **DONE)
    assert sweeping.place_for(cfg, tmp_path / "5").name == "3", "finished: there before all"
    other = OmegaConf.create({"beta": 2, "at": str(tmp_path / "0")})
    assert sweeping.place_for(other, tmp_path / "0").name == "4", "another's directory: the next number"
    assert (tmp_path / "4").is_dir(), "which is taken at once"


def test_what_changes_no_number_and_a_moved_sweep_leave_a_run_the_same(tmp_path) -> None:
    ran = {"beta": 1, "trust": [], "probe": False, "trainer": {"devices": 1}, "fail_on": [], "report": True,
           "preflight": "run", "search": {"penalty": 1.0}, "sweep": {"resume": None}, "resume": None}  # fmt: skip
    now = {**ran, "trust": ["mine"], "probe": True, "fail_on": ["diverged"], "report": False, "preflight": "only",
           "search": {"penalty": 2.0}, "sweep": {"resume": "here"}, "resume": "there"}  # fmt: skip
    here, there = ({"logger": {"csv": {"directory": f"/{place}/0"}}} for place in ("now", "old"))
    planted(tmp_path, "0", OmegaConf.to_yaml(OmegaConf.create({**ran, **there})), **DONE)

    def place(**changed) -> str:
        return sweeping.place_for(OmegaConf.create({**now, **here, **changed}), tmp_path / "0").name

    assert place() == "0"
    assert (place(beta=2), place(trainer={"devices": 2})) == ("1", "2"), "what counts is compared"


def test_a_job_that_has_begun_goes_on_with_its_flags_and_what_may_change(tmp_path) -> None:
    task = ["beta=2", "trust=[mine]", "max_epochs=3", "++fail_on=[diverged]"]
    found = sweeping.line_of(None, task, ["-m", "-cd", "conf2", *task], planted(tmp_path, "0"))
    assert found == ["--config-dir=conf2", "trust=[mine]", "++fail_on=[diverged]", f"resume='{tmp_path / '0'}'"]
    (tmp_path / "0" / "overrides.txt").write_text("beta=2\nmax_epochs=3\nfail_on=[]\n")
    assert replayed(found)[:3] == ["beta=2", "max_epochs=3", "--config-dir=conf2"], "which is a line that goes on"


def test_what_became_of_a_job_comes_from_its_directory(tmp_path) -> None:
    planted(tmp_path, "0", **DONE)
    planted(tmp_path, "1")
    place = planted(tmp_path, "2", **DONE)
    sweeping.note(place, Job(2, ("beta=1",), "2", "healthy", seconds=1.5))
    (planted(tmp_path, "10") / sweeping.ENDED).write_text("[torn")
    rows = sweeping.jobs(tmp_path)
    assert [(job.number, job.outcome, job.whole) for job in rows] == [
        (0, "healthy", True),
        (1, "unfinished", False),
        (2, "healthy", True),
        (10, "unfinished", False),
    ]
    assert (rows[2].overrides, rows[2].seconds) == (("beta=1",), 1.5)


@pytest.mark.parametrize(
    ("said", "files", "outcome"),
    [
        (Said(0), {**DONE}, "healthy"),
        (Said(3), {**DONE}, "healthy"),
        (Said(1, "no"), {}, "failed"),
        (Said(130), {}, "interrupted"),
        (Said(143), {}, "interrupted"),
        (Said(-9), {}, "killed"),
    ],
)
def test_the_end_of_a_process_is_a_word(tmp_path, said, files, outcome) -> None:
    place = planted(tmp_path, "0", **files)
    assert sweeping.ended(0, [], place, said, 1.0).outcome == outcome
    assert sweeping.ended(0, [], tmp_path / "none", Said(1, "no"), 1.0).outcome == "refused"


def test_the_table_shows_what_varies_and_says_each_reason_once(tmp_path) -> None:
    rows = [
        Job(0, ("model=linear", "beta=1", "+x=2"), "0", "healthy"),
        Job(1, ("model=linear", "beta=2"), "1", "killed", -9, "gone"),
        Job(2, ("model=linear", "beta=4"), "2", "killed", -9, "gone"),
    ]
    head, table, sentences = sweeping.lines(tmp_path, rows)
    assert head[:4] == ["job", "beta", "x", "verdict"]
    assert [row[:4] for row in table] == [
        ["0", "1", "2", "healthy"],
        ["1", "2", "", "killed"],
        ["2", "4", "", "killed"],
    ]
    assert sentences == ["jobs 1, 2: gone"]


# ---- going on


def test_a_sweep_goes_on_with_its_own_command_or_the_one_typed(tmp_path) -> None:
    Run(tmp_path).write(sweeping.PLAN, {"command": ["-m", "beta=1,2", "hydra.sweep.dir=old"]})
    there = f"hydra.sweep.dir='{tmp_path}'"
    assert sweeping.taken_up([f"sweep.resume={tmp_path}"]) == ["-m", "beta=1,2", there]
    assert sweeping.taken_up(["beta=1,2,4", f"sweep.resume={tmp_path}"]) == ["-m", "beta=1,2,4", there]
    assert sweeping.taken_up(["beta=1", "sweep.resume=null"]) == ["beta=1", "sweep.resume=null"]


@pytest.mark.parametrize(
    ("typed", "goes_on"),
    [
        (["hydra/launcher=joblib"], ["-m", "beta=1,2", "fail_on=[diverged]", "-cd", "hydra/launcher=joblib"]),
        (["trust=[mine]", "fail_on=[]"], ["-m", "beta=1,2", "-cd", "trust=[mine]", "fail_on=[]"]),
        (["-m", "--config-dir", "two=2"], ["beta=1,2", "fail_on=[diverged]", "-m", "--config-dir=two=2"]),
        (["max_epochs=9"], ["-m", "max_epochs=9"]),
        (["hydra.sweeper.params.seed=1,2"], ["-m", "hydra.sweeper.params.seed=1,2"]),
    ],
)
def test_words_on_how_a_sweep_is_run_join_its_own_command_and_others_are_another_grid(tmp_path, typed, goes_on) -> None:
    own = ["-m", "beta=1,2", "fail_on=[diverged]", "-cd", "conf2"]
    Run(tmp_path).write(sweeping.PLAN, {"command": own})
    there = [line.replace("-cd", "--config-dir=conf2") for line in goes_on]
    assert sweeping.taken_up([*typed, f"sweep.resume={tmp_path}"]) == [*there, f"hydra.sweep.dir='{tmp_path}'"]


@pytest.mark.parametrize(
    ("name", "typed", "why"),
    [
        ("nowhere", [], "holds no sweep"),
        (".", [], "holds no sweep"),
        ("lost", [], "names no command"),
        ("lost", ["beta=1,2", "hydra.sweep.dir=x"], "leave hydra.sweep.dir out"),
    ],
)
def test_what_is_no_sweep_cannot_go_on(tmp_path, name, typed, why) -> None:
    planted(tmp_path / "lost", "0")
    with pytest.raises(Refused, match=why):
        sweeping.taken_up([*typed, f"sweep.resume={tmp_path / name}"])


def refused_sweep(directory: Path, *reasons: str) -> Path:
    """As one is left whose jobs were all refused, in processes that nobody reads."""
    Run(directory).write(sweeping.PLAN, {"command": ["-m"]})
    for number, reason in enumerate(reasons):
        sweeping.note(directory / str(number), Job(number, (), str(number), "refused", 1, reason))
    return directory


def test_a_sweep_that_is_refused_altogether_says_why_once_and_leaves_nothing(tmp_path, capsys) -> None:
    session = cli.TrainSession([])
    session.said.add("seen")  # by a job of this process
    assert session.told(refused_sweep(tmp_path / "all", "no", "no", "seen"), 0) == cli.FAILED
    assert capsys.readouterr().err == f"{cli.NAME}: jobs 0, 1: no\n"
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(("code", "ends", "says"), [(0, 1, "no job"), (130, 130, ""), (1, 1, "")])
def test_a_sweep_without_a_job_is_no_success(tmp_path, capsys, code: int, ends: int, says: str) -> None:
    assert cli.TrainSession([]).told(refused_sweep(tmp_path / "none"), code) == ends
    said = capsys.readouterr().err
    assert says in said and bool(says) == bool(said)


def test_only_numbers_are_jobs(tmp_path) -> None:
    for name in ("0", "3-2", "2026-11-22_02-46-00-123456", "12_old", "b1"):
        (tmp_path / name).mkdir()
    assert sorted(place.name for place in sweeping.places(tmp_path)) == ["0", "3-2"]


@pytest.mark.parametrize("typed", [["-m", "beta=1,2"], ["sweep.resume=outputs"]])
def test_the_jobs_of_a_sweep_keep_their_numbers_for_names(typed: list[str]) -> None:
    with pytest.raises(Refused, match="numbers"):
        sweeping.taken_up([*typed, "hydra.sweep.subdir=b${beta}"])


def test_what_has_not_begun_is_what_no_job_was_asked_for(tmp_path) -> None:
    sweeper = {"_target_": "hydra.BasicSweeper", "params": {"seed": "0,1"}}
    task = ["model=linear", "beta=1,1,2", "trust=[mine]"]
    grid = OmegaConf.create({"hydra": {"sweeper": sweeper, "overrides": {"task": task}}})
    jobs = sweeping.planned(grid)
    assert jobs and len({*jobs}) == 4 and jobs[0] == ("seed=0", "model=linear", "beta=1")
    twin = Job(1, (*jobs[-1], "trust=[]"), "1", "healthy").asked_as(jobs[0])
    sweeping.note(tmp_path / "1", twin)
    rows = [Job(0, ("beta=7",), "0", "healthy"), sweeping.job_of(tmp_path / "1")]
    assert rows[1] == twin == twin.asked_as(jobs[0]), "known once, and as it was written"
    assert sweeping.missing(jobs, rows) == 2, "of this grid: another's job in the same sweep is none of it"
    search = OmegaConf.create({"hydra": {"sweeper": {"_target_": "OptunaSweeper"}, "overrides": {"task": []}}})
    assert sweeping.planned(search) is None


# ---- a search


def run_of(
    place: Path,
    *,
    word: str = "healthy",
    rank: float | None = 3.0,
    selection: float | None = 12.0,
    events: tuple[dict, ...] = (),
) -> Path:
    run = Run(place)
    for event in events:
        run.append("events.jsonl", event)
    run.write("verdict.json", {"verdict": word, "readings": {"information_rank": {"value": rank}}})
    for value in (None, selection and selection + 1, selection):
        run.append("metrics.jsonl", {"step": 1, "val/selection": value})
    return place


@pytest.mark.parametrize(
    ("run", "objective", "feasible", "why"),
    [
        ({}, 12.0, True, None),
        ({"word": "posterior_collapse"}, 112.0, False, "its verdict is posterior_collapse"),
        ({"rank": 1.0}, 112.0, False, "its information rank is 1"),
        ({"events": ({"event": "alarm", "alarm": "fading"},)}, 12.0, True, None),
        ({"events": ({"event": "stopped", "alarm": "fading"},)}, 112.0, False, "the alarm fading stopped it"),
        (
            {"word": "prior_hole", "rank": None},
            212.0,
            False,
            "its verdict is prior_hole; its information rank is unknown",
        ),
        (
            {"word": "diverged", "selection": None, "rank": 3.0},
            300.0,
            False,
            "its verdict is diverged; it has no selection",
        ),
    ],
)
def test_what_breaks_a_constraint_is_penalised_and_said(tmp_path, run, objective, feasible, why) -> None:
    search = Search("selection", ("healthy",), 2.0, 100.0)
    assert search.judged(run_of(tmp_path, **run)) == (objective, feasible, why)
    upwards = search._replace(maximize=True, objective="information_rank")
    assert upwards.judged(tmp_path)[0] <= 3.0, "a penalty never helps"


def test_the_best_selection_is_the_smallest_that_was_logged(tmp_path) -> None:
    assert best_selection(run_of(tmp_path)) == 12.0
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"val/sel\n\xff[1]\n{"val/selection": 11}\n{"val/selection": 1')
    assert best_selection(tmp_path) == 11.0, "torn lines are left out"
    assert best_selection(tmp_path / "empty") is None


# ---- the command itself, with a training that costs nothing

STUB = """
import errno, json, os, pathlib, signal, sys, types
from omegaconf import OmegaConf
from vaecollapse import cli
from vaecollapse.run import Run

def train(cfg, directory, overrides):
    with open({log!r}, "a") as log:
        log.write(f"{{cfg.beta:g}}\\n")
    run = Run(directory)
    run.write("config.yaml", OmegaConf.to_yaml(OmegaConf.merge(cfg, {{"resume": None}}), resolve=True))
    run.write("overrides.txt", "".join(f"{{line}}\\n" for line in overrides))
    if cfg.beta == {kills}:
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.beta == {fills}:
        raise OSError(errno.ENOSPC, "No space left on device", str(directory / "metrics.jsonl"))
    run.append("metrics.jsonl", {{"step": 1, "val/selection": 10 + cfg.beta}})
    word = "posterior_collapse" if cfg.beta > 5 else "healthy"
    run.write("verdict.json", {{"verdict": word, "readings": {{"information_rank": {{"value": 3.0}}}}}})
    run.write("trained.json", {{}})
    return types.SimpleNamespace(verdict=word, diagnosis=None, directory=directory)

import vaecollapse.tasks  # the forks then have torch

write = Run.write

def full(self, name, content):
    if name == {full!r}:
        raise OSError(errno.ENOSPC, "No space left on device", str(self.directory / name))
    write(self, name, content)

Run.write = full
vaecollapse.tasks.train = train
sys.argv = ["vaecollapse-train", *{argv!r}]
sys.exit(cli.train())
"""


class Sweep:
    """The command with a stub of a training, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"

    def __call__(
        self, *argv: str, kills: float | None = None, fills: float | None = None, full: str | None = None
    ) -> subprocess.CompletedProcess:
        """`kills`: the beta whose job is killed; `fills`: whose job meets a full disk; `full`: the file that nobody can
        write any more."""
        code = STUB.format(log=str(self.log), kills=kills, fills=fills, full=full, argv=list(argv))
        env = {**os.environ, "PYTHONPATH": ROOT, "COLUMNS": "160"}
        return subprocess.run([sys.executable, "-c", code], cwd=self.folder, env=env, capture_output=True, text=True)

    def trained(self) -> list[str]:
        found = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return found

    @property
    def directory(self) -> Path:
        (found,) = self.folder.glob("outputs/multirun/*")
        return found


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    return Sweep(tmp_path)


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


def test_of_sweeps_that_start_at_once_each_has_a_directory(tmp_path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(sweeping.alone, [tmp_path / "now"] * 8))
    assert len({*found}) == 8 and all((place / sweeping.PLAN).is_file() for place in found)


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


# ---- launchers


@pytest.fixture
def hydras():
    """Hydra's settings of a job, as they are in its process."""
    config.register()
    with initialize_config_dir(str(config.folder()), version_base="1.3"):
        cfg = compose("train", ["regularizer=beta", "hydra.job.num=0"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    yield HydraConfig.get()
    HydraConfig.instance().cfg = None


def test_a_job_in_another_process_knows_the_line_of_its_sweep(hydras, tmp_path, monkeypatch) -> None:
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
    lines = []
    monkeypatch.setattr(sweeping, "line_of", lambda context, task, argv, place: lines.extend(argv))
    monkeypatch.setattr("vaecollapse.apart.apart", lambda work: Said(1, "no"))
    there.carried_out(hydras, tmp_path / "0")
    assert sweeping.flags(lines) == ["--config-dir=conf2"]


TINY = ["model=linear", "max_epochs=1", "dataset.examples=256", "trainer.accelerator=cpu",
        "callback=[collapse_monitor,checkpoints]", "callback.collapse_monitor.final_examples=64"]  # fmt: skip


def launched(folder: Path, *argv: str) -> subprocess.CompletedProcess:
    """The command itself, training."""
    env = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "vaecollapse", "train", "-m", *TINY, *argv]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


LAUNCHERS = {
    "joblib": [],
    "submitit_local": ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"],
    "submitit_slurm": ["hydra.launcher.timeout_min=20", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"],
}


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_a_launcher_carries_out_good_jobs_and_bad_ones(tmp_path, launcher: str) -> None:
    """One of a refused plan and one of two processes, whose ranks make no runs of their own."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    if launcher == "submitit_slurm" and not (shutil.which("sinfo") and subprocess.run(["sinfo"]).returncode == 0):
        pytest.skip("no SLURM answers here")
    done = launched(tmp_path, f"hydra/launcher={launcher}", "beta=1,-1", *LAUNCHERS[launcher])
    assert done.returncode == cli.FAILED, done.stderr
    (sweep,) = tmp_path.glob("outputs/multirun/*")
    assert [job.outcome == "refused" for job in sweeping.jobs(sweep)] == [False, True], done.stdout
    assert "beta must be a finite number" in done.stdout
    assert not list(tmp_path.glob("outputs/train/*")), "no twin folders"
    numbers = [json.loads(line) for line in (sweep / "0" / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in numbers if "val/selection" in row]) == 1, "logged, and once"
