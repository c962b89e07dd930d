"""What people see while training: plain lines without a terminal, a bar in one."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from vaecollapse import cli, config
from vaecollapse.prescriptions import STATES
from vaecollapse.run import Run
from vaecollapse.tasks import train

SCRIPT = Path(sys.executable).parent / cli.NAME
NUMBER = r"-?\d[\d.e+-]*"
LATENT = rf"rate ({NUMBER})  gap ({NUMBER})  rank (\d+\??)  (\w+)"
LINE = re.compile(rf"step (\d+)/40  (\d+) s left  (?:{LATENT}|rate –  gap –  rank –)")
SHORT = ["model=linear", "max_epochs=10", "trainer.accelerator=cpu", "callback.collapse_monitor.every_n_steps=10"]


def lines_of(folder: Path, capsys: pytest.CaptureFixture, *overrides: str) -> list[re.Match]:
    """The lines of a run in this process, whose stderr is no terminal."""
    whole = [*SHORT, f"logger.csv.directory={folder}", *overrides]
    train(config.compose(whole), folder, whole)
    err = capsys.readouterr().err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", err), "control characters"
    found = [line for line in err.splitlines() if line.startswith("step ")]
    matches = [LINE.fullmatch(line) for line in found]
    assert all(matches), found
    return [match for match in matches if match]


def test_without_a_terminal_plain_lines_show_step_time_left_and_latent(tmp_path, capsys) -> None:
    """The numbers of a line are those of the last reading before it."""
    lines = lines_of(tmp_path, capsys)
    read = [row for row in Run(tmp_path).lines("metrics.jsonl") if "collapse/verdict" in row]
    steps = [int(line[1]) for line in lines]
    assert steps == sorted(set(steps))
    assert 8 <= len(steps) <= 10
    for step, line in zip(steps, lines, strict=True):
        before = [row for row in read if row["step"] <= step]
        if not before:
            assert line[3] is None, "nothing is shown that was not read"
            continue
        last, rank = before[-1], line[5]
        assert (line[3], line[4]) == (f"{last['val/latent/rate']:.3g}", f"{last['val/latent/gap']:.3g}")
        assert (float(rank), line[6]) == (last["val/latent/information_rank"], STATES[int(last["collapse/verdict"])])
    assert any(line[3] for line in lines)


def test_a_line_comes_at_each_share_and_doubts_a_rank_from_too_few_examples(tmp_path, capsys) -> None:
    """Ten examples a unit, five units."""
    few = "callback.collapse_monitor.examples=48"
    lines = lines_of(tmp_path, capsys, "callback.progress.every=0.25", few)
    assert [int(line[1]) for line in lines] == [10, 20, 30, 40]
    assert all(line[5].endswith("?") for line in lines if line[5])


def in_a_terminal(*arguments: str, cwd: Path, columns: int) -> tuple[int, str]:
    """Exit code and everything that was drawn."""
    screen, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    names = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    environment = {**names, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([SCRIPT, *arguments], cwd=cwd, env=environment, stdin=inside, stdout=inside,
                               stderr=inside)  # fmt: skip
    os.close(inside)
    drawn = bytearray()
    try:
        while chunk := os.read(screen, 65536):
            drawn += chunk
    except OSError:
        pass  # Linux says EIO when the other end is closed
    finally:
        os.close(screen)
    return process.wait(), drawn.decode()


def test_a_terminal_of_80_columns_shows_a_bar_with_the_time_left_and_the_latent(tmp_path) -> None:
    code, drawn = in_a_terminal("model=linear", "max_epochs=60", "callback.collapse_monitor.every_n_steps=20",
                                cwd=tmp_path, columns=80)  # fmt: skip
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    frames = [frame for frame in re.split(r"[\r\n]+", plain) if "━" in frame]
    assert code == 0, plain
    assert len(frames) > 3
    assert "\x1b[2K" in drawn, "the bar is redrawn in place"
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l"), "the cursor is given back"
    assert all(len(frame) <= 80 for frame in frames)
    assert re.search(LATENT, frames[-1]), frames[-1]
    assert "240/240" in frames[-1]
    assert any(re.search(r"\d:\d\d:\d\d.*rate", frame) for frame in frames)
    assert not any("…" in frame for frame in frames), "nothing is cut off"
    assert not re.search(r"step \d+/", plain), "a bar or lines, not both"
