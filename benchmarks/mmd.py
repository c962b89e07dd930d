"""What MMD adds to a training step: value and gradient of `mmd_squared`, against matrices of all pairs and widths.

    OMP_NUM_THREADS=1 python benchmarks/mmd.py [--rows 1024] [--units 5]

Milliseconds of processor time, the median of five in turns, and the largest difference of the gradients. Both are given
the same rows; one thread.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vaecollapse.regularizers.mmd import KERNELS, WIDTHS, mmd_squared


def whole(x: Tensor, y: Tensor, *, kind: str) -> Tensor:
    """The estimate by autograd through matrices of all pairs and all widths."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
        scaled = distance / (2 * a.shape[1] * torch.tensor(WIDTHS).to(a)[:, None, None])
        return (torch.exp(-scaled) if kind == "rbf" else 1 / (1 + scaled)).mean(0)

    def within(rows: Tensor) -> Tensor:
        return (kernel(rows, rows).sum() - len(rows)) / (len(rows) * (len(rows) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


def timed(estimate: Callable[..., Tensor], x: Tensor, y: Tensor, kind: str) -> tuple[float, Tensor]:
    began = time.process_time()
    (gradient,) = torch.autograd.grad(estimate(x, y, kind=kind), x)
    return 1e3 * (time.process_time() - began), gradient


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--units", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| kernel | precision | whole matrices, ms | blocks, ms | ratio | gradients apart |\n" + "|---" * 6 + "|")
    for kind in KERNELS:
        for precision in (torch.float64, torch.float32):
            x, y = (torch.randn(given.rows, given.units, dtype=precision) for _ in range(2))
            x.requires_grad_()
            turns = [(timed(whole, x, y, kind), timed(mmd_squared, x, y, kind)) for _ in range(6)][1:]
            slow, fast = (statistics.median(turn[which][0] for turn in turns) for which in (0, 1))
            apart = float((turns[0][0][1] - turns[0][1][1]).abs().max() / turns[0][0][1].abs().max())
            print(f"| {kind} | {str(precision)[6:]} | {slow:.0f} | {fast:.0f} | {slow / fast:.1f} | {apart:.0e} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
