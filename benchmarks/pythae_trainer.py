"""Our training against pythae's trainer: the same MLP VAE (pythae's own networks), images, batches and optimizer.

    pip install pythae
    python benchmarks/pythae_trainer.py path/to/t10k-images-idx3-ubyte.gz [--epochs 3] [--repeats 3]

Both train a Gaussian MLP VAE (512 hidden, 16 units) on the images with Adam and batches of 100, taken in turns in one
run on one thread; pythae's progress bars are off, neither evaluates. Ours runs with the collapse monitor on and off;
its last full reading stands beside. Prints examples a second and the ratio to pythae's.
"""

import argparse
import contextlib
import gzip
import io
import logging
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch.distributions import Distribution, Independent, Normal

from vaecollapse.callbacks.monitor import CollapseMonitor
from vaecollapse.datasets.base import Splits, StoredExamples, VAEData
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.tasks.building import quiet_lightning
from vaecollapse.training import Training
from vaecollapse.vae import VAE

BATCH, UNITS, LR = 100, 16, 1e-3


def images(path: Path) -> torch.Tensor:
    """An IDX file of images as (count, 1, height, width) in 0 to 1."""
    raw = gzip.decompress(path.read_bytes())
    count, height, width = (int.from_bytes(raw[i : i + 4], "big") for i in (4, 8, 12))
    pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(count, 1, height, width)
    return torch.from_numpy(pixels.astype(np.float32) / 255)


class Theirs(VAE):
    """pythae's networks under our bound."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.likelihood = model.encoder, model.decoder, NormalLikelihood()

    def encode(self, x, context=None, mask=None) -> Distribution:
        out = self.encoder(x)
        return Independent(Normal(out.embedding, (0.5 * out.log_covariance).exp(), validate_args=False), 1)

    def prior(self, context=None) -> Distribution:
        zero = next(self.parameters()).new_zeros(UNITS)
        return Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1)

    def decode(self, z, context=None, mask=None) -> Distribution:
        return self.likelihood(self.decoder(z).reconstruction, mask)


class Images(VAEData):
    def __init__(self, x: torch.Tensor) -> None:
        super().__init__(batch_size=BATCH)
        self.x = x

    def make_splits(self) -> Splits:
        stored = StoredExamples(self.x)
        return Splits(stored, StoredExamples(self.x[:512]), StoredExamples(self.x[:0]))

    @property
    def facts(self) -> dict[str, object]:
        return {"event_shape": tuple(self.x.shape[1:])}


def model():
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig

    torch.manual_seed(0)
    return PythaeVAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=UNITS))


def pythaes(x: torch.Tensor, epochs: int) -> float:
    """Seconds of pythae's training."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), num_epochs=epochs, learning_rate=LR, per_device_train_batch_size=BATCH,
        optimizer_cls="Adam", no_cuda=True, seed=0, steps_saving=None,
    )  # fmt: skip
    trainer = BaseTrainer(model=model(), train_dataset=BaseDataset(x, torch.zeros(len(x))), training_config=config)
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        trainer.train(log_output_dir=None)
    return time.perf_counter() - started


def ours(x: torch.Tensor, epochs: int, *, monitor: bool) -> tuple[float, float]:
    """Seconds of our training, and of the last full reading."""
    reading = [0.0]

    class Timed(CollapseMonitor):
        def on_train_end(self, trainer, pl_module) -> None:
            started = time.perf_counter()
            super().on_train_end(trainer, pl_module)
            reading[0] = time.perf_counter() - started

    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0 if not monitor else None,
        check_val_every_n_epoch=epochs + 1, use_distributed_sampler=False, callbacks=[Timed()] if monitor else [],
        default_root_dir=tempfile.mkdtemp(),
    )  # fmt: skip
    module = Training(
        vae=Theirs(model()), regularizer=Beta(weight=Constant(value=1.0)), optimizer=partial(torch.optim.Adam, lr=LR)
    )
    started = time.perf_counter()
    trainer.fit(module, datamodule=Images(x))
    return time.perf_counter() - started - reading[0], reading[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    quiet_lightning()
    logging.disable(logging.INFO)
    x = images(given.images)
    pythaes(x[:500], 1), ours(x[:1000], 1, monitor=True)  # whatever is loaded or allocated once
    seconds: dict[str, list[float]] = {"pythae": [], "ours, monitor off": [], "ours, monitor on": []}
    readings = []
    for _ in range(given.repeats):
        seconds["pythae"].append(pythaes(x, given.epochs))
        seconds["ours, monitor off"].append(ours(x, given.epochs, monitor=False)[0])
        spent, reading = ours(x, given.epochs, monitor=True)
        seconds["ours, monitor on"].append(spent)
        readings.append(reading)
    base = statistics.median(seconds["pythae"])
    print("| trainer | examples a second | to pythae's |\n|---|---|---|")
    for name, each in seconds.items():
        middle = statistics.median(each)
        print(f"| {name} | {given.epochs * len(x) / middle:,.0f} | {base / middle:.2f} |")
    print(f"last full reading: {statistics.median(readings):.1f} s")


if __name__ == "__main__":
    main()
