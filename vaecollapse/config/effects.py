"""Overrides that change nothing."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from .checking import resolved
from .schema import EXEMPT
from .sources import options_that_match

# what a run is built from: an override that changes none of these changes nothing
ROOTS = ("model", "regularizer", "dataset", "optimizer", "trainer", "callback", "seed")
ELSE = "another value"


def without_effect(
    cfg: DictConfig, overrides: Sequence[str], choices: Mapping[str, Any], sources: Sequence[Path]
) -> list[str]:
    """One sentence for each override that changes nothing that is built.

    An override is given another value (a group choice: another content), everything is resolved, and the roots are
    compared. `choices` are Hydra's chosen options by group, `sources` the folders where readers are looked for.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    before = _built(plain)
    whole = {root for root, value in before.items() if not isinstance(value, str)}
    sentences = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        group = f"{key}@{override.package}" if override.package else key
        path = (override.package or key.replace("/", ".")) if group in choices else key
        if override.is_delete() or path.split(".")[0] in EXEMPT or OmegaConf.select(cfg, path, default=ELSE) == ELSE:
            continue
        # what stands in a root is built; all else has to be resolved again, which is slow
        if path.split(".")[0] not in whole and _built(plain, path) == before:
            name = override.input_line if group in choices else key
            sentences.append(f"{name} has no effect {_reason(path, choices, sources)}")
    return sentences


def _built(plain: Any, changed: str | None = None) -> dict[str, Any]:
    """The resolved roots, without what is exempt; `changed` is the path that gets another value."""
    cfg = OmegaConf.create({**plain, **{name: {} for name in EXEMPT}})
    assert isinstance(cfg, DictConfig)
    if changed is not None:
        OmegaConf.update(cfg, changed, ELSE, merge=False)
    values = {}
    for root in ROOTS:
        try:
            values[root] = resolved(cfg, root)
        except InterpolationResolutionError as error:
            values[root] = repr(error)  # the only text
    return values


def _reason(path: str, choices: Mapping[str, Any], sources: Sequence[Path]) -> str:
    """`with regularizer=beta: regularizer=free_bits would read it`, as far as the yaml files tell."""
    parts = path.split(".")
    prefixes = "|".join(re.escape(".".join(parts[: n + 1])) for n in range(len(parts)))
    readers = options_that_match(sources, rf"\$\{{({prefixes})\}}")
    for group, options in sorted(readers.items()):
        for choice in sorted(name for name in choices if name.split("@")[0] == group):
            if choices[choice] not in options:
                would = " or ".join(f"{choice}={option}" for option in options)
                return f"with {choice}={choices[choice]}: {would} would read it"
    if any(name.split("@")[0] in readers for name in choices):
        return "here: what would read it is replaced by another override, so leave one of the two out"
    chosen = ", ".join(f"{name}={choices[name]}" for name in ("model", "regularizer", "dataset") if name in choices)
    return f"with {chosen}: nothing that is built reads it, so leave it out"
