"""Configuration in, run directory out. One function per verb."""

from .diagnosing import Diagnosed, diagnose
from .exporting import Exported, export
from .fitting import Outcome
from .listening import Heard, compare_folders
from .measuring import Evaluated, evaluate
from .prior_fitting import train
from .sampling import Sampled, sample
from .scoring import Scored, score_file

__all__ = [
    "Diagnosed",
    "Evaluated",
    "Exported",
    "Heard",
    "Outcome",
    "Sampled",
    "Scored",
    "compare_folders",
    "diagnose",
    "evaluate",
    "export",
    "sample",
    "score_file",
    "train",
]
