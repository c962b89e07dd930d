"""Rain on a grid: which unit it is in, how large its cells are, and its means over blocks of them."""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ..refusal import Refused

Field = Float[np.ndarray, "*time height width"]

ALIKE = 0.02  # of a cell: how far two grids may be off and still be the same
NAMES = {
    "mm": "mm millimeter millimeters millimetre millimetres",
    "m": "m meter meters metre metres",
    "kg": "kg kilogram kilograms",
    "s": "s sec second seconds",
    "h": "h hr hour hours",
    "day": "d day days",
}
BASES = {name: base for base, names in NAMES.items() for name in names.split()}


class Rain(NamedTuple):
    """A unit of rain: what makes it `unit` by multiplication, and from how much of that on a cell is wet."""

    factor: float
    unit: str
    wet: float


HOURLY, DAILY = ("mm/h", 0.1), ("mm/day", 1.0)  # wet: of radar, of a wet day (ETCCDI)
RATES = {
    "mm h-1": Rain(1.0, *HOURLY),
    "kg h-1 m-2": Rain(1.0, *HOURLY),
    "m h-1": Rain(1e3, *HOURLY),
    "day-1 mm": Rain(1.0, *DAILY),
    "day-1 kg m-2": Rain(1.0, *DAILY),
    "day-1 m": Rain(1e3, *DAILY),
    "mm s-1": Rain(86400.0, *DAILY),
    "kg m-2 s-1": Rain(86400.0, *DAILY),
    "m s-1": Rain(86400e3, *DAILY),
}
AMOUNTS = {"mm": 1.0, "kg m-2": 1.0, "m": 1e3}  # per step of the record
KNOWN = "kg m-2 s-1, m s-1, mm/s, mm/h, mm/day, or per step of the record mm, kg m-2, m"


def canonical(text: str) -> str:
    """A unit's factors in order, as `kg m-2 s-1`, of what is written kg/m^2/s, kg m**-2 s**-1 and so on.

    >>> canonical("mm/hr"), canonical("kg m**-2 s**-1"), canonical("furlong")
    ('h-1 mm', 'kg m-2 s-1', 'furlong')
    """
    text = re.sub(r"\bper\b", "/", text.strip()).replace("**", "").replace("^", "")
    found = []
    for divided, name, power in re.findall(r"(/?)[\s.*·]*([A-Za-z]+)\s?([-−]?\d*)", text):
        exponent = int(power.replace("−", "-") or 1) * (-1 if divided else 1)
        base = BASES.get(name if name in BASES else name.lower(), name)
        found.append(base if exponent == 1 else f"{base}{exponent}")
    return " ".join(sorted(found))


def rain_unit(text: str, step: float, *, where: str, remedy: str = "type dataset.target.units= one of") -> Rain:
    """What a unit is in mm; an amount is per `step` seconds of the record, 0 where that is not known. Refused where it
    is none of rain.

    >>> rain_unit("kg m-2 s-1", 86400.0, where="pr").unit, rain_unit("m", 3600.0, where="tp").factor
    ('mm/day', 1000.0)
    """
    name = canonical(text)
    rates = {canonical(unit): rain for unit, rain in RATES.items()}
    if name in rates:
        return rates[name]
    if name not in AMOUNTS:
        raise Refused(f"{where} is in {text!r}, which is no known unit of rain; {remedy} {KNOWN}")
    per = {3600.0: HOURLY, 86400.0: DAILY, 0.0: ("mm", 0.1)}.get(step, (f"mm/{step / 3600:g}h", 0.1))
    return Rain(AMOUNTS[name], *per)


def edges(centres: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " edge"]:
    """The borders of cells halfway between their centres."""
    if len(centres) < 2:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])


