"""Configuration in, run directory out. One function per verb."""

from .fitting import Outcome, train
from .measuring import Evaluated, evaluate

__all__ = ["Evaluated", "Outcome", "evaluate", "train"]
