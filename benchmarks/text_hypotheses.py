"""What text models do under floors, moved floors, other latents and three cures: measured, paired by seed.

    OMP_NUM_THREADS=1 python benchmarks/text_hypotheses.py [--seeds 0 1 2] [--only floors …] [--gsm8k path/to/gsm8k]

Small runs of `experiment=text_hypotheses` (arithmetic answers, transformer of width 32, 240 steps) and of
`experiment=case_e` on GSM8K's answers (424 steps), one after the other in one process, one to three minutes each on a
quiet core. Prints a markdown table for each question, differences to its first row paired by seed, and one sentence of
finding. A run that has ended is not repeated.
"""

import argparse
import contextlib
import hashlib
import io
import math
import shutil
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.special import stdtrit

from vaecollapse import config, tasks
from vaecollapse.comparison import Trial, compare, table, trial
from vaecollapse.run import Run

TEXT = ("experiment=text_hypotheses",)
SHORT = ("detector=[rate,decoder_reliance,answers,latent_tokens,floor_saturation,mutual_information]",)
CONSTANT = "coefficient@regularizer.weight=constant"
REAL = ("experiment=case_e", "dataset=gsm8k", "dataset.vocab=512", "dataset.longest_answer=40",
        "dataset.too_long=truncate", "capacity=10", "latent_dim=16", "lr=0.004", "max_epochs=4",
        "trainer.check_val_every_n_epoch=4",
        "callback=[collapse_monitor,checkpoints]")  # fmt: skip


class Job(NamedTuple):
    """A run by its overrides; `after` names the row whose weights it starts from."""

    row: str
    overrides: tuple[str, ...]
    after: str | None = None


class Question(NamedTuple):
    """Its rows, the first the baseline; `finding` puts their trials in a sentence."""

    asks: str
    jobs: tuple[Job, ...]
    finding: Callable[[Mapping[str, Sequence[Trial]]], str]


# ---- findings


def mean(trials: Sequence[Trial], name: str) -> float:
    return statistics.fmean(each.readings[name] for each in trials)


def moved(runs: Mapping[str, Sequence[Trial]], row: str, name: str, base: str | None = None) -> str:
    """`+0.12 ± 0.03`, the paired difference of a row to the baseline; or without an interval, of one pair."""
    found = compare(runs[base or next(iter(runs))], runs[row], [name]).differences[name]
    half = (found.high - found.low) / 2
    return f"{found.mean:+.3g}" + (f" ± {half:.2g}" if found.pairs > 1 else " (one pair)")


def of_seeds(trials: Sequence[Trial], name: str) -> str:
    """`+0.12 ± 0.03`, the mean over seeds with its 95 % interval (Student)."""
    values = [each.readings[name] for each in trials]
    if len(values) < 2:
        return f"{values[0]:+.2g}"
    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):+.2g} ± {half:.1g}"


def of_floors(runs: Mapping[str, Sequence[Trial]]) -> str:
    grown = "; ".join(
        f"{row}: {of_seeds(t, 'klr_grown')} (swing {mean(t, 'klr_swing'):.2g}), to the warm-up's largest "
        f"{of_seeds(t, 'klr_over_ramp')}"
        for row, t in runs.items()
    )
    return f"KLr from the quarter after the warm-up to the last quarter, {grown}."


def of_moved(runs: Mapping[str, Sequence[Trial]]) -> str:
    said = [
        f"{row} ends at a floor of {mean(trials, 'last_floor'):.3g}, D {moved(runs, row, 'distortion')} and the value "
        f"of z {moved(runs, row, 'gap')} against the fixed one"
        for row, trials in list(runs.items())[1:]
    ]
    return "; ".join(said) + "."


def of_units(runs: Mapping[str, Sequence[Trial]]) -> str:
    said = ", ".join(f"{row}: {mean(t, 'rate'):.3g} nats, KLr {mean(t, 'klr'):.2g}" for row, t in runs.items())
    return f"In nats and per unit, {said}."


def of_pinned(runs: Mapping[str, Sequence[Trial]]) -> str:
    said = [f"{row}: KLr {mean(t, 'klr'):.3g} ({moved(runs, row, 'klr')})" for row, t in list(runs.items())[1:]]
    first, trials = next(iter(runs.items()))
    return f"{first}: KLr {mean(trials, 'klr'):.3g}; " + "; ".join(said) + "."


def of_cures(runs: Mapping[str, Sequence[Trial]]) -> str:
    said = [f"{row} R {moved(runs, row, 'rate')}, value of z {moved(runs, row, 'gap')}" for row in list(runs)[1:]]
    return "Against the whole price at once, " + "; ".join(said) + "."


# ---- questions


def floor(value: float) -> tuple[str, ...]:
    return (*TEXT, *SHORT, f"free_bits={value:g}")


def shape(tokens: int, units: int, value: float) -> tuple[str, ...]:
    return (*floor(value), f"model.tokens={tokens}", f"latent_dim={units}")


def tuned(mode: str) -> tuple[str, ...]:
    return (*floor(0.02), f"callback.tuner.mode={mode}")


