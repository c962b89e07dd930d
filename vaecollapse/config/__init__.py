"""The configuration before anything heavy is imported: where it lies, what is refused, what has no effect.

Knows Hydra and OmegaConf and nothing else of the package.
"""

from .checking import check, check_diagnosis, check_evaluation, check_kinds, check_report, dotted
from .composing import compose
from .effects import ELSE, without_effect
from .schema import (
    EVALUATED,
    KNOBS,
    SAMPLE_MODES,
    DiagnoseSchema,
    EvaluateSchema,
    ExportSchema,
    ReportSchema,
    SampleSchema,
    TrainSchema,
    check_verdicts,
    listed,
    register,
)
from .sources import folder, folders, options, sweeps_a_group
from .suggestions import suggestions

__all__ = [
    "ELSE",
    "EVALUATED",
    "KNOBS",
    "SAMPLE_MODES",
    "DiagnoseSchema",
    "EvaluateSchema",
    "ExportSchema",
    "ReportSchema",
    "SampleSchema",
    "TrainSchema",
    "check",
    "check_diagnosis",
    "check_evaluation",
    "check_kinds",
    "check_report",
    "check_verdicts",
    "compose",
    "dotted",
    "folder",
    "folders",
    "listed",
    "options",
    "register",
    "suggestions",
    "sweeps_a_group",
    "without_effect",
]
