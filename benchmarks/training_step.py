"""Our training step through the Lightning Trainer against a bare PyTorch loop, taken in turns in one run.

    python benchmarks/training_step.py [--steps 405] [--model audio_nf] [batch_size=8 …]

The bare loop has the same weights at the start, networks, distance, optimizer and batches, and neither regularizer,
logger nor checks. After each step of ours one step of the bare loop is taken, so that whatever else the machine does
slows both. Prints a markdown table: the speed is the bare loop's time over ours, with its 95 % interval over steps,
with and without what does not come with every step (logging, the monitor's readings, the end of an epoch). The target
is 0.95.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.distributions import kl_divergence
from torch.nn import functional as F

from vaecollapse import config
from vaecollapse.batch import Batch
from vaecollapse.callbacks.run_logger import RunLogger
from vaecollapse.datasets.base import VAEData
from vaecollapse.elbo import closed_form_kl
from vaecollapse.models.audio import AudioVAE
from vaecollapse.models.text_tokens import TokenVAE
from vaecollapse.run import Run
from vaecollapse.tasks.building import build_model, quiet_lightning
from vaecollapse.tokens import BOS, EOS, PAD, SEP
from vaecollapse.training import Training
from vaecollapse.vae import VAE

WARM = 5  # steps before the clock starts
TARGET = 0.95
WAYS = {"learning rate": ["learning_rate"], "learning rate, collapse monitor": ["learning_rate", "collapse_monitor"]}


def batches(data: VAEData) -> Iterator[Batch]:
    """The training batches in the Trainer's own order, without end."""
    loader, epoch = data.train_dataloader(), 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def audio_loss(vae: AudioVAE, batch: Batch, beta: float) -> torch.Tensor:
    x = batch.x if batch.mask is None else batch.x * batch.mask
    posterior, prior = vae.posterior_head(vae.encoder(x / vae.level, batch.mask)), vae.prior_head()
    z = posterior.rsample()
    flows = closed_form_kl(posterior, prior) is None
    kl = posterior.log_prob(z) - prior.log_prob(z) if flows else kl_divergence(posterior, prior)
    return (vae.likelihood.distance(batch.x, vae.decoder(z) * vae.level, batch.mask) + beta * kl).mean()


def vector_loss(vae: VAE, batch: Batch, beta: float) -> torch.Tensor:
    posterior = vae.encode(batch.x)
    z = posterior.rsample()
    return (beta * kl_divergence(posterior, vae.prior()) - vae.decode(z).log_prob(batch.x)).mean()


def text_loss(vae: TokenVAE, batch: Batch, beta: float) -> torch.Tensor:
    """Without conditions of the configuration: both are read, z alone is told, words and latent tokens are hidden."""
    assert batch.context is not None
    first, after = (torch.full((len(batch.x), 1), kind) for kind in (BOS, SEP))
    ids = torch.cat([first, batch.context, after, batch.x], 1)
    h = vae.reader(ids, ids != PAD)
    parts = [head(row).base_dist for head, row in zip(vae.posterior_heads, h.unbind(1), strict=True)]
    mean, scale = torch.stack([part.loc for part in parts], 1), torch.stack([part.scale for part in parts], 1)
    z = mean + scale * torch.randn_like(mean)
    kl = 0.5 * (mean.square() + scale.square() - 1 - 2 * scale.log()).flatten(1).sum(1)
    told = z * (torch.rand(*z.shape[:2], 1) >= vae.latent_token_dropout)
    before = batch.x[:, :-1]
    hidden = (torch.rand(before.shape) < vae.word_dropout) & (before != PAD)
    before = torch.where(hidden, vae.kinds - 1, before)
    logits = vae.decoder(torch.cat([first, before], 1), told, torch.arange(batch.x.shape[1]).expand(len(batch.x), -1))
    target = (batch.x - EOS).where(batch.x != PAD, -100)
    nll = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").reshape(target.shape).sum(1)
    return (nll + beta * kl).mean()


def bare(cfg: DictConfig, vae: VAE, data: VAEData) -> Iterator[None]:
    """What one would write in a notebook; a step each time it is asked."""
    optimizer = instantiate(cfg.optimizer)(vae.parameters())
    special = {AudioVAE: audio_loss, TokenVAE: text_loss}
    loss_of: Any = special.get(type(vae), vector_loss)
    for batch in batches(data):
        loss = loss_of(vae, batch, cfg.beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


class InTurns(pl.Callback):
    """The last callback of all: closes our step, whatever the others did in it, and takes one of the other loop's."""

    def __init__(self, other: Iterator[None]) -> None:
        super().__init__()
        self.other, self.started = other, math.nan
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        ended = time.perf_counter()
        next(self.other)
        now = time.perf_counter()
        self.ours.append(ended - self.started)
        self.theirs.append(now - ended)
        self.started = now


def measure(cfg: DictConfig, start: VAE, data: VAEData, steps: int, chosen: list[str]) -> InTurns:
    """The command line's own training, without its last full reading, in turns with the bare loop."""
    turns = InTurns(bare(cfg, deepcopy(start).train(), data))
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [instantiate(cfg.callback[name]) for name in chosen]
        for callback in callbacks[1:]:
            callback.run, callback.on_train_end = Run(Path(folder)), lambda *_: None
        trainer = instantiate(
            cfg.trainer,
            callbacks=[*callbacks, turns],
            logger=[RunLogger(directory=folder)],
            max_steps=steps,
            max_epochs=None,
            check_val_every_n_epoch=1_000_000,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        regularizer, optimizer = instantiate(cfg.regularizer), instantiate(cfg.optimizer)
        trainer.fit(Training(vae=deepcopy(start), regularizer=regularizer, optimizer=optimizer), datamodule=data)
    return turns


def row(name: str, turns: InTurns) -> str:
    ours, theirs = turns.ours[WARM:], turns.theirs[WARM:]
    speed, count = sum(theirs) / sum(ours), len(ours)
    spread = statistics.pstdev(b - speed * a for a, b in zip(ours, theirs, strict=True))
    half = 1.96 * spread / math.sqrt(count) / statistics.fmean(ours)
    median = statistics.median(theirs) / statistics.median(ours)
    a, b = (1e3 * statistics.fmean(each) for each in (ours, theirs))
    return f"| {name} | {a:.2f} | {b:.2f} | {speed:.3f} ± {half:.3f} | {median:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="audio_nf")
    parser.add_argument("--steps", type=int, default=405, help="the monitor looks every 200")
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
    if str(cfg.trainer.precision).startswith("64"):
        start.double()
    start.calibrate(data.examples("train", 256))
    rows = [row(name, measure(cfg, start, data, given.steps + WARM, chosen)) for name, chosen in WAYS.items()]
    print(f"\n{given.model}, batch {cfg.batch_size}, {given.steps} steps each, one thread; target {TARGET}\n")
    print("| Trainer with | ours, ms a step | bare, ms a step | speed | of the median step |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
