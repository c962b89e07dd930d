"""Which dimension of a file is what, by CF attributes or by its name."""

from collections.abc import Mapping
from typing import Any

NAMES = {
    "member": ("member", "realization", "realisation", "ensemble", "ens", "number", "sample"),
    "window": ("window", "crop", "patch", "tile", "region"),
    "time": ("time", "t", "valid_time"),
    "y": ("y", "lat", "latitude", "rlat", "south_north", "northing", "projection_y_coordinate"),
    "x": ("x", "lon", "longitude", "rlon", "west_east", "easting", "projection_x_coordinate"),
}
ATTRIBUTES = {
    "member": {"standard_name": ("realization",), "axis": ("E",)},
    "time": {"standard_name": ("time",), "axis": ("T",)},
    "y": {"standard_name": ("latitude", "projection_y_coordinate"), "axis": ("Y",), "units": ("degrees_north",)},
    "x": {"standard_name": ("longitude", "projection_x_coordinate"), "axis": ("X",), "units": ("degrees_east",)},
}
ANGLES = ("lat", "latitude", "rlat", "grid_latitude", "lon", "longitude", "rlon", "grid_longitude")


def role(dataset: Any, dimension: str) -> str | None:
    """member, window, time, y or x; None for a dimension that is none of them."""
    attributes = dataset.variables[dimension].attrs if dimension in dataset.variables else {}
    if " since " in str(attributes.get("units", "")):
        return "time"
    said = {key: str(value) for key, value in attributes.items()}
    said["axis"] = said.get("axis", "").upper()
    for found, known in ATTRIBUTES.items():
        if any(said.get(key) in values for key, values in known.items()):
            return found
    return next((found for found, names in NAMES.items() if dimension.lower() in names), None)


def is_angle(name: str, attributes: Mapping[str, Any]) -> bool:
    """Whether a coordinate is an angle on a sphere: by its unit, or where it says none by what it is called.

    >>> is_angle("j", {"units": "degree"}), is_angle("lat", {}), is_angle("lat", {"units": "1"}), is_angle("y", {})
    (True, True, False, False)
    """
    unit, called = str(attributes.get("units", "")), str(attributes.get("standard_name", name))
    return unit.lower().startswith("degree") or (not unit and called.lower() in ANGLES)
