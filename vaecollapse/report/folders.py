"""Which directories a report is about: run directories, folders of them, and globs, in the order they are given."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..loading import printable
from ..refusal import Refused

DEEPEST, MOST = 8, 100_000  # levels below a folder, directories looked at
GLOB = frozenset("*?[")
# what only a run leaves: with any of these a directory is shown, whole or broken
MARKS = ("config.yaml", "overrides.txt", "verdict.json", "metrics.jsonl", "checkpoints", "provenance.json", "job.json")


class Place(NamedTuple):
    """A directory to show, what it is called, and why it is no run where that is seen from outside."""

    path: Path
    name: str
    fault: str = ""


def places(patterns: Sequence[str]) -> list[Place]:
    """Every directory that these name, once. Refused where one names nothing."""
    found: dict[Path, Place] = {}
    for pattern in patterns:
        matches = sorted(matching(pattern), key=in_order)
        if not matches:
            raise Refused(f"runs={pattern} matches nothing: give a run directory, a folder of them, or a glob")
        below = [place for match in matches for place in at(match, alone=len(matches) == 1)]
        for place in below:
            found.setdefault(place.path.resolve() if not place.fault else place.path.absolute(), place)
    if not found:
        raise Refused(
            f"runs={' '.join(patterns)} holds no run directory: give one that a training made, such as "
            "outputs/train/<time>, a folder of them, or a glob"
        )
    return named(list(found.values()))


def matching(pattern: str) -> list[Path]:
    """The paths that a glob matches (`**` follows no link), or the path itself if it is there."""
    path = Path(os.path.expanduser(pattern))
    at = next((i for i, part in enumerate(path.parts) if GLOB & set(part)), None)
    if at is None or path.exists():
        return [path] if path.exists() else []
    base = Path(*path.parts[:at])
    try:
        return list(base.glob(str(Path(*path.parts[at:]))))
    except (OSError, ValueError) as error:
        raise Refused(f"runs={printable(pattern)} cannot be looked through ({error}): give another glob") from error


def at(path: Path, *, alone: bool) -> list[Place]:
    """What a path stands for: itself where it is a run's, else the runs below it."""
    if not path.is_dir():
        if alone:
            raise Refused(f"runs={path} is no folder: give a run directory, such as outputs/train/<time>")
        return []  # a glob passes over files
    if is_run(path):
        return [Place(path, "")]
    below = [Place(each, "") for each in walk(path)]
    return below or ([] if alone else [Place(path, "", "no run directory, and there is none in it")])


def is_run(path: Path) -> bool:
    return any(os.path.lexists(path / name) for name in MARKS)


def walk(top: Path) -> Iterator[Path]:
    """The run directories below a folder. Links are followed, and no directory is entered twice."""
    seen: set[tuple[int, int]] = set()
    waiting = [(top, 0)]
    while waiting and len(seen) < MOST:
        path, depth = waiting.pop()
        try:
            about = path.stat()
            inner = [entry for entry in os.scandir(path) if not entry.name.startswith(".") and is_folder(entry)]
        except OSError:  # gone, or closed to us
            continue
        if (about.st_dev, about.st_ino) in seen:
            continue
        seen.add((about.st_dev, about.st_ino))
        if depth and is_run(path):
            yield path
        elif depth < DEEPEST:
            names = sorted((Path(entry.path) for entry in inner), key=in_order, reverse=True)
            waiting += [(each, depth + 1) for each in names]


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def in_order(path: Path) -> tuple:
    """Jobs 2 and 10 of a sweep in this order."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in path.parts)


def named(found: Sequence[Place]) -> list[Place]:
    """Each called by what of its path is not the same for all."""
    whole = [place.path.absolute() for place in found]
    same = Path(os.path.commonpath([path.parent for path in whole]))
    return [
        place._replace(name=printable(str(path.relative_to(same)))) for place, path in zip(found, whole, strict=True)
    ]
