"""Every remedy at equal budget: what it moves, at what price, and what the verdict says of it.

    OMP_NUM_THREADS=1 python benchmarks/remedies.py --images path/to/t10k-images-idx3-ubyte.gz --text path/to/gsm8k \
        [--models linear] [--workers 2]

Each remedy x {linear VAE on Gaussian data, convolutional VAE on the MNIST test images, LSTM decoder on the answers of
GSM8K, autoregressive decoder of generated digits} x 3 seeds, trained by vaecollapse-train and measured on the test
split by vaecollapse-evaluate. Prints a markdown table for each model, paired by seed against plain β = 1 without a
warm-up, and draws the rate-distortion plane. A run whose evaluation lies in the folder is not repeated.
"""

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import statistics
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import hydra
import torch

from vaecollapse import config, tasks
from vaecollapse.comparison import Trial, table, trial
from vaecollapse.refusal import Refused

PLAIN = "plain"
SEEDS = (0, 1, 2)


class Setting(NamedTuple):
    """A model with its budget; `target` nats for what is aimed at a rate, and by how much less than the plain run's
    the distortion is that GECO is asked for."""

    overrides: tuple[str, ...]
    target: float
    closer: float
    examples: int = 512  # of the test split, that the figures are of


def settings(images: str | None, text: str | None) -> dict[str, Setting]:
    mnist = ("dataset=idx", f"dataset.images={images}", "dataset.binarize=threshold", "likelihood=bernoulli",
             "batch_size=128", "capacity=4", "model.residual_units=0", "lr=0.003", "max_epochs=4",
             "trainer.check_val_every_n_epoch=100", "regularizer=beta")  # fmt: skip
    answers = ("dataset=gsm8k", f"dataset.root={text}", "dataset.vocab=512", "dataset.too_long=truncate",
               "dataset.longest_prompt=8", "dataset.longest_answer=32", "model.posterior_input=answer", "capacity=4",
               "latent_dim=16", "lr=0.003", "max_epochs=2", "trainer.check_val_every_n_epoch=100")  # fmt: skip
    return {
        "linear": Setting(("model=linear", "max_epochs=100"), 2.5, 0.5),
        "image": Setting(("model=image", *mnist), 25.0, 5.0),
        "text_lstm": Setting(("model=text_lstm", *answers), 5.0, 2.0, 256),
        "image_ar": Setting(("model=image_ar", "capacity=16", "lr=0.003", "max_epochs=20"), 5.0, 1.0),
    }


def remedies(name: str, setting: Setting, kappa: float) -> dict[str, list[str]]:
    """The overrides of every remedy that this model can take."""
    target = f"{setting.target:g}"
    floor = f"free_bits={setting.target / 16 if name != 'linear' else 0.5:g}"
    plain = ["regularizer=beta", "beta=1", "warmup=0"]
    found = {
        PLAIN: plain,
        "half the price (beta = .5)": ["regularizer=beta", "beta=0.5", "warmup=0"],
        "annealed over half": ["regularizer=beta", "beta=1", "warmup=0.5"],
        "cyclical": ["regularizer=beta", "beta=1", "coefficient@regularizer.weight=cyclical"],
        "free bits": ["regularizer=free_bits", "beta=1", "warmup=0", floor],
        "free bits, hinge": ["regularizer=free_bits", "regularizer.form=hinge", "regularizer.scale=units", "beta=1",
                             "warmup=0", floor],
        "KL capacity": ["regularizer=kl_capacity", f"regularizer.target={target}", "beta=5", "warmup=0.3"],
        "target rate": ["regularizer=target_rate", f"regularizer.target={target}", "beta=5", "warmup=0"],
        "GECO": ["regularizer=geco", f"regularizer.kappa={kappa:.4g}"],
        "ControlVAE": ["regularizer=beta", "beta=1", "coefficient@regularizer.weight=pid",
                       f"regularizer.weight.target={target}"],
        "InfoVAE (MMD)": ["regularizer=mmd", "beta=1", "warmup=0", "regularizer.alpha=0.5"],
        "delta-VAE": [*plain, "posterior=delta"],
        "BN-VAE": [*plain, "posterior=batch_norm"],
        "aggressive encoder": [*plain, "callback=[learning_rate,collapse_monitor,checkpoints,aggressive]"],
        "pretrain and reset": ["regularizer=beta", "beta=1",
                               "callback=[learning_rate,collapse_monitor,checkpoints,pretrain_reset]"],
        "stages: a free quarter, a ramp": [
            "regularizer=beta", "beta=1", "callback=[learning_rate,collapse_monitor,checkpoints,stages]",
            "callback.stages.stages=[{share:0.25,weight:[0,0],trains:[all]},{share:0.25,weight:[0,1],trains:[all]},"
            "{weight:[1,1],trains:[all]}]"],
        "tuner, corrected": ["regularizer=free_bits", "beta=1", "warmup=0", floor, "callback.tuner.mode=corrected",
                             "callback.tuner.after=[1,2,3,4]",
                             "callback=[learning_rate,collapse_monitor,checkpoints,tuner]"],
    }  # fmt: skip
    if name == "linear":
        # its encoder is no head: posteriors of other forms have no place in it
        found = {key: lines for key, lines in found.items() if key not in ("delta-VAE", "BN-VAE")}
        found["optimal sigma"] = [*plain, "likelihood=normal_optimal"]
    if name == "image":
        found["optimal sigma"] = [*plain, "likelihood=normal_optimal"]
    if name == "text_lstm":
        found["half of the words hidden"] = [*plain, "model.word_dropout=0.5"]
        found["all words hidden"] = [*plain, "model.word_dropout=1"]
    if name == "image_ar":
        found["half of the pixels hidden"] = [*plain, "model.pixel_dropout=0.5"]
        found["receptive field of 1"] = [*plain, "model.receptive_field=1"]
        found["factorised decoder"] = [*plain, "model.receptive_field=0"]
    return found


