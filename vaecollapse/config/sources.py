"""Where yaml files lie, what they offer, and what a command line chooses of it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from .schema import EXEMPT, register


def folder() -> Path:
    """`conf/`: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def folders(config_sources: Sequence[Any]) -> list[Path]:
    """The folders of `hydra.runtime.config_sources` that hold yaml files."""
    return [Path(source.path) for source in config_sources if source.schema == "file"]


def options_that_match(sources: Sequence[Path], pattern: str) -> dict[str, list[str]]:
    """The options by group whose yaml matches the pattern."""
    found: dict[str, list[str]] = {}
    for group, names in options(sources).items():
        files = {name: next(f for s in sources if (f := s / group / f"{name}.yaml").is_file()) for name in names}
        matching = [name for name, file in files.items() if re.search(pattern, file.read_text("utf-8"), re.M)]
        if matching and group not in EXEMPT:
            found[group] = matching
    return found


def options(sources: Sequence[Path]) -> dict[str, list[str]]:
    """Every group with its options, by the yaml files in these folders."""
    found: dict[str, set[str]] = {}
    for source in sources:
        for file in source.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


def sweeps_a_group(overrides: Sequence[str], groups: Sequence[str]) -> bool:
    """Do these overrides of a multirun try several options of a group?"""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return any(override.is_sweep_override() and override.key_or_group in groups for override in parsed)


def parsed_lines(overrides: Sequence[str]) -> Iterator[Override]:
    for line in overrides:
        try:
            yield OverridesParser.create().parse_override(line)
        except (HydraException, ValueError):
            continue


def values_of(override: Override) -> list[str]:
    """The options an override names: one, a list, or the choices of a sweep."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()] if override.is_choice_sweep() else []
    value = override.value()
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def is_choice(override: Override, groups: Mapping[str, Sequence[str]]) -> bool:
    names = groups.get(override.key_or_group, ())
    return override.package is None and bool(names) and all(value in names for value in values_of(override))


def composed_from(overrides: Sequence[str], sources: Sequence[Path]) -> DictConfig | None:
    register()
    more = [f"file://{path}" for path in sources if path != folder()]
    with hydra.initialize_config_dir(str(folder()), job_name="train", version_base="1.3"):
        try:
            return hydra.compose("train", [*overrides, f"hydra.searchpath=[{','.join(more)}]"])
        except (HydraException, OmegaConfBaseException, ValueError):
            return None
