"""What `dataset=precipitation` is told: which fields, how they are cut, divided and transformed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..refusal import Refused


class Target(NamedTuple):
    """`var` in `path`; units: those of the file where auto."""

    path: str | Path
    var: str = "pr"
    units: str = "auto"


class Predictors(NamedTuple):
    """mode coarsen: means of the target over `factor` × `factor` cells; file: `vars` of `path`, on cells that are
    blocks of `factor` × `factor` of the target's, at the times both have (join inner)."""

    mode: str = "coarsen"
    factor: int = 8
    path: str | Path | None = None
    vars: Sequence[str] = ()
    join: str = "inner"


class Statics(NamedTuple):
    """`vars` of `path`, on the target's grid; none where there is no path."""

    path: str | Path | None = None
    vars: Sequence[str] = ("elevation", "land_mask")


class Crop(NamedTuple):
    """size: cells of a side, None for the whole grid. min_wet_fraction: of the coarse cells of a crop."""

    size: int | None = 64
    min_wet_fraction: float = 0.1


class Split(NamedTuple):
    """by year | time_block | region; gap: steps of time, or cells, that are left out between splits."""

    by: str = "time_block"
    gap: int = 5
    val_fraction: float = 0.2
    test_fraction: float = 0.1


class Transform(NamedTuple):
    """See `RainTransform`; scope: per_cell needs crops of one place."""

    name: str = "log1p_zscore"
    scope: str = "global"
    fit_on: str = "train"
    std_floor: float = 0.05


Options = TypeVar("Options", bound=tuple)


def options(kind: type[Options], given: Mapping[str, Any], key: str) -> Options:
    fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    if unknown := sorted(set(given) - set(fields)):
        raise Refused(f"dataset.{key}.{unknown[0]} is not known; dataset.{key} has {', '.join(fields)}")
    try:
        return kind(**given)
    except TypeError:
        raise Refused(f"dataset.{key}.path is missing; type dataset.{key}.path=path/to/rain.nc") from None
