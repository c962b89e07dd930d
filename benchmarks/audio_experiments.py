"""Flows, capacity and pooling on real recordings: the three sweeps of conf/experiment/audio_*.yaml, trained, measured on
the held-out split and compared, paired by seed.

    OMP_NUM_THREADS=1 python benchmarks/audio_experiments.py --recordings path/to/recordings [--only flows capacity pooling] \
        [--seeds 0 1 2] [--folder outputs/audio_experiments] [--pictures benchmarks]

About 300 steps a run, one after the other in one process, whose seconds are logged. A run whose evaluation lies in the
folder is not repeated. Prints a markdown table for each experiment, differences to its first row paired by seed, and
draws its picture.
"""

import argparse
import itertools
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from remedies import Job, done, measured, work

from vaecollapse import config
from vaecollapse.comparison import Trial

LEAN = ("detector=[rate,active_units,posterior_variance,decoder_reliance,information_rank,mutual_information,"
        "aggregate_posterior]", "detector.decoder_reliance.interventions=false",
        "callback.collapse_monitor.final_examples=64",  # the test split decides
        "report=false")  # fmt: skip
EXAMPLES = 512  # of the test split


def rows(experiment: str) -> list[tuple[str, ...]]:
    """The overrides of every run that the sweep declares, but for seeds."""
    node = yaml.safe_load((config.folder() / "experiment" / f"audio_{experiment}.yaml").read_text("utf-8"))
    params = {key: str(each).split(",") for key, each in node["hydra"]["sweeper"]["params"].items() if key != "seed"}
    return [
        tuple(f"{key}={value}" for key, value in zip(params, values, strict=True))
        for values in itertools.product(*params.values())
    ]


def jobs_of(experiment: str, seeds: Sequence[int], recordings: str, folder: Path) -> list[Job]:
    """Seeds outermost, so that what is cut short is whole for fewer of them."""
    data = ("dataset=audio_folder", f"dataset.root={recordings}")
    return [
        Job(experiment, " ".join(row), seed, (f"experiment=audio_{experiment}", *data, *row, *LEAN),
            folder / experiment / "_".join(row).replace("=", "_") / str(seed), EXAMPLES)
        for seed in seeds
        for row in rows(experiment)
    ]  # fmt: skip


def run(job: Job) -> str:
    """Trains and measures what is not there; what was cut short is begun again."""
    there = (done(job) / "evaluation.json").exists()
    if not there:
        shutil.rmtree(job.directory, ignore_errors=True)
    started = time.process_time(), time.monotonic()
    said = work(job)
    spent = time.process_time() - started[0], time.monotonic() - started[1]
    return said if there else f"{said}, {spent[0]:.0f} s of processor, {spent[1]:.0f} s by the clock"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", required=True, help="a folder of short recordings, such as FSDD's")
    parser.add_argument("--only", nargs="+", choices=["flows", "capacity", "pooling"], default=["flows", "capacity", "pooling"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("outputs/audio_experiments"))
    parser.add_argument("--pictures", type=Path, help="folder of the pictures")
    given = parser.parse_args()
    for name in given.only:
        for job in jobs_of(name, given.seeds, given.recordings, given.folder):
            print(run(job), file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
