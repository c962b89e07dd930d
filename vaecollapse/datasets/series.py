"""Fields in time from NetCDF files or a Zarr store, of which nothing but what is asked for is read."""

import glob
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from ..refusal import Refused
from ..writers.netcdf import INSTALL, xarray
from .dimensions import NAMES, is_angle, role

log = logging.getLogger(__name__)

FILLED = 1e15  # no field of nature is larger
MOST_OPEN = 32  # files at a time
JUMP = 3.0  # of the usual step between cells


def engine_of(path: Path, where: str) -> str:
    """What reads a file, by its first bytes; Refused where nothing does."""
    if path.is_dir():
        if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata")):
            return "zarr"
        raise Refused(f"{where}={path} is a folder but no Zarr store; type {where}='{path}/*.nc' for the files in it")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise Refused(f"{where}={path} cannot be read: {error.strerror}; give a file that can") from error
    if magic[:3] == b"CDF":
        return "scipy"
    if magic == b"\x89HDF":
        return "h5netcdf"
    raise Refused(f"{where}={path} is neither NetCDF nor Zarr (it begins with {magic!r}); give a file that is")


class Opened(NamedTuple):
    """A dataset, and below it, where it lies in HDF5, the file: xarray's way to its arrays takes ten times as long as
    reading a crop of one."""

    dataset: Any
    file: Any

    def raw(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Values as they are stored."""
        return self.file[name][index] if self.file else self.dataset.variables[name][index].values

    def close(self) -> None:
        self.dataset.close()
        if self.file:
            self.file.close()


class Handles:
    """The files this process has open, each opened when it is first read.

    HDF5 must not share a file over a fork, nor Zarr its threads: before one, all are closed, and both processes open
    them anew.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, Opened] = OrderedDict()

    def __call__(self, path: Path, where: str) -> Opened:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            if len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[path] = self._opened(path, where)
        return self._open[path]

    @staticmethod
    def _opened(path: Path, where: str) -> Opened:
        engine, reader = engine_of(path, where), xarray()
        settings = dict(decode_times=False, decode_coords=False, mask_and_scale=False, cache=False, chunks=None)
        try:
            dataset = reader.open_dataset(path, engine=engine, **settings)
            if engine != "h5netcdf":
                return Opened(dataset, None)
            import h5py

            return Opened(dataset, h5py.File(path, "r"))
        except ImportError as error:
            raise Refused(f"{where}={path} needs the extra spatial ({error}): type {INSTALL}") from error
        except Exception as error:
            raise unreadable(path, where, error) from error

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def decoded(name: str, variable: Any, raw: np.ndarray) -> np.ndarray:
    """Values as the file means them: packed ones unpacked, missing ones NaN."""
    reader = xarray()
    packed = reader.Variable(variable.dims, raw, variable.attrs)
    return reader.conventions.decode_cf_variable(name, packed, decode_times=False).values


handles = Handles()
os.register_at_fork(before=handles.close)


