"""What every dataset in conf/dataset owes, found by walking the folder."""

import inspect
import json
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
from vaecollapse.datasets.latents import Codes, LatentsData
from vaecollapse.refusal import Refused
from vaecollapse.tokens import EOS, PAD, SPECIALS
from vaecollapse.writers.base import Made
from vaecollapse.writers.numbers import WIDEST

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
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety different questions with answers of different lengths, as lines and as two tables of GSM8K's form."""
    root = tmp_path_factory.mktemp("texts")
    answers = [f"{n} x {n} = {'I count: ' * (n % 7)}\n#### {n * n}" for n in range(90)]
    rows = [json.dumps({"question": f"What is {n} times {n}?", "answer": said}) for n, said in enumerate(answers)]
    (root / "train.jsonl").write_text("\n".join(rows[:60]))
    (root / "test.jsonl").write_text("\n".join(rows[60:]))
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
def build(recordings: Path, images: Path, texts: Path, record: Path):
    """Makes a dataset from its yaml with the top-level knobs, folder and size filled in; each only once."""

    @cache
    def make(name: str, **changes: object) -> VAEData:
        node = OmegaConf.load(CONF / "dataset" / f"{name}.yaml")
        root = next((each for word, each in (("image", images), ("gsm8k", texts)) if word in name), recordings)
        files = {"root": str(root), "images": str(images / "idx"), "path": str(texts / "*.jsonl"), "run": "x"}
        given = {**files, "clips": 400, "numbers": 8, "storms": 60, "target": {"path": str(record)}}
        given |= {"crop": {"size": 8}} if name == "precipitation" else {}
        filled = {key: value for key, value in given.items() if key in list(node)}
        config = OmegaConf.create({**KNOBS, "dataset": OmegaConf.merge(node, filled, changes)})
        settings = OmegaConf.to_container(config.dataset, resolve=True)
        data = get_class(settings.pop("_target_"))(**settings)
        if isinstance(data, LatentsData):  # what it is of is handed over by whoever opens the run
            rng = torch.Generator().manual_seed(0)
            sizes = {"train": 60, "validation": 40, "test": 40}
            data.take({s: Codes(torch.randn(n, 3, generator=rng), torch.ones(n, 3)) for s, n in sizes.items()}, {})
        return data

    return make


def same(left: Batch, right: Batch) -> bool:
    pairs = zip(left, right, strict=True)
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_what_the_facts_say(name: str, build) -> None:
    data = build(name)
    for split in ("train", "validation", "test"):
        batch = data.examples(split, 32)
        if "vocab_size" in data.facts:
            assert_tokens(batch, data.facts)
        else:
            assert batch.x.is_floating_point()
            assert batch.x.isfinite().all()
            assert tuple(batch.x.shape[1:]) == data.facts["event_shape"]
        assert batch.index.tolist() == list(range(len(batch.x)))
        if batch.mask is not None:
            assert batch.mask.flatten(1).any(1).all()
            assert not batch.x[~batch.mask].any()


def assert_tokens(batch: Batch, facts: dict) -> None:
    """Answers that end with EOS, and prompts of text alone, within the lengths of the facts."""
    assert batch.x.dtype == torch.int64
    assert batch.x.max() < facts["vocab_size"]
    assert batch.x.shape[1] <= facts["event_shape"][0]
    assert (batch.x[batch.mask] >= EOS).all()
    assert ((batch.x == EOS).sum(1) == 1).all()
    assert (batch.context is None) == ("context_shape" not in facts)
    if batch.context is not None:
        assert batch.context.shape[1] <= facts["context_shape"][0]
        assert ((batch.context == PAD) | (batch.context >= SPECIALS)).all()


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint_and_no_example_comes_twice(name: str, build) -> None:
    greys = {"binarize": "none"} if "binarize" in OmegaConf.load(CONF / "dataset" / f"{name}.yaml") else {}
    splits = build(name, **greys).splits  # of zeros and ones, two pictures may well be alike
    every = [split[position] for split in splits for position in range(len(split))]
    seen = [tuple(None if each is None else each.numpy().tobytes() for each in one[:2]) for one in every]
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


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_its_kind_are_written_as_whole_files_of_each_format(name: str, build, tmp_path: Path) -> None:
    data = build(name)
    real = data.examples("train", 3).x.numpy()
    formats = data.writer(tmp_path).formats
    for form in (None, *formats):
        if form == "csv" and real[0].size > WIDEST:
            with pytest.raises(Refused, match="type format=npz"):
                data.writer(tmp_path, form).check(Made(0, {"real": real}))
            continue
        with data.writer(tmp_path / str(form), form) as writer:
            writer.add(Made(0, {"real": real, "again": real}))
        files = [path.name for path in (tmp_path / str(form)).iterdir()]
        assert [file for file in files if file.endswith(form or formats[0])]
        assert not [file for file in files if file.startswith(".")]
        assert writer.first.exists()
