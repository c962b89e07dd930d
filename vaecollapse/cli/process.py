"""The process of a command: signals, pipes, locale, and what Hydra tells of it."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast


def searches(context) -> bool:
    """Does something wait for the jobs' numbers?"""
    return not str(context.sweeper.get("_target_")).endswith("BasicSweeper")


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM unwinds as Ctrl-C does, so that nothing half done is left; not outside the main thread."""

    def terminate(number: int, frame: object) -> None:
        raise SystemExit

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def speak_any_locale() -> None:
    """σ and … come out as ? where the terminal has no such letters, and stop nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def an_open_pipe() -> Iterator[None]:
    """Whoever reads may stop reading (`| head`)."""
    try:
        yield
    except BrokenPipeError:
        close_pipe()


def close_pipe() -> None:
    """What is still to be written to stdout goes nowhere, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def typed_of(context) -> list[str]:
    """The job's overrides as they were typed, `${…}` unresolved."""
    from omegaconf import OmegaConf

    return [str(line) for line in cast(list, OmegaConf.to_container(context.overrides.task))]


def was_interrupted(error: BaseException | None) -> bool:
    """Lightning turns Ctrl-C into exit(1) after its callbacks have run."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def remove_if_only(directory: Path, names: set[str]) -> None:
    """Leaves no run directory behind in which nothing ran."""
    with contextlib.suppress(FileNotFoundError):  # another rank of the run was faster
        if {path.name for path in directory.iterdir()} <= names:
            for name in names:
                (directory / name).unlink(missing_ok=True)
            directory.rmdir()


def overrides_of(argv: Sequence[str]) -> list[str]:
    return [arg for arg in argv if not arg.startswith("-") and ("=" in arg or arg.startswith("~"))]


def config_folders(argv: Sequence[str]) -> list[Path]:
    """The folders of yaml files this command sees: --config-dir, then ours."""
    from .. import config

    found = []
    for arg, following in zip(argv, [*argv[1:], ""], strict=True):
        if arg in ("--config-dir", "-cd"):
            found.append(Path(following).absolute())
        elif arg.startswith("--config-dir="):
            found.append(Path(arg.partition("=")[2]).absolute())
    return [*found, config.folder()]
