"""Flows, capacity and pooling on real recordings: the three sweeps of conf/experiment/audio_*.yaml, trained, measured
on the held-out split and compared, paired by seed.

    OMP_NUM_THREADS=1 python benchmarks/audio_experiments.py --recordings path/to/recordings \
        [--only flows capacity pooling] [--seeds 0 1 2] [--folder outputs/audio_experiments] [--pictures benchmarks]

About 300 steps a run, one after the other in one process, whose seconds are logged; seed 0 alone for capacity, a map of
18 points. A run whose evaluation lies in the folder is not repeated, with --there none is made; --again
measures what is trained anew, by the scores of today. Prints a markdown table
for each experiment, what vaecollapse-evaluate calls the samples' sets, and draws a picture of each.
"""

import argparse
import contextlib
import io
import itertools
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import audio_pictures as pictures
import yaml
from remedies import Job, done, measured, tested, work

from vaecollapse import config
from vaecollapse.comparison import Trial, difference, table
from vaecollapse.report.markdown import table as markdown
from vaecollapse.run import Run

EXPERIMENTS = ("flows", "pooling", "capacity")
LEAN = ("detector=[rate,active_units,posterior_variance,decoder_reliance,information_rank,mutual_information,"
        "aggregate_posterior]", "detector.decoder_reliance.interventions=false",
        "callback.collapse_monitor.final_examples=64",  # the test split decides
        "report=false")  # fmt: skip
EXAMPLES = 512  # of the test split
BUDGET = dict.fromkeys(("pooling", "capacity"), ("dataset.fraction=0.75",))  # of the training clips: 310 steps of 8
NAMES = {
    "prior=normal posterior=normal": "none", "prior=maf posterior=normal": "prior",
    "prior=normal posterior=realnvp": "posterior", "prior=maf posterior=realnvp": "both",
}  # fmt: skip
SOUNDS = {"fad": "FAD", "kernel_distance": "KD", "precision": "precision", "recall": "recall", "vendi_ratio": "Vendi"}
LATENT = {"mi": "I", "information_rank": "rank", "gap": "value of z"}
READINGS = {**LATENT, "distortion": "D", **SOUNDS}  # never the KL: a flow prior lowers it at equal I


# ---- runs


def sweep(experiment: str) -> dict[str, list[str]]:
    """The values of every knob that the experiment's yaml sweeps, seeds among them."""
    node = yaml.safe_load((config.folder() / "experiment" / f"audio_{experiment}.yaml").read_text("utf-8"))
    return {key: str(each).split(",") for key, each in node["hydra"]["sweeper"]["params"].items()}


def rows(experiment: str) -> list[tuple[str, ...]]:
    """The overrides of every point of the sweep, without seeds."""
    params = {key: values for key, values in sweep(experiment).items() if key != "seed"}
    return [
        tuple(f"{key}={value}" for key, value in zip(params, values, strict=True))
        for values in itertools.product(*params.values())
    ]


def jobs_of(experiment: str, seeds: Sequence[int], recordings: str, folder: Path) -> list[Job]:
    """Seeds outermost, so that what is cut short is whole for fewer of them."""
    data = ("dataset=audio_folder", f"dataset.root={recordings}", *BUDGET.get(experiment, ()))
    return [
        Job(experiment, named(row), seed, (f"experiment=audio_{experiment}", *data, *row, *LEAN),
            folder / experiment / "_".join(row).replace("=", "_") / str(seed), EXAMPLES)
        for seed in seeds
        for row in rows(experiment)
    ]  # fmt: skip


def named(row: Sequence[str]) -> str:
    said = " ".join(row)
    return NAMES.get(said, said.removeprefix("pool="))


def ended(job: Job) -> bool:
    return (done(job) / "evaluation.json").exists()


def run(job: Job) -> str:
    """Trains and measures what is not there; what was cut short is begun again."""
    there = ended(job)
    if not there:
        shutil.rmtree(job.directory, ignore_errors=True)
    started = time.process_time(), time.monotonic()
    said = work(job)
    spent = time.process_time() - started[0], time.monotonic() - started[1]
    return said if there else f"{said}, {spent[0]:.0f} s of processor, {spent[1]:.0f} s by the clock"


