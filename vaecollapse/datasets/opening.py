"""Opens a record: target, predictors and fixed fields brought to one grid, one calendar's times, and mm."""

import logging
from collections.abc import Sequence

import numpy as np

from ..refusal import Refused
from .crops import Record
from .grids import Match, Rain, areas, match, rain_unit
from .precipitation_options import Crop, Predictors, Statics, Target
from .series import Axis, Series, fixed_field

log = logging.getLogger(__name__)

DAY = 86400.0  # seconds
RAIN = ("pr", "tp", "precip", "precipitation", "rain", "rainfall")


def open_record(target: Target, predictors: Predictors, statics: Statics, crop: Crop) -> tuple[Record, Rain]:
    """The record and the unit of its rain. Refused where the parts do not fit together."""
    series = Series(target.path, target.var, "dataset.target")
    series.check_no_jump()
    rain = in_mm(series, target.units)
    given, rows, columns = _predictors(series, predictors, target.var)
    record = Record(
        target=series,
        predictors=given,
        rainy=tuple(is_rain(each, target.var) for each in given) or (True,),
        rows=rows,
        columns=columns,
        area=areas(series.y.centres, series.x.centres, sphere=series.y.degrees),
        fixed=_fixed(series, statics),
        sides=_sides(rows, columns, crop.size),
        wet=rain.wet,
    )
    return record, rain


def _predictors(target: Series, given: Predictors, var: str) -> tuple[tuple[Series, ...], Match, Match]:
    """The predictors at the target's times, of which only those that all have are left, and where their cells lie."""
    if given.mode == "coarsen":
        rows, columns = (Match(np.arange(side // given.factor), given.factor, 0) for side in target.shape)
        return (), rows, columns
    if not given.path or not given.vars:
        raise Refused(
            "dataset.predictors.mode=file needs a path and vars; type dataset.predictors.path=path/to/coarse.nc "
            "dataset.predictors.vars=[psl]"
        )
    series = tuple(Series(given.path, name, "dataset.predictors") for name in given.vars)
    for each in series:
        if is_rain(each, var):
            in_mm(each, "auto")
    join(target, series)
    rows, columns = _matched(target, series[0].y, series[0].x, "dataset.predictors")
    if not rows.factor == columns.factor == given.factor:
        raise Refused(
            f"a cell of dataset.predictors is {rows.factor} x {columns.factor} of the target's; type "
            f"dataset.predictors.factor={rows.factor}, and regrid it where the two differ"
        )
    return series, rows, columns


def _matched(target: Series, y: Axis, x: Axis, what: str) -> tuple[Match, Match]:
    circle = target.x.degrees and x.degrees
    rows = match(target.y.centres, y.centres, name=target.y.name, what=what)
    return rows, match(target.x.centres, x.centres, name=target.x.name, what=what, circle=circle)


def _fixed(target: Series, statics: Statics) -> np.ndarray:
    fields = []
    for name in statics.vars if statics.path else ():
        field, y, x = fixed_field(statics.path or "", name, "dataset.statics")
        rows, columns = _matched(target, y, x, "dataset.statics")
        if not rows.factor == columns.factor == 1:
            raise Refused("dataset.statics is on coarser cells than the target; regrid it to the target's grid")
        fields.append(field[np.ix_(rows.positions, columns.positions)])
    return np.stack(fields) if fields else np.zeros((0, *target.shape), np.float32)


def _sides(rows: Match, columns: Match, size: int | None) -> tuple[int, int]:
    """Height and width of a crop."""
    height, width = (len(each.positions) * each.factor for each in (rows, columns))
    if min(height, width) < max(1, size or 1):
        raise Refused(
            f"dataset.crop.size={size} does not fit into {height} x {width} cells (whole blocks of {rows.factor}); "
            f"type dataset.crop.size={max(min(height, width), rows.factor)}, or a smaller dataset.predictors.factor"
        )
    return (height, width) if size is None else (size, size)


def is_rain(series: Series, target: str) -> bool:
    """By its name, or its standard name."""
    standard = str(series.attributes.get("standard_name", ""))
    return series.name in (*RAIN, target) or "precipitation" in standard or "rainfall" in standard


def in_mm(series: Series, units: str) -> Rain:
    """Makes a series of rain yield mm; all its files must agree in what of."""
    where, rains = f"{series.name} of {series.where}={series.paths[0]}", []
    for text in series.units if units == "auto" else [units] * len(series.paths):
        if not text:
            raise Refused(f"{where} says no units; type dataset.target.units=mm/h, say")
        rains.append(rain_unit(text, series.times.step, where=where))
    if len({rain.unit for rain in rains}) > 1:
        raise Refused(f"the files of {series.where} are in {' and '.join(sorted(set(series.units)))}; give one kind")
    series.factors = np.array([rain.factor for rain in rains], np.float32)
    return rains[0]


def join(target: Series, others: Sequence[Series]) -> None:
    """Leaves the times that all have: the same date and clock, or the same date where each has one field a day."""
    daily = all(
        each.times.step >= DAY and len({stamp[:3] for stamp in each.times.stamps}) == len(each)
        for each in (target, *others)
    )
    calendars = {each.times.calendar for each in (target, *others)}
    if "360_day" in calendars and len(calendars) > 1:
        raise Refused(f"the calendars {' and '.join(sorted(calendars))} share no days of the year; give one calendar")
    keys = [[stamp[:3] if daily else stamp for stamp in each.times.stamps] for each in (target, *others)]
    common = set(keys[0]).intersection(*keys[1:])
    if not common:
        spans = [f"{each.times.stamp(0)} to {each.times.stamp(len(each) - 1)}" for each in (target, others[0])]
        raise Refused(
            f"dataset.predictors and the target have no time in common ({spans[1]} against {spans[0]}); give "
            "predictors of the target's times"
        )
    for each, own in zip((target, *others), keys, strict=True):
        if len(common) < len(own):
            log.info("%d of %d times of %s are used, those that all have", len(common), len(own), each.where)
        each.times = each.times.part([row for row, key in enumerate(own) if key in common])
