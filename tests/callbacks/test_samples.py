"""What a person is shown at each validation: what the data are, and what z makes of them, the same in every logger."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vaecollapse import config
from vaecollapse.batch import Batch
from vaecollapse.callbacks.samples import Samples
from vaecollapse.datasets.base import VAEData
from vaecollapse.evaluation import spread
from vaecollapse.pictures import ANCHORS, SIDE, grid
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.tasks.building import build_model
from vaecollapse.training import Training
from vaecollapse.writers.images import enlarged, picture
from vaecollapse.writers.text import page

KINDS = {
    "digits": ["model=image", "dataset=digits", "capacity=2", "latent_dim=2"],
    "arithmetic": ["model=text_lstm", "dataset=arithmetic", "dataset.numbers=4", "capacity=2", "latent_dim=2"],
    "rain": ["model=precip_cvae", "dataset=rain", "dataset.storms=12", "dataset.steps=2", "dataset.size=16",
             "capacity=2", "latent_dim=2"],
    "gaussian": ["model=linear"],
}  # fmt: skip
CLIPS = 3


def validated(kind: str, folder: Path, *loggers: object, dead: bool = False, every: int = 1) -> tuple[VAEData, Batch]:
    """A validation of an untrained model, whose decoder hears nothing of z where it is `dead`; what it was shown of."""
    cfg = config.compose([*KINDS[kind], "trainer.accelerator=cpu"])
    data = instantiate(cfg.dataset)
    data.setup()
    torch.manual_seed(0)
    vae: Any = build_model(cfg, data)
    if dead:
        own = vae.decode
        vae.decode = lambda z, *rest: own(torch.zeros_like(z), *rest)
    module = Training(vae=vae, regularizer=Beta(weight=Constant(value=1.0)), optimizer=torch.optim.Adam)
    samples = Samples(clips=CLIPS, examples=16, every_n_validations=every)
    Trainer(
        callbacks=[samples], logger=list(loggers), default_root_dir=folder, accelerator="cpu", limit_val_batches=1,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    ).validate(module, datamodule=data, verbose=False)  # fmt: skip
    batch = samples.batch
    return data, Batch(torch.empty(0)) if batch is None else batch.part(torch.tensor(spread(len(batch.x), CLIPS)))


def rows_of(file: Path, count: int) -> list[np.ndarray]:
    """The pictures of each row of a sheet, without what they are called."""
    pixels = np.asarray(Image.open(file))
    side = (pixels.shape[0] + 4) // count - 4
    wide = CLIPS * (side + 4) - 4
    assert pixels.shape[0] == count * (side + 4) - 4 and pixels.shape[1] > wide
    return [pixels[at : at + side, -wide:] for at in range(0, pixels.shape[0], side + 4)]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What both loggers were handed of each kind: TensorBoard's events, W&B's folder."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        for kind in ("digits", "arithmetic", "rain"):
            folder = tmp_path_factory.mktemp(kind)
            board = TensorBoardLogger(folder, name="tensorboard", version="")
            wandb = WandbLogger(save_dir=folder, offline=True)
            found[kind] = folder, *validated(kind, folder, board, wandb)
            board.finalize("success")
            wandb.experiment.finish()
    return found


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()


def test_images_stand_beside_what_z_makes_of_them(told):
    folder, _, batch = told["digits"]
    real, *others = rows_of(folder / "samples" / "epoch_000" / "examples.png", 5)
    assert np.array_equal(real, grid([[enlarged(picture(each)) for each in batch.x.numpy()]]))
    assert all(row.std() > 0 for row in others)


def test_rain_is_shown_as_maps_with_its_condition(told):
    folder, _, batch = told["rain"]
    condition, real, *others = rows_of(folder / "samples" / "epoch_000" / "examples.png", 6)
    assert condition.shape == (SIDE, CLIPS * (SIDE + 4) - 4, 3) and len(others) == 4
    for row, part in enumerate(np.split(np.stack([batch.context[:, 0], batch.x[:, 0]]), CLIPS, axis=1)):
        at = slice(row * (SIDE + 4), row * (SIDE + 4) + SIDE)
        dry = part[:, 0].repeat(SIDE // 16, 1).repeat(SIDE // 16, 2) == 0
        assert all(
            (shown[:, at][still] == ANCHORS[0]).all() for shown, still in zip((condition, real), dry, strict=True)
        )
        assert dry.any() and not dry.all()


def test_text_is_shown_under_its_prompt(told):
    folder, data, batch = told["arithmetic"]
    text = (folder / "samples" / "epoch_000" / "examples.txt").read_text()
    prompts = [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("  prompt")]
    answers = [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("  real")]
    assert (prompts, answers) == (data.prompt_text(batch.context), data.text(batch.x)) and len(prompts) == CLIPS


@pytest.mark.parametrize("kind", ["digits", "rain"])
def test_every_logger_gets_the_picture_of_the_run_directory(told, kind):
    folder, *_ = told[kind]
    file = folder / "samples" / "epoch_000" / "examples.png"
    (event,) = events(folder).Images("samples/examples")
    (kept,) = folder.glob("wandb/offline-run-*/files/media/images/samples/examples_*.png")
    for found in (BytesIO(event.encoded_image_string), kept):
        assert np.array_equal(np.asarray(Image.open(found).convert("RGB")), np.asarray(Image.open(file)))


def test_every_logger_gets_the_texts_of_the_run_directory(told):
    folder, *_ = told["arithmetic"]
    written = (folder / "samples" / "epoch_000" / "examples.txt").read_text()
    (event,) = events(folder).Tensors("samples/examples/text_summary")
    lines = event.tensor_proto.string_val[0].decode().splitlines()
    assert [line.removeprefix("    ") for line in lines] == written.rstrip().splitlines()
    (kept,) = folder.glob("wandb/offline-run-*/files/media/table/samples/examples_*.table.json")
    table = json.loads(kept.read_text())
    assert table["columns"] == ["prompt", "real", "reconstruction", "other_z", "prior_1", "prior_2"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert "".join(page(number, row) for number, row in enumerate(rows)) == written


@pytest.mark.parametrize("kind", ["digits", "arithmetic"])
def test_where_z_is_dead_all_that_it_makes_is_alike(tmp_path, kind):
    """Under one condition: reconstructions, another one's z and prior draws are the same."""
    validated(kind, tmp_path, dead=True)
    folder = tmp_path / "samples" / "epoch_000"
    if kind == "digits":
        _, *made = rows_of(folder / "examples.png", 5)
        assert all(np.array_equal(row, made[0]) for row in made)
    else:
        blocks = (folder / "examples.txt").read_text().strip().split("\n\n")
        assert all(len({line.strip()[14:].strip() for line in block.splitlines()[3:]}) == 1 for block in blocks)


@pytest.mark.parametrize(("kind", "every"), [("gaussian", 1), ("digits", 2)])
def test_nothing_is_shown_of_numbers_nor_before_its_turn(tmp_path, kind, every):
    validated(kind, tmp_path, every=every)
    assert not list(tmp_path.iterdir())
