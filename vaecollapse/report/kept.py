"""Finished runs as they were read, kept in the user's own cache folder: never in a run's directory, which may be a
stranger's, and never as anything but JSON."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from .. import __version__
from ..files import whole
from .folders import Place
from .reading import FILES, HELD, Record, read

FORMAT = 1  # of a record: another one is read anew
KEPT_DAYS = 90  # a record that no report has used for so long is removed


class Kept:
    """`$XDG_CACHE_HOME/vaecollapse/report`, or `~/.cache/…`. Without such a folder, and where one cannot be written,
    every run is read anew."""

    def __init__(self, *, use: bool = True) -> None:
        self.folder: Path | None = None
        self.hits = 0
        if not use:
            return
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: nobody knows where home is
            folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vaecollapse" / "report"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder = folder

    def read(self, place: Place) -> Record:
        """The record of a directory, from the cache where nothing of it has changed."""
        file = self.file(place)
        if file is not None:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                record = json.loads(file.read_bytes())
                os.utime(file)
                self.hits += 1
                return record | {"name": place.name, "path": str(place.path)}
        record = read(place)
        if file is not None and record["state"] == "finished":
            with contextlib.suppress(OSError), whole(file) as temporary:
                temporary.write_text(json.dumps(record, separators=(",", ":")), "utf-8")
        return record

    def file(self, place: Place) -> Path | None:
        """Where the record would lie: its name changes with the size and time of every file that is read."""
        if self.folder is None or place.fault or any(os.path.lexists(place.path / name) for name in HELD):
            return None
        about: list[object] = [FORMAT, __version__, str(place.path.absolute())]
        for name in FILES:
            try:
                found = os.stat(place.path / name)
                about += [found.st_size, found.st_mtime_ns]
            except OSError:
                about += [None]
        return self.folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]}.json"

    def tidy(self) -> None:
        """Removes what has not been used for long."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder):
                if time.time() - entry.stat().st_mtime > KEPT_DAYS * 86400:
                    os.unlink(entry.path)
