"""The names of the commands, and what they return."""

NAME, EVALUATE, SAMPLE, EXPORT, DIAGNOSE, REPORT = (
    f"vaecollapse-{verb}" for verb in ("train", "evaluate", "sample", "export", "diagnose", "report")
)
WHOLE_ERRORS = "HYDRA_FULL_ERROR"
CLAIM = ".running"  # in a run directory while the run is under way
FAILED, USAGE, FAIL_ON, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