def areas(
    y: Float[np.ndarray, " height"], x: Float[np.ndarray, " width"], *, sphere: bool
) -> Float[np.ndarray, "height width"]:
    """Areas of the cells of a grid, of mean 1; on a sphere y is latitude in degrees: sin(north) − sin(south) each.

    >>> areas(np.array([0.0, 60.0]), np.array([0.0, 1.0]), sphere=False).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    borders = edges(y)
    tall = np.abs(np.diff(np.sin(np.radians(borders.clip(-90, 90))) if sphere else borders))
    area = tall[:, None] * np.abs(np.diff(edges(x)))
    return area / area.mean()


def block_means(
    field: Field, area: Float[np.ndarray, "height width"], factor: int, valid: Bool[np.ndarray, "..."] | None = None
) -> Float[np.ndarray, "*time h w"]:
    """Σ area·field / Σ area over the valid cells of each block of factor × factor; 0 where a block has none.

    >>> block_means(np.array([[1.0, 3.0], [0.0, 8.0]]), np.ones((2, 2)), 2).tolist()
    [[3.0]]
    """
    weight = np.broadcast_to(area, field.shape) if valid is None else area * valid
    total, mass = block_sums(weight, factor), block_sums(weight * np.where(weight > 0, field, 0), factor)
    return (mass / np.where(total > 0, total, 1)).astype(field.dtype)


def block_sums(field: np.ndarray, factor: int) -> np.ndarray:
    """The sum over each block of factor × factor cells."""
    *rest, height, width = field.shape
    return field.reshape(*rest, height // factor, factor, width // factor, factor).sum((-3, -1))


def repeated(coarse: np.ndarray, factor: int) -> np.ndarray:
    """Each cell as a block of factor × factor cells."""
    return coarse.repeat(factor, -2).repeat(factor, -1)


class Match(NamedTuple):
    """Where the cells of one axis lie on another grid: `positions` there of blocks of `factor`, the first of which
    begins at cell `offset` here."""

    positions: Int[np.ndarray, " block"]
    factor: int
    offset: int


def match(
    fine: Float[np.ndarray, " fine"], other: Float[np.ndarray, " other"], *, name: str, what: str, circle: bool = False
) -> Match:
    """Finds the cells of `other` whose blocks of fine cells lie within `fine`; on a circle 360° are 0°.

    Refused where it does not cover `fine`, or its cells are no whole blocks.
    """
    if circle:
        middle = (fine[0] + fine[-1]) / 2
        other = (other - middle + 180) % 360 + middle - 180
    order = np.argsort(other, kind="stable")
    if fine[-1] < fine[0]:
        order = order[::-1]
    sorted_, step = other[order], (fine[-1] - fine[0]) / max(1, len(fine) - 1) or 1.0
    spacing = np.median(np.diff(sorted_)) if len(other) > 1 else step * len(fine)
    factor, slack = max(1, round(spacing / step)), ALIKE * abs(step)
    if len(other) == len(fine) and np.allclose(sorted_, fine, rtol=0, atol=slack):
        return Match(order, 1, 0)  # also where cells are not equally far apart
    borders, wanted = edges(sorted_), edges(fine)
    low, high = (min(borders[0], borders[-1]), max(borders[0], borders[-1]))
    inside = np.array([min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])])
    if inside[0] < low - slack or inside[1] > high + slack:
        raise Refused(
            f"{what} covers {name} {low:g} to {high:g}, but the target lies in {inside[0]:g} to {inside[1]:g}; give "
            f"{what} all of it, or cut the target"
        )
    starts = (borders[:-1] - wanted[0]) / step
    kept = (starts > -ALIKE) & (starts + factor < len(fine) + ALIKE)
    offsets = starts[kept]
    regular = (
        np.allclose(offsets, np.arange(len(offsets)) * factor + round(offsets[0]), atol=ALIKE) if kept.any() else 0
    )
    if not regular:
        raise Refused(
            f"the cells of {what} are no whole blocks of the target's cells along {name} ({spacing:g} against "
            f"{step:g}); regrid {what} to means over such blocks"
        )
    return Match(order[kept], factor, round(offsets[0]))
