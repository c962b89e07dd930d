"""The planted zoo as confusion matrices: the package, a KL threshold, a count of active units; and short trainings.

    OMP_NUM_THREADS=1 python benchmarks/zoo.py [--seeds 5]           # models written down, about two minutes
    OMP_NUM_THREADS=1 python benchmarks/zoo.py --trained --seeds 5   # trained by vaecollapse-train instead

The constructions are those of the tests (tests/planted_zoo.py, tests/trained_zoo.py), each in its condition by
definition. Prints markdown. Exit code 1 where a condition is named in fewer than 95 % of its cases, or a sick one is
called healthy or the other way round.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from planted_zoo import BEYOND, ZOO, Outcome, crossed, outcomes
from trained_zoo import TRAINED, trained


def matrix(title: str, those: Sequence[Outcome], judge: str, truth: str) -> list[str]:
    """Rows: what was planted; columns: what was said."""
    said = Counter((each.condition, getattr(each, judge)) for each in those)
    rows = list(dict.fromkeys(each.condition for each in those))
    columns = [*rows, *sorted({word for _, word in said} - set(rows))]
    columns = [word for word in columns if any(said[row, word] for row in rows)]
    right = sum(said[row, row] for row in rows)
    missed, accused = crossed(those, truth)
    cells = [[str(said[row, word] or "·") for word in columns] for row in rows]
    return [
        f"\n**{title}**: {right} of {len(those)} right, {missed} sick called healthy, {accused} healthy called sick\n",
        "| planted | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| `{row}` | " + " | ".join(line) + " |" for row, line in zip(rows, cells, strict=True)),
    ]


def report(those: Sequence[Outcome]) -> None:
    titles = {
        "named": "vaecollapse",
        "by_kl": "a KL threshold (R < 0.1 nats: collapsed, else healthy)",
        "by_units": "active units (no unit with Var(E[z]) > 0.01: collapsed, else healthy)",
    }
    for judge, title in titles.items():
        print("\n".join(matrix(title, those, judge, "verdict" if judge == "named" else judge)))
    missed = [each for each in those if each.named != each.condition]
    for each in missed:
        print(f"\nnot named: `{each.construction}` (seed {each.seed}), {each.condition}, said {each.verdict}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trained", action="store_true", help="short trainings in place of what is written down")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(given.seeds)
    if given.trained:
        with tempfile.TemporaryDirectory() as folder:
            those = [
                trained(condition, overrides, seed, Path(folder))
                for condition, plans in TRAINED.items()
                for overrides in plans
                for seed in seeds
            ]
        report(those)
        return int(any(crossed(those, "verdict")))
    those = outcomes(ZOO, seeds)
    report(those)
    print("\n**beyond the readings so far** (outside the matrices)\n\n| construction | is | said |\n|---|---|---|")
    for each in outcomes(BEYOND, [0]):
        print(f"| `{each.construction}` | `{each.condition}` | `{each.verdict}` |")
    shares = [sum(e.named == c for e in those if e.condition == c) / sum(e.condition == c for e in those) for c in ZOO]
    return int(min(shares) < 0.95 or any(crossed(those, "verdict")))


if __name__ == "__main__":
    sys.exit(main())
