"""A table that says which files of a folder are used, in which split and in which group."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..refusal import Refused
from .recordings import Found, shown
from .scan import Listing, Quarantined, find, look

SPLITS = ("train", "val", "test")


class Row(NamedTuple):
    """A file below the root (absolute outside it); its split and its group are empty where the table has none."""

    path: str
    split: str
    group: str


def read_manifest(table: Path, root: Path) -> list[Row]:
    """The rows of a CSV file with a column `path` (from `root`, or absolute) and, if wanted, `split` and `group`.

    Separated by comma, semicolon or tab; other columns are ignored. Refused where columns or values do not fit.
    """
    head, lines = _lines(table)
    if "path" not in head:
        raise Refused(f"dataset.manifest={table} has the columns {', '.join(head)}; name one path (and split, group)")
    rows = []
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            raise Refused(f"dataset.manifest={table} has {len(line)} fields in row {number}, not {len(head)}; mend it")
        cells = {name: cell.strip() for name, cell in zip(head, line, strict=True)}
        rows.append(Row(_below(root, cells["path"]), cells.get("split", ""), cells.get("group", "")))
    if not rows:
        raise Refused(f"dataset.manifest={table} has no rows; give it one for each recording")
    for name in ("split", "group"):
        if name in head and not all(getattr(row, name) for row in rows):
            raise Refused(f"dataset.manifest={table} leaves {name} empty in some rows; fill or remove that column")
    unknown = sorted({row.split for row in rows if row.split} - set(SPLITS))
    if unknown:
        raise Refused(f"dataset.manifest={table} has the split {unknown[0]!r}; write {', '.join(SPLITS)}")
    path, times = Counter(row.path for row in rows).most_common(1)[0]
    if times > 1:
        raise Refused(f"dataset.manifest={table} names {path} {times} times; keep one of the rows")
    return rows


def _lines(table: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows that are not empty."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Refused(f"dataset.manifest={table} cannot be read ({error.strerror}); type the path of a CSV") from error
    except UnicodeDecodeError as error:
        raise Refused(f"dataset.manifest={table} is no text in UTF-8; save it as such") from error
    first = text.partition("\n")[0]
    lines = [line for line in csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count)) if any(line)]
    return [name.strip() for name in lines[0]] if lines else ["none"], lines[1:]


def _below(root: Path, path: str) -> str:
    """The path as the folder's listing has it; one from elsewhere is absolute."""
    whole, base = os.path.abspath(root / path), os.path.abspath(root)
    return Path(whole).relative_to(base).as_posix() if Path(whole).is_relative_to(base) else whole


def listed(rows: Sequence[Row], table: Path, root: Path) -> Listing:
    """The files that the rows name. Refused where some are not there."""
    missing = [row.path for row in rows if not os.path.lexists(root / row.path)]
    if missing:
        there = [shown(each.path) for each in find(root).found]
        some = f"{missing[0]!r}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise Refused(
            f"dataset.manifest={table} names {some}, not found from dataset.root={root}, which holds {len(there)} "
            f"audio files such as {there[0] if there else 'none'}; write paths from there, or absolute ones"
        )
    looked = [look(root, path) for path in sorted(row.path for row in rows)]
    found = [each for each in looked if isinstance(each, Found)]
    return Listing(found, [each for each in looked if isinstance(each, Quarantined)])
