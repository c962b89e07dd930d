"""One image file: read from a folder or out of a zip archive, decoded under limits, or the reason why it cannot be."""

import hashlib
import io
import os
import threading
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ..refusal import Refused
from .recordings import Found, Unreadable
from .scan import Listing, Quarantined, find

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")  # Pillow's, of which none starts another program
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".pbm"}
CHANNELS = ("auto", "grey", "rgb")
GREY = ("1", "L", "LA", "La", "I", "F")  # Pillow's modes without colour, and those that start with I;16
MOST_BYTES = 2**28  # of one file
MOST_PIXELS = 2**26  # of one image, 8192 x 8192: what a few kilobytes can claim to be is not decoded beyond
EXAMPLE = "path/to/images"


class Picture(NamedTuple):
    """A readable file: path, bytes, height and width upright, has it no colour, hash of the file's bytes."""

    path: str
    size: int
    height: int
    width: int
    grey: bool
    digest: str


class Folder:
    """Image files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def listing(self) -> Listing:
        """Refused where there are none."""
        return find(self.root, SUFFIXES, kind="image", example=EXAMPLE)

    def read(self, path: str) -> bytes:
        """The bytes of a file. OSError or Unreadable where that cannot be."""
        with open(self.root / path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise Unreadable(f"larger than {MOST_BYTES >> 20} MiB")
            return file.read()


class Archive:
    """Image files in a zip archive, read where they lie: nothing is extracted, so their names lead nowhere."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: tuple[int, zipfile.ZipFile] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Path]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["root"])

    @property
    def file(self) -> zipfile.ZipFile:
        """The open archive: of this process, since two would share one position in the file."""
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                self._open = os.getpid(), zipfile.ZipFile(self.root)
            return self._open[1]

    def listing(self) -> Listing:
        """Refused where this is no archive or holds no images."""
        try:
            entries = self.file.infolist()
        except (zipfile.BadZipFile, OSError, UnicodeDecodeError, ValueError, NotImplementedError) as error:
            raise Refused(
                f"dataset.root={self.root} cannot be read as a zip archive ({error}): give another, or a folder"
            ) from error
        found, bad, seen = [], [], set()
        for entry in entries:
            name = PurePosixPath(entry.filename)
            hidden = name.name.startswith(".") or "__MACOSX" in name.parts
            if entry.is_dir() or hidden or name.suffix.lower() not in SUFFIXES or entry.filename in seen:
                continue
            seen.add(entry.filename)
            if entry.file_size > MOST_BYTES:
                bad.append(Quarantined(entry.filename, f"larger than {MOST_BYTES >> 20} MiB"))
            else:
                found.append(Found(entry.filename, entry.file_size, entry.CRC))  # a checksum tells as much as a time
        if not found and not bad:
            kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
            raise Refused(f"dataset.root={self.root} holds no image files ({kinds}): give an archive that does")
        return Listing(sorted(found), sorted(bad))

    def read(self, path: str) -> bytes:
        """The bytes of an entry, as many as it says at most. Unreadable where that cannot be."""
        try:
            return self.file.read(path)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, KeyError) as error:
            raise Unreadable(f"corrupt: {error}") from error  # RuntimeError: it wants a password


def opened(data: bytes) -> Image.Image:
    """The first picture of a file, upright and decoded to its end. Unreadable where that cannot be."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        pixels = image.width * image.height
        if pixels > MOST_PIXELS:
            raise Unreadable(f"{image.width} x {image.height} pixels are more than the {MOST_PIXELS >> 20} Mi decoded")
        image.load()
        return ImageOps.exif_transpose(image)
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"corrupt: no {', '.join(FORMATS)} file" if data else "empty: 0 bytes") from error
    # a decoder meets any kind of error in a damaged file, and each goes to quarantine with its text
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(f"more than the {MOST_PIXELS >> 20} Mi pixels that are decoded") from error
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, zlib.error,
            MemoryError, AttributeError, NotImplementedError, ZeroDivisionError) as error:  # fmt: skip
        raise Unreadable(f"corrupt: {error}") from error


def examine(place: Folder | Archive, found: Found) -> Picture:
    """Reads and decodes a whole file. Unreadable or OSError where that cannot be."""
    data = place.read(found.path)
    image = opened(data)
    return Picture(
        path=found.path,
        size=found.size,
        height=image.height,
        width=image.width,
        grey=without_colour(image),
        digest=hashlib.sha256(data).hexdigest(),
    )


def without_colour(image: Image.Image) -> bool:
    """Is a picture black, grey and white by its mode or its palette?"""
    if image.mode == "P":
        palette = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in GREY or image.mode.startswith("I;16")


def planes(
    image: Image.Image, *, grey: bool, size: tuple[int, int] | None
) -> UInt8[np.ndarray, "channel height width"]:
    """One plane of grey or three of colour; where it is transparent, over white. `size`, (height, width): the largest
    part of those proportions about the centre is scaled to it."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        deep = image.mode != "F"  # 16 bits, though Pillow may hold them in 32
        image = Image.fromarray(np.clip(values / 257 if deep else values, 0, 255).round().astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if grey else "RGB")
    if size is not None and size != (image.height, image.width):
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)  # averages over what it shrinks
    values = np.asarray(image)
    return values[None] if grey else np.ascontiguousarray(values.transpose(2, 0, 1))


class PictureFiles:
    """Pixels decoded from their files when they are asked for."""

    def __init__(
        self, place: Folder | Archive, pictures: Sequence[Picture], *, grey: bool, size: tuple[int, int]
    ) -> None:
        self.place, self.paths, self.grey, self.size = place, [each.path for each in pictures], grey, size

    def one(self, path: str) -> UInt8[np.ndarray, "channel height width"]:
        """The pixels of one file. Unreadable or OSError where it is no longer what it was."""
        return planes(opened(self.place.read(path)), grey=self.grey, size=self.size)

    def __call__(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "image channel height width"]:
        return np.stack([self.one(self.paths[number]) for number in numbers])


def bombs_are_errors() -> "warnings.catch_warnings[None]":
    """While this is entered, Pillow's warning of an image that claims to be huge is an error."""
    return warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning)
