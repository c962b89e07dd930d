"""A folder of audio files: listed, read once into a cached index, the bad ones set aside with their reasons."""

import logging
import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from ..refusal import Refused
from .cache import Cache
from .recordings import Found, Recording, Unreadable, examine, shown
from .threads import in_order

log = logging.getLogger(__name__)

SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".aif", ".aiff", ".mp3"}
NAMED = 20  # bad files that are named, of many
CLOSED = "cannot be read"


class Quarantined(NamedTuple):
    path: str
    reason: str


class Listing(NamedTuple):
    """Files that may be audio, and what could not even be looked at, each by path."""

    found: list[Found]
    bad: list[Quarantined]


class Scan(NamedTuple):
    """What is usable, and what is not and why, each by path."""

    recordings: list[Recording]
    quarantine: list[Quarantined]


def find(
    root: Path, suffixes: Collection[str] = SUFFIXES, *, kind: str = "audio", example: str = "path/to/recordings",
    key: str = "dataset.root",
) -> Listing:  # fmt: skip
    """Files with one of `suffixes` below `root`, nothing hidden (`._*` is macOS metadata). Refused where there are
    none; `kind`, `example` and `key` are words of that sentence.

    Links to folders are followed, but none to a folder that is read already or lies above.
    """
    seen = {_identity(folder) for folder in _checked(root, example, key).parents}
    found, bad, plain, links = [], [], [""], []
    while plain or links:
        folder = (plain or links).pop()
        try:
            identity, entries = _identity(root / folder), list(os.scandir(root / folder))
        except OSError as error:
            bad.append(Quarantined(folder or ".", f"cannot be listed: {error.strerror}"))
            continue
        if identity in seen:
            log.warning(
                "%s is a link to a folder that is read already or lies above; it is not followed", shown(folder)
            )
            continue
        seen.add(identity)
        for entry in entries:
            name = f"{folder}/{entry.name}".removeprefix("/")
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else plain).append(name)
            elif os.path.splitext(entry.name)[1].lower() in suffixes:
                each = look(root, name)
                (found if isinstance(each, Found) else bad).append(each)
    if not found and not bad:
        kinds = ", ".join(sorted(suffix[1:] for suffix in suffixes))
        raise Refused(f"{key}={root} holds no {kind} files ({kinds}); type {key}={example}")
    return Listing(sorted(found), sorted(bad))


