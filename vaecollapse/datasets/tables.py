"""Tables of text: CSV, TSV, JSON lines and Parquet, and plain lines, each row with the place it stands at."""

import codecs
import csv
import glob
import io
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..refusal import Refused

NAMED, LETTERS = 40, 60  # columns that are named, and as much of a name
DELIMITERS = ",;\t|"
MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Table(NamedTuple):
    """The names of the columns, and each row by its line with what it has of them."""

    names: list[str]
    rows: list[tuple[int, Mapping[str, Any]]]


def files_of(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that one or several paths or patterns (`data/*.csv`, `**` for subfolders) name, each once, by name.

    Refused where one names none.
    """
    found: dict[Path, Path] = {}  # by where it really is
    for given in [paths] if isinstance(paths, str | Path) else paths:
        place = os.path.expanduser(given)
        if not place:
            raise Refused("dataset.path is empty: type dataset.path=path/to/file.csv")
        if os.path.isdir(place):
            raise Refused(f"dataset.path={place} is a folder: name its files, such as dataset.path='{place}/*.csv'")
        patterned = [] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
        matches = [match for match in patterned or [place] if os.path.isfile(match)]
        if not matches:
            raise Refused(f"dataset.path={place} names no file: give one, several as [a.csv,b.csv], or a pattern")
        for match in map(Path, matches):
            found.setdefault(match.resolve(), match)
    return list(found.values())


def check_encoding(encoding: str) -> None:
    """Refused unless Python knows it as one of text (rot13 and zip are none)."""
    try:
        "".encode(encoding)
    except (LookupError, ValueError) as error:
        raise Refused(
            f"dataset.encoding={encoding} is not known: type dataset.encoding=utf-8, latin-1 or utf-16, say"
        ) from error


def content_of(path: Path, encoding: str) -> str:
    """A whole file as text without its byte-order mark. Refused where a byte of it is of another encoding."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}): give a file that can") from error
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refused(
            f"{path} has the byte 0x{data[error.start]:02x} in line {line} (byte {error.start}), which is no "
            f"{encoding}: save the file in one encoding, or type dataset.encoding={_other(data, encoding)} if all of "
            "it is"
        ) from error
    except UnicodeError as error:  # of codecs that do not say where
        raise Refused(f"{path} cannot be read as {encoding} ({error}): type dataset.encoding=utf-8, say") from error


def _other(data: bytes, encoding: str) -> str:
    """What a file may be in that is not in this encoding."""
    if data.startswith(MARKS):
        return "utf-16"
    return "latin-1" if codecs.lookup(encoding).name.startswith("utf-8") else "utf-8"


def lines_of(path: Path, encoding: str) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers, without their ends."""
    lines = content_of(path, encoding).split("\n")  # splitlines would cut at what is text, such as U+2028
    return [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip()]


def read_table(path: Path, columns: Mapping[str, str], *, encoding: str) -> list[tuple[str, list[str]]]:
    """The place of each row, and its cells of `columns` (key of the dataset → name of a column) as text.

    A number is as it is written, null is empty. Refused where the file cannot be read as its suffix says, holds no
    rows, or lacks a column.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise Refused(
            f"{path} has the suffix {path.suffix or 'of none'}: give files of {', '.join(READERS)}, or plain text with "
            "dataset=text_lines"
        )
    names, rows = reader(path, encoding, set(columns.values()))
    for key, name in columns.items():
        if names and names.count(name) != 1:
            said = "no column" if name not in names else "more than one column"
            raise Refused(
                f"dataset.{key}={name} is {said} of {path}, which has {_named(names)}: type dataset.{key}= one of them"
            )
    if not rows:
        raise Refused(f"{path} has no rows{' below its header' if names else ''}: give a file that has")
    places = [(f"{path}:{number}", row) for number, row in rows]
    return [(place, [_cell(row.get(name), name, place) for name in columns.values()]) for place, row in places]


def _named(names: Sequence[str]) -> str:
    """Names of columns on a line; a file that is read wrongly may have one of megabytes."""
    shown = [name if len(name) <= LETTERS else f"{name[:LETTERS]}…" for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _cell(value: Any, name: str, place: str) -> str:
    if value is None or value != value:  # not a number: so tables write what is missing
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict | bytes):
        raise Refused(f"{place} has a {type(value).__name__} in {name}, not text: name a column of text or numbers")
    text = str(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused(
            f"{place} has half a character (\\u{ord(text[error.start]):04x}) in {name}: write whole ones"
        ) from error
    return text


def _csv(path: Path, encoding: str, wanted: Collection[str], delimiters: str = DELIMITERS) -> Table:
    text = content_of(path, encoding)
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(delimiters, key=first.count), strict=True)
    head, rows, began = [], [], 1
    try:
        for cells in reader:
            if not head:
                head = [name.strip() for name in cells]
            elif cells and len(cells) != len(head):
                raise Refused(
                    f"{path} has {len(cells)} fields in line {began}, not the {len(head)} of its header: quote fields "
                    "that hold the separator"
                )
            elif cells:
                rows.append((began, {name: cell for name, cell in zip(head, cells, strict=True) if name in wanted}))
            began = reader.line_num + 1
    except csv.Error as error:
        raise Refused(
            f"{path} cannot be read as a table from line {began} on ({error}): close its quotes, double those within a "
            "field, or give it as JSON lines"
        ) from error
    return Table(head, rows)


def _tsv(path: Path, encoding: str, wanted: Collection[str]) -> Table:
    return _csv(path, encoding, wanted, "\t")


def _jsonl(path: Path, encoding: str, wanted: Collection[str]) -> Table:
    rows, names = [], {}
    for number, line in lines_of(path, encoding):
        try:
            row = json.loads(line, parse_int=str, parse_float=str, parse_constant=_constant)
        except (ValueError, RecursionError) as error:
            raise Refused(f"{path} has no JSON in line {number} ({error}): mend the line") from error
        if not isinstance(row, dict):
            raise Refused(
                f"{path} has a {type(row).__name__} in line {number}, not an object of columns: mend the line"
            )
        rows.append((number, {name: cell for name, cell in row.items() if name in wanted}))
        names |= dict.fromkeys(row)
    return Table(list(names), rows)


def _constant(written: str) -> str | None:
    return None if written == "NaN" else written


def _parquet(path: Path, encoding: str, wanted: Collection[str]) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise Refused(
            f"{path} needs the library pyarrow, which is not installed: type pip install 'vaecollapse[text]', or give "
            "the table as CSV"
        ) from error
    try:
        names = parquet.read_schema(path).names
        table = parquet.read_table(path, columns=[name for name in names if name in wanted])
        return Table(names, list(enumerate(table.to_pylist(), 1)))
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        said = str(error).splitlines()[0]
        raise Refused(f"{path} cannot be read as Parquet ({said}): write it again") from error


READERS = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