class Job(NamedTuple):
    model: str
    remedy: str
    seed: int
    overrides: tuple[str, ...]
    directory: Path
    examples: int


def done(job: Job) -> Path:
    return job.directory / "test"


def work(job: Job) -> str:
    """Trains and measures one run; what was refused is said."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if (done(job) / "evaluation.json").exists():
        return f"{job.model}, {job.remedy}, seed {job.seed}: there"
    lines = [*job.overrides, f"seed={job.seed}", "trainer.accelerator=cpu", f"logger.csv.directory={job.directory}"]
    if not any(line.startswith("callback=") for line in lines):
        lines.append("callback=[learning_rate,collapse_monitor,checkpoints]")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            config.register()
            verdict = tasks.train(config.compose(lines), job.directory, lines).verdict
            tested(job)
        except Refused as error:
            return f"{job.model}, {job.remedy}: refused, {error}"
    return f"{job.model}, {job.remedy}, seed {job.seed}: {verdict}"


READINGS = {
    "rate": "R", "mi": "I", "information_rank": "rank", "gap": "value of z", "price_of_a_nat": "price of a nat",
    "distortion": "D", "elbo": "ELBO", "iw_nll": "IW-NLL(32)", "seconds": "s",
}  # fmt: skip


def tested(job: Job) -> None:
    """Measures the run on its test split."""
    config.register()
    asked = [f"run={job.directory}", "checkpoint=last", "samples=32", f"examples={job.examples}"]
    with hydra.initialize_config_dir(str(config.folder()), version_base="1.3"):
        tasks.evaluate(hydra.compose("evaluate", asked), done(job), asked)


def measured(job: Job) -> Trial:
    """The run with what was measured on its test split in place of the probe's readings."""
    found = json.loads((done(job) / "evaluation.json").read_text(encoding="utf-8"))
    figures = {name: each["value"] for name, each in (found["readings"] | found["figures"]).items()}
    numbers = {name: float(number) for name, number in figures.items() if isinstance(number, int | float)}
    return trial(job.directory, f"{job.remedy}, seed {job.seed}", numbers)


