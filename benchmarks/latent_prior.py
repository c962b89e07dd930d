"""A prior trained with the rest against one fitted afterwards, by held-out NLL of codes and by the sound of samples.

    OMP_NUM_THREADS=1 python benchmarks/latent_prior.py [--seeds 2] [--recordings path/to/recordings] [--epochs 12]

Per seed two audio models are trained, with N(0, I) and with a flow (maf) as prior, and second stages are fitted to the
codes of both. Prints a markdown table: means over seeds, and half the range between them. Generated one-shots are the
data where no recordings are given.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import hydra

from vaecollapse import config, tasks

SMALL = ["capacity=4", "report=false", "logger=[]", "callback=[learning_rate,collapse_monitor,checkpoints,progress]"]
READ = "detector=[rate,information_rank,mutual_information]"
DRUMS = ["dataset=drums", "dataset.clips=1200", "dataset.seconds=0.25", "dataset.test_fraction=0.2"]
JOINT = {"N(0, I)": ["model=audio"], "maf": ["model=audio_nf", "posterior=normal"]}
STAGES = {"N(0, I)": ("maf", "autoregressive"), "maf": ("maf",)}
SHOWN = ("fad", "kernel_distance", "precision", "recall", "vendi_ratio")


def train(overrides: list[str], place: Path) -> dict[str, float]:
    """The readings of one run."""
    outcome = tasks.train(config.compose(overrides), place, overrides)
    found = outcome.diagnosis.readings if outcome.diagnosis else {}
    return {name: each.value for name, each in found.items() if each.value is not None}


def listen(run: Path, place: Path) -> dict[str, Any]:
    """R of the test split, and the scores of as many samples."""
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), version_base="1.3"):
        cfg = hydra.compose("evaluate", [f"run={run}"])
    found = tasks.evaluate(cfg, place, [])
    scores = {score.name: score.value for score in found.heard.scores} if found.heard else {}
    scores |= {f"{score.name} real": score.truth for score in found.heard.scores} if found.heard else {}
    return {"R": found.figures["rate"].value, **scores}


def of_seed(seed: int, data: list[str], epochs: int, root: Path) -> dict[str, dict[str, float]]:
    """Every row of the table, for one seed."""
    rows: dict[str, Any] = {}
    for prior, chosen in JOINT.items():
        first = root / f"{seed}_{'joint' if prior == 'maf' else 'standard'}"  # no parentheses: Hydra reads the path
        train([*chosen, *SMALL, READ, *data, f"seed={seed}", f"max_epochs={epochs}"], first)
        rows[f"{prior}, joint"] = listen(first, root / f"{first.name}_heard")
        for stage in STAGES[prior]:
            place = root / f"{first.name}_{stage}"
            line = ["model=latent_prior", f"prior={stage}", f"dataset.run='{first}'", f"seed={seed}", "report=false"]
            found = train([*line, "logger=[]"], place)
            rows[f"{prior}, then {stage}"] = listen(place, root / f"{place.name}_heard") | {
                "NLL": found["nll_second_stage"], "saved": found["kl_saved"]
            }  # fmt: skip
            rows[f"{prior}, joint"]["NLL"] = found["nll_run_prior"]
    return rows


def cell(values: list[float]) -> str:
    """The mean over seeds, and half their range."""
    if not values or any(value is None for value in values):
        return "–"
    return f"{sum(values) / len(values):.3g} ± {(max(values) - min(values)) / 2:.1g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--recordings", type=Path)
    asked = parser.parse_args()
    data = ["dataset=audio_folder", f"dataset.root='{asked.recordings}'"] if asked.recordings else DRUMS
    columns: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as root:
        for seed in range(asked.seeds):
            for name, row in of_seed(seed, data, asked.epochs, Path(root)).items():
                print(f"seed {seed}, {name}: {row}", flush=True)
                for column, value in row.items():
                    columns[name][column].append(value)
    head = ("R", "NLL", "saved", *SHOWN)
    print(f"\n| prior | {' | '.join(head)} |\n|---|{'---|' * len(head)}")
    for name, row in columns.items():
        print(f"| {name} | {' | '.join(cell(row[column]) for column in head)} |")
    real = next(iter(columns.values()))
    print(f"| real clips | – | – | – | {' | '.join(cell(real[f'{name} real']) for name in SHOWN)} |")


if __name__ == "__main__":
    main()
