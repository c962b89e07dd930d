"""Configuration in, run directory out. One function per verb."""

from .diagnosing import Diagnosed, diagnose
from .fitting import Outcome
from .listening import Heard, compare_folders
from .measuring import Evaluated, evaluate
from .prior_fitting import train
from .sampling import Sampled, sample
from .scoring import Scored, score_file

__all__ = [
    "Diagnosed",
    "Evaluated",
    "Heard",
    "Outcome",
    "Sampled",
    "Scored",
    "compare_folders",
    "diagnose",
    "evaluate",
    "sample",
    "score_file",
    "train",
]
