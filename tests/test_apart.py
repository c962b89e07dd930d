"""Work in a process of its own: what it tells, what ends it, and what does not outlive what."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from vaecollapse.apart import Said, _pass_on, apart

ROOT = str(Path(__file__).parents[1])


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
    assert apart(lambda: os._exit(7)) == Said(7, "its process ended with code 7 and said nothing", told=False)


def leaves_a_child(file: Path) -> None:
    """As a rank or a loader that outlives its job, with the job's pipe in its hands."""
    if not (child := os.fork()):
        time.sleep(60)
    file.write_text(str(child))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="work is a fork on Linux alone")
def test_work_that_is_killed_leaves_no_children_and_nobody_waits_for_them(tmp_path) -> None:
    file, began = tmp_path / "child", time.monotonic()
    assert apart(partial(leaves_a_child, file)).code == -signal.SIGKILL
    assert time.monotonic() - began < 30
    wait_for_end(file.read_text())


def test_work_may_tell_more_than_a_pipe_holds() -> None:
    said = Said(1, "x" * 2**20)
    assert apart(lambda: said) == said


def wait_for_end(process: str) -> None:
    for _ in range(1000):
        if not (stat := Path(f"/proc/{process}/stat")).exists() or "Z" in stat.read_text().rpartition(")")[2]:
            return
        time.sleep(0.01)
    pytest.fail("it goes on")


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
    wait_for_end(file.read_text())


def sleeps() -> Said:
    time.sleep(60)
    return Said(0)


def deaf() -> Said:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return sleeps()


@pytest.mark.parametrize(("work", "number"), [(sleeps, signal.SIGTERM), (deaf, signal.SIGKILL)])
def test_work_that_has_become_vain_is_ended_though_it_hears_no_signal(monkeypatch, work, number) -> None:
    monkeypatch.setattr("vaecollapse.apart.GRACE", 0.1)
    began = time.monotonic()
    assert apart(work, lambda: True).code == -number
    assert time.monotonic() - began < 30
