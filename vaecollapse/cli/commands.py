"""The console scripts."""

import sys

from .. import __version__
from .codes import NAME
from .process import an_open_pipe, config_folders, speak_any_locale
from .session import Session
from .training import TrainSession
from .verbs import DiagnoseSession, EvaluateSession, ExportSession, ReportSession, SampleSession


def train() -> int:
    """Trains, prints the verdict, and returns the exit code."""
    argv = sys.argv[1:]
    speak_any_locale()
    if "--version" in argv:
        print(f"vaecollapse {__version__}")
        return 0
    if "--help" in argv or "-h" in argv:
        from ..help import train_help

        with an_open_pipe():
            print(train_help(NAME, config_folders(argv)), flush=True)
        return 0
    return TrainSession(argv).command()


def evaluate() -> int:
    """Measures a trained run on a split, prints the figures, and returns the exit code."""
    return verb("evaluate", EvaluateSession)


def sample() -> int:
    """Writes what a trained run's latent decodes to, and returns the exit code."""
    return verb("sample", SampleSession)


def export() -> int:
    """Writes a trained run's functions as programs of their own, and returns the exit code."""
    return verb("export", ExportSession)


def diagnose() -> int:
    """Says what a latent is, from whatever there is of it, and returns the exit code."""
    return verb("diagnose", DiagnoseSession)


def report() -> int:
    """Makes one page of run directories, and returns the exit code."""
    return verb("report", ReportSession)


def verb(primary: str, kind: type["Session"]) -> int:
    """A verb whose keys are all in its primary configuration."""
    argv = sys.argv[1:]
    speak_any_locale()
    if "--version" in argv:
        print(f"vaecollapse {__version__}")
        return 0
    if "--help" in argv or "-h" in argv:
        from ..help import verb_help

        with an_open_pipe():
            print(verb_help(kind.name, primary), flush=True)
        return 0
    return kind(argv).command()