PINNED = (*floor(0.02), CONSTANT, "regularizer.scale=one")
LOWER = (*floor(0.005), CONSTANT, "regularizer.scale=one", "beta=33")
QUESTIONS = {
    "floors": Question(
        "Does KLr grow by itself?",
        tuple(Job(f"floor {value:g}", floor(value)) for value in (0.0, 0.005, 0.02, 0.05)),
        of_floors,
    ),
    "moved": Question(
        "Does a moved floor beat a fixed one?",
        (
            Job("fixed at 0.02", floor(0.02)),
            Job("as written", tuned("as_written")),
            Job("corrected", tuned("corrected")),
        ),
        of_moved,
    ),
    "units": Question(
        "How does K × dim scale the KL?",
        (
            Job("6 × 64", floor(0.0)),
            Job("1 × 64", shape(1, 64, 0.0)),
            Job("6 × 16", shape(6, 16, 0.0)),
            Job("6 × 64, floor .02", floor(0.02)),
            Job("6 × 16, floor .02", shape(6, 16, 0.02)),
        ),
        of_units,
    ),
    "case_b": Question(
        "Pinned at the floor: what moves KLr?",
        (
            Job("floor .02, weight 33 (case B)", (*PINNED, "beta=33")),
            Job("floor .005", LOWER),
            Job("weight 3.3", (*PINNED, "beta=3.3")),
            Job("floor .005, from case B's weights", LOWER, after="floor .02, weight 33 (case B)"),
        ),
        of_pinned,
    ),
    "case_e": Question(
        "The whole price from the first batch on: what do three cures do?",
        (
            Job("case E", REAL),
            Job("warm-up over half", (*REAL, "coefficient@regularizer.weight=linear", "warmup=0.5")),
            Job("floor of .25 a unit", (*REAL, "regularizer=free_bits", CONSTANT, "free_bits=0.25")),
            Job("half of the words hidden", (*REAL, "model.word_dropout=0.5")),
        ),
        of_cures,
    ),
}
READINGS = {"rate": "R", "klr": "KLr", "fb_percent": "fb%", "gap": "value of z", "mi": "I", "distortion": "D",
            "nll_per_token": "NLL per token", "null_prompt": "n-gram null", "exact_match": "exact"}  # fmt: skip


# ---- runs


def directory(job: Job, seed: int, folder: Path) -> Path:
    """By what is run, so that two questions share a row."""
    said = " ".join(job.overrides)
    digest = hashlib.blake2b(said.encode(), digest_size=6).hexdigest()
    return folder / f"{job.overrides[0].partition('=')[2]}_{digest}{'_after' * bool(job.after)}" / str(seed)


def trained(job: Job, seed: int, folder: Path, more: Sequence[str], origin: Path | None) -> Trial:
    """The run, as it lies there or newly made."""
    place = directory(job, seed, folder)
    if not (place / "trained.json").exists():
        shutil.rmtree(place, ignore_errors=True)  # what was cut short
        lines = [*job.overrides, *more, f"seed={seed}", "trainer.accelerator=cpu", f"logger.csv.directory={place}"]
        lines += [f"init_from={origin}"] if origin else []
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            tasks.train(config.compose(lines), place, lines)
    return trial(place, f"{job.row}, seed {seed}", course(Run(place)))


def course(run: Run) -> dict[str, float]:
    """KLr at the end; its growth at the full weight, as the mean over validations of training's last quarter less that
    of the quarter before; the largest distance of two validations in that half, a swing that a growth must exceed to be
    one; how far the end lies above the largest KLr of the warm-up (these three where there are validations enough); and
    the last floor."""
    readings = run.read("verdict.json")["readings"]
    units = readings["units"]["value"]
    rows = [row for row in run.lines("metrics.jsonl") if "val/latent/rate" in row and "val/distortion" in row]
    end = max(row["step"] for row in rows)
    ramp, before, last = (
        [row["val/latent/rate"] / units for row in rows if low < row["step"] / end <= high]
        for low, high in ((-1, 0.5), (0.5, 0.75), (0.75, 1))
    )
    found = {"klr": readings["rate"]["value"] / units}
    if ramp and before and last:
        found |= {
            "klr_grown": statistics.fmean(last) - statistics.fmean(before),
            "klr_swing": max(before + last) - min(before + last),
            "klr_over_ramp": last[-1] - max(ramp),
        }
    floors = [row["train/objective/floor"] for row in run.lines("metrics.jsonl") if "train/objective/floor" in row]
    return found | ({"last_floor": floors[-1]} if floors else {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--gsm8k", help="folder of train.jsonl and test.jsonl, for case_e")
    parser.add_argument("--folder", type=Path, default=Path("outputs/text_hypotheses"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    config.register()
    asked = [name for name in given.only if name != "case_e" or given.gsm8k]
    runs: dict[str, dict[str, list[Trial]]] = {name: {} for name in asked}
    for seed in given.seeds:  # seeds outermost, so that what is cut short is whole for fewer of them
        for name in asked:
            more = [f"dataset.root={given.gsm8k}"] if name == "case_e" else []
            jobs = {job.row: job for job in QUESTIONS[name].jobs}
            for job in jobs.values():
                origin = directory(jobs[job.after], seed, given.folder) if job.after else None
                runs[name].setdefault(job.row, []).append(trained(job, seed, given.folder, more, origin))
                print(f"{name}, seed {seed}, {job.row}: {runs[name][job.row][-1].verdict}", file=sys.stderr, flush=True)
    for name, rows in runs.items():
        print(f"\n**{QUESTIONS[name].asks}**\n")
        print("\n".join(table(rows, READINGS, next(iter(rows)))))
        print(f"\n{QUESTIONS[name].finding(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
