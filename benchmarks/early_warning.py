"""How early the alarms of a collapse sound, and how often they sound for nothing.

    OMP_NUM_THREADS=1 python benchmarks/early_warning.py --healthy 60 --collapses 40

Linear VAEs on Gaussian data, with a warm-up or without. Healthy: β from 0.1 to 0.5 of the critical value of the
collapsed point. Collapses: β from 1.2 to 4 times that value, and a decoder that stops listening at a settled price,
the norm of its weights falling from half-way on. A collapse is told in time if a grave alarm sounds before the number
of informative directions has halved from its peak. Intervals: Clopper-Pearson, 95 %.
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

from vaecollapse import config
from vaecollapse.callbacks.monitor import GRAVE
from vaecollapse.run import Run
from vaecollapse.tasks import fitting, train

CRITICAL = 6.0  # the largest eigenvalue of dataset=gaussian, at the scale 1
EVERY = 20


class Deafens(Callback):
    """From half of training on the decoder's weights may be no larger than a norm that falls by 1 % a step."""

    most: float | None = None

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if trainer.global_step <= 0.5 * trainer.estimated_stepping_batches:
            return
        weight = pl_module.vae.decoder.weight
        with torch.no_grad():
            norm = float(weight.norm())
            self.most = 0.99 * (norm if self.most is None else self.most)
            weight.mul_(min(1.0, self.most / norm))


def run(number: int, kind: str) -> tuple[int | None, int | None, int]:
    """(step of the first grave alarm, step at which directions had halved, steps in all)."""
    chance = random.Random(number)
    price = {"healthy": chance.uniform(0.1, 0.5), "beta": chance.uniform(1.2, 4.0), "deaf": 0.1}[kind] * CRITICAL
    with tempfile.TemporaryDirectory() as folder:
        line = ["model=linear", f"beta={price:.3f}", f"warmup={chance.choice([0.0, 0.1, 0.3])}", f"seed={number}",
                f"dataset.seed={number}", "max_epochs=19", "trainer.accelerator=cpu", "callback=[collapse_monitor]",
                "dataset.examples=2048", f"callback.collapse_monitor.every_n_steps={EVERY}", "batch_size=64",
                f"logger.csv.directory={folder}"]  # fmt: skip
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
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    told = [run(number, "healthy")[0] for number in range(arguments.healthy)]
    print(f"false alarms in healthy runs: {interval(sum(step is not None for step in told), len(told))}", flush=True)
    for kind in ("beta", "deaf"):
        found = [run(1000 + number, kind) for number in range(arguments.collapses // 2)]
        timely = [alarm is not None and (halved is None or alarm <= halved) for alarm, halved, _ in found]
        lead = sorted((halved - alarm) / steps for alarm, halved, steps in found if alarm is not None and halved)
        middle = f", median lead {lead[len(lead) // 2]:.0%} of training" if lead else ""
        print(f"collapses by {kind} told in time: {interval(sum(timely), len(timely))}{middle}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
