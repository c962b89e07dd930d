"""The nearest names to a mistyped one."""

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from ..refusal import nearest
from .checking import dotted
from .schema import KNOBS
from .sources import composed_from, is_choice, options, options_that_match, parsed_lines, values_of


def suggestions(overrides: Sequence[str], sources: Sequence[Path]) -> list[str]:
    """The nearest names for what cannot be overridden; empty where nothing is near."""
    groups, found = options(sources), []
    parsed = list(parsed_lines(overrides))
    for override in parsed:
        names = groups.get(override.key_or_group)
        if names and not override.is_delete() and isinstance(override.value(), int | float | None):
            found.append(f"{override.input_line}: take one of {', '.join(names)}")
    valid = [o.input_line or "" for o in parsed if is_choice(o, groups) and not o.is_sweep_override()]
    composed = composed_from(valid, sources)
    known = [key for key, _ in dotted(OmegaConf.to_container(composed))] if composed else list(KNOBS)
    for override in parsed:
        key = override.key_or_group
        if key in groups:
            unknown = (value for value in values_of(override) if value not in groups[key])
            found += [f"{key}={value}{near}" for value in unknown if (near := nearest(value, groups[key]))]
        elif key in known or override.is_add() or key.startswith("hydra"):
            continue
        elif composed or "." not in key:
            found += _about(key, [*known, *groups], sources)
    return found


def _about(key: str, names: Sequence[str], sources: Sequence[Path]) -> list[str]:
    group, _, rest = key.partition(".")
    if rest and (owners := options_that_match(sources, rf"^{re.escape(rest)}:").get(group)):
        return [f"{key} exists with {' or '.join(f'{group}={owner}' for owner in owners)}"]
    near = nearest(key, names)
    return [f"{key}{near}"] if near else []
