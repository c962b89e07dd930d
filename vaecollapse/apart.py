"""Work in a process of its own, which ends alone, however it ends. Knows nothing of what the work is."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
KILL_AFTER = 60.0  # seconds that interrupted work has for its checkpoint and verdict
GRACE = 10.0  # and work in vain, which may be waiting where no signal is heard


class Said(NamedTuple):
    """What the work tells at its end: an exit code (negative: the signal), why, where its directory is, and which lines
    need not be said again. `told` is false where it came to none of that."""

    code: int
    reason: str | None = None
    directory: str | None = None
    lines: tuple[str, ...] = ()
    told: bool = True


def apart(work: Callable[[], Said], in_vain: Callable[[], bool] | None = None) -> Said:
    """`work` in a process of its own, a fork of this one where that is safe: what it told, or the signal that ended it.

    Ctrl-C and SIGTERM reach it through here, once, and are raised again when it has ended. Where this process is
    killed, so is the work; where it has become `in_vain`, which is asked every second, it is ended.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    process: Any = context.Process(target=_work, args=(work, theirs, os.getpid()))
    process.start()
    theirs.close()
    try:
        with ours:
            said = _told(process, ours, in_vain)
        process.join()
    except BaseException as stop:
        _pass_on(process, signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
        raise
    if said is None:
        with contextlib.suppress(OSError):  # ranks and loaders that it has left
            os.killpg(process.pid, signal.SIGKILL)
        code = process.exitcode or 1
        said = Said(code, ended_by(code), told=False)
    return said


def _told(process: Any, ours: Any, in_vain: Callable[[], bool] | None) -> Said | None:
    """What it tells; None where it ends without, though children of its own may hold the pipe open."""
    while not ours.poll(1.0) and process.exitcode is None:
        if in_vain and in_vain():
            _pass_on(process, signal.SIGTERM, GRACE)
            break
    try:
        return ours.recv() if ours.poll() else None
    except EOFError:
        return None


def _pass_on(process: Any, number: int, seconds: float = KILL_AFTER) -> None:
    """To the whole group of a job: its ranks and loaders too."""
    with contextlib.suppress(OSError):  # it leads its group at once, as it is about to, or has ended
        os.setpgid(process.pid, process.pid)
    for what, given in ((number, seconds), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, what)
        except (ProcessLookupError, PermissionError):
            process.join(1.0)
            return
        process.join(given)
        if process.exitcode is not None:
            return


def ended_by(code: int) -> str:
    """In words, why a process ended without telling."""
    if code >= 0:
        return f"its process ended with code {code} and said nothing"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    why = ": out of memory, or a process of the run failed" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{why}"


def _work(work: Callable[[], Said], theirs: Any, parent: int) -> None:
    if sys.platform == "linux":
        # nothing trains on for a sweep that was killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            return
    os.setpgid(0, 0)  # Ctrl-C comes through the sweep, not twice
    theirs.send(work())
