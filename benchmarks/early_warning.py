"""How early the alarms of a collapse sound, and how often they sound for nothing.

    OMP_NUM_THREADS=1 python benchmarks/early_warning.py --healthy 60 --collapses 40 [--model mlp]

Linear VAEs (or MLPs) on Gaussian data, with a warm-up or without, and the detectors that grave alarms rest on. Healthy:
β from 0.1 to 0.5 of the critical value of the collapsed point. Collapses: β from 1.2 to 4 times that value, and a
decoder that stops listening at a settled price, the norm of its first layer falling from half-way on. A collapse is
told in time if a grave alarm sounds before the number of informative directions has halved from its peak. Intervals:
Clopper-Pearson, 95 %.
"""

import argparse
import logging
import random
import sys
import tempfile
from pathlib import Path

import torch
from lightning.pytorch import Callback
from scipy.stats import beta as beta_distribution
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaecollapse import config
from vaecollapse.callbacks.monitor import GRAVE
from vaecollapse.distributions.priors import NormalPrior
from vaecollapse.run import Run
from vaecollapse.tasks import fitting, train
from vaecollapse.vae import VAE

CRITICAL = 6.0  # the largest eigenvalue of dataset=gaussian, at the scale 1
EVERY = 20
READ = "detector=[rate,posterior_variance,price_of_a_nat,decoder_reliance,information_rank]"


class MLP(VAE):
    """One hidden layer of 32 on either side."""

    def __init__(self, *, likelihood: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 10))
        self.decoder = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 8))
        self.prior_head, self.likelihood = NormalPrior(units=5), likelihood

    def encode(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        mean, log_variance = self.encoder(x).chunk(2, -1)
        return Independent(Normal(mean, (log_variance / 2).exp(), validate_args=False), 1)

    def prior(self, context: Tensor | None = None) -> Distribution:
        return self.prior_head(context)

    def decode(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        return self.likelihood(self.decoder(z), mask)


MODELS = {
    "linear": ["model=linear"],
    "mlp": ["model=custom", "model._target_=early_warning.MLP", "+model.likelihood=${likelihood}", "regularizer=beta",
            "dataset=gaussian", "likelihood=normal", "lr=0.003", "trainer.precision=64-true",
            "trainer.check_val_every_n_epoch=15"],
}  # fmt: skip


class Deafens(Callback):
    """From half of training on the weights of the decoder's first layer may be no larger than a norm that falls by 1 %
    a step."""

    most: float | None = None

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if trainer.global_step <= 0.5 * trainer.estimated_stepping_batches:
            return
        decoder = pl_module.vae.decoder
        weight = getattr(decoder, "weight", None)
        weight = decoder[0].weight if weight is None else weight
        with torch.no_grad():
            norm = float(weight.norm())
            self.most = 0.99 * (norm if self.most is None else self.most)
            weight.mul_(min(1.0, self.most / norm))


def run(number: int, kind: str, model: str) -> tuple[int | None, int | None, int]:
    """(step of the first grave alarm, step at which directions had halved, steps in all)."""
    chance = random.Random(number)
    price = {"healthy": chance.uniform(0.1, 0.5), "beta": chance.uniform(1.2, 4.0), "deaf": 0.1}[kind] * CRITICAL
    with tempfile.TemporaryDirectory() as folder:
        line = [*MODELS[model], f"beta={price:.3f}", f"warmup={chance.choice([0.0, 0.1, 0.3])}", f"seed={number}",
                f"dataset.seed={number}", "max_epochs=19", "trainer.accelerator=cpu", "callback=[collapse_monitor]",
                "dataset.examples=2048", f"callback.collapse_monitor.every_n_steps={EVERY}", "batch_size=64",
                f"logger.csv.directory={folder}", READ]  # fmt: skip
        build, more = fitting.build_trainer, [Deafens()] if kind == "deaf" else []
        fitting.build_trainer = lambda cfg, at, them: build(cfg, at, [*more, *them])
        try:
            train(config.compose(line), Path(folder), line)
        finally:
            fitting.build_trainer = build
        events, rows = Run(Path(folder)).lines("events.jsonl"), Run(Path(folder)).lines("metrics.jsonl")
    alarms = [each["step"] for each in events if each.get("alarm") in GRAVE]
    ranks = [(row["step"], row["val/latent/information_rank"]) for row in rows if "val/latent/information_rank" in row]
    peak, halved = 0.0, None
    for step, rank in ranks:
        peak = max(peak, rank)
        if peak >= 1 and rank <= peak / 2:
            halved = step
            break
    return min(alarms, default=None), halved, max(row["step"] for row in rows)


def interval(count: int, total: int) -> str:
    low = beta_distribution.ppf(0.025, count, total - count + 1) if count else 0.0
    high = beta_distribution.ppf(0.975, count + 1, total - count) if count < total else 1.0
    return f"{count}/{total} ({low:.0%} to {high:.0%})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--healthy", type=int, default=60)
    parser.add_argument(
        "--collapses", type=int, default=40, help="half of them by price, half by a decoder that deafens"
    )
    parser.add_argument("--model", choices=MODELS, default="linear")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config.register()
    logging.disable(logging.WARNING)
    told = [run(number, "healthy", arguments.model)[0] for number in range(arguments.healthy)]
    print(f"false alarms in healthy runs: {interval(sum(step is not None for step in told), len(told))}", flush=True)
    for kind in ("beta", "deaf"):
        found = [run(1000 + number, kind, arguments.model) for number in range(arguments.collapses // 2)]
        timely = [alarm is not None and (halved is None or alarm <= halved) for alarm, halved, _ in found]
        lead = sorted((halved - alarm) / steps for alarm, halved, steps in found if alarm is not None and halved)
        middle = f", median lead {lead[len(lead) // 2]:.0%} of training" if lead else ""
        steps = [f"{alarm}/{halved}" for alarm, halved, _ in found]
        print(f"{kind}, steps of alarm and of half the directions: {', '.join(steps)}")
        print(f"collapses by {kind} told in time: {interval(sum(timely), len(timely))}{middle}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
