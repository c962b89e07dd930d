"""What `resume=DIR` means: the run's own command line once more, in its own directory. Knows no Hydra."""

from collections.abc import Sequence
from pathlib import Path

from .refusal import Refused

# the plan of a resumed run is its own; only these may differ
FREE = ("max_epochs", "trainer", "logger", "fail_on", "preflight", "trust")


def key(override: str) -> str:
    """`model` of `model=linear`, `trainer` of `++trainer.devices=2`, `logger` of `~logger.csv`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].partition(".")[0].partition("/")[0]


def replayed(argv: Sequence[str]) -> list[str]:
    """The command line that goes on with the run named by `resume=DIR`, or `argv` itself where there is none.

    Raises Refused where DIR is no run, or where an override would make it another one.
    """
    asked = [line for line in argv if line.startswith("resume=") and line not in ("resume=null", "resume=")]
    if not asked:
        return list(argv)
    directory = Path(asked[-1].partition("=")[2].strip("'\"")).expanduser()
    file = directory / "overrides.txt"
    if not file.is_file() or not (directory / "config.yaml").is_file():
        raise Refused(
            f"resume={directory} is no run directory (no overrides.txt or config.yaml in it): give one that a training "
            "made, such as outputs/train/<time>"
        )
    more = [line for line in argv if line not in asked]
    if any(line in ("-m", "--multirun") for line in more):
        raise Refused("resume goes on with one run: drop -m and resume the jobs of a sweep one by one")
    for line in more:
        if not line.startswith("-") and key(line) not in FREE:
            raise Refused(
                f"a resumed run keeps its own settings, and {line} would make it another run; only {', '.join(FREE)} "
                f"may change. For a new run from these weights: init_from={directory}"
            )
    own = file.read_text(encoding="utf-8").splitlines()
    for line in own:
        if line.startswith("-") or key(line) == "hydra":
            raise Refused(f"{file} holds {line}, which no run writes there: restore the file")
    replaced = {line.lstrip("+~").partition("=")[0] for line in more}
    kept = [line for line in own if line.lstrip("+~").partition("=")[0] not in replaced]
    quoted = "'" + str(directory.absolute()).replace("\\", "\\\\").replace("'", "\\'") + "'"
    return [*kept, *more, f"resume={quoted}", f"hydra.run.dir={quoted}"]
