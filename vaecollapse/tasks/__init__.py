"""Configuration in, run directory out. One function per verb."""

from .diagnosing import Diagnosed, diagnose
from .fitting import Outcome, train
from .measuring import Evaluated, evaluate
from .sampling import Sampled, sample

__all__ = ["Diagnosed", "Evaluated", "Outcome", "Sampled", "diagnose", "evaluate", "sample", "train"]