def again(job: Job) -> str:
    """Measures a trained run anew."""
    shutil.rmtree(done(job), ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        tested(job)
    return f"{job.model}, {job.remedy}, seed {job.seed}: measured again"


def told(job: Job) -> Trial:
    """The run by what its test split says: verdict, readings and the scores of its samples; and the highest R that was
    logged while it trained."""
    found = json.loads((done(job) / "evaluation.json").read_text("utf-8"))
    scores = {each["name"]: each["value"] for each in found["scores"] if each["value"] is not None}
    rates = [line.get("train/latent/rate", 0.0) for line in Run(job.directory).lines("metrics.jsonl")]
    trial = measured(job)
    return trial._replace(verdict=found["verdict"], readings={**trial.readings, **scores, "highest": max(rates)})


def word(trial: Trial) -> str:
    """What the evaluation called the samples' set."""
    assert trial.directory is not None
    return (json.loads((trial.directory / "test" / "evaluation.json").read_text("utf-8"))["set"] or {}).get("word", "–")


# ---- tables


def points(runs: Mapping[str, Sequence[Trial]]) -> list[str]:
    """A row for each run of a map."""
    names = {"highest": "highest R", "rate": "R", **LATENT, "distortion": "D"}
    lines = [
        [*(part.partition("=")[2] for part in label.split()),
         *(f"{each.readings[name]:.3g}" if name in each.readings else "–" for name in names),
         f"`{each.verdict}`", word(each)]
        for label, trials in runs.items()
        for each in trials
    ]  # fmt: skip
    keys = [part.partition("=")[0] for part in next(iter(runs)).split()]
    return markdown([*keys, *names.values(), "verdict", "samples"], lines)


def contrasts(runs: Mapping[str, Sequence[Trial]], names: Mapping[str, str]) -> list[str]:
    """For each knob its largest value against its smallest, paired over the points (and seeds) that differ in nothing
    else, with the 95 % interval over these pairs; bold only over several seeds, whose own spread one does not show."""
    of = {(frozenset(label.split()), each.seed): each for label, trials in runs.items() for each in trials}
    knobs: dict[str, set[str]] = {}
    for part in (part for label in runs for part in label.split()):
        knobs.setdefault(part.partition("=")[0], set()).add(part)
    lines = []
    for levels in knobs.values():
        low, high = (f(levels, key=lambda part: float(part.partition("=")[2])) for f in (min, max))
        twins = [(each, of.get((at - {low} | {high}, seed))) for (at, seed), each in of.items() if low in at]
        pairs = [(a.readings, b.readings) for a, b in twins if b]
        found = {name: difference([(a[name], b[name]) for a, b in pairs if name in a and name in b]) for name in names}
        said = [f"{d.mean:+.3g} ± {(d.high - d.low) / 2:.2g}" for d in found.values()]
        seeds = {seed for _, seed in of}
        bold = [
            f"**{each}**" if d.settled and len(seeds) > 1 else each
            for each, d in zip(said, found.values(), strict=True)
        ]
        lines.append([f"{high} against {low.partition('=')[2]}", str(len(pairs)), *bold])
    return markdown(["", "pairs", *names.values()], lines)


def words(runs: Mapping[str, Sequence[Trial]]) -> list[str]:
    """What was said of the latent and what of its samples, with counts."""
    counts = Counter((each.verdict, word(each)) for trials in runs.values() for each in trials)
    lines = [[f"`{verdict}`", said, str(number)] for (verdict, said), number in counts.most_common()]
    return markdown(["latent", "samples", "runs"], lines)


def printed(experiment: str, runs: Mapping[str, Sequence[Trial]]) -> list[str]:
    """The tables of an experiment."""
    if experiment == "capacity":
        names = {"highest": "highest R", "rate": "R", **LATENT, "distortion": "D"}
        return [*points(runs), "", *contrasts(runs, names), "", *words(runs)]
    return [*table(runs, READINGS, next(iter(runs))), "", *words(runs)]


def picture(experiment: str, runs: Mapping[str, Sequence[Trial]]) -> str:
    if experiment == "flows":
        title = "Flows: how samples sound and what z is worth, a dot a seed"
        return pictures.plane(title, runs, ("fad", "FAD of prior samples"), ("gap", "value of z"))
    if experiment == "pooling":
        title = "Pooling: a dot a seed, a bar their mean"
        return pictures.panels(title, runs, {"gap": "value of z", "information_rank": "information rank"})
    title = "Case A's map: what z is at the end, by capacity, units and warm-up"
    return pictures.maps(title, runs, "capacity", "latent_dim", "warmup", {"gap": "z", "information_rank": "rank"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", required=True, help="a folder of short recordings, such as FSDD's")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2, and 0 for capacity")
    parser.add_argument("--folder", type=Path, default=Path("outputs/audio_experiments"))
    parser.add_argument("--pictures", type=Path, help="folder of the pictures")
    parser.add_argument("--there", action="store_true", help="train nothing: what lies in the folder")
    parser.add_argument("--again", action="store_true", help="measure anew what is trained")
    given = parser.parse_args()
    for name in given.only:
        seeds = given.seeds or ([0] if name == "capacity" else [0, 1, 2])
        jobs = jobs_of(name, seeds, given.recordings, given.folder)
        for job in [] if given.there else jobs:
            print(again(job) if given.again and ended(job) else run(job), file=sys.stderr, flush=True)
        runs: dict[str, list[Trial]] = {}
        for job in filter(ended, jobs):
            runs.setdefault(job.remedy, []).append(told(job))
        if not runs:
            continue
        there = sorted({each.seed for trials in runs.values() for each in trials})
        print(f"\n**{name}**, seeds {', '.join(map(str, there))}\n\n" + "\n".join(printed(name, runs)), flush=True)
        if given.pictures:
            (given.pictures / f"audio_{name}.svg").write_text(picture(name, runs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
