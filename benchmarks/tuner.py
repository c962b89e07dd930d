"""What the practitioners' dynamic plan does to a model that is pinned at its floor, beside the corrected one.

    OMP_NUM_THREADS=1 python benchmarks/tuner.py

A hinge at floor .005 under a price that leaves nothing alive above it, thirty epochs, checkpoints after 5, 10, 15, 20
and 25. `linear`: the linear VAE on Gaussian data, β = 8 above the largest eigenvalue, 6. `image`: the convolutional VAE
of digits with a Gaussian likelihood of fixed scale 1. Floor and KLr are what the plan saw at a checkpoint (KLr the
mean over the epoch's training examples and units), R and gap are read there on 64 held-out examples, at the end on 512.
Prints a markdown table.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from vaecollapse.run import Run

CASES = {
    "linear": ["model=linear", "beta=8", "batch_size=128", "lr=0.01", "lr_end=1"],
    "image": ["model=image", "likelihood=normal", "likelihood.scale=1", "beta=8"],
}
MODES = ("advise", "as_written", "corrected")
AFTER = (5, 10, 15, 20, 25)
SEEN = ("floor", "weight", "klr", "fb_percent")
SHOWN = [*(f"train/tuner/{name}" for name in SEEN), "val/latent/rate", "val/latent/gap"]


def trained(case: str, mode: str, folder: Path, seed: int) -> Run:
    """One run of thirty epochs, read at the end of every fifth."""
    directory = folder / f"{case}-{mode}-{seed}"
    line = [
        *CASES[case],
        *("regularizer=free_bits", "regularizer.form=hinge", "regularizer.scale=units", "free_bits=0.005"),
        *("max_epochs=30", f"seed={seed}", "callback=[learning_rate,collapse_monitor,checkpoints,tuner]"),
        *(f"callback.tuner.mode={mode}", f"callback.tuner.after={list(AFTER)}", "trainer.accelerator=cpu"),
    ]
    steps = 5 * {"linear": 32, "image": 17}[case]
    line += [f"callback.collapse_monitor.every_n_steps={steps}", f"hydra.run.dir={directory}"]
    subprocess.run([sys.executable, "-m", "vaecollapse", "train", *line], check=True, stdout=sys.stderr)
    return Run(directory)


def rows(run: Run) -> list[dict]:
    """Floor, KLr, fb%, weight, R and gap at each checkpoint, and at the end."""
    found: dict[int, dict] = {}
    for row in run.lines("metrics.jsonl"):
        found.setdefault(row["step"], {}).update(row)
    at = [row for row in found.values() if "train/tuner/klr" in row]
    assert len(at) == len(AFTER) and all("val/latent/gap" in row for row in at), "not read at every checkpoint"
    return at


def shown(numbers: list[float]) -> str:
    return " | ".join(f"{number:.3g}" for number in numbers)


def said(decision: dict) -> str:
    """`R1 floor 0.005 → 0.003`, or the rule alone where nothing moves."""
    old, new = decision["old"], decision["new"]
    return decision["rule"] if old == new else f"{decision['rule']} {decision['what']} {old:.3g} → {new:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/tuner"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    given = parser.parse_args()
    print("| case | mode | after epoch | floor | weight | KLr | fb% | R (nats) | gap | moved |\n" + "|---" * 10 + "|")
    for case in given.only:
        for mode in MODES:
            run = trained(case, mode, given.folder, given.seed)
            told = [row for row in run.lines("events.jsonl") if row["event"] == "tuner"]
            for epoch, row in zip(AFTER, rows(run), strict=True):
                numbers = [row[name] for name in SHOWN]
                moves = ", ".join(said(each) for each in told if each["completed"] == epoch)
                print(f"| {case} | {mode} | {epoch} | {shown(numbers)} | {moves} |", flush=True)
            end = run.read("verdict.json")
            last = [end["readings"][name]["value"] for name in ("rate", "gap")]
            print(f"| {case} | {mode} | end: `{end['verdict']}` | | | | | {shown(last)} | |", flush=True)


if __name__ == "__main__":
    main()