def unreadable(path: Path, where: str, error: Exception) -> Refused:
    """The sentence for a file that is damaged."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return Refused(f"{where}={path} cannot be read to its end ({reason}); copy or download it again")


def files_of(path: str | Path, where: str) -> list[Path]:
    """The file, the store, or what a pattern matches."""
    text = os.path.expanduser(str(path))
    if not text:
        raise Refused(f"{where} is empty; type {where}=path/to/rain.nc, a pattern such as 'rain_*.nc', or a Zarr store")
    if Path(text).exists():
        return [Path(text)]
    found = [Path(each) for each in sorted(glob.glob(text))]
    if not found:
        raise Refused(f"{where}={text} is not there; type {where}= an existing file, pattern or Zarr store")
    return found


class Axis(NamedTuple):
    """A dimension: its name in the file, the centres of its cells, and what the file says of it."""

    name: str
    centres: Float[np.ndarray, " cell"]
    attributes: dict[str, Any]

    @property
    def degrees(self) -> bool:
        """Whether its centres are angles on a sphere."""
        return is_angle(self.name, self.attributes)


def layout(dataset: Any, name: str, where: str, *, timed: bool) -> dict[str, str]:
    """Which dimension of a variable is which. Refused where one is missing or another is longer than 1."""
    if name not in dataset.data_vars:
        there = ", ".join(map(str, dataset.data_vars)) or "none"
        raise Refused(f"{where} has no variable {name!r}; it has {there}")
    if dataset.variables[name].dtype.kind not in "iuf":
        raise Refused(f"{name} of {where} holds no numbers; name a variable that does")
    sizes = dataset.variables[name].sizes
    roles = {dimension: role(dataset, dimension) for dimension in sizes}
    found = {axis: dimension for dimension, axis in roles.items() if axis in ("time", "y", "x")}
    for axis in ("time", "y", "x") if timed else ("y", "x"):
        if axis not in found:
            raise Refused(
                f"{name} of {where} has the dimensions {', '.join(map(str, sizes))}, none of which is {axis}; name one "
                f"{' or '.join(NAMES[axis][:3])}, or give its coordinate the attribute axis={axis.upper()!r}"
            )
    if timed and found["time"] not in dataset.variables:
        raise Refused(f"{where} says no dates: {found['time']} has no coordinate; give it one, with units and calendar")
    for dimension, size in sizes.items():
        if dimension not in found.values() and size > 1:
            raise Refused(f"{name} of {where} has {size} of {dimension}; select one of them and write that to a file")
    return found


def axis_of(dataset: Any, dimension: str, size: int) -> Axis:
    """A dimension's coordinate, or the cells' numbers where it has none. Longitude goes on past 180° or 360°."""
    if dimension not in dataset.variables:
        return Axis(dimension, np.arange(size, dtype=np.float64), {"units": "1"})
    variable = dataset.variables[dimension]
    centres = np.asarray(decoded(dimension, variable, variable.values), np.float64)
    axis = Axis(dimension, centres, dict(variable.attrs))
    if axis.degrees and role(dataset, dimension) == "x" and (np.diff(centres) <= 0).any():
        axis = axis._replace(centres=np.unwrap(centres, period=360))
    return axis


class Times(NamedTuple):
    """Moments in order: seconds since the year 1, what a calendar writes, and where each lies (file, position)."""

    seconds: Float[np.ndarray, " time"]
    stamps: list[tuple[int, ...]]
    numbers: Float[np.ndarray, " time"]
    places: Int[np.ndarray, "time 2"]
    units: str
    calendar: str

    @property
    def step(self) -> float:
        """Seconds between neighbours, the median; 0 where there is one."""
        return float(np.median(np.diff(self.seconds))) if len(self.seconds) > 1 else 0.0

    def stamp(self, row: int) -> str:
        """As people write it."""
        year, month, day, *clock = self.stamps[row]
        return f"{year:04d}-{month:02d}-{day:02d} " + ":".join(f"{part:02d}" for part in clock)

    def part(self, chosen: Sequence[int] | np.ndarray) -> "Times":
        rows = np.asarray(chosen, int)
        stamps = [self.stamps[row] for row in rows]
        return self._replace(
            seconds=self.seconds[rows], stamps=stamps, numbers=self.numbers[rows], places=self.places[rows]
        )


def times_of(paths: Sequence[Path], name: str, where: str) -> Times:
    """The moments of all files, sorted. Calendars are cftime's, all of one kind."""
    dates, places, calendars, units = [], [], set(), ""
    for number, path in enumerate(paths):
        dataset = handles(path, where).dataset
        variable = dataset.variables[layout(dataset, name, f"{where}={path}", timed=True)["time"]]
        calendars.add(str(variable.attrs.get("calendar", "standard")))
        units = units or str(variable.attrs.get("units", ""))
        found = _decoded(variable, f"{where}={path}")
        dates += found
        places += [(number, position) for position in range(len(found))]
    if len(calendars) > 1:
        raise Refused(f"the files of {where} have the calendars {', '.join(sorted(calendars))}; give files of one")
    return _ordered(dates, np.array(places), units, calendars.pop(), where)


