"""An ensemble as CF NetCDF, the truth beside the members."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from ..files import whole
from ..refusal import Refused

INSTALL = "pip install 'vaecollapse[spatial]'"


def xarray() -> Any:
    """The library, where it is installed with what it reads and writes files with."""
    try:
        import cftime  # noqa: F401
        import h5netcdf  # noqa: F401
        import xarray
    except ImportError as error:
        raise Refused(f"NetCDF and Zarr need the extra spatial ({error}): type {INSTALL}") from None
    return xarray


class Ensemble(NamedTuple):
    """Members in mm with the truth, field by field (`N` pairs of a window and a time), NaN where there is no data.

    `time` in the units of `axes["time"]`; `y` and `x` the centres of each field's cells. `axes` has for `time`, `y` and
    `x` a `name` and CF attributes. `position`: in the split the fields are of. `about`: what a reader should know,
    such as mode and temperature.
    """

    members: Float32[np.ndarray, "members n height width"]
    truth: Float32[np.ndarray, "n height width"]
    time: Float[np.ndarray, " n"]
    y: Float[np.ndarray, "n height"]
    x: Float[np.ndarray, "n width"]
    window: Int[np.ndarray, " n"]
    block: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    axes: Mapping[str, Mapping[str, Any]]
    unit: str = "mm/day"
    name: str = "pr"
    attributes: Mapping[str, Any] = {}
    about: Mapping[str, str | float | int] = {}


def write(path: Path | str, ensemble: Ensemble) -> None:
    """CF NetCDF with dims (member, window, time, y, x), or (member, time, lat, lon) for a single window; coordinates
    and attributes kept, the truth as NAME_truth.

    Written beside its place and renamed: whole or not at all.
    """
    path, dataset = Path(path), _dataset(ensemble)
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {"zlib": True, "complevel": 1, "_FillValue": np.float32(np.nan)}
    fields = (ensemble.name, f"{ensemble.name}_truth")
    with whole(path, sync=True) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=dict.fromkeys(fields, packed))


def write_columns(path: Path, columns: Mapping[str, Float32[np.ndarray, "sample height width"]]) -> None:
    """Fields that are no ensemble, by name, with dims (sample, y, x)."""
    dataset = xarray().Dataset({name: (("sample", "y", "x"), values) for name, values in columns.items()})
    with whole(path, sync=True) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf")


def _dataset(ensemble: Ensemble) -> Any:
    """The fields on the grid of all windows and all times; a pair that is not there is NaN."""
    windows, w = np.unique(ensemble.window, return_inverse=True)
    times, t = np.unique(ensemble.time, return_inverse=True)
    window = ("window",) if len(windows) > 1 else ()
    names = {axis: str(ensemble.axes[axis]["name"]) for axis in ("time", "y", "x")}
    time, y, x = (names["time"], "y", "x") if window else names.values()
    shape, own = (*window, time, y, x), [np.flatnonzero(w == number)[0] for number in range(len(windows))]

    def spread(values: np.ndarray, nothing: float | int) -> np.ndarray:
        grid = np.full((*values.shape[:-3], len(windows), len(times), *values.shape[-2:]), nothing, values.dtype)
        grid[..., w, t, :, :] = values
        return grid if window else grid[..., 0, :, :, :]

    def label(values: np.ndarray, said: str) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
        return (*window, time), spread(values.astype(np.int64)[:, None, None], -1)[..., 0, 0], {"long_name": said}

    def centres(axis: str, dimension: str, values: np.ndarray) -> dict[str, Any]:
        name = names[axis] if not window or names[axis] != dimension else f"{dimension}_of_window"
        said = {key: value for key, value in ensemble.axes[axis].items() if key != "name"}
        return {name: ((*window, dimension), values[own] if window else values[own[0]], said)}

    dated = {key: value for key, value in ensemble.axes["time"].items() if key != "name"}
    coordinates = {
        "member": ("member", np.arange(len(ensemble.members)), {"standard_name": "realization", "units": "1"}),
        time: (time, times, {"standard_name": "time", "axis": "T"} | dated),
        "block": label(ensemble.block, "independent block, -1 for none"),
        "position": label(ensemble.position, "position in the split, -1 for none"),
        **({"window": ("window", windows, {"long_name": "place the fields were cut from"})} if window else {}),
        **centres("y", y, ensemble.y),
        **centres("x", x, ensemble.x),
    }
    about = {"units": ensemble.unit, **ensemble.attributes}
    variables = {
        ensemble.name: (("member", *shape), spread(ensemble.members, np.nan), about),
        f"{ensemble.name}_truth": (shape, spread(ensemble.truth, np.nan), about | {"long_name": "what was observed"}),
    }
    attributes = {"Conventions": "CF-1.11", "source": "vaecollapse", **ensemble.about}
    return xarray().Dataset(variables, coordinates, attributes)
