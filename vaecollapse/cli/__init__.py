"""The command line: `vaecollapse-train`, `-evaluate`, `-sample`, `-export`, `-diagnose` and `-report`. The only
hydra.main and the only print; nothing heavy is imported before the configuration is valid."""

from .codes import DIAGNOSE, EVALUATE, EXPORT, FAIL_ON, FAILED, INTERRUPTED, NAME, REPORT, SAMPLE, TERMINATED, USAGE
from .commands import diagnose, evaluate, export, report, sample, train
from .session import Session
from .training import TrainSession
from .verbs import DiagnoseSession, EvaluateSession, ExportSession, ReportSession, SampleSession

__all__ = [
    "DIAGNOSE",
    "EVALUATE",
    "EXPORT",
    "FAILED",
    "FAIL_ON",
    "INTERRUPTED",
    "NAME",
    "REPORT",
    "SAMPLE",
    "TERMINATED",
    "USAGE",
    "DiagnoseSession",
    "EvaluateSession",
    "ExportSession",
    "ReportSession",
    "SampleSession",
    "Session",
    "TrainSession",
    "diagnose",
    "evaluate",
    "export",
    "report",
    "sample",
    "train",
]