def plane(title: str, runs: Mapping[str, Sequence[Trial]], *, width: int = 640, height: int = 420) -> str:
    """The rate-distortion plane as SVG: a point for each remedy of the same likelihood, the mean over seeds of (R, D)
    on the test split, R by its logarithm."""
    of = runs[PLAIN][0].circumstances["likelihood"]
    points = {
        label: tuple(statistics.fmean(each.readings[name] for each in trials) for name in ("rate", "distortion"))
        for label, trials in runs.items()
        if trials[0].circumstances["likelihood"] == of
    }
    points = {label: (math.log(rate), distortion) for label, (rate, distortion) in points.items()}
    numbered = {label: number for number, label in enumerate(points, 1)}
    left, top, legend = 60, 40, 210
    lows, highs = (tuple(end(p[axis] for p in points.values()) for axis in (0, 1)) for end in (min, max))

    def place(point: Sequence[float]) -> tuple[float, float]:
        across, up = ((point[i] - lows[i]) / max(1e-9, highs[i] - lows[i]) for i in (0, 1))
        return left + 20 + across * (width - left - 40), top + (height - top - 60) * (1 - up) + 10

    marks = []
    for label, point in points.items():
        x, y = place(point)
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="{"#0b6" if label == PLAIN else "#36c"}"/>'
                     f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="#fff">{numbered[label]}</text>'
                     )  # fmt: skip
    names = [
        f'<text x="{width + 10}" y="{top + 18 * number}">{number}  {label}</text>' for label, number in numbered.items()
    ]
    bounds = [
        f'<text x="{place(lows)[0]:.0f}" y="{height - 22}">{math.exp(lows[0]):.3g}</text>',
        f'<text x="{place(highs)[0]:.0f}" y="{height - 22}" text-anchor="end">R = {math.exp(highs[0]):.3g} nats</text>',
        f'<text x="6" y="{place(highs)[1]:.0f}">{highs[1]:.4g}</text>',
        f'<text x="6" y="{place(lows)[1]:.0f}">D = {lows[1]:.4g}</text>',
    ]
    tall = max(height, top + 18 * (len(points) + 1))
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + legend} {tall}" font-family="sans-serif" '
        'font-size="12">', f'<rect width="{width + legend}" height="{tall}" fill="#fff"/>',
        f'<text x="{left}" y="22" font-size="15">{title}: distortion against rate, test split</text>',
        f'<path d="M{left} {top}V{height - 40}H{width}" fill="none" stroke="#888"/>', *bounds, *names, *marks, "</svg>",
    ])  # fmt: skip


def kappa_of(jobs: Sequence[Job], closer: float) -> float:
    """GECO's κ: as far below the distortion of the plain runs as is asked for."""
    found = [measured(job).readings["distortion"] for job in jobs if job.remedy == PLAIN]
    return statistics.fmean(found) - closer if found else math.nan


def jobs_of(name: str, setting: Setting, kappa: float, folder: Path) -> list[Job]:
    return [
        Job(
            name,
            remedy,
            seed,
            (*setting.overrides, *lines),
            folder / name / "".join(c if c.isalnum() else "_" for c in remedy) / str(seed),
            setting.examples,
        )
        for remedy, lines in remedies(name, setting, kappa).items()
        for seed in SEEDS
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="the MNIST test images, for image")
    parser.add_argument("--text", help="the folder of GSM8K, for text_lstm")
    parser.add_argument("--models", nargs="+", default=["linear", "image", "text_lstm"])
    parser.add_argument("--folder", type=Path, default=Path("outputs/remedies"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pictures", type=Path, help="folder of the rate-distortion planes")
    given = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(given.workers, maxtasksperchild=8) as pool:
        for name in given.models:
            setting = settings(given.images, given.text)[name]
            plain = [job for job in jobs_of(name, setting, math.nan, given.folder) if job.remedy == PLAIN]
            for line in pool.imap_unordered(work, plain):
                print(line, file=sys.stderr, flush=True)
            jobs = jobs_of(name, setting, kappa_of(plain, setting.closer), given.folder)
            for line in pool.imap_unordered(work, [job for job in jobs if job.remedy != PLAIN]):
                print(line, file=sys.stderr, flush=True)
            runs: dict[str, list[Trial]] = {}
            for job in jobs:
                if (done(job) / "evaluation.json").exists():
                    runs.setdefault(job.remedy, []).append(measured(job))
            print(f"\n**{name}**: `{' '.join(setting.overrides[:2])}`, seeds {', '.join(map(str, SEEDS))}\n")
            print("\n".join(table(runs, READINGS, PLAIN)))
            if given.pictures:
                (given.pictures / f"remedies_{name}.svg").write_text(plane(name, runs) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
