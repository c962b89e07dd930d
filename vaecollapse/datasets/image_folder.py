"""A folder or zip archive of image files as a dataset: one size, grey or colour, three disjoint splits."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from torch.utils.data import Dataset

from ..batch import Batch
from ..refusal import Refused
from .audio import groups_of
from .base import Splits, partition_groups
from .cache import Cache
from .clips import Vanished
from .image import Binarize, Held, ImageData, Images, Pixels
from .image_files import CHANNELS, EXAMPLE, Archive, Folder, Picture, PictureFiles, bombs_are_errors, examine
from .recordings import Found, Unreadable, shown
from .scan import CLOSED, Quarantined, refuse_bad
from .threads import in_order

log = logging.getLogger(__name__)

LARGEST = 2**22  # numbers of an image: one latent vector holds no more, and no network here takes it
INDEX = 1  # version of what the index of a folder holds


class ImageFolderData(ImageData):
    """Image files below `root` (png, jpg, bmp, gif, webp, pgm), a folder or a .zip, which is read where it lies.

    size: height and width in pixels, or one number for both: the centre of each image is cut to these proportions and
    scaled; without it all images must be of one size. channels: grey (one plane) | rgb (three) | auto: grey where all
    files are. What is transparent lies over white, and an animation is its first picture. split_by: file | folder (all
    images of a folder in one split) | a regex whose one group names what stays together. binarize: see `Binarize`.
    max_bad_fraction: more unusable files than this are refused. cache_gib: up to this size the pixels are held in
    memory, beyond it they are decoded at each visit.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        size: int | Sequence[int] | None = None,
        channels: str = "auto",
        binarize: str = "none",
        split_by: str = "file",
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        max_bad_fraction: float = 0.1,
        cache_gib: float = 1.0,
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
        if not str(root):
            raise Refused(f"dataset.root is empty; type dataset.root={EXAMPLE}")
        if channels not in CHANNELS:
            raise Refused(f"dataset.channels={channels} is not known; type one of {', '.join(CHANNELS)}")
        for name, value in (("max_bad_fraction", max_bad_fraction), ("cache_gib", cache_gib)):
            if value < 0:
                raise Refused(f"dataset.{name}={value:g} must not be negative; type dataset.{name}=0 to switch it off")
        self.root = Path(os.path.expanduser(root))
        self.size, self.channels, self.split_by = _both(size), channels, split_by
        self.max_bad_fraction, self.cache_gib = max_bad_fraction, cache_gib
        self._pictures: list[Picture] = []
        self._quarantine: list[Quarantined] = []

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Every file that is not used, by path, with the reason."""
        self.setup()
        return [(shown(path), reason) for path, reason in self._quarantine]

    def fingerprint(self) -> dict[str, object]:
        """Usable files, their bytes, and a hash of their paths and contents."""
        self.setup()
        digest = hashlib.sha256()
        for each in self._pictures:
            digest.update(os.fsencode(each.path) + f"\0{each.digest}\n".encode())
        return {
            "files": len(self._pictures),
            "bytes": sum(each.size for each in self._pictures),
            "hash": digest.hexdigest(),
        }

    def make_splits(self) -> Splits:
        place = Archive(self.root) if self.root.is_file() else Folder(self.root)
        with bombs_are_errors():
            self._scan(place)
        size, grey = self._common_size(), self._grey()
        self._shape = (1 if grey else 3, *size)
        if np.prod(self._shape) > LARGEST:
            shape = " x ".join(map(str, self._shape))
            raise Refused(f"images of {shape} are too large for one latent vector each; type dataset.size=64, say")
        count = len(self._pictures)
        log.info("%d images of %s in %s", count, " x ".join(map(str, size)), "grey" if grey else "colour")
        files = PictureFiles(place, self._pictures, grey=grey, size=size)
        held = count * float(np.prod(self._shape)) <= self.cache_gib * 2**30
        source = Held(self._all(files)) if held else files
        binarize = Binarize(self.binarize, self.seed)
        parts: list[Dataset[Batch]] = [Visited(source, numbers=part, binarize=binarize) for part in self._drawn()]
        return Splits(*parts)

    def _scan(self, place: Folder | Archive) -> None:
        """Reads those files that the cached index does not hold as they are now."""
        listing, cache = place.listing(), Cache()
        name = f"images-{cache.key(INDEX, os.fsencode(self.root.resolve()).hex())}.json"
        known = cache.load(name)
        results = {each.path: _recalled(each, known) for each in listing.found}
        fresh = [each for each in listing.found if results[each.path] is None]

        def read(each: Found) -> Picture | str:
            try:
                return examine(place, each)
            except Unreadable as reason:
                return str(reason)
            except OSError as error:
                return f"{CLOSED}: {error.strerror or error}"

        for each, result in zip(fresh, in_order(read, fresh, doing="reading images", chunk=16), strict=True):
            results[each.path] = result
            known[each.path] = [each.size, each.mtime_ns, result if isinstance(result, str) else list(result[2:])]
        if fresh:
            cache.store(name, {path: row for path, row in known.items() if path in results})
        self._pictures = [each for each in results.values() if isinstance(each, Picture)]
        bad = [Quarantined(path, reason) for path, reason in results.items() if isinstance(reason, str)]
        self._quarantine = sorted([*listing.bad, *bad])
        total = len(self._pictures) + len(self._quarantine)
        refuse_bad(self.root, total, self._quarantine, self.max_bad_fraction, kind="images")

    def _common_size(self) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        first = self._pictures[0]
        for each in self._pictures:
            if (each.height, each.width) != (first.height, first.width):
                small = min(each.height, each.width, first.height, first.width)
                raise Refused(
                    f"dataset.root={self.root} holds images of different sizes, {shown(first.path)} of "
                    f"{first.height} x {first.width} and {shown(each.path)} of {each.height} x "
                    f"{each.width}: type dataset.size={small}, to which all are cut and scaled"
                )
        return first.height, first.width

    def _grey(self) -> bool:
        return all(each.grey for each in self._pictures) if self.channels == "auto" else self.channels == "grey"

    def _all(self, files: PictureFiles) -> Pixels:
        pixels = np.empty((len(files.paths), *self._shape), np.uint8)
        for place, values in zip(pixels, in_order(_kept(files), files.paths, doing="decoding", chunk=16), strict=True):
            place[:] = values
        return pixels

    def _drawn(self) -> tuple[list[int], list[int], list[int]]:
        """Which images go where; copies of one file stay together, or held-out readings would be taken on what was
        trained on."""
        names, digests = [each.path for each in self._pictures], [each.digest for each in self._pictures]
        if self.split_by == "folder":
            groups = [str(PurePosixPath(name).parent) for name in names]
        elif self.split_by == "file":
            groups = digests if len(set(digests)) < len(digests) else []
        else:
            groups = groups_of(names, self.split_by)
        if not groups:
            return self.parts(len(names), test=self.test_fraction)
        if self.split_by == "file":
            log.warning("%d files are copies of others; they share a split", len(digests) - len(set(digests)))
            if len(set(digests)) < 2 + (self.test_fraction > 0):
                raise Refused(
                    f"the {len(names)} images are copies of {len(set(digests))}, too few for training and held-out "
                    "ones; give more images, or test_fraction=0"
                )
        return partition_groups(groups, validation=self.val_fraction, test=self.test_fraction, seed=self.seed)


class Visited(Images):
    """As `Images`, whose files may go away while training."""

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        try:
            return super().__getitems__(positions)
        except (Unreadable, OSError) as error:
            raise Vanished(f"images went away while training: {error}; bring them back and start again") from error


def _kept(files: PictureFiles):
    """As `files.one`, with a sentence for a file that was there a moment ago."""

    def one(path: str) -> np.ndarray:
        try:
            return files.one(path)
        except (Unreadable, OSError) as error:
            raise Refused(f"{shown(path)} went away while it was read ({error}): start again") from error

    return one


def _both(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of what was typed for both or for each."""
    if size is None:
        return None
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or not all(0 < side <= 2**14 for side in both):
        raise Refused(
            f"dataset.size={size} is no height and width in pixels; type dataset.size=28 or dataset.size=[28,20]"
        )
    return both[0], both[1]


def _recalled(each: Found, known: dict[str, list]) -> Picture | str | None:
    """What the index has of a file, if it is still that file."""
    size, changed, kept = known.get(each.path, (None, None, CLOSED))
    if (size, changed) != (each.size, each.mtime_ns):
        return None
    if isinstance(kept, list):
        height, width, grey, digest = kept
        return Picture(each.path, each.size, height, width, grey, digest)
    return None if kept.startswith(CLOSED) else kept  # a permission changes without the file
