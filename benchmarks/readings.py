"""What readings of a latent cost: I(x; z) against its own matrix products and against the broadcast everyone writes.

    OMP_NUM_THREADS=1 python benchmarks/readings.py [--examples 10000] [--units 32]

Prints ratios measured in turns, the peak memory of I(x; z) at N and N/2, and the seconds of each full reading at 4096.
"""

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from vaecollapse.batch import Batch
from vaecollapse.callbacks.monitor import all_detectors
from vaecollapse.detectors.mutual_information import mutual_information
from vaecollapse.evaluation import blocks_of, read
from vaecollapse.models.linear import LinearVAE

SCALE, ROOT = 0.3, Path(__file__).parents[1]


def codes(n: int, k: int) -> tuple[Independent, Tensor]:
    """q(z|x) of n examples whose aggregate is N(0, I), and one draw of z each."""
    generator = torch.Generator().manual_seed(0)
    mean, eps = (torch.randn(n, k, generator=generator, dtype=torch.float64) for _ in range(2))
    mean = mean * math.sqrt(1 - SCALE**2)
    return Independent(Normal(mean, torch.full_like(mean, SCALE), validate_args=False), 1), mean + SCALE * eps


def products(q: Independent, z: Tensor, block: int = 512) -> Tensor:
    """The two float64 matrix products and the logsumexp, and nothing else."""
    left, right = torch.cat([z.square(), z], 1), torch.cat([q.base_dist.scale, q.base_dist.loc], 1).T.contiguous()
    return torch.cat([(part @ right).logsumexp(1) for part in left.split(block)])


def broadcast(q: Independent, z: Tensor, block: int = 64) -> Tensor:
    """log_prob of (rows, N, k), the usual way, in blocks of rows since the whole would take 25 GB."""
    return torch.cat([q.log_prob(part[:, None]).logsumexp(1) for part in z.split(block)])


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak(n: int, k: int) -> float:
    """MiB that I(x; z) of n examples adds, in a process of its own."""
    code = "from benchmarks.readings import added; import sys; print(added(int(sys.argv[1]), int(sys.argv[2])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(n), str(k)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def added(n: int, k: int) -> float:
    torch.set_num_threads(1)
    mutual_information(*codes(64, k))
    before = getrusage(RUSAGE_SELF).ru_maxrss
    mutual_information(*codes(n, k))
    return (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    n, k = given.examples, given.units
    whole, half = peak(n, k), peak(n // 2, k)  # first: a child inherits its parent's high-water mark
    q, z = codes(n, k)
    rows = z[: n // 10]  # of the broadcast a tenth of the rows, times ten
    times = [
        (
            seconds(lambda: mutual_information(q, z)),
            seconds(lambda: products(q, z)),
            seconds(lambda: broadcast(q, rows)),
        )
        for _ in range(given.turns)
    ]
    ours, own, usual = (min(column) for column in zip(*times, strict=True))
    print(f"I(x; z), N = {n}, k = {k}: {ours:.2f} s, {ours / own:.2f} of its matrix products and logsumexp, ", end="")
    print(f"the broadcast takes {10 * usual / ours:.0f} times as long")
    print(
        f"memory added: {whole:.0f} MiB at N, {half:.0f} MiB at N/2 (the matrix would be {n * n * 8 / 2**20:.0f} MiB)"
    )
    x = torch.randn(4096, 2 * k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * torch.linspace(3, 0.1, 2 * k, dtype=torch.float64)
    vae = LinearVAE.closed_form(covariance=torch.cov(x.T), mean=x.mean(0), latent_dim=k, scale=0.3)
    whole_batch = Batch(x, index=torch.arange(len(x)))
    blocks = [whole_batch.part(part) for part in blocks_of(len(x), 256)]
    for name, detector in all_detectors().items():
        print(f"{name:>22}  {seconds(lambda d=detector, name=name: read(vae, blocks, {name: d})):.2f} s")


if __name__ == "__main__":
    main()
