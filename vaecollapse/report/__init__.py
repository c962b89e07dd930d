"""`vaecollapse-report`: run directories as one page that needs nothing else, or as Markdown. Reads, and writes one
file."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..files import whole
from ..refusal import Refused
from .folders import Place, places
from .kept import Kept
from .markdown import markdown
from .page import data_of, html
from .reading import read

FORMS = {"html": ("report.html", html), "markdown": ("report.md", markdown)}


class Reported(NamedTuple):
    """The file, what it is of, and its text where that is to be read at once."""

    file: Path
    what: str
    text: str | None = None


def report(
    runs: Sequence[str], directory: Path, *, form: str = "html", out: str | None = None, cache: bool = True,
    command: Sequence[str] = (),
) -> Reported:  # fmt: skip
    """Writes the page of these runs to `out`, or into `directory`. Refused where they name nothing that is a run's, or
    the page cannot be put where it is wanted; a directory that cannot be read is shown as such."""
    found = places(runs)
    name, written = FORMS[form]
    file = Path(out).expanduser() if out else directory / name
    if file.is_dir():
        raise Refused(f"out={out} is a folder: give a file, such as out={file / name}")
    kept = Kept(use=cache)
    records = [kept.read(place) for place in found]
    kept.tidy()
    made = time.strftime("%Y-%m-%d %H:%M")
    data = data_of(records, shlex.join(["vaecollapse-report", *command]), made)
    text = written(data)
    put(file, text)
    read_, other, loose = len(data["runs"]), len(data["unread"]), len(data["loose"])
    from_cache = f", {kept.hits} as they were read before" if kept.hits else ""
    unread = f"; {other} not readable, named on the page" if other else ""
    beside = f"; {loose} evaluation{'s' * (loose != 1)} of no run here" if loose else ""
    what = f"{read_} run{'s' * (read_ != 1)}{from_cache}{beside}{unread}"
    return Reported(file, what, text if form == "markdown" else None)


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file, sync=True) as temporary:
        temporary.write_text(text, "utf-8", "replace")  # half a surrogate pair, a name in another encoding


def leave_page(directory: Path) -> None:
    """report.html of a training that has just ended, in its own directory."""
    record = read(Place(directory, directory.name), own=True)
    command = shlex.join(["vaecollapse-report", f"runs={directory}"])
    put(directory / "report.html", html(data_of([record], command, time.strftime("%Y-%m-%d %H:%M"))))
