"""An ensemble as CF NetCDF, the truth beside it: fields are written one by one, in a file that is whole or absent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


class Places(NamedTuple):
    """When and where fields lie (`n` pairs of a window and a time).

    `time` in the units of `axes["time"]`; `y` and `x` the centres of each field's cells. `axes` has for `time`, `y` and
    `x` a `name` and CF attributes. `position`: in the split the fields are of. `about`: what a reader should know,
    such as mode and temperature.
    """

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


class Ensemble(NamedTuple):
    """Members in mm with the truth, field by field, NaN where there is no data, and where they lie."""

    members: Float32[np.ndarray, "members n height width"]
    truth: Float32[np.ndarray, "n height width"]
    places: Places


class EnsembleFile:
    """The members and the truth of an ensemble, each written when it is there: memory does not grow with them."""

    def __init__(self, file: Any, places: Places) -> None:
        self.file, name = file, places.name
        _, self.w = np.unique(places.window, return_inverse=True)
        _, self.t = np.unique(places.time, return_inverse=True)
        self.several = bool(self.w.max(initial=0))
        y, x = places.y.shape[1], places.x.shape[1]
        dims = grid_dims(places)
        chunk = (*(1,) * (len(dims) - 2), y, x)  # a field
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fillvalue": np.float32(np.nan)}
        file.dimensions["member"] = None
        self.members = file.create_variable(name, ("member", *dims), "f4", chunks=(1, *chunk), **packed)
        self.truth = file.create_variable(f"{name}_truth", dims, "f4", chunks=chunk, **packed)
        beside = {"coordinates": " ".join(sorted(set(_coordinates(places)) - set(dims)))}
        for variable, said in ((self.members, {}), (self.truth, {"long_name": "what was observed"})):
            variable.attrs.update({"units": places.unit, **places.attributes, **beside, **said})

    def at(self, row: int) -> tuple[int, ...]:
        """Where a field stands on the grid of windows and times."""
        return (int(self.w[row]), int(self.t[row])) if self.several else (int(self.t[row]),)

    def put_truth(self, row: int, field: Float32[np.ndarray, "height width"]) -> None:
        self.truth[self.at(row)] = field

    def put(self, member: int, row: int, field: Float[np.ndarray, "height width"]) -> None:
        """A member's field."""
        if member >= self.members.shape[0]:
            self.file.resize_dimension("member", member + 1)
        self.members[(member, *self.at(row))] = field

    def keep(self, count: int) -> None:
        """Leaves so many members, and numbers them."""
        self.file.resize_dimension("member", count)
        number = self.file.create_variable("member", ("member",), "i8", data=np.arange(count))
        number.attrs.update({"standard_name": "realization", "units": "1"})


@contextmanager
def new(path: Path, places: Places) -> Iterator[EnsembleFile]:
    """CF NetCDF with dims (member, window, time, y, x), or (member, time, lat, lon) for a single window; coordinates
    and attributes kept, the truth as NAME_truth; a pair of a window and a time that is not there is NaN.

    Written beside its place, and renamed when the block ends.
    """
    library = xarray()
    import h5netcdf

    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = library.Dataset({}, _coordinates(places))
    with whole(path, sync=True) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf")
        with h5netcdf.File(temporary, "a") as file:
            file.attrs.pop("coordinates", None)  # said of each variable, as CF has it
            file.attrs.update({"Conventions": "CF-1.11", "source": "vaecollapse", **places.about})
            yield EnsembleFile(file, places)


def write(path: Path | str, ensemble: Ensemble) -> None:
    """A whole ensemble; see `new`."""
    with new(Path(path), ensemble.places) as file:
        for row, field in enumerate(ensemble.truth):
            file.put_truth(row, field)
        for number, member in enumerate(ensemble.members):
            for row, field in enumerate(member):
                file.put(number, row, field)
        file.keep(len(ensemble.members))


def write_columns(path: Path, columns: Mapping[str, Float32[np.ndarray, "sample height width"]]) -> None:
    """Fields that are no ensemble, by name, with dims (sample, y, x)."""
    dataset = xarray().Dataset({name: (("sample", "y", "x"), values) for name, values in columns.items()})
    with whole(path, sync=True) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf")


def grid_dims(places: Places) -> tuple[str, ...]:
    """The truth's dimensions; those of a single window have their names in the record."""
    names = [str(places.axes[axis]["name"]) for axis in ("time", "y", "x")]
    return ("window", names[0], "y", "x") if len(np.unique(places.window)) > 1 else tuple(names)


def _coordinates(places: Places) -> dict[str, Any]:
    """Times, windows, centres of cells, blocks and positions, as xarray takes them."""
    windows, w = np.unique(places.window, return_inverse=True)
    times, t = np.unique(places.time, return_inverse=True)
    *window, time, y, x = grid_dims(places)
    names = {axis: str(places.axes[axis]["name"]) for axis in ("time", "y", "x")}
    first = [int(np.flatnonzero(w == number)[0]) for number in range(len(windows))]

    def label(values: np.ndarray, said: str) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
        grid = np.full((len(windows), len(times)), -1)
        grid[w, t] = values
        return (*window, time), grid if window else grid[0], {"long_name": said}

    def centres(axis: str, dimension: str, values: np.ndarray) -> dict[str, Any]:
        name = names[axis] if not window or names[axis] != dimension else f"{dimension}_of_window"
        said = {key: value for key, value in places.axes[axis].items() if key != "name"}
        return {name: ((*window, dimension), values[first] if window else values[first[0]], said)}

    dated = {key: value for key, value in places.axes["time"].items() if key != "name"}
    return {
        time: (time, times, {"standard_name": "time", "axis": "T"} | dated),
        "block": label(places.block, "independent block, -1 for none"),
        "position": label(places.position, "position in the split, -1 for none"),
        **({"window": ("window", windows, {"long_name": "place the fields were cut from"})} if window else {}),
        **centres("y", y, places.y),
        **centres("x", x, places.x),
    }
