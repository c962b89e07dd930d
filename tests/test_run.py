"""The run directory: whole lines, whole files, strict JSON."""

import math
import os

import pytest

from vaecollapse.run import Run


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path) -> None:
    run = Run(tmp_path)
    run.write("verdict.json", {"verdict": "healthy"})
    with pytest.raises(TypeError):
        run.write("verdict.json", {"verdict": object()})
    with pytest.raises(UnicodeEncodeError):
        run.write("verdict.json", "\ud800")
    assert run.read("verdict.json") == {"verdict": "healthy"}
    assert os.listdir(tmp_path) == ["verdict.json"]


def test_nan_and_infinity_are_null(tmp_path) -> None:
    run = Run(tmp_path)
    run.append("events.jsonl", {"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}})
    assert run.lines("events.jsonl") == [{"a": None, "b": [None, 1.0], "c": {"d": None}}]


def test_a_torn_last_line_is_left_out(tmp_path) -> None:
    run = Run(tmp_path)
    run.append("metrics.jsonl", {"step": 1, "loss": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.lines("metrics.jsonl") == [{"step": 1, "loss": 2.0}]


def test_the_table_has_every_column_of_the_lines(tmp_path) -> None:
    run = Run(tmp_path)
    rows = [{"step": 1, "a": 0.5}, {"step": 2, "b": 1.5}]
    for row in rows:
        run.append("metrics.jsonl", row)
    run.tabulate_metrics()
    header, first, second = (tmp_path / "metrics.csv").read_text().splitlines()
    assert (header, first, second) == ("step,a,b", "1,0.5,", "2,,1.5")


def test_a_csv_gets_its_header_once(tmp_path) -> None:
    run = Run(tmp_path)
    for unit in range(2):
        run.append_csv("units.csv", ["unit", "kl"], [[unit, 0.25]])
    assert (tmp_path / "units.csv").read_text() == "unit,kl\n0,0.25\n1,0.25\n"
