"""A training log read as far as it goes: what its last rows say, and have they settled. Nothing heavy is imported."""

import csv
import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from statistics import fmean, variance
from typing import Any, NamedTuple

from ..refusal import Refused
from .given import NAMES, OTHER, OUR_COLUMNS, TEXTS, WHOLE, checked, checked_columns, near, refuse_orphans, split_of

LONGEST = 2**20  # bytes of a line: a table's is far shorter, and a file without line ends is none
LAST, TREND = 10, 5  # the last tenth of the rows is averaged, the last fifth tells whether it moves
SMALL = {"rate": 0.1, "gap": 0.0}  # nats: a smaller movement matters to nobody
MOVING = ("rate", "gap", "kl_mean_per_unit")


class Log(NamedTuple):
    """Numbers by name, the split of each where its column says so, the largest relative movement of R and gap over the
    last fifth, did the applied weight stand still, and sentences on how it was read."""

    values: dict[str, Any]
    splits: dict[str, str]
    unsettled: float | None
    weight_settled: bool
    notes: list[str]


def read_log(file: Path, columns: Mapping[str, str] | None = None, more: Mapping[str, Any] | None = None) -> Log:
    """The last tenth of a log's rows, averaged. `columns` are its names for ours, `more` numbers that it does not hold.

    Lines that cannot be read are left out and counted. Refused where no column is what a diagnosis needs.
    """
    chosen: dict[str, str] = {}
    series: dict[str, array] = {}
    rows = broken = 0
    for line, fields in lines(file):
        if line == 0:
            chosen = choose(file, fields, columns, more or {})
            series = {name: array("d") for name in chosen}
            continue
        numbers = cells(fields, chosen)
        if numbers is None:
            broken += 1
            continue
        rows += 1
        for name, value in numbers.items():
            series[name].append(value)
    if not chosen:
        raise Refused(f"log={file} is empty: give a table with a line of column names, or JSON lines")
    held = {name: values for name, values in series.items() if len(values)}
    values, notes = {}, []
    for name, numbers in held.items():
        values[name], note = last_of(name, numbers, chosen[name])
        notes += [note] if note else []
    refuse_orphans(values | dict(more or {}), f"log={file} has {rows} rows that can be read, and")
    if broken:
        notes.append(f"{broken} of the log's {rows + broken} lines cannot be read and are left out")
    moved = [movement(held[name], SMALL.get(name, 0.0)) for name in MOVING if name in held]
    weight = movement(held["weight_applied"], 0.0) if "weight_applied" in held else None
    told = {name: split for name, column in chosen.items() if name in held and (split := split_of(column))}
    known = [each for each in moved if each is not None]
    return Log({**values, **(more or {})}, told, max(known, default=None), not weight or weight < 0.01, notes)


def lines(file: Path) -> Iterator[tuple[int, Any]]:
    """(0, column names), then (number, cells by name, or None where the line cannot be read)."""
    with file.open("rb") as opened:
        names: list[str] = []
        delimiter, count = ",", 0
        for raw in whole_lines(opened):
            text = decoded(raw)
            if text is not None and not text.strip():
                continue
            if not names:
                if text is None:
                    what = "no text" if raw is not None else "a line of more than 1 MB"
                    raise Refused(f"log={file} is {what}: give a .csv with a line of column names, or JSON lines")
                if text.lstrip().startswith("{"):
                    yield from json_lines(text, opened)
                    return
                delimiter = max(",\t;", key=text.count)
                names = [cell.strip() for cell in split(text, delimiter) or []]
                yield 0, names
                continue
            count += 1
            found = None if text is None else split(text, delimiter)
            yield count, dict(zip(names, found, strict=True)) if found and len(found) == len(names) else None


def whole_lines(opened: Any) -> Iterator[bytes | None]:
    """Lines, None for one that is longer than any table's; memory does not grow with it."""
    while raw := opened.readline(LONGEST + 1):
        if len(raw) <= LONGEST:
            yield raw
            continue
        while raw and not raw.endswith(b"\n"):
            raw = opened.readline(LONGEST)
        yield None


