"""Errors as sentences."""

import textwrap

from ..refusal import Refused


def refusal_behind(error: BaseException | None) -> Refused | None:
    """The Refused inside Hydra's InstantiationException, or the error itself."""
    while error is not None and not isinstance(error, Refused):
        error = error.__cause__
    return error


def sentence_of(error: Exception) -> str:
    """What Hydra or OmegaConf objects to, without their indentation and their advice to developers."""
    from hydra.errors import OverrideParseException

    if isinstance(error, OverrideParseException) and "sweep" not in error.message.lower():
        return (
            f"{textwrap.shorten(error.override, 200)} cannot be read: write key=value, a value with signs or spaces in "
            """quotes inside quotes, such as 'dataset.root="my sounds"'"""
        )
    text = f"{error}\n{error.__cause__ or ''}" if is_hydras(error) else str(error)
    lines = [line.strip() for line in text.partition("Config search path:")[0].splitlines()]
    told = [line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_type="))]
    if not told or type(error).__module__ == "builtins":
        told = [f"this command line cannot be read ({type(error).__name__}: {' '.join(told)})"]
    return textwrap.shorten(" · ".join(dict.fromkeys(told)), 800, placeholder=" …")


def is_hydras(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "hydra"
