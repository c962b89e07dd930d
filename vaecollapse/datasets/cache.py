"""What can be made again, kept between runs in the user's cache folder; without such a folder nothing is kept."""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

VERSION = 1  # of what the files hold: a file of another version is another file
KEPT_DAYS = 30  # a file that no run has used for so long is removed


class Cache:
    """Files in `$XDG_CACHE_HOME/vaecollapse/recordings`, or `~/.cache/…`: written whole or not at all, never pickled.

    A folder that cannot be made or written to costs one log line and the speed, nothing else.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        try:
            home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
            folder = home / "vaecollapse" / "recordings"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows where home is
            self._give_up(error)
        else:
            self.folder = folder

    def _give_up(self, error: Exception) -> None:
        log.info("nothing is cached (%s); set XDG_CACHE_HOME to a folder that can be written", error)
        self.folder = None

    @staticmethod
    def key(*what: object) -> str:
        """A name for what is described by plain values."""
        return hashlib.sha256(json.dumps([VERSION, *what]).encode()).hexdigest()[:32]

    def path(self, name: str) -> Path | None:
        """Where `name` lies if it does; it is marked as used."""
        if self.folder is None:
            return None
        try:
            os.utime(self.folder / name)
        except OSError:  # absent, or somebody else's: then it may still be read
            return self.folder / name if (self.folder / name).is_file() else None
        return self.folder / name

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file that becomes `name` when the block ends well. OSError where that is impossible, said once."""
        if self.folder is None:
            raise FileNotFoundError("there is no cache folder")
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", suffix=".tmp", delete=False) as file:
                temporary = Path(file.name)
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a power cut leaves a whole name on half a file
            temporary.replace(self.folder / name)
            self._forget_old()
        except OSError as error:
            self._give_up(error)
            raise
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

    def _forget_old(self) -> None:
        assert self.folder is not None
        for path in self.folder.iterdir():
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - KEPT_DAYS * 86400:
                    path.unlink()

    def load(self, name: str) -> dict[str, Any]:
        """The dictionary stored as `name`; an empty one where there is none or its bytes are not what was written."""
        path = self.path(name)
        if path is None:
            return {}
        try:
            checksum, _, text = path.read_bytes().partition(b"\n")
        except OSError:
            return {}
        if hashlib.sha256(text).hexdigest().encode() != checksum:
            log.info("the cached %s is damaged and made anew", path)
            return {}
        return json.loads(text)

    def store(self, name: str, content: dict[str, Any]) -> None:
        """Keeps a dictionary of plain values, in JSON under a line with its hash."""
        if self.folder is None:
            return
        text = json.dumps(content).encode()
        with suppress(OSError), self.writing(name) as file:
            file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
