"""Cured or not: the first prescription of every sick trained run, carried out as it was printed.

    OMP_NUM_THREADS=1 python benchmarks/cured.py [--seeds 3]

The runs are those of `benchmarks/zoo.py --trained`; each is a command, its first prescription another, both through
vaecollapse-train. Prints a markdown table. Exit code 1 where fewer than 80 % end in a better verdict. Better is a state
that is named: where the illness is ruled out and nothing is named in its place (a hole in the prior that these examples
do not settle, say) the run is open, and counts among those that are not better.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from zoo import TRAINED

from vaecollapse.diagnosis import Verdict
from vaecollapse.run import Run

# From the worst; a verdict is better where it stands in a later row. Any other (inconclusive, say) counts as the worst.
BETTER = (
    ("diverged",),
    ("posterior_collapse", "fake_rate", "bypassed_latent", "underfit", "decoder_variance_collapse"),
    ("overfit", "variance_collapse", "rate_pinned", "inert_penalty"),
    ("over_compressed", "partial_collapse", "prior_hole"),
    ("healthy",),
)


def place(verdict: str) -> int:
    return next((number for number, row in enumerate(BETTER) if verdict in row), 0)


def is_open(sick: Verdict, then: Verdict) -> bool:
    """Is the illness ruled out, and nothing named in its place?"""
    return then.verdict == "inconclusive" and any(line.startswith(f"{sick.verdict}:") for line in then.refuted)


def run(overrides: Sequence[str], directory: Path) -> Verdict:
    """One command, to its verdict."""
    command = [sys.executable, "-m", "vaecollapse", "train", *overrides, f"hydra.run.dir={directory}"]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "CI": "1"})
    return Verdict.from_dict(Run(directory).read("verdict.json"))


def number(verdict: Verdict, name: str) -> str:
    found = verdict.readings.get(name)
    return "–" if found is None or found.value is None else f"{found.value:.3g}"


def moved(before: Sequence[str], command: str) -> str:
    """What the prescription typed besides."""
    return " ".join(word for word in shlex.split(command)[1:] if word not in before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TRAINED, default=list(TRAINED), help="conditions")
    given = parser.parse_args()
    print(
        "| plan | seed | verdict | first prescription | verdict then | value of z | rank | better |\n"
        + "|---" * 8
        + "|"
    )
    better = opened = total = 0
    with tempfile.TemporaryDirectory() as folder:
        for condition in given.only:
            for number_of, plan in enumerate(TRAINED[condition]):
                for seed in range(given.seeds):
                    own = [*plan, f"seed={seed}", "trainer.accelerator=cpu"]
                    home = Path(folder) / condition / f"{number_of}_{seed}"
                    sick = run(own, home / "sick")
                    if sick.verdict == "healthy" or not sick.prescriptions:
                        continue
                    command = sick.prescriptions[0].command or ""
                    cured = run(shlex.split(command)[1:], home / "cured")
                    total, gained = total + 1, place(cured.verdict) > place(sick.verdict)
                    better, opened = better + gained, opened + is_open(sick, cured)
                    shown = " ".join(plan).replace(",0.02" * 26, ",0.02 x 26").replace(",1.0" * 255, " x 256")
                    numbers = (f"{number(sick, name)} to {number(cured, name)}" for name in ("gap", "information_rank"))
                    said = "yes" if gained else "open" if is_open(sick, cured) else "no"
                    print(f"| `{shown}` | {seed} | `{sick.verdict}` | `{moved(own, command)}` | `{cured.verdict}` | "
                          f"{' | '.join(numbers)} | {said} |", flush=True)  # fmt: skip
    print(f"\n{better} of {total} end in a better verdict, {opened} with the illness ruled out and nothing named")
    return int(better < 0.8 * total)


if __name__ == "__main__":
    sys.exit(main())
