"""The linear VAE on real images: directions forecast before training, units that training leaves active, rank.

    python benchmarks/mnist_linear.py path/to/t10k-images-idx3-ubyte.gz

At e = β s² of 4, 2, 1 and 0.5 (squared units of pixels in [0, 1]), in float64 at β = 1 and s = √e, Gaussian likelihood.
Of a linear VAE the directions whose variance exceeds e live (Lucas 2019); `eigenvalues` counts those of the training
images' covariance. R has a closed form too, ½ Σ ln(λ/e). Prints a markdown table.
"""

import argparse
import math
import subprocess
import sys
from pathlib import Path

import torch

from vaecollapse.datasets.image_idx import IDXData
from vaecollapse.diagnosis import Verdict
from vaecollapse.run import Run

PRICES = (4.0, 2.0, 1.0, 0.5)
UNITS = 32


def train(images: str, e: float, folder: Path, extra: list[str]) -> tuple[Verdict, int]:
    """The verdict of one run, and the directions forecast before it."""
    directory = folder / f"e_{e:g}"
    command = [sys.executable, "-m", "vaecollapse", "train", "model=linear", "dataset=idx", f"dataset.images={images}",
               f"latent_dim={UNITS}", f"likelihood.scale={math.sqrt(e)}", "lr=0.02", "max_epochs=600",
               "trainer.check_val_every_n_epoch=300", f"hydra.run.dir={directory}", *extra]  # fmt: skip
    subprocess.run(command, check=True)
    run = Run(directory)
    return Verdict.from_dict(run.read("verdict.json")), run.read("preflight.json")["forecast"]["directions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--folder", type=Path, default=Path("outputs/mnist_linear"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = IDXData(images=given.images, seed=given.seed)
    x = data.examples("train", len(data.splits.train)).x.flatten(1).double()
    values = torch.linalg.eigvalsh(torch.cov(x.T))
    lines = []
    for e in PRICES:
        verdict, forecast = train(given.images, e, given.folder / str(given.seed), [f"seed={given.seed}"])
        active, rank, rate = (verdict.readings[name].value for name in ("active_units", "information_rank", "rate"))
        alive = values[values > e]
        closed = 0.5 * float((alive / e).log().sum())
        lines.append(
            f"| {e:g} | {forecast} | {len(alive)} | {active:.0f} | {rank:.0f} | {closed:.3f} | {rate:.3f} | "
            f"`{verdict.verdict}` |"
        )
    print("\n| e | forecast | eigenvalues > e | active units | rank | R, closed form | R | verdict |\n|" + "---|" * 8)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
