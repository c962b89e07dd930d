"""Run directories as they are found in the wild: whole, broken, running, foreign, from elsewhere."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from planted_runs import add_evaluation, add_sounds, plant

from vaecollapse import cli, config
from vaecollapse.help import keys_of
from vaecollapse.refusal import Refused
from vaecollapse.report import Kept, leave_page, report
from vaecollapse.report.folders import Place, places
from vaecollapse.report.markdown import cell, code, evaluations
from vaecollapse.report.page import FEW, POINTS, SERIES, data_of, html
from vaecollapse.report.page import run as page_run
from vaecollapse.report.reading import read
from vaecollapse.report.samples import EMPTY, Purse, embedded
from vaecollapse.report.verdict import shown as shown_of


def data(page: Path) -> dict:
    text = page.read_text("utf-8")
    start = '<script type="application/json" id="data">'
    return json.loads(text[text.index(start) + len(start) :].partition("</script>")[0])


def found(*patterns: object) -> list[str]:
    return [place.name for place in places([str(pattern) for pattern in patterns])]


# ---- which directories


def test_a_run_a_folder_a_glob_and_a_list_name_the_same_runs_once(tmp_path, monkeypatch):
    for name in ("sweep/2", "sweep/10", "sweep/deep/er/0", "single"):
        plant(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    assert found(tmp_path / "sweep") == ["2", "10", "deep/er/0"]
    assert found(tmp_path / "sweep" / "*", tmp_path / "single", tmp_path / "s*") == [
        "sweep/2", "sweep/10", "sweep/deep/er/0", "single"]  # fmt: skip
    assert found(tmp_path / "**" / "1?") == ["10"]
    assert found(tmp_path / "single") == ["single"]
    monkeypatch.chdir(tmp_path / "single")
    assert found(".") == ["single"]


@pytest.mark.parametrize("pattern", ["nothing", "no*thing", "empty", "file.txt", "**/absent"])
def test_what_names_no_run_is_refused_in_a_sentence(tmp_path, pattern):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(Refused, match="runs="):
        places([str(tmp_path / pattern)])


def test_links_in_circles_end_and_a_linked_run_is_shown_once(tmp_path):
    plant(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "circle").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "itself").symlink_to(tmp_path / "runs" / "itself")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs" / "a")
    assert len(found(tmp_path / "runs")) == 1
    assert len(found(tmp_path / "**")) == 1


# ---- what is in them


def replaced(name: str, content: str | bytes):
    return lambda run: (run / name).write_bytes(content.encode() if isinstance(content, str) else content)


def without(name: str):
    return lambda run: (run / name).unlink()


def folder(run: Path) -> None:
    (run / "config.yaml").unlink()
    (run / "config.yaml").mkdir()


def fifo(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")


def outside(run: Path) -> None:
    (run.parent / "secret").write_text('{"verdict": "healthy"}')
    (run / "verdict.json").unlink()
    (run / "verdict.json").symlink_to(run.parent / "secret")


def edited(name: str, key: str, value: object):
    def edit(run: Path) -> None:
        content = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps(content | {key: value}))

    return edit


def job(run: Path, outcome: object, reason: object) -> None:
    (run / "job.json").write_text(json.dumps({"number": 0, "outcome": outcome, "reason": reason}))


HUGE = 10**400  # as a whole number, which JSON has
UNITS = "epoch,step,unit,reading,value\n"
BROKEN = {
    "no config": (without("config.yaml"), "broken", "config.yaml"),
    "config torn": (replaced("config.yaml", "model: {a: [1,"), "broken", "config.yaml"),
    "config of bytes": (replaced("config.yaml", b"\xff\xfe\x00"), "broken", "config.yaml"),
    "config of a folder": (folder, "broken", "regular"),
    "config with aliases": (replaced("config.yaml", "a: &a [1]\nb: *a\n"), "broken", "anchors"),
    "config of another tool": (replaced("config.yaml", "wandb: 1\n"), "foreign", "no trained model"),
    "verdict torn": (replaced("verdict.json", '{"verdict": "hea'), "finished", "verdict.json"),
    "verdict of a list": (replaced("verdict.json", "[]"), "finished", ""),
    "verdict unknown": (edited("verdict.json", "verdict", "splendid"), "finished", "no verdict as this version"),
    "verdict of other kinds": (edited("verdict.json", "readings", {"gap": 3}), "finished", "no verdict as"),
    "verdict deep": (replaced("verdict.json", "[" * 100_000), "finished", "verdict.json"),
    "verdict elsewhere": (outside, "finished", "link"),
    "metrics torn": (replaced("metrics.jsonl", '{"step": 39, "val/latent/gap": 2}\n{"st'), "finished", ""),
    "metrics of anything": (replaced("metrics.jsonl", 'null\n[1]\n{"step": "x"}\n{"step": 1e999}\n'), "finished", ""),
    "metrics a pipe": (fifo, "finished", "regular"),
    "units of others": (replaced("units.csv", "a,b\n1,2\n"), "finished", "other columns"),
    "units torn": (replaced("units.csv", f"{UNITS}1,2,0,kl,0.5\n1,2,1,kl,x\n1,2,2,k"), "finished", ""),
    "events of anything": (replaced("events.jsonl", '{"event": {"a": 1}, "step": []}\n'), "finished", ""),
    "older": (edited("provenance.json", "vaecollapse", "0.0.1"), "finished", "written by vaecollapse 0.0.1"),
    "provenance of anything": (replaced("provenance.json", '{"data": 3, "versions": 4}'), "broken", "cannot be read"),
    "half a pair": (edited("verdict.json", "findings", ["\ud800"]), "finished", ""),
    "steps too large": (edited("preflight.json", "steps", HUGE), "finished", ""),
    "metrics huge": (replaced("metrics.jsonl", f'{{"step": {HUGE}}}\n{{"step": 1, "a": {HUGE}}}\n'), "finished", ""),
    "units too late": (replaced("units.csv", f"{UNITS}1,{HUGE},0,kl,0.5\n"), "finished", ""),
    "a knob too large": (lambda run: run.joinpath("config.yaml").write_text(
        run.joinpath("config.yaml").read_text().replace("capacity: 8", f"capacity: {HUGE}")), "finished", ""),
    "not ended": (without("trained.json"), "finished", ""),  # it has taken its last step
    "killed": (lambda run: (run / ".running").touch(), "stopped", "nothing trains it here"),
    "killed in a sweep": (lambda run: [(run / ".running").touch(), job(run, "killed", "ended by SIGKILL")], "stopped",
                          "nothing trains it here (step 40 of 40), killed: ended by SIGKILL"),
    "taken up after that": (lambda run: job(run, "killed", "ended by SIGKILL"), "finished", ""),
    "refused in a sweep": (lambda run: [shutil.rmtree(run), run.mkdir(), job(run, "refused", "beta must be positive")],
                           "refused", "beta must be positive"),
    "a job of anything": (lambda run: [without("config.yaml")(run), job(run, [], {})], "broken", "no config.yaml"),
    "just begun": (lambda run: [(run / n).unlink() for n in ("trained.json", "verdict.json", "metrics.jsonl",
                                                            "units.csv", "events.jsonl")], "stopped", "step 0 of 40"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "state", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_directory_is_shown_as_such_beside_a_whole_one(harm, state, said, tmp_path):
    harm(plant(tmp_path / "runs" / "harmed"))
    plant(tmp_path / "runs" / "whole")
    record = read(Place(tmp_path / "runs" / "harmed", "harmed"))
    assert record["state"] == state and said in record["note"], record["note"]
    done = report([str(tmp_path / "runs")], tmp_path, cache=False)
    shown = data(done.file)
    assert [run["name"] for run in shown["runs"] if run["verdict"] == "healthy"][-1] == "whole"
    written = report([str(tmp_path / "runs")], tmp_path, form="markdown", cache=False).text or ""
    assert cell(record["note"]) in written, "and in text"
    assert len(shown["runs"]) + len(shown["unread"]) == 2
    assert "Infinity" not in json.dumps(json.loads(json.dumps(shown), parse_int=float)), "as a browser reads numbers"
    assert "whole" in report([str(tmp_path / "runs")], tmp_path, form="markdown", cache=False).text


def test_a_directory_whose_name_is_in_another_encoding_is_shown(tmp_path):
    for name in (b"caf\xe9", b"other"):
        plant(Path(os.fsdecode(os.fsencode(tmp_path) + b"/runs/" + name)))
    runs, name = [str(tmp_path / "runs")], ascii("caf\udce9")
    assert [run["name"] for run in data(report(runs, tmp_path, cache=False).file)["runs"]] == [name, "other"]
    assert cell(name) in report(runs, tmp_path, form="markdown", cache=False).file.read_text("utf-8")


def test_a_directory_in_which_a_process_trains_is_running_and_its_lock_is_left_alone(tmp_path):
    run = plant(tmp_path / "run")
    hold = "import fcntl, sys\nf = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    line = [sys.executable, "-c", hold, run / ".running"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        record = read(Place(run, "run"))
        assert record["state"] == "running" and "still training" in record["note"]
        with (run / ".running").open("a") as lock, pytest.raises(BlockingIOError):
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.communicate(b"\n")
    assert read(Place(run, "run"))["state"] == "stopped"


def test_what_is_read_is_what_the_files_say(tmp_path):
    record = read(Place(plant(tmp_path / "run", beta=2, units=3), "run"))
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert record["verdict"]["values"] == {name: each["value"] for name, each in verdict["readings"].items()}
    assert [row[0] for row in record["verdict"]["deciding"]] == [
        "value of z (gap)", "rate R (nats)", "information rank"]  # fmt: skip
    assert record["heat"]["units"] == [0, 1, 2] and record["heat"]["steps"] == [8, 16, 24, 32, 40]
    assert record["series"]["train/objective/weight_applied"][1][-1] == 2
    assert record["command"] == "vaecollapse-train model=linear beta=2 capacity=8 seed=0"
    (tmp_path / "run" / "overrides.txt").write_text("model=linear\n\x1b[201~rm -rf x\n")
    assert "\x1b" not in read(Place(tmp_path / "run", "run"))["command"], "it is to be pasted into a terminal"
    assert record["selection"][0] == pytest.approx(sum(verdict["readings"][n]["value"] for n in ("rate", "distortion")))


def test_the_size_that_matters_of_a_direction_is_drawn_on_no_axis_of_counts(tmp_path):
    verdict = json.loads((plant(tmp_path / "run") / "verdict.json").read_text())
    for name in ("gap", "information_rank"):
        verdict["readings"][name] |= {"status": "material", "threshold": 0.25}
    said = shown_of(verdict)
    assert said is not None and said["limits"] == {"val/latent/gap": 0.25}


# ---- kept records


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vaecollapse" / "report"


def test_a_finished_run_is_read_once_and_again_when_a_file_of_it_changes(tmp_path, cache):
    run, running = plant(tmp_path / "run"), plant(tmp_path / "running")
    (running / ".running").touch()
    before = sorted(run.iterdir())
    first, kept = Kept(), Kept()
    records = [first.read(Place(run, "run")), first.read(Place(running, "running"))]
    assert [json.loads(json.dumps(record)) for record in records] == [
        kept.read(Place(run, "run")), json.loads(json.dumps(kept.read(Place(running, "running"))))]  # fmt: skip
    assert (first.hits, kept.hits, len(list(cache.iterdir()))) == (0, 1, 1)
    assert sorted(run.iterdir()) == before, "nothing is written to a run"
    edited("verdict.json", "confidence", "high")(run)
    assert kept.read(Place(run, "run"))["verdict"]["confidence"] == "high" and kept.hits == 1


def test_a_torn_record_and_a_folder_that_cannot_be_written_cost_only_time(tmp_path, cache, monkeypatch):
    run = Place(plant(tmp_path / "run"), "run")
    Kept().read(run)
    (file,) = cache.iterdir()
    file.write_text('{"name"')
    assert Kept().read(run)["state"] == "finished"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "run" / "config.yaml"))
    assert Kept().read(run)["state"] == "finished"


# ---- the page as a file


def test_the_page_holds_what_runs_say_as_data_alone_and_asks_for_nothing(tmp_path):
    hostile = "</script><script>hit()</script><!--\u2028"
    plant(tmp_path / "runs" / "a", more=hostile)
    text = report([str(tmp_path / "runs" / "a")], tmp_path, cache=False).file.read_text("utf-8")
    assert text.count("<script") == 2 and "hit()</script>" not in text and "\u2028" not in text
    assert "default-src 'none'" in text and "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    shown = data(tmp_path / "report.html")["runs"][0]
    assert shown["evidence"]["refuted"] == [f"variance_collapse {hostile}"], "as it was written"
    written = report([str(tmp_path / "runs" / "a")], tmp_path, form="markdown", cache=False).text
    assert "<script" not in "".join(part for i, part in enumerate(written.split("`")) if i % 2 == 0)


def test_markdown_cells_are_no_markup():
    assert cell("a|b\n<i>*x*") == "a\\|b &lt;i&gt;\\*x\\*"
    assert "\x1b" not in cell("\x1b[2J") + code("\x1b[2J")
    assert code("a ``b`` `c`") == "``` a ``b`` `c` ```"


def test_a_page_that_is_there_is_replaced_whole_or_stays(tmp_path, monkeypatch):
    plant(tmp_path / "run")
    page = tmp_path / "page.html"
    page.write_text("old")

    def full(path: Path, text: str, *arguments: object) -> None:
        with path.open("w") as file:
            file.write(text[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            report([str(tmp_path / "run")], tmp_path, out=str(page), cache=False)
    assert page.read_text() == "old" and {path.name for path in tmp_path.iterdir()} == {"run", "page.html"}
    report([str(tmp_path / "run")], tmp_path, out=str(page), cache=False)
    assert data(page)["runs"][0]["verdict"] == "healthy"
    with pytest.raises(Refused, match="is a folder"):
        report([str(tmp_path / "run")], tmp_path, out=str(tmp_path / "run"))


def test_series_of_many_runs_are_thinned_to_a_page_of_bounded_size(tmp_path):
    record = read(Place(plant(tmp_path / "run", steps=8000, units=64, looks=50), "run"))
    sizes = {n: len(html(data_of([record] * n, "", ""))) - len(html(data_of([], "", ""))) for n in (1, 10, 200)}
    assert sizes[1] > 40_000, "one run has all that a screen shows"
    assert sizes[200] < 2 * SERIES
    assert sizes[200] / 200 < sizes[1] / 2


def test_many_events_of_many_runs_do_not_swell_the_page(tmp_path):
    run = plant(tmp_path / "run")
    rows = [{"step": step, "event": "alarm", "alarm": "x" * 2000} for step in range(300)]
    (run / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = read(Place(run, "run"))
    for count, shown in ((FEW, 300), (100, 100), (10_000, 20)):
        events = page_run(record, None, None, [], POINTS if count < 10_000 else 12, Purse(0), count, Purse(0))["events"]
        assert [step for step, *_ in events] == list(range(300 - shown, 300)), "the last ones"


def test_samples_travel_with_the_page_as_far_as_there_is_room(tmp_path):
    run = plant(tmp_path / "run")
    assert embedded(run, Purse(2**20)) == EMPTY
    add_sounds(run)
    (run / "pictures").mkdir()
    (run / "pictures" / "a.png").write_bytes(b"\x89PNG\r\n")
    (run / "pictures" / "fake.png").write_bytes(b"<svg onload=hit()>")
    listed = [{"file": "a.png", "title": "first", "caption": "one"}, {"file": "fake.png", "title": "second"},
              {"file": "../verdict.json", "title": "third"}, {"title": 4}, 5]  # fmt: skip
    (run / "pictures" / "pictures.json").write_text(json.dumps(listed))
    for name in ("epoch_999", "epoch_1000"):
        shutil.copytree(run / "samples" / "epoch_009", run / "samples" / name)
    shown = embedded(run, Purse(2**20))
    assert shown["folder"] == "samples/epoch_1000", "the last by number"
    assert [kind for kind, _ in shown["sounds"]] == ["real", "reconstruction", "prior"]
    assert [(title, source[:15]) for title, _, source in shown["pictures"]] == [
        ("first", "data:image/png;"), ("second", ""), ("third", "")]  # fmt: skip
    poor = embedded(run, Purse(20_000))
    assert len(poor["sounds"]) == 1 and poor["left_out"] >= 2


def test_what_other_verbs_made_of_a_run_stands_beside_it(tmp_path):
    run, made = plant(tmp_path / "run"), tmp_path / "made"
    (made / "pictures").mkdir(parents=True)
    (made / "config.yaml").write_text("run: somewhere\n")
    (made / "provenance.json").write_text(json.dumps({"evaluated": {"run": str(run)}}))
    (made / "pictures" / "chart.svg").write_text("<svg onload='hit()'></svg>")
    (made / "pictures" / "pictures.json").write_text('[{"file": "chart.svg", "title": "a chart"}]')
    together = data_of([read(Place(each, each.name)) for each in (made, run)], "", "")
    assert together["unread"] == []
    ((title, _, source),) = together["runs"][0]["samples"]["pictures"]
    assert title == "a chart" and source.startswith("data:image/svg+xml;base64,"), "where no script runs"
    ((name, state, said),) = data_of([read(Place(made, "made"))], "", "")["unread"]
    assert (name, state) == ("made", "foreign") and str(run) in said


def test_an_evaluation_stands_with_its_run_however_many_there_are(tmp_path):
    from vaecollapse.listening.scoring import Compared, Judged
    from vaecollapse.metrics.base import Score
    from vaecollapse.tasks.listening import told_of

    run = plant(tmp_path / "runs" / "run")
    score = Score("fad", 0.4, 0.1, n=80, blocks=21, truth=0.25)
    heard = told_of(Compared([score], "80 clips against 80", ["1 is a copy"], Judged("bad", ["unlike"])))
    add_evaluation(tmp_path / "runs" / "measured", run, **heard)
    ((name, what, tables, notes),) = [
        [each[key] for key in ("name", "what", "tables", "notes")]
        for each in data(report([str(tmp_path / "runs")], tmp_path, cache=False).file)["runs"][0]["found"]
    ]
    assert (name, what) == ("measured", "512 test examples, last.ckpt of step 40: healthy")
    assert tables[0] == ["", ["figure", "value", "95 %", ""], [["importance-weighted NLL (nats)", "1.5", "± 0.2", ""]]]
    assert tables[1] == ["80 clips against 80", ["score", "value", "95 %", "real against real", ""],
                         [["fad", "0.4", "± 0.21", "0.25", ""]]]  # fmt: skip
    assert notes == ["bad: unlike", "1 is a copy"]
    told = report([str(tmp_path / "runs")], tmp_path, form="markdown", cache=False).text
    assert "| fad | 0.4 | ± 0.21 | 0.25 |" in told and "measured: run evaluated on 512 test" in told
    made = read(Place(tmp_path / "runs" / "measured", "measured"))
    many = data_of([read(Place(run, "run"))] * FEW + [read(Place(plant(tmp_path / "other"), "other")), made], "", "")
    assert (many["unread"], many["left_out"]) == ([], "")
    assert [each["tables"] for run in many["runs"] for each in run["found"]] == [tables]


def test_evaluations_of_no_run_here_have_a_place_of_their_own(tmp_path):
    """Of a run that is elsewhere, and of none, as of a folder of sounds."""
    plant(tmp_path / "runs" / "run")
    add_evaluation(tmp_path / "runs" / "elsewhere", tmp_path / "gone")
    add_evaluation(tmp_path / "runs" / "none", tmp_path)
    (tmp_path / "runs" / "none" / "provenance.json").write_text("{}")
    found = report([str(tmp_path / "runs")], tmp_path, cache=False)
    told = data(found.file)
    assert told["unread"] == [] and "2 evaluations of no run here" in found.what
    assert {each["name"]: each["of"] for each in told["loose"]} == {"elsewhere": str(tmp_path / "gone"), "none": ""}
    assert [[row[1] for _, _, rows in each["tables"] for row in rows] for each in told["loose"]] == [["1.5"]] * 2
    text = report([str(tmp_path / "runs" / "none")], tmp_path, form="markdown", cache=False).text
    assert text is not None and "| importance-weighted NLL (nats) | 1.5 | ± 0.2 |" in text


def test_evaluations_and_samples_beyond_what_a_page_holds_are_counted_with_what_shows_them(tmp_path, monkeypatch):
    from vaecollapse.report import page

    run, made = plant(tmp_path / "run"), tmp_path / "made"
    add_sounds(run)
    add_evaluation(made, run)
    records = [read(Place(each, each.name)) for each in (run, made)]
    others = [read(Place(plant(tmp_path / str(i)), str(i))) for i in range(FEW)]
    many = [(run.name, each) for each in data_of(records, "", "")["runs"][0]["found"] * 9]
    assert sum(line.endswith("| 1.5 ± 0.2 |") for line in evaluations(many)) == 9, "a row for each"
    monkeypatch.setattr(page, "MEASURED", 10)
    told = data_of([*records, *others], "", "")
    assert told["left_out"].startswith("left out: the figures of 1 × evaluation")
    assert [each["tables"] for each in told["runs"][0]["found"]] == [[]]
    assert told["runs"][0]["samples"]["left_out"] == 3 and "sounds" in told["runs"][0]["samples"]
    assert told["runs"][0]["samples"]["alone"] == f"vaecollapse-report runs={run}"
    assert [each["samples"]["alone"] for each in told["runs"][1:]] == [""] * FEW


@pytest.mark.parametrize("content", [
    "{", "[]", '{"figures": 3, "scores": {}}', '{"figures": {"a": 1, "b": {"value": "x", "status": []}}}',
    f'{{"scores": [1, {{"name": {{}}, "value": {HUGE}, "se": 1, "blocks": 1e300}}], "set": [], "notes": {{}}}}',
])  # fmt: skip
def test_an_evaluation_of_anything_costs_nobody_the_page(content, tmp_path):
    run = plant(tmp_path / "runs" / "run")
    add_evaluation(tmp_path / "runs" / "measured", run)
    (tmp_path / "runs" / "measured" / "evaluation.json").write_text(content)
    for form in ("html", "markdown"):
        report([str(tmp_path / "runs")], tmp_path, form=form, cache=False)
    assert data(tmp_path / "report.html")["runs"][0]["verdict"] == "healthy"


def test_a_training_leaves_its_own_page_while_it_holds_its_lock(tmp_path):
    run = plant(tmp_path / "run")
    with (run / ".running").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        leave_page(run)
        claim = f"import fcntl; fcntl.lockf(open({str(run / '.running')!r}, 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        assert subprocess.run([sys.executable, "-c", claim], capture_output=True).returncode, "still claimed"
    assert data(run / "report.html")["runs"][0]["state"] == "finished"


# ---- the command


def command(monkeypatch, folder: Path, *typed: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [cli.REPORT, *typed])
    try:
        return cli.report()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def test_the_command_writes_the_page_and_says_where(tmp_path, monkeypatch, capsys):
    plant(tmp_path / "runs" / "a")
    assert command(monkeypatch, tmp_path, "runs=runs/*") == 0
    (page,) = tmp_path.glob("outputs/report/*/*")
    assert f"open  {page.relative_to(tmp_path)}" in capsys.readouterr().out
    assert data(page)["command"] == "vaecollapse-report 'runs=runs/*'"
    assert command(monkeypatch, tmp_path, "runs=[runs/a]", "format=markdown", "out=new/a.md") == 0
    assert capsys.readouterr().out == (tmp_path / "new" / "a.md").read_text()
    assert len(list(tmp_path.glob("outputs/report/*"))) == 1, "no folder is left in which nothing lies"


@pytest.mark.parametrize(("typed", "said"), [
    ([], "runs has no value"), (["runs=nothing/*"], "matches nothing"), (["run=a"], "did you mean runs?"),
    (["runs=a", "format=pdf"], "neither html nor markdown"), (["runs=[1]"], "runs must be"),
    (["runs=null"], "runs must be"),
])  # fmt: skip
def test_what_cannot_be_reported_is_one_sentence(tmp_path, monkeypatch, capsys, typed, said):
    assert command(monkeypatch, tmp_path, *typed) == 1
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told
    assert not list(tmp_path.glob("outputs/report/*"))


def test_a_report_needs_neither_torch_nor_lightning(tmp_path):
    plant(tmp_path / "run")
    program = (
        f"import sys\nfrom vaecollapse.cli import report\nsys.argv = ['{cli.REPORT}', 'runs=run']\ncode = report()\n"
        "print([name for name in ('torch', 'lightning', 'torchmetrics', 'wandb') if name in sys.modules], code)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


def test_help_shows_every_key_and_commands_that_are_valid(tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, tmp_path, "--help") == 0
    told = capsys.readouterr().out
    assert [name for name, *_ in keys_of("report")] == ["runs", "format", "out", "cache"]
    assert all(f"  {name}={value}" in told for name, value, _ in keys_of("report"))
    told = told.replace("<time>", "now")
    lines = [line.strip() for line in told.splitlines() if line.strip().startswith(f"{cli.REPORT} ")]
    assert len(lines) == 6
    config.register()
    for line in lines:
        with hydra.initialize_config_dir(str(config.folder()), job_name="report", version_base="1.3"):
            config.check_report(hydra.compose("report", shlex.split(line)[1:]))
