"""An .npz read without running anything that it holds, and without the memory that it claims."""

import math
import os
import zipfile
from pathlib import Path

import numpy as np

from ..refusal import Refused


def load(file: Path | str) -> dict[str, np.ndarray]:
    """The arrays of an .npz. Nothing in it is executed, and what it claims is checked before memory is asked for."""
    path = Path(file)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(path, archive, entries)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        if isinstance(error, Refused):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Refused(f"arrays={path} is not read ({said}): give the .npz that numpy.savez wrote") from error


def _check_entries(path: Path, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename.removesuffix(".npy") for entry in entries]
    if len(set(names)) < len(names) or len(names) > 1000:
        raise Refused(f"arrays={path} has arrays of the same name: write it again with numpy.savez")
    total, most = 0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    for entry, name in zip(entries, names, strict=True):
        with archive.open(entry) as opened:
            version = np.lib.format.read_magic(opened)
            if version not in ((1, 0), (2, 0)):
                raise Refused(f"arrays={path}: {name} is of a kind that holds no numbers: save plain arrays")
            header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, _, dtype = header(opened)
            start = opened.tell()
        if dtype.hasobject:
            raise Refused(
                f"arrays={path}: {name} holds Python objects, which are not loaded (a pickle can run anything): save "
                "numbers or texts, such as numpy.asarray(values, dtype=float)"
            )
        size = math.prod(shape) * dtype.itemsize
        if size != entry.file_size - start:
            raise Refused(
                f"arrays={path}: {name} claims {size:,} bytes where {entry.file_size - start:,} are: write it again"
            )
        total += size
        if total > most:
            raise Refused(
                f"arrays={path} claims {total:,} bytes up to {name}, more than a quarter of this machine's memory: "
                "save fewer examples (2000 are enough for any verdict), or float32"
            )
