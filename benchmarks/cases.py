"""The cases of conf/experiment, run as they stand: the verdict that each expects, the one it gets, and the readings.

OMP_NUM_THREADS=1 python benchmarks/cases.py [case_a …] [seed=1]   (one to two minutes a case on a quiet core)
"""

import csv
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vaecollapse import config
from vaecollapse.diagnosis import Verdict
from vaecollapse.run import Run

SHOWN = ("rate", "gap", "information_rank", "mi", "distortion")


def expected(case: str) -> str:
    """The verdict that the case's own comment names."""
    text = (config.folder() / "experiment" / f"{case}.yaml").read_text("utf-8")
    return re.findall(r"^# Expected: (\w+)", text, re.M)[0]


def epochs(run: Run) -> list[tuple[float, float]]:
    """(D, R) of each validation."""
    with (run.directory / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/distortion")]
    return [(float(row["val/distortion"]), float(row["val/latent/rate"])) for row in rows]


def main(arguments: list[str]) -> None:
    chosen = [word for word in arguments if "=" not in word] or config.options([config.folder()])["experiment"]
    more = [word for word in arguments if "=" in word]
    command = shutil.which("vaecollapse-train", path=Path(sys.executable).parent) or "vaecollapse-train"
    print(f"| case | expected | verdict | also | {' | '.join(SHOWN)} | best validation by D + R | wall |")
    print("|---" * (6 + len(SHOWN)) + "|---|")
    for case in chosen:
        with tempfile.TemporaryDirectory() as place:
            started = time.perf_counter()
            subprocess.run([command, f"experiment={case}", *more, f"hydra.run.dir={place}"], check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            wall = time.perf_counter() - started
            run = Run(Path(place))
            verdict, seen = Verdict.from_dict(run.read("verdict.json")), epochs(run)
        readings = [verdict.readings.get(name) for name in SHOWN]
        numbers = ["–" if r is None or r.value is None else f"{r.value:.3g}" for r in readings]
        naive = 1 + min(range(len(seen)), key=lambda i: sum(seen[i]))
        also = ", ".join(verdict.mechanisms) or "–"
        print(f"| {case} | `{expected(case)}` | `{verdict.verdict}` ({verdict.confidence}) | {also} | "
              f"{' | '.join(numbers)} | {naive} of {len(seen)} | {wall:.0f} s |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