def json_lines(first: str, opened: Any) -> Iterator[tuple[int, Any]]:
    """The same of JSON lines, whose columns are all the keys of the first megabyte."""
    rows, size, left = [parsed(first)], 0, whole_lines(opened)
    for raw in left:
        rows.append(parsed(decoded(raw)))
        size += len(raw or b"")
        if size > LONGEST:
            break
    yield 0, list(dict.fromkeys(key for row in rows if row for key in row))
    yield from enumerate(chain(rows, (parsed(decoded(raw)) for raw in left)), 1)


def decoded(raw: bytes | None) -> str | None:
    try:
        text = None if raw is None else raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if text is None or "\0" in text else text


def parsed(text: str | None) -> dict | None:
    try:
        row = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def split(text: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([text.rstrip("\r\n")], delimiter=delimiter, strict=True), None)
    except csv.Error:
        return None


def choose(
    file: Path, header: Sequence[str], columns: Mapping[str, str] | None, more: Mapping[str, Any]
) -> dict[str, str]:
    """Name → column. Refused where a column that is asked for is not there, or where none says what the rate is."""
    asked = checked_columns(columns or {})
    for name, column in asked.items():
        if column not in header:
            raise Refused(
                f"columns.{name}={column}{near(column, list(header))} is no column of log={file}: "
                f"it has {shown(header)}"
            )
    known = [name for name in NAMES if name not in (*TEXTS, *OTHER)]
    found = {name: name for name in known if name in header}
    found = {name: column for name, column in OUR_COLUMNS.items() if column in header} | found | asked
    have = {*found, *more}
    if "rate" not in have and not {"kl_mean_per_unit", "units"} <= have:
        needed = "units (or a column rate)" if "kl_mean_per_unit" in have else "rate (or kl_mean_per_unit and units)"
        raise Refused(
            f"log={file} has no column {needed}: it has {shown(header)}; say which it is with "
            "columns='{rate: its name}', and add what it does not hold with values='{units: 128}'"
        )
    return found


def shown(header: Sequence[str]) -> str:
    listed = ", ".join(name if name.isprintable() else ascii(name) for name in header[:20])
    return f"{listed[:500]}{' …' if len(header) > 20 or len(listed) > 500 else ''}"


def cells(fields: Mapping[str, Any] | None, chosen: Mapping[str, str]) -> dict[str, float] | None:
    """The numbers of one row by our names, blanks left out; None where a cell that is asked for is no number."""
    if fields is None:
        return None
    numbers = {}
    for name, column in chosen.items():
        cell = fields.get(column)
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            continue
        try:
            numbers[name] = float(cell)
        except (TypeError, ValueError, OverflowError):
            return None
    return numbers


def last_of(name: str, values: array, column: str) -> tuple[Any, str | None]:
    """The mean of the last tenth of a column and how many rows that is; not finite where all of them are not."""
    window = values[-max(1, len(values) // LAST) :]
    finite = [value for value in window if math.isfinite(value)]
    if not finite:
        return math.nan, f"the last {len(window)} values of {column} are not finite"
    if name in (*WHOLE, "step"):
        return checked(name, finite[-1]), None
    mean = fmean(finite)
    note = f"{name} is the mean of the last {len(finite)} of {len(values)} rows of {column}"
    return (mean if name in SIGNED else checked(name, mean)), note


SIGNED = ("rate", "gap", "mutual_information", "distortion", "autoencoder_distortion", "data_entropy")


def movement(values: Sequence[float], small: float) -> float | None:
    """How far a column moved over its last fifth, relative to its size, beyond what its noise explains.

    The difference of the means of the two halves is half the way; what is below `small` or two standard errors is
    none. None of fewer than five rows.

    >>> movement([1.0] * 50, 0.0), round(movement([float(row) for row in range(1, 101)], 0.0), 1)
    (0.0, 0.2)
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < TREND:
        return None
    last = finite[-max(2, len(finite) // TREND) :]
    half = len(last) // 2
    before, after = last[:half], last[-half:]
    way = (fmean(after) - fmean(before)) * (2 if half > 1 else 1)
    noise = 4 * math.sqrt((residual(before) + residual(after)) / half) if half > 2 else 0.0
    return max(0.0, abs(way) - max(noise, small)) / max(abs(fmean(before)), abs(fmean(after)), 1e-9)


def residual(values: Sequence[float]) -> float:
    """The variance around a straight line, from neighbours' differences."""
    steps = [b - a for a, b in pairwise(values)]
    return variance(steps) / 2 if len(steps) > 1 else 0.0
