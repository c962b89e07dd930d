"""An ensemble in a file, ours or anybody's: which dimension and variable is what, in what unit and what blocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from ..datasets.dimensions import NAMES, is_angle, role
from ..datasets.grids import rain_unit
from ..metrics.fields import Fields
from ..refusal import Refused
from ..writers.netcdf import xarray

TRUTHS = ("truth", "obs", "observed", "observation", "reference", "target", "analysis")
MOST_RAIN = 1e6  # mm in a step, however long: no rain but what must stand for a missing value
MEMORY_DAYS, STRETCHES, YEARS = 10.0, 10, 6  # weather is forgotten in about 5 days; 2^(YEARS − 1) exchanges give a p


class Stored:
    """An ensemble in a file, whoever made it, read part by part.

    The variable with a member dimension holds the members, the one with the same dimensions but that one the truth; a
    dimension is known by its name or its coordinate's CF attributes. Refused, in a sentence, where that does not tell.
    `blocks` says what counts as independent.
    """

    def __init__(self, path: Path | str, *, members: str | None = None, truth: str | None = None) -> None:
        self.path = Path(path)
        self.opened = file = _opened(self.path)
        self.dataset = file.squeeze([d for d, size in file.sizes.items() if size == 1 and not role(file, str(d))])
        self.dims = {found: str(name) for name in self.dataset.dims if (found := role(self.dataset, str(name)))}
        if missing := [each for each in ("member", "time", "y", "x") if each not in self.dims]:
            raise Refused(
                f"{path} has the dimensions {', '.join(map(str, self.dataset.dims))}, none of which is {missing[0]}: "
                f"name one {' or '.join(NAMES[missing[0]][:3])}, or give its coordinate a CF standard_name or axis"
            )
        self.members = self._variable(members, "members", "variable", with_member=True)
        self.truth = self._variable(truth, "truth", "truth", with_member=False)
        self.unit, self.factor = self._unit(self.members)
        truth_unit, self.truth_factor = self._unit(self.truth)
        if truth_unit != self.unit:
            raise Refused(f"members of {path} are in {self.unit} and the truth in {truth_unit}: give both in one unit")
        self.block, self.blocks = self._blocks()

    def _variable(self, name: str | None, what: str, key: str, *, with_member: bool) -> str:
        """The variable that has all dimensions, with members or without; `key` is what a user names it by."""
        there = {str(key): set(variable.dims) for key, variable in self.dataset.data_vars.items()}
        wanted = set(self.dims.values()) - (set() if with_member else {self.dims["member"]})
        fitting = [key for key, dims in there.items() if dims == wanted]
        if name is not None and name not in fitting:
            raise Refused(
                f"{key}={name} is no variable of {self.path} with ({', '.join(sorted(wanted))}): there are "
                f"{', '.join(there) or 'none'}"
            )
        named = [key for key in fitting if any(word in key.lower() for word in TRUTHS)]
        left = [name] if name else fitting if len(fitting) == 1 else named if not with_member else []
        if len(left) == 1:
            return left[0]
        if not fitting:
            shape = ", ".join(sorted(wanted))
            raise Refused(
                f"{self.path} has no {what}, a variable with ({shape}): there are {', '.join(there) or 'none'}"
            )
        raise Refused(f"{self.path} may have its {what} in {' or '.join(fitting)}: type {key}={fitting[0]}")

    def _unit(self, name: str) -> tuple[str, float]:
        """mm/day, mm/h or mm, and what makes it so by multiplication."""
        given, step = str(self.dataset[name].attrs.get("units", "")), float(round(self._step_seconds()))
        found = rain_unit(given, step, where=f"{name} of {self.path}", remedy="give one of")
        return found.unit, found.factor

    def _seconds(self) -> Float[np.ndarray, " time"] | None:
        """Since the first time; None where times are no dates."""
        times = self.dataset[self.dims["time"]].values if self.dims["time"] in self.dataset.variables else np.zeros(0)
        if np.issubdtype(times.dtype, np.datetime64):
            if np.isnat(times).any():
                raise Refused(f"{self.path} has fields without a time: give each its own")
            return (times - times[0]) / np.timedelta64(1, "s")
        dated = times.dtype == object and len(times) > 0
        return np.array([(each - times[0]).total_seconds() for each in times]) if dated else None

    def _step_seconds(self) -> float:
        seconds = self._seconds()
        return 0.0 if seconds is None or len(seconds) < 2 else float(np.median(np.diff(np.sort(seconds))))

    def _blocks(self) -> tuple[Int[np.ndarray, "window time"], str]:
        """The independent block of each field: as the file says, years, or stretches of time."""
        windows, times = (self.dataset.sizes.get(self.dims.get(each, ""), 1) for each in ("window", "time"))
        if "block" in self.dataset.variables:
            return self._label("block"), "blocks as the file has them"
        seconds = self._seconds()
        if seconds is None:
            return np.zeros((windows, times), int), "one block: the times are no dates"
        dates = self.dataset[self.dims["time"]]
        years = dates.dt.year.values
        if len(np.unique(years)) >= YEARS:
            return np.tile(years, (windows, 1)), "blocks are years"
        ordered = seconds - seconds.min()
        length = max(MEMORY_DAYS * 86400, float(ordered.max()) / STRETCHES * (1 + 1e-9))
        numbers = (ordered // length).astype(int)
        if len(np.unique(numbers)) < 2:
            return np.zeros((windows, times), int), f"one block: all within {MEMORY_DAYS:g} days, so no errors"
        return np.tile(numbers, (windows, 1)), f"blocks are {length / 86400:.0f} days of time"

    def _label(self, name: str) -> Int[np.ndarray, "window time"]:
        """A coordinate of windows and times, on both."""
        window, time = self.dims.get("window", "window"), self.dims["time"]
        values = self.dataset[name]
        for dimension in (window, time):
            if dimension not in values.dims:
                values = values.expand_dims({dimension: self.dataset.sizes.get(dimension, 1)})
        return values.transpose(window, time).values.astype(np.int64)

    @property
    def count(self) -> int:
        """How many members."""
        return self.dataset.sizes[self.dims["member"]]

    def parts(self, times: int = 64) -> Iterator[tuple[Fields, Float32[Tensor, "members n height width"]]]:
        """Truth and members in mm, about `times` fields at once, without pairs of a window and a time with no data."""
        area, total = self._area(), self.dataset.sizes[self.dims["time"]]
        block, windows = torch.from_numpy(self.block), len(self.block)
        position = self._label("position") if "position" in self.dataset.variables else None
        index = np.arange(windows * total).reshape(windows, total) if position is None else position
        place = torch.arange(windows)[:, None].expand(windows, total)
        step = max(1, times // windows)
        for start in range(0, total, step):
            of = slice(start, start + step)
            truth = self._read(self.truth, self.truth_factor, of)[0]
            members = self._read(self.members, self.factor, of)
            there = torch.isfinite(truth).any((-2, -1))
            mask = ~torch.isnan(members).all(0)[there]
            truth = truth[there]
            where = None if area is None else area[:, None].expand(*there.shape, *area.shape[1:])[there]
            labels = (each[:, of][there] for each in (block, place, torch.from_numpy(index)))
            yield Fields(truth, mask, *labels, area=where, unit=self.unit), members[:, there]

    def _read(self, name: str, factor: float, times: slice) -> Float32[Tensor, "members window time height width"]:
        """A part of a variable in mm; noise of packing below 0 is 0."""
        found = self.dataset[name].isel({self.dims["time"]: times})
        order = [
            self.dims[each] for each in ("member", "window", "time", "y", "x") if self.dims.get(each) in found.dims
        ]
        try:
            values = found.transpose(*order).values.astype(np.float32) * np.float32(factor)
        except Exception as error:  # each kind of file, and of compression, has its own
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise Refused(f"{name} of {self.path} cannot be read to its end ({said}): copy it again") from error
        lead = [0] * (self.dims["member"] not in found.dims) + [1] * ("window" not in self.dims)
        for axis in lead:
            values = np.expand_dims(values, axis)
        below = values < 0
        if (values < -0.01).any():
            raise Refused(
                f"{name} of {self.path} is {values[below].min():.3g} mm at its least, and rain is never negative: "
                "give mm, without logarithm or standardisation"
            )
        if (filled := values[values > MOST_RAIN]).size:
            raise Refused(f"{name} of {self.path} is {filled[0]:.3g} mm somewhere: declare that as its _FillValue")
        values[below] = 0
        return torch.from_numpy(values)

    def _area(self) -> Float32[Tensor, "window height width"] | None:
        """Of the cells, as cos φ; None where y is no latitude."""
        y, windows = self.dims["y"], self.dims.get("window")
        fitting = [c for c in self.dataset.coords.values() if y in c.dims and set(c.dims) <= {y, windows}]
        if not (latitude := [c for c in fitting if is_angle(str(c.name), c.attrs)]):
            return None
        (found, *_) = latitude
        phi = np.radians(found.transpose(windows, y).values if windows in found.dims else found.values[None])
        rows = np.broadcast_to(np.cos(phi), (len(self.block), phi.shape[1]))[:, :, None]
        width = self.dataset.sizes[self.dims["x"]]
        return torch.from_numpy(rows.astype(np.float32).repeat(width, 2))

    def close(self) -> None:
        self.opened.close()


def _opened(path: Path) -> Any:
    if not path.exists():
        raise Refused(f"{path} is not there: give a NetCDF file or a Zarr store that is")
    try:
        return xarray().open_dataset(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refused(
            f"{path} cannot be read as NetCDF or Zarr ({said}): copy it again, or write it as NetCDF-4"
        ) from error
