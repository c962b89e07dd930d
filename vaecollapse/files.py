"""Files that are whole or absent: replaced at once, or appended to by whole lines."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A name in the same folder to write to: it becomes `path` when the block ends, and vanishes where that fails.

    `sync`: it is on the disk before it does, so that a power cut leaves the old file or the new one.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if sync:
            with temporary.open("ab") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON object as a file of its own, in a folder that is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def append(path: Path, text: str) -> None:
    """Adds whole lines or nothing: what a full disk cut short is taken back."""
    with path.open("ab", buffering=0) as file:
        start, rest = file.tell(), memoryview(text.encode())
        try:
            while rest:
                rest = rest[file.write(rest) or 0 :]
        except BaseException:
            os.truncate(file.fileno(), start)
            raise


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; empty where there is none that can be read."""
    try:
        return object_of(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError):
        return {}


def object_of(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is; None where it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
