"""Does a probe name the planted cause? Four causes on Gaussian data, over seeds.

    python benchmarks/probe.py --seeds 10

The constructions are those of the tests (tests/causes.py): a price ten times too high, an encoder that has forgotten
what its decoder reads, a decoder that cannot learn, a floor that holds up nats of a constant code.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from causes import CAUSES, named


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    print(f"{'cause':<12} named right")
    right = {cause: sum(named(cause, seed) for seed in seeds) for cause in CAUSES}
    for cause, count in right.items():
        print(f"{cause:<12} {count}/{len(seeds)}")
    return int(min(right.values()) < 0.9 * len(seeds))


if __name__ == "__main__":
    sys.exit(main())
