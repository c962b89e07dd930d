"""What `resume=DIR` means: the run's own command line once more, in its own directory. Knows no Hydra."""

import os
from collections.abc import Sequence
from pathlib import Path

from .refusal import Refused

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # of checkpoints/: what a run goes on from, the newer first
# the plan of a resumed run is its own; only these may differ
LONGEST = 2**20  # bytes of an overrides.txt
FREE = ("max_epochs", "trainer", "logger", "fail_on", "preflight", "probe", "report", "trust")


# Hydra's flags that take a value, and their short forms
PAIRED = {"-c": "--cfg", "-p": "--package", "-cp": "--config-path", "-cn": "--config-name", "-cd": "--config-dir"}


def words(argv: Sequence[str]) -> list[str]:
    """A command line, each flag and its value as one word: `--config-dir=conf2` of `-cd conf2`."""
    found, rest = [], iter(argv)
    for word in rest:
        name, given, value = word.partition("=")
        name = PAIRED.get(name, name)
        known = name in PAIRED.values()
        if known and not given:
            value = next(rest, None)
        found.append(f"{name}={value}" if known and value is not None else word)
    return found


def key(override: str) -> str:
    """`model` of `model=linear`, `trainer` of `++trainer.devices=2`, `logger` of `~logger.csv`."""
    return path_of(override).partition("@")[0].partition(".")[0].partition("/")[0]


def path_of(override: str) -> str:
    """`trainer.devices` of `++trainer.devices=2`."""
    return override.lstrip("+~").partition("=")[0]


def quoted(path: Path) -> str:
    """A path as an override's value."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def has_begun(directory: Path) -> bool:
    """Is there a checkpoint to go on from?"""
    return any((directory / "checkpoints" / name).exists() for name in (LAST, PREVIOUS))


def recorded(overrides: Sequence[str]) -> list[str]:
    """What of a command line belongs to the run itself."""
    return [
        line for line in overrides if key(line) not in ("resume", "trust", "preflight", "probe", "report", "fail_on")
    ]


def overrides_of(directory: Path) -> list[str]:
    """The run's own command line. Refused where the directory is no run's."""
    file = directory / "overrides.txt"
    try:
        if not file.is_file() or not (directory / "config.yaml").is_file():
            raise Refused(
                f"resume={directory} is no run directory (no overrides.txt or config.yaml in it): give one that a "
                "training made, such as outputs/train/<time>"
            )
        if file.stat().st_size > LONGEST:
            raise Refused(f"{file} is larger than 1 MB, which no run writes: restore the file")
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"resume={directory} cannot be read ({error}): give a run directory") from error


def replayed(argv: Sequence[str]) -> list[str]:
    """The command line that goes on with the run named by `resume=DIR`, or `argv` itself where there is none.

    Raises Refused where DIR is no run, or where an override would make it another one.
    """
    said = words(argv)
    asked = [line for line in said if not line.startswith("-") and key(line) == "resume"]
    if not asked or asked[-1].partition("=")[2] in ("", "null"):
        return list(argv)
    if len(asked) > 1:
        raise Refused(f"{' '.join(asked)} names several runs: give one")
    directory = Path(os.path.expanduser(asked[0].partition("=")[2].strip("'\"")))
    own = overrides_of(directory)
    more = [line for line in said if line not in asked]
    if any(line in ("-m", "--multirun") for line in more):
        raise Refused("resume goes on with one run: drop -m and resume the jobs of a sweep one by one")
    for line in more:
        if not line.startswith("-") and key(line) not in FREE:
            raise Refused(
                f"a resumed run keeps its own settings, and {line} would make it another run; only {', '.join(FREE)} "
                f"may change. For a new run from these weights: init_from={directory}"
            )
    for line in own:
        if line.startswith("-") or key(line) in ("hydra", "trust", "resume"):  # trust is only what is typed now
            raise Refused(f"{directory}/overrides.txt holds {line}, which no run writes there: restore the file")
    replaced = {path_of(line) for line in more}
    kept = [line for line in own if path_of(line) not in replaced]
    place = quoted(directory.absolute())
    return [*kept, *more, f"resume={place}", f"hydra.run.dir={place}"]