def _checked(root: Path, example: str, key: str) -> Path:
    """The folder's real path. Refused where there is no folder."""
    try:
        mode = os.stat(root).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Refused(f"{key}={root} does not exist; type {key}={example}") from error
    except OSError as error:
        raise Refused(f"{key}={root} cannot be read ({error.strerror}); give a folder that can") from error
    if not stat.S_ISDIR(mode):
        raise Refused(f"{key}={root} is a file; type the folder it is in, {key}={root.parent}")
    return root.resolve()


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def look(root: Path, name: str) -> Found | Quarantined:
    """A file's size and time, or why it has none."""
    try:
        status = os.stat(root / name)
    except OSError as error:
        return Quarantined(name, f"{CLOSED}: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Quarantined(name, f"{CLOSED}: it is no regular file")
    return Found(name, status.st_size, status.st_mtime_ns)


def scan(
    root: Path,
    listing: Listing,
    *,
    channels: str,
    trim: float | None,
    min_seconds: float,
    max_bad_fraction: float,
    cache: Cache,
    key: str = "dataset.root",
) -> Scan:
    """Reads those files that the cached index does not hold as they are now. `examine` says what trim means.

    Refused where more than `max_bad_fraction` of the files are bad, or all; shorter than `min_seconds` is bad.
    """
    recordings, quarantine = [], list(listing.bad)
    for name, result in _indexed(root, listing.found, channels, trim, cache).items():
        if isinstance(result, str):
            quarantine.append(Quarantined(name, result))
        elif result.frames < min_seconds * result.sample_rate:
            seconds = result.frames / result.sample_rate
            quarantine.append(Quarantined(name, f"too short: {seconds:.2g} s, under min_seconds={min_seconds:g}"))
        else:
            recordings.append(result)
    quarantine.sort()
    refuse_bad(root, len(recordings) + len(quarantine), quarantine, max_bad_fraction, key=key)
    return Scan(recordings, quarantine)


def _indexed(
    root: Path, files: Sequence[Found], channels: str, trim: float | None, cache: Cache
) -> dict[str, Recording | str]:
    """Each file's recording, or the reason why it is none."""

    def read(each: Found) -> Recording | str:
        try:
            return examine(root, each, channels=channels, trim=trim)
        except Unreadable as reason:
            return str(reason)
        except OSError as error:
            return f"{CLOSED}: {error.strerror or error}"

    name = f"index-{cache.key(os.fsencode(root.resolve()).hex(), channels, trim)}.json"
    known = cache.load(name)
    results = {each.path: _recalled(each, known) for each in files}
    fresh = [each for each in files if results[each.path] is None]
    if 0 < len(fresh) < len(files):
        log.info("%d of %d files are new or changed, the others are known from the cache", len(fresh), len(files))
    try:
        for each, result in zip(fresh, in_order(read, fresh, doing="reading recordings", chunk=16), strict=True):
            results[each.path] = result
            known[each.path] = [each.size, each.mtime_ns, result if isinstance(result, str) else list(result[2:])]
    finally:  # interrupted, it goes on from here next time
        if fresh:
            cache.store(name, {path: row for path, row in known.items() if path in results or (root / path).exists()})
    return {path: result for path, result in results.items() if result is not None}


def _recalled(each: Found, known: dict[str, list]) -> Recording | str | None:
    """What the index has of a file, if it is still that file."""
    size, mtime_ns, kept = known.get(each.path, (None, None, CLOSED))
    if (size, mtime_ns) != (each.size, each.mtime_ns):
        return None
    if isinstance(kept, list):
        *levels, heard, digest = kept
        return Recording(each.path, each.size, *levels, heard=tuple(heard), digest=digest)
    return None if kept.startswith(CLOSED) else kept  # a permission changes without the file


def name_copies(recordings: Sequence[Recording]) -> None:
    """Says which files have the same bytes."""
    first = {}
    for each in recordings:
        first.setdefault(each.digest, each.path)
    copies = [each for each in recordings if first[each.digest] != each.path]
    if copies:
        pair = shown(copies[0].path), shown(first[copies[0].digest])
        said = "%d files are copies of others (%s of %s …); they share a split, unless groups or a manifest part them"
        log.warning(said, len(copies), *pair)


def refuse_bad(
    root: Path, total: int, quarantine: Sequence[Quarantined], max_bad_fraction: float, *, kind: str = "audio",
    key: str = "dataset.root",
) -> None:  # fmt: skip
    """Names the quarantined files in the log; Refused where they are too many."""
    every = [f"  {shown(bad.path)}: {bad.reason}" for bad in quarantine]
    lines = [*every[:NAMED], *([f"  … and {len(every) - NAMED} more"] if len(every) > NAMED else [])]
    if len(quarantine) == total:
        raise Refused("\n".join([f"{key}={root} holds no usable {kind}; give other files than these:", *every]))
    if len(quarantine) > max_bad_fraction * total:
        share = f"{len(quarantine)} of {total} files are bad, more than max_bad_fraction={max_bad_fraction:g}"
        raise Refused("\n".join([f"{share}; mend or remove them, or type a larger max_bad_fraction:", *every]))
    if quarantine:
        whole = " (all in quarantine.csv of the run)" if len(quarantine) > NAMED else ""
        log.warning("%d of %d files are left out%s:\n%s", len(quarantine), total, whole, "\n".join(lines))
