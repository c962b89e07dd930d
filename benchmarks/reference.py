"""The reference command on a folder of real recordings: alive, dead, and pooled, with wall times.

    python benchmarks/reference.py path/to/recordings [--picture docs/verdicts.svg] [--only alive dead]

Prints a markdown table; `--picture` draws the verdict tables of the alive and the dead run.
"""

import argparse
import io
import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from vaecollapse.diagnosis import Verdict
from vaecollapse.run import Run
from vaecollapse.table import verdict_table

RUNS = {
    "alive": ["regularizer=free_bits", "free_bits=0.005"],
    "dead": ["regularizer=beta", "beta=1"],
    "meanstd": ["regularizer=free_bits", "free_bits=0.005", "pool=meanstd"],
    "no flows": ["regularizer=free_bits", "free_bits=0.005", "posterior=normal", "prior=normal"],
}
SHOWN = ("rate", "gap", "information_rank", "mi", "price_of_a_nat", "distortion")


def train(name: str, root: str, folder: Path, extra: list[str]) -> tuple[Verdict, float]:
    """One run of the console script in a folder of its own, and its wall time in seconds."""
    directory = folder / name.replace(" ", "_")
    command = [sys.executable, "-m", "vaecollapse", "train", "model=audio_nf", *RUNS[name], "dataset=audio_folder",
               f"dataset.root={root}", f"hydra.run.dir={directory}", *extra]  # fmt: skip
    started = time.monotonic()
    subprocess.run(command, check=True)
    return Verdict.from_dict(Run(directory).read("verdict.json")), time.monotonic() - started


def row(name: str, verdict: Verdict, seconds: float) -> str:
    def cell(reading: str) -> str:
        found = verdict.readings.get(reading)
        if found is None or found.value is None:
            return "–"
        return f"{found.value:.3g}" + ("" if found.se is None else f" ± {1.96 * found.se:.1g}")

    return f"| {name} | `{verdict.verdict}` | {' | '.join(map(cell, SHOWN))} | {seconds:.0f} s |"


def picture(verdicts: dict[str, Verdict], path: Path, root: str) -> None:
    """The terminal's last lines of the alive and the dead run, as one SVG that fetches nothing."""
    console = Console(record=True, width=150, file=io.StringIO(), highlight=False)
    for name, verdict in verdicts.items():
        console.print(f"$ vaecollapse-train model=audio_nf {' '.join(RUNS[name])} dataset=audio_folder …", style="dim")
        neutral = [
            p._replace(command=(p.command or "").replace(root, "path/to/recordings")) for p in verdict.prescriptions
        ]
        console.print(verdict_table(verdict._replace(prescriptions=neutral)))
        console.print()
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="vaecollapse"), flags=re.S)
    path.write_text(drawn, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--folder", type=Path, default=Path("outputs/reference"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    finished = {name: train(name, given.root, given.folder / str(given.seed), [f"seed={given.seed}"])
                for name in given.only}  # fmt: skip
    print(f"\n| run | verdict | {' | '.join(SHOWN)} | wall |\n|{'---|' * (len(SHOWN) + 3)}")
    for name, (verdict, seconds) in finished.items():
        print(row(name, verdict, seconds))
    if given.picture:
        picture({name: finished[name][0] for name in ("alive", "dead")}, given.picture, given.root)


if __name__ == "__main__":
    main()