def _decoded(variable: Any, where: str) -> list[Any]:
    import cftime

    units, calendar = str(variable.attrs.get("units", "")), str(variable.attrs.get("calendar", "standard"))
    try:
        numbers = np.asarray(variable.values, np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("some times are missing")
        return list(np.atleast_1d(cftime.num2date(numbers, units, calendar, only_use_cftime_datetimes=True)))
    except (ValueError, OverflowError) as error:
        raise Refused(
            f"{where} has times in {units!r}, calendar {calendar!r}, which say no date ({error}); write units such as "
            "'days since 2000-01-01'"
        ) from error


def _ordered(dates: list[Any], places: np.ndarray, units: str, calendar: str, where: str) -> Times:
    import cftime

    seconds = np.asarray(cftime.date2num(dates, "seconds since 0001-01-01", calendar), np.float64)
    order = np.argsort(seconds, kind="stable")
    if (np.diff(seconds) < 0).any():
        log.warning("the times of %s are not in order and are sorted", where)
    dates = [dates[row] for row in order]
    stamps = [(day.year, day.month, day.day, day.hour, day.minute, day.second) for day in dates]
    numbers = np.asarray(cftime.date2num(dates, units, calendar), np.float64)
    return Times(seconds[order], stamps, numbers, places[order], units, calendar)


class Series:
    """A variable's fields (time, y, x) over all files, in the order of `times`; what is missing is NaN.

    Nothing is open but what `handles` keeps, so a series can be sent to, or inherited by, another process. Twice the
    same moment is kept once where both fields are equal, and refused where they are not.
    """

    def __init__(self, path: str | Path, name: str, where: str) -> None:
        xarray()
        self.paths, self.name, self.where = files_of(path, f"{where}.path"), name, f"{where}.path"
        first = handles(self.paths[0], self.where).dataset
        parts = layout(first, name, f"{self.where}={self.paths[0]}", timed=True)
        sizes = first.variables[name].sizes
        self.y, self.x = (axis_of(first, parts[axis], sizes[parts[axis]]) for axis in ("y", "x"))
        for axis in (self.y, self.x):
            self._check_axis(axis)
        for path_ in self.paths[1:]:
            self._check_same(path_)
        self.attributes = dict(first.variables[name].attrs)
        every = [handles(path_, self.where).dataset for path_ in self.paths]
        self.units = [str(dataset.variables[name].attrs.get("units", "")) for dataset in every]
        self._parts = [layout(dataset, name, self.where, timed=True) for dataset in every]
        self.times = times_of(self.paths, name, self.where)
        self.factors = np.ones(len(self.paths), np.float32)  # what makes the files' units mm
        self._drop_copies()

    def check_no_jump(self) -> None:
        """Refused where neighbours in the file are none on the ground."""
        for axis in (self.y, self.x):
            steps = np.abs(np.diff(axis.centres))
            if len(steps) and steps.max() > JUMP * np.median(steps):
                where = int(steps.argmax())
                ends = f"{axis.centres[where]:g} to {axis.centres[where + 1]:g}"
                raise Refused(
                    f"{axis.name} of {self.where} jumps from {ends}; write a file without the hole, with longitudes of "
                    "-180 to 180 where 0 lies within"
                )

    def _check_axis(self, axis: Axis) -> None:
        steps = np.diff(axis.centres)
        if not np.isfinite(axis.centres).all() or not ((steps > 0).all() or (steps < 0).all()):
            raise Refused(
                f"{axis.name} of {self.where}={self.paths[0]} neither rises nor falls throughout; sort the file by it"
            )

    def _check_same(self, path: Path) -> None:
        dataset = handles(path, self.where).dataset
        parts = layout(dataset, self.name, f"{self.where}={path}", timed=True)
        for axis, key in ((self.y, "y"), (self.x, "x")):
            other = axis_of(dataset, parts[key], dataset.variables[self.name].sizes[parts[key]]).centres
            if len(other) != len(axis.centres) or not np.allclose(other, axis.centres, rtol=0, atol=1e-4):
                raise Refused(
                    f"{path} has another {axis.name} than {self.paths[0]} has; give files of one grid as {self.where}"
                )

    def _drop_copies(self) -> None:
        seconds = self.times.seconds
        twice = np.flatnonzero(np.diff(seconds) == 0)
        for row in twice.tolist():
            one, other = self.read(row, row + 1), self.read(row + 1, row + 2)
            if not np.array_equal(one, other, equal_nan=True):
                stamp = self.times.stamp(row)
                raise Refused(f"{self.where} has the time {stamp} twice with different fields; remove one of them")
        if len(twice):
            log.warning("%d times of %s come twice with the same field and are read once", len(twice), self.where)
            self.times = self.times.part(np.setdiff1d(np.arange(len(seconds)), twice + 1))

    def __len__(self) -> int:
        return len(self.times.seconds)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.y.centres), len(self.x.centres)

    def read(
        self, start: int, stop: int, rows: np.ndarray | None = None, columns: np.ndarray | None = None
    ) -> Float32[np.ndarray, "time height width"]:
        """The fields `start` to `stop` at some rows and columns, runs of neighbours of which are read at once."""
        rows = np.arange(self.shape[0]) if rows is None else rows
        columns = np.arange(self.shape[1]) if columns is None else columns
        parts = []
        for number, steps in self._steps(start, stop):
            bands = [self._band(number, steps, band, columns) for band in runs(rows)]
            parts.append(np.concatenate(bands, 1) * self.factors[number])
        return np.concatenate(parts)

    def _steps(self, start: int, stop: int) -> list[tuple[int, np.ndarray]]:
        """Which positions in which file."""
        places = self.times.places[start:stop]
        cuts = np.flatnonzero(np.diff(places[:, 0])) + 1
        return [(int(part[0, 0]), part[:, 1]) for part in np.split(places, cuts)]

    def _band(self, number: int, steps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                np.concatenate([self._box(number, moments, rows, part) for part in runs(columns)], 2)
                for moments in runs(steps)
            ]
        )

    def _box(self, number: int, steps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """One piece of one file, each of its axes a run of neighbours, up or down."""
        path = self.paths[number]
        opened, parts = handles(path, self.where), self._parts[number]
        variable = opened.dataset.variables[self.name]
        asked = {parts["time"]: steps, parts["y"]: rows, parts["x"]: columns}
        index = tuple(slice(min(asked[d]), max(asked[d]) + 1) if d in asked else slice(1) for d in variable.dims)
        try:
            values = decoded(self.name, variable, opened.raw(self.name, index))
        except Exception as error:
            raise unreadable(path, self.where, error) from error
        order = [variable.dims.index(parts[axis]) for axis in ("time", "y", "x")]
        values = np.moveaxis(values, order, (-3, -2, -1)).reshape([len(each) for each in (steps, rows, columns)])
        values = values.astype(np.float32, copy=False)
        turns = tuple(slice(None, None, -1 if each[-1] < each[0] else 1) for each in (steps, rows, columns))
        return values[turns]


def runs(positions: np.ndarray) -> list[np.ndarray]:
    """Positions cut into runs of neighbours that rise, or fall, by 1.

    >>> [run.tolist() for run in runs(np.array([7, 8, 9, 0, 1]))]
    [[7, 8, 9], [0, 1]]
    """
    steps = np.diff(positions)
    if len(positions) < 2 or ((steps == steps[0]).all() and abs(steps[0]) == 1):
        return [positions]
    main = 1 if (steps == 1).sum() >= (steps == -1).sum() else -1
    return np.split(positions, np.flatnonzero(steps != main) + 1)


def check_declared(values: np.ndarray, what: str) -> None:
    """Refused where what must stand for a missing value is not said to."""
    if (filled := values[np.isfinite(values) & (np.abs(values) > FILLED)]).size:
        raise Refused(f"{what} is {filled[0]:.4g} somewhere, as no field is; declare that as its _FillValue")


def fixed_field(path: str | Path, name: str, where: str) -> tuple[np.ndarray, Axis, Axis]:
    """A field without time (or at its only moment), with its axes."""
    file = files_of(path, f"{where}.path")[0]
    dataset = handles(file, f"{where}.path").dataset
    parts = layout(dataset, name, f"{where}.path={file}", timed=False)
    variable = dataset.variables[name]
    if (moments := variable.sizes.get(parts.get("time", ""), 1)) > 1:
        raise Refused(f"{name} of {where}.path={file} has {moments} times, but a static field has one; select one")
    try:
        values = decoded(name, variable, variable.values).astype(np.float32)
    except Exception as error:
        raise unreadable(file, f"{where}.path", error) from error
    check_declared(values, f"{name} of {where}.path={file}")
    kept = [dimension for dimension in variable.dims if dimension in (parts["y"], parts["x"])]
    values = values.reshape([variable.sizes[dimension] for dimension in kept])
    y, x = (axis_of(dataset, parts[axis], variable.sizes[parts[axis]]) for axis in ("y", "x"))
    return values if kept == [parts["y"], parts["x"]] else values.T, y, x
