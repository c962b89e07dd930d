"""Configuration in, run directory out. One function per verb."""

from .diagnosing import Diagnosed, diagnose
from .fitting import Outcome, train
from .measuring import Evaluated, evaluate

__all__ = ["Diagnosed", "Evaluated", "Outcome", "diagnose", "evaluate", "train"]
