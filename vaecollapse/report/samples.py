"""What a run leaves to listen to, look at or read, small enough to travel within the page."""

import base64
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import loading
from ..refusal import Refused

# suffix → kind, media type, what such a file begins with; all are shown by <img>, where no script of theirs runs
KINDS = {
    ".wav": ("sound", "audio/wav", b"RIFF"),
    ".flac": ("sound", "audio/flac", b"fLaC"),
    ".ogg": ("sound", "audio/ogg", b"OggS"),
    ".png": ("picture", "image/png", b"\x89PNG"),
    ".svg": ("picture", "image/svg+xml", b"<svg "),
    ".jpg": ("picture", "image/jpeg", b"\xff\xd8\xff"),
    ".txt": ("text", "text/plain", b""),
}
ORDER = ("real", "reconstruction", "other z", "prior", "sample", "mean z", "interpolation")  # of sounds, then the rest
LARGEST, LONGEST_TEXT, FILES, PICTURES = 2**21, 20_000, 400, 60  # bytes and characters of one, how many

EMPTY = {"folder": None, "sounds": [], "pictures": [], "texts": [], "left_out": 0, "alone": ""}


class Purse:
    """How many bytes may still be embedded; what did not fit is named."""

    def __init__(self, left: int) -> None:
        self.left, self.left_out = left, 0

    def takes(self, size: int) -> bool:
        """Pays for so many bytes, where there are as many left."""
        fits = size <= self.left
        self.left, self.left_out = self.left - size * fits, self.left_out + (not fits)
        return fits

    def file(self, root: Path, name: str) -> tuple[str, str] | None:
        """The kind of a file of the run, and its content as a `data:` address (a text as it is)."""
        suffix = Path(name).suffix.lower()
        if suffix not in KINDS:
            return None
        kind, media, start = KINDS[suffix]
        try:
            file = loading.inside(root, name)
            size = file.stat().st_size
            if size > min(LARGEST, self.left):
                self.left_out += 1
                return None
            content = file.read_bytes()
        except (Refused, OSError):
            self.left_out += 1
            return None
        if not content.startswith(start):
            return None
        self.left -= size
        if kind == "text":
            return kind, content.decode("utf-8", "replace")[:LONGEST_TEXT]
        return kind, f"data:{media};base64,{base64.b64encode(content).decode()}"


def embedded(root: Path, purse: Purse, besides: Sequence[Path] = ()) -> dict[str, Any]:
    """`folder`, `sounds` (kind, then its clips), `pictures` and `texts` of the last samples, then `pictures/`; and the
    same of what other verbs made of the run, in directories of their own."""
    sounds: dict[str, list[list[str]]] = {}
    texts, pictures = [], []
    for place in (root, *besides):
        folder = latest(place)
        for name in [] if folder is None else names(place / folder):
            if (found := purse.file(place, f"{folder}/{name}")) is None:
                continue
            kind, content = found
            stem = Path(name).stem
            if kind == "sound":
                sounds.setdefault(kind_of(stem), []).append([name, content])
            else:
                (texts if kind == "text" else pictures).append([stem.replace("_", " "), "", content])
        pictures += list(listed(place, purse))
    heard = sorted(sounds.items(), key=lambda item: ORDER.index(item[0]) if item[0] in ORDER else len(ORDER))
    return EMPTY | {"folder": latest(root), "sounds": heard, "pictures": pictures, "texts": texts,
                    "left_out": purse.left_out}  # fmt: skip


def counted(root: Path, besides: Sequence[Path] = ()) -> dict[str, Any]:
    """Of many runs: how many files there are, and `alone`, what shows them."""
    folders = {place: latest(place) for place in (root, *besides)}
    count = sum(len(names(place / folder)) for place, folder in folders.items() if folder is not None)
    runs = [str(place) for place, folder in folders.items() if folder is not None or place == root]
    value = runs[0] if len(runs) == 1 else f"[{','.join(runs)}]"
    alone = shlex.join(["vaecollapse-report", f"runs={value}"]) if count else ""
    return EMPTY | {"folder": folders[root], "left_out": count, "alone": alone}


def latest(root: Path) -> str | None:
    """The folder of the last validation's samples, or `samples` itself."""
    top = root / "samples"
    try:
        inner = sorted((path.name for path in top.iterdir() if path.is_dir() and names(path)), key=in_order)
    except OSError:
        return None
    return f"samples/{inner[-1]}" if inner else "samples"


def names(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.iterdir() if path.suffix.lower() in KINDS), key=in_order)[:FILES]


def in_order(name: str) -> list[str]:
    """Numbers in a name by their size.

    >>> sorted(["epoch_1000", "epoch_999"], key=in_order)
    ['epoch_999', 'epoch_1000']
    """
    return [part.zfill(20) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]


def kind_of(stem: str) -> str:
    """`reconstruction` of `reconstruction_2` and of `000002_1_reconstruction`.

    >>> kind_of("prior_0"), kind_of("000002_1_reconstruction"), kind_of("kick")
    ('prior', 'reconstruction', 'kick')
    """
    return re.sub(r"^\d+_(\d+_)?|_\d+$", "", stem).replace("_", " ")


def listed(root: Path, purse: Purse) -> Iterator[list[str]]:
    """The pictures of `pictures/pictures.json`, in its order: title, caption, address ('' where there is none)."""
    try:
        content = json.loads(loading.read_text(root, "pictures/pictures.json"))
    except (Refused, ValueError, RecursionError):
        return
    for entry in content[:PICTURES] if isinstance(content, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            continue
        name = entry["file"]
        plain = Path(name).name == name
        found = purse.file(root, f"pictures/{name}") if plain else None
        title, caption = (str(entry.get(key) or "") for key in ("title", "caption"))
        if found is None:
            why = f"({loading.printable(name)} is not embedded: missing, too large, or no picture)"
            caption = f"{caption} {why}".strip()
        yield [title or name, caption, found[1] if found and found[0] == "picture" else ""]
