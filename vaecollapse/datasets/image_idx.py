"""IDX files, the format of MNIST, EMNIST and their like: checked against their header before anything is allocated."""

import gzip
import hashlib
import os
import struct
import zlib
from io import BufferedIOBase
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..refusal import Refused
from .base import Splits
from .image import Binarize, Held, ImageData, Images, Pixels

KINDS = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
LARGEST = 2**32  # bytes of pixels, which are held in memory
BLOCK = 2**24  # bytes read at a time
GZIP = b"\x1f\x8b"


def read_idx(path: Path, *, name: str, dimensions: tuple[int, ...]) -> UInt8[np.ndarray, "*shape"]:
    """The 8-bit array of an IDX file, plain or gzipped (whichever its first bytes say), whose number of dimensions is
    one of `dimensions`. `name` is the key it was given under.

    Header, big-endian: 0, 0, kind (8: unsigned bytes), number of dimensions, then each of them in four bytes (LeCun's
    MNIST page). Refused where the file cannot be read, is of another format, kind or shape, claims more than `LARGEST`
    bytes, or holds more or fewer than it claims.
    """
    if not path.is_file():
        raise Refused(f"{name}={path} is no file: type {name}=path/to/train-images-idx3-ubyte.gz")
    try:
        with open(path, "rb") as plain:
            zipped = plain.read(2) == GZIP
            plain.seek(0)
            with gzip.open(plain) if zipped else plain as file:
                return _array(file, path, name, dimensions, None if zipped else os.fstat(plain.fileno()).st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Refused(f"{name}={path} is a damaged gzip file ({error}): fetch it again") from error
    except OSError as error:
        raise Refused(f"{name}={path} cannot be read ({error.strerror}): give a file that can") from error


def _array(
    file: BufferedIOBase, path: Path, name: str, dimensions: tuple[int, ...], size: int | None
) -> UInt8[np.ndarray, "*shape"]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in KINDS:
        raise Refused(
            f"{name}={path} starts with {magic.hex(' ') or 'nothing'}, which is no IDX file (images: 00 00 08 03): "
            "give a file such as train-images-idx3-ubyte.gz"
        )
    kind, number = magic[2:]
    if number not in dimensions:
        holds = "labels" if number == 1 else f"an array of {number} dimensions"
        wanted = "labels (1 dimension)" if dimensions == (1,) else "images (count, height, width)"
        raise Refused(f"{name}={path} holds {holds}, not {wanted}: give the file that does")
    if kind != 8:
        raise Refused(
            f"{name}={path} holds {KINDS[kind]} values, not unsigned bytes: write it with bytes from 0 to 255"
        )
    head = file.read(4 * number)
    shape = struct.unpack(f">{number}I", head) if len(head) == 4 * number else ()
    if not shape or 0 in shape:
        raise Refused(f"{name}={path} ends within its header or is empty ({shape}): fetch it again")
    claimed = prod(shape)
    if claimed > LARGEST:
        raise Refused(
            f"{name}={path} claims {' x '.join(map(str, shape))} bytes, {claimed / 2**30:.3g} GiB, more than the "
            f"{LARGEST / 2**30:g} that are held in memory: give a part of it, or image files (dataset=image_folder)"
        )
    held = None if size is None else size - 4 - 4 * number
    if held is None or held == claimed:
        data = bytearray()  # grows with what is there: a false claim in a gzip file allocates nothing
        while len(data) <= claimed and (block := file.read(min(BLOCK, claimed + 1 - len(data)))):
            data += block
        held = len(data)
    if held != claimed:
        said = f"{held} bytes" if held < claimed or size is not None else "more"
        raise Refused(f"{name}={path} claims {claimed} bytes of data but holds {said}: fetch it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def planes_first(array: UInt8[np.ndarray, "*shape"], *, name: str) -> Pixels:
    """(count, height, width), or with 1 or 3 planes on either side of height and width, as (count, plane, …)."""
    if array.ndim == 3:
        return array[:, None]
    if array.shape[1] in (1, 3):
        return array
    if array.shape[3] in (1, 3):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    shape = " x ".join(map(str, array.shape))
    raise Refused(f"{name} holds images of {shape}, of which no side is 1 or 3 planes: give grey or colour images")


class IDXData(ImageData):
    """Images from IDX files, plain or gzipped: (count, height, width) bytes, or four dimensions with 1 or 3 planes.

    images: the file that training and validation examples are drawn from. test_images: the file of the test split;
    without one, `test_fraction` of `images` is held out for it too. labels, test_labels: files of one byte an image,
    kept as `labels` of the splits for who wants the truth, never part of a batch. binarize: see `Binarize`.
    """

    def __init__(
        self,
        *,
        images: str | Path,
        test_images: str | Path | None = None,
        labels: str | Path | None = None,
        test_labels: str | Path | None = None,
        binarize: str = "none",
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            binarize=binarize,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        if not str(images):
            raise Refused("dataset.images is empty: type dataset.images=path/to/train-images-idx3-ubyte.gz")
        if test_labels and not test_images:
            raise Refused("dataset.test_labels are of no images: type dataset.test_images=…, or leave them out")
        given = {"images": images, "test_images": test_images, "labels": labels, "test_labels": test_labels}
        self.paths = {name: Path(os.path.expanduser(path)) for name, path in given.items() if path}
        self._hashes: list[str] = []

    def make_splits(self) -> Splits:
        pixels = self._read("images")
        labels = self._labels("labels", len(pixels))
        self._shape = pixels.shape[1:]
        binarize = Binarize(self.binarize, self.seed)
        separate = "test_images" in self.paths
        parts = self.parts(len(pixels), test=0.0 if separate else self.test_fraction)
        source = Held(pixels)
        splits = [Images(source, numbers=part, binarize=binarize, labels=labels) for part in parts]
        if separate:
            tested = self._read("test_images")
            if tested.shape[1:] != self._shape:
                sizes = (" x ".join(map(str, shape[1:])) for shape in (pixels.shape, tested.shape))
                raise Refused(
                    "dataset.test_images has images of {1}, dataset.images of {0}: give two files of one size".format(
                        *sizes
                    )
                )
            labels, binarize = self._labels("test_labels", len(tested)), binarize._replace(stream=1)
            splits[2] = Images(Held(tested), numbers=range(len(tested)), binarize=binarize, labels=labels)
        return Splits(*splits)

    def _read(self, key: str) -> Pixels:
        name = f"dataset.{key}"
        pixels = planes_first(read_idx(self.paths[key], name=name, dimensions=(3, 4)), name=name)
        self._hashes.append(hashlib.sha256(pixels.data).hexdigest() + f" {pixels.shape}")
        return pixels

    def _labels(self, key: str, count: int) -> list[int] | None:
        """A label for each of `count` images; None where no file is given."""
        if key not in self.paths:
            return None
        labels = read_idx(self.paths[key], name=f"dataset.{key}", dimensions=(1,)).tolist()
        if len(labels) != count:
            raise Refused(
                f"dataset.{key} has {len(labels)} labels for {count} images: give the file that belongs to them"
            )
        return labels

    def fingerprint(self) -> dict[str, object]:
        """The files of images, their bytes, and a hash of their pixels and shapes."""
        self.setup()
        paths = [self.paths[name] for name in ("images", "test_images") if name in self.paths]
        digest = hashlib.sha256("\n".join(self._hashes).encode()).hexdigest()
        return {"files": len(paths), "bytes": sum(path.stat().st_size for path in paths), "hash": digest}
