"""The run directory: the sole interface between verbs. Files are replaced atomically or appended by whole lines."""

import csv
import fcntl
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .files import append, object_of, whole
from .refusal import Refused

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def first_process() -> bool:
    """False in the further processes of a run on several devices: they write and say nothing of their own."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


STOPPED = "stopped"  # of events.jsonl: an alarm ended training
APPENDED = ("metrics.jsonl", "units.csv", "events.jsonl")


class Run:
    """A directory and the ways to write it.

    >>> from tempfile import mkdtemp
    >>> run = Run(Path(mkdtemp()))
    >>> run.write("verdict.json", {"verdict": "healthy", "se": float("nan")})
    >>> run.read("verdict.json")
    {'verdict': 'healthy', 'se': None}
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: Any) -> None:
        """Replaces a file: text as it is, anything else as JSON. A reader sees the old file or the new one."""
        text = content if isinstance(content, str) else json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n"
        with whole(self.directory / name, sync=True) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Adds one JSON object as one line."""
        append(self.directory / name, json.dumps(plain(row), ensure_ascii=False) + "\n")

    def append_csv(self, name: str, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
        """Adds rows to a table, with its header where the file is new."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        path = self.directory / name
        if not path.exists() or not path.stat().st_size:
            writer.writerow(header)
        writer.writerows(rows)
        append(path, text.getvalue())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refused while another process trains in this directory; the system ends the claim with the process."""
        if not first_process():  # of the run that holds the claim
            yield
            return
        with (self.directory / ".lock").open("a") as lock:
            try:
                # a record lock: flock's would live on in the loader's processes
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise Refused(f"another process is training in {self.directory}: wait for it, or stop it") from error
            except OSError:  # a file system without locks
                pass
            try:
                yield
            finally:
                (self.directory / ".lock").unlink(missing_ok=True)

    def read(self, name: str) -> Any:
        return json.loads((self.directory / name).read_text(encoding="utf-8"))

    def lines(self, name: str) -> list[dict]:
        """The JSON objects of an append-only file; a torn line is left out."""
        path = self.directory / name
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        found = map(object_of, text.rpartition("\n")[0].splitlines())
        return [row for row in found if row is not None]

    def marks(self) -> dict[str, int]:
        """The sizes of the append-only files, flushed to disk, for a checkpoint to remember."""
        sizes = {}
        for name in APPENDED:
            path = self.directory / name
            if path.exists():
                with path.open("ab") as file:
                    os.fsync(file.fileno())
                    sizes[name] = file.tell()
        return sizes

    def cut_back(self, marks: Mapping[str, int]) -> None:
        """Takes the append-only files back to a checkpoint's marks: what came after it will be written again."""
        for name in APPENDED:
            path, size = self.directory / name, marks.get(name, 0)
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)
        if (self.directory / "metrics.jsonl").exists():
            self.tabulate_metrics()

    def tabulate_metrics(self) -> None:
        """Derives metrics.csv from metrics.jsonl."""
        rows = self.lines("metrics.jsonl")
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write("metrics.csv", text.getvalue())
