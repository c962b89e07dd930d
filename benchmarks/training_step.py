"""Our training step through the Lightning Trainer against a bare PyTorch loop, side by side in one run.

    python benchmarks/training_step.py [--steps 100] [--rounds 3] [--model audio_nf]

The bare loop has the same weights at the start, networks, distance, optimizer and batches, and neither regularizer,
logger nor checks. Rounds alternate; a speed is the best round's (what else the machine did only slows a round down),
a ratio the median of the rounds' own. Prints a markdown table; the target is a ratio of 0.95.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.distributions import kl_divergence

from vaecollapse import config
from vaecollapse.batch import Batch
from vaecollapse.callbacks.run_logger import RunLogger
from vaecollapse.datasets.base import VAEData
from vaecollapse.elbo import closed_form_kl
from vaecollapse.models.audio import AudioVAE
from vaecollapse.run import Run
from vaecollapse.tasks import build_model, first_examples, quiet_lightning
from vaecollapse.training import Training
from vaecollapse.vae import VAE

WARM = 3  # steps before the clock starts
TARGET = 0.95


class Speed(NamedTuple):
    """Seconds of a step: on the wall, of the processor, and the median one, which no reading or epoch's end is in."""

    wall: float
    processor: float
    median: float


class Clock:
    """The time of every step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def tick(self) -> None:
        self.wall.append(time.perf_counter())
        self.processor.append(time.process_time())

    def speed(self) -> Speed:
        wall, processor = self.wall[WARM:], self.processor[WARM:]
        steps = len(wall) - 1
        each = [after - before for before, after in pairwise(wall)]
        return Speed((wall[-1] - wall[0]) / steps, (processor[-1] - processor[0]) / steps, statistics.median(each))


class Stopwatch(pl.Callback):
    """The last callback of all: its tick closes the step, whatever the others did in it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()

    def on_train_batch_end(self, *_: object) -> None:
        self.clock.tick()


def batches(data: VAEData, steps: int) -> Iterator[Batch]:
    """The training batches in the Trainer's own order."""
    loader, epoch = data.train_dataloader(), 0
    while steps > 0:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            if steps == 0:
                return
            yield batch
            steps -= 1
        epoch += 1


def audio_loss(vae: AudioVAE, batch: Batch, beta: float) -> torch.Tensor:
    x = batch.x if batch.mask is None else batch.x * batch.mask
    posterior, prior = vae.posterior_head(vae.encoder(x / vae.level, batch.mask)), vae.prior_head()
    z = posterior.rsample()
    flows = closed_form_kl(posterior, prior) is None
    kl = posterior.log_prob(z) - prior.log_prob(z) if flows else kl_divergence(posterior, prior)
    return (vae.likelihood.distance(batch.x, vae.decoder(z) * vae.level, batch.mask) + beta * kl).mean()  # type: ignore[operator]


def vector_loss(vae: VAE, batch: Batch, beta: float) -> torch.Tensor:
    posterior = vae.encode(batch.x)
    z = posterior.rsample()
    return (beta * kl_divergence(posterior, vae.prior()) - vae.decode(z).log_prob(batch.x)).mean()


def bare(cfg: DictConfig, vae: VAE, data: VAEData, steps: int) -> Clock:
    """What one would write in a notebook."""
    clock, optimizer = Clock(), instantiate(cfg.optimizer)(vae.parameters())
    loss_of = audio_loss if isinstance(vae, AudioVAE) else vector_loss
    for batch in batches(data, steps):
        loss = loss_of(vae, batch, cfg.beta)  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock.tick()
    return clock


def ours(cfg: DictConfig, vae: VAE, data: VAEData, steps: int, *, monitored: bool) -> Clock:
    """The command line's own training, without its last full reading."""
    chosen = ["learning_rate", *(["collapse_monitor"] if monitored else [])]
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [instantiate(cfg.callback[name]) for name in chosen]
        for callback in callbacks[1:]:
            callback.run, callback.on_train_end = Run(Path(folder)), lambda *_: None
        trainer = instantiate(
            cfg.trainer,
            callbacks=[*callbacks, watch],
            logger=[RunLogger(directory=folder)],
            max_steps=steps,
            max_epochs=None,
            limit_val_batches=0 if not monitored else 1.0,
            check_val_every_n_epoch=1_000_000,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        module = Training(vae=vae, regularizer=instantiate(cfg.regularizer), optimizer=instantiate(cfg.optimizer))
        trainer.fit(module, datamodule=data)
    return watch.clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="audio_nf")
    parser.add_argument("--steps", type=int, default=100, help="of a round; the monitor looks every 100")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("override", nargs="*", help="of the configuration, such as batch_size=8")
    given = parser.parse_args()
    quiet_lightning()
    torch.set_num_threads(1)
    cfg = config.compose([f"model={given.model}", *given.override])
    data: VAEData = instantiate(cfg.dataset)
    data.prepare_data()
    data.setup("fit")
    pl.seed_everything(0, verbose=False)
    start = build_model(cfg, data)
    start.calibrate(first_examples(data, 256))
    if str(cfg.trainer.precision).startswith("64"):
        start.double()
    steps = given.steps + WARM + 1
    ways: dict[str, Callable[[VAE], Clock]] = {
        "bare PyTorch loop": lambda vae: bare(cfg, vae, data, steps),
        "Trainer, learning rate": lambda vae: ours(cfg, vae, data, steps, monitored=False),
        "Trainer, learning rate, collapse monitor": lambda vae: ours(cfg, vae, data, steps, monitored=True),
    }
    found: dict[str, list[Speed]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            torch.manual_seed(0)
            found[name].append(way(deepcopy(start).train()).speed())
    report(found, f"{given.model}, batch {cfg.batch_size}, {given.steps} steps, {given.rounds} rounds, one thread")


def report(found: dict[str, list[Speed]], what: str) -> None:
    first = next(iter(found.values()))
    print(
        f"\n{what}; target {TARGET}\n\n| loop | ms a step | steps/s | speed | of processor time | of the median step |"
    )
    print("|---|---|---|---|---|---|")
    for name, speeds in found.items():
        best = min(speed.wall for speed in speeds)
        ratios = [
            statistics.median(getattr(base, part) / getattr(own, part) for base, own in zip(first, speeds, strict=True))
            for part in Speed._fields
        ]
        print(f"| {name} | {1e3 * best:.2f} | {1 / best:.2f} | {' | '.join(f'{ratio:.3f}' for ratio in ratios)} |")


if __name__ == "__main__":
    main()
