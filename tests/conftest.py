"""Shapes in signatures are checked in every test: jaxtyping's hook with beartype, before anything is imported."""

import importlib
import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start: two workers have two cores
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="vaecollapse-cache-")  # not the user's own

import shapes

# before the hook: what is first imported from inside a hooked module is compiled from its source, every time
for library in ("lightning.pytorch", "scipy.stats", "tokenizers", "torchmetrics", "xarray"):
    importlib.import_module(library)
shapes.install("vaecollapse")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole commands first, for minutes a file; the many short files after them even out the workers' ends."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(scope="session")
def mnist() -> Path:
    """MNIST's test images, gzipped IDX; skips where they are not beside the project."""
    file = DATA / "images" / "mnist-t10k-images-idx3-ubyte.gz"
    if not file.is_file():
        pytest.skip(f"the MNIST test images are not at {file}")
    return file


@pytest.fixture(scope="session")
def omniglot() -> Path:
    """Omniglot's small background set, PNG in a zip archive; skips where it is not beside the project."""
    file = DATA / "images" / "omniglot_images_background_small1.zip"
    if not file.is_file():
        pytest.skip(f"the Omniglot images are not at {file}")
    return file


@pytest.fixture(scope="session")
def fsdd() -> Path:
    """The Free Spoken Digit Dataset's recordings; skips where they are not beside the project."""
    folder = DATA / "fsdd" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"the FSDD recordings are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def mrms() -> Path:
    """A radar record of one storm, NetCDF; skips where it is not beside the project."""
    file = DATA / "precipitation" / "mrms_conus_20190610.nc"
    if not file.is_file():
        pytest.skip(f"the MRMS rain rates are not at {file}")
    return file
