"""What every dataset in conf/dataset owes, found by walking the folder."""

import inspect
import socket
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import xarray
from hydra.utils import get_class
from omegaconf import OmegaConf
from PIL import Image

from vaecollapse.batch import Batch
from vaecollapse.datasets.base import VAEData

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
KNOBS = {key: value for key, value in OmegaConf.load(CONF / "train.yaml").items() if key not in ("defaults", "hydra")}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty different notes of different lengths, some longer than a clip."""
    root = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for number in range(40):
        time = np.arange(1000 + 150 * number) / 8000
        note = np.sin(2 * np.pi * (200 + 40 * number) * time) * np.exp(-2 * time)
        sf.write(root / f"{number:02d}.wav", 0.5 * note + 0.01 * rng.standard_normal(len(time)), 8000)
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty different pictures of 9 x 12, each in a file of its own, and all of them in one IDX file beside."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 9, 12), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(root / f"{number:02d}.png")
    (root / "idx").write_bytes(struct.pack(">I3I", 0x803, *pixels.shape) + pixels.tobytes())
    return root


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety hours of rain in patches on 40 x 48 cells, some of which are never seen."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("record") / "rain.nc"
    rain = (rng.gamma(0.7, 2.0, (90, 40, 48)) * (rng.random((90, 40, 48)) < 0.5)).astype(np.float32)
    rain[:, :3, :5] = np.nan
    axes = {"time": ("time", np.arange(90), {"units": "hours since 2001-01-01"})}
    axes |= {"lat": ("lat", 40 + np.arange(40) / 10), "lon": ("lon", np.arange(48) / 10)}
    xarray.Dataset({"pr": (("time", "lat", "lon"), rain, {"units": "mm/h"})}, axes).to_netcdf(file, engine="h5netcdf")
    return file


@pytest.fixture(scope="module")
def build(recordings: Path, images: Path, record: Path):
    """Makes a dataset from its yaml with the top-level knobs, folder and size filled in; each only once."""

    @cache
    def make(name: str, **changes: object) -> VAEData:
        node = OmegaConf.load(CONF / "dataset" / f"{name}.yaml")
        given = {"root": str(images if "image" in name else recordings), "clips": 400, "images": str(images / "idx")}
        given |= {"storms": 60, "target": {"path": str(record)}}
        given |= {"crop": {"size": 8}} if name == "precipitation" else {}
        filled = {key: value for key, value in given.items() if key in list(node)}
        config = OmegaConf.create({**KNOBS, "dataset": OmegaConf.merge(node, filled, changes)})
        settings = OmegaConf.to_container(config.dataset, resolve=True)
        return get_class(settings.pop("_target_"))(**settings)

    return make


def same(left: Batch, right: Batch) -> bool:
    pairs = zip(left, right, strict=True)
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_finite_floats_in_the_shape_of_the_facts(name: str, build) -> None:
    data = build(name)
    for split in ("train", "validation", "test"):
        batch = data.examples(split, 32)
        assert batch.x.is_floating_point()
        assert batch.x.isfinite().all()
        assert tuple(batch.x.shape[1:]) == data.facts["event_shape"]
        assert batch.index.tolist() == list(range(len(batch.x)))
        if batch.mask is not None:
            assert batch.mask.flatten(1).any(1).all()
            assert not batch.x[~batch.mask].any()


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint_and_no_example_comes_twice(name: str, build) -> None:
    greys = {"binarize": "none"} if "binarize" in OmegaConf.load(CONF / "dataset" / f"{name}.yaml") else {}
    splits = build(name, **greys).splits  # of zeros and ones, two pictures may well be alike
    seen = [split[position].x.numpy().tobytes() for split in splits for position in range(len(split))]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("name", NAMES)
def test_data_depend_on_the_seed_and_not_on_the_batch_size(name: str, build) -> None:
    first, second, other = build(name, batch_size=4), build(name, batch_size=5), build(name, seed=1)
    for split in ("train", "validation", "test"):
        assert same(first.examples(split, 16), second.examples(split, 16))
        assert not same(first.examples(split, 16), other.examples(split, 16))
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_training_can_be_replayed_and_evaluation_stands_still(name: str, build) -> None:
    def epoch(loader, number: int) -> list[Batch]:
        loader.sampler.set_epoch(number)
        return list(loader)

    data, again = build(name, batch_size=7), build(name, batch_size=7, num_workers=0)
    first, second = data.train_dataloader(), again.train_dataloader()
    later = epoch(first, 3)
    epoch(second, 0)
    assert all(same(a, b) for a, b in zip(later, epoch(second, 3), strict=True))
    assert torch.cat([b.index for b in later]).tolist() != torch.cat([b.index for b in epoch(first, 4)]).tolist()
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert all(same(a, b) for a, b in zip(loader, loader, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_setup_needs_no_network_and_happens_once(name: str, build, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a dataset asked for the network outside prepare_data")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    data = build(name, seed=2)
    data.setup("fit")
    splits = data.splits
    data.setup("validate")
    assert data.splits is splits


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_a_knob(name: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONF / "dataset" / f"{name}.yaml"), resolve=False)
    parameters = inspect.signature(get_class(node.pop("_target_"))).parameters
    assert set(node) == set(parameters)
