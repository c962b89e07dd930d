"""Random command lines end in a verdict or in a sentence; `benchmarks/fuzz.py` tries a thousand, here are twenty."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
SPEC = importlib.util.spec_from_file_location("fuzz", FUZZ)
assert SPEC
assert SPEC.loader
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)


def test_twenty_random_command_lines_end_in_a_verdict_or_in_a_sentence(tmp_path) -> None:
    line = [sys.executable, str(FUZZ), "--runs", "20", "--seed", "11", "--jobs", "2"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20/20 as they should" in done.stdout
    assert "verdict" in done.stdout, "some of them train"
    assert "figures" in done.stdout, "some of them measure a run"
    assert "samples" in done.stdout, "some of them write samples of one"
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_draws_the_same_command_lines() -> None:
    first, second = (fuzz.Drawer(3) for _ in range(2))
    assert [first.case() for _ in range(50)] == [second.case() for _ in range(50)]


# ---- the judge convicts what it should


@pytest.mark.parametrize(
    ("code", "stderr", "files", "wrong"),
    [
        (1, "vaecollapse-train: beta must be …\n", {}, ""),
        (1, "Traceback (most recent call last):\n", {}, "Traceback"),
        (1, "Error executing job with overrides: []\n", {}, "Error executing job"),
        (1, "", {}, "0 lines"),
        (1, "word\n" * 13, {}, "13 lines"),
        (0, "", {}, "without a verdict"),
        (0, "", {"outputs/train/a/verdict.json": "{}", "outputs/train/a/config.yaml": ""}, ""),
        (0, "", {"outputs/train/a/verdict.json": "{}"}, "no config.yaml"),
        (3, "", {"outputs/train/a/verdict.json": "{", "outputs/train/a/config.yaml": ""}, "half written"),
        (1, "no\n", {"outputs/train/a/": ""}, "empty"),
        (1, "no\n", {"outputs/train/a/.verdict.json.x": ""}, "left"),
        (7, "no\n", {}, "exit 7"),
        (-9, "", {}, "signal 9"),
        (None, "", {}, "no end"),
    ],
)
def test_the_judge_convicts(tmp_path, code, stderr, files, wrong) -> None:
    (tmp_path / "stdout").write_text("")
    (tmp_path / "stderr").write_text(stderr)
    (tmp_path / "work").mkdir()
    for name, text in files.items():
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text(text)
    outcome = fuzz.judged(code, tmp_path, 0.0, fuzz.Case(["beta=1"], []))
    assert wrong in outcome.wrong
    assert bool(outcome.wrong) == bool(wrong)


@pytest.mark.parametrize(
    ("words", "verb", "code", "file", "text", "wrong"),
    [
        (["resume=run"], fuzz.TRAIN, 0, "run/verdict.json", '{"a": 1}', ""),
        (["resume=run"], fuzz.TRAIN, 1, "run/verdict.json", '{"a": 1}', "changed run/verdict.json"),
        (["resume=run"], fuzz.TRAIN, 1, "run/logs.txt", "", "added run/logs.txt"),
        (["resume=run", "preflight=only"], fuzz.TRAIN, 0, "run/verdict.json", '{"a": 1}', "changed"),
        (["init_from=run"], fuzz.TRAIN, 0, "run/verdict.json", '{"a": 1}', "changed"),
        (["run=run"], fuzz.EVALUATE, 0, "run/verdict.json", '{"a": 1}', "changed"),
        (["run=run"], fuzz.EVALUATE, 0, "outputs/evaluate/a/config.yaml", "", "without figures"),
        (["run=run"], fuzz.EVALUATE, 1, "outputs/evaluate/a/config.yaml", "", "left outputs/evaluate/a"),
        (["run=run"], fuzz.SAMPLE, 0, "outputs/sample/a/config.yaml", "", "without samples"),
        (["run=run"], fuzz.SAMPLE, 1, "outputs/sample/a/config.yaml", "", "left outputs/sample/a"),
        (["run=run"], fuzz.EVALUATE, 3, "outputs/evaluate/a/config.yaml", "", "exit 3"),
    ],
)
def test_the_judge_convicts_who_writes_to_what_was_given(tmp_path, words, verb, code, file, text, wrong) -> None:
    for name in ("config.yaml", "verdict.json"):
        (tmp_path / "work/run").mkdir(parents=True, exist_ok=True)
        (tmp_path / "work/run" / name).write_text("{}")
    given = fuzz.contents(tmp_path / "work")
    (tmp_path / "work" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "work" / file).write_text(text)
    (tmp_path / "stdout").write_text("a table")
    (tmp_path / "stderr").write_text("no\n")
    outcome = fuzz.judged(code, tmp_path, 0.0, fuzz.Case(words, [], verb), given)
    assert wrong in outcome.wrong
    assert bool(outcome.wrong) == bool(wrong)


def test_a_command_that_hangs_is_ended_and_convicted(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fuzz, "LIMIT_S", 0.2)
    pid = fuzz.forked(fuzz.Case(["beta=1"], []), tmp_path, lambda: fuzz.time.sleep(30))
    assert fuzz.waited(pid) is None


def test_two_processes_of_one_run_end_in_one_verdict(tmp_path) -> None:
    line = [sys.executable, str(FUZZ), "--one", *fuzz.BASES["linear"], "trainer.devices=2"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1].split()[0]) == (0, "verdict"), done.stdout
