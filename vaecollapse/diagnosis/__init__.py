"""From findings to a verdict: the state of the latent, the mechanisms behind it, how sure, and what to do next."""

from .facts import Bars, Facts, Fork, bars_of
from .reading import MISSING, Readings, interval, status, value
from .sentences import beaten_by
from .verdict import Verdict, diagnose

__all__ = [
    "MISSING",
    "Bars",
    "Facts",
    "Fork",
    "Readings",
    "Verdict",
    "bars_of",
    "beaten_by",
    "diagnose",
    "interval",
    "status",
    "value",
]
