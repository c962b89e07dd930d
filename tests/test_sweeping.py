"""Sweeps: what became of every job, the table of it, going on, and what a search is told."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vaecollapse import cli, sweeping
from vaecollapse.apart import Said
from vaecollapse.refusal import Refused
from vaecollapse.resuming import replayed
from vaecollapse.run import Run
from vaecollapse.search import Search, best_selection
from vaecollapse.sweeping import Job

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


def test_of_sweeps_that_start_at_once_each_has_a_directory(tmp_path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(sweeping.alone, [tmp_path / "now"] * 8))
    assert len({*found}) == 8 and all((place / sweeping.PLAN).is_file() for place in found)


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


@pytest.mark.parametrize(("elsewhere", "says"), [(True, f"{cli.NAME}: jobs 0, 1: no\n"), (False, "")])
def test_a_sweep_that_is_refused_altogether_says_why_where_its_jobs_did_not_and_leaves_nothing(
    tmp_path, capsys, monkeypatch, elsewhere: bool, says: str
) -> None:
    monkeypatch.setattr(sweeping.Watch, "elsewhere", elsewhere)
    assert cli.TrainSession([]).told(refused_sweep(tmp_path / "all", "no", "no"), 0) == cli.FAILED
    assert capsys.readouterr().err == says
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
