"""Does it help a super-resolution network to train on real fields and on members sampled by a conditional VAE?

    OMP_NUM_THREADS=1 python benchmarks/precipitation_augmentation.py [--seeds 0 1 2] [--folder outputs/augmentation]

For each seed `experiment=precip_augmentation` is trained on 50 storms of generated rain; it then draws `MEMBERS` fields
for each training condition (prior mode). One small network (coarse rain in, fine rain out, squared error in mm/h) is
trained from equal weights, for equal steps, each keeping its best step on the validation storms, on

    real          the 50 storms
    + members     half of each batch real, half members
    + exact       half real, half exact draws from p(x | coarse), which the 50 storms cannot tell: what a perfect
                  generator would bring
    members only  what is left where there is nothing real

and measured on 125 held-out storms: root mean squared and mean absolute error in mm/h, and power at fine scales against
the truth's in dB. `E[x | coarse]`, from 128 exact draws, is what no network can beat in squared error. Printed: means
over seeds; differences to `real`, paired by seed, with 95 % intervals (Student's t); and for each seed the paired
difference of the mean squared error over its storms.
"""

import argparse
import copy
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import NamedTuple, cast

import torch
from precipitation_recipes import composed, quietly
from torch import Tensor, nn
from torch.nn import functional as F

from vaecollapse import config, tasks
from vaecollapse.batch import Batch
from vaecollapse.comparison import difference
from vaecollapse.datasets.rain import RainData
from vaecollapse.metrics.spectrum import radial_spectrum
from vaecollapse.tasks.measuring import opened
from vaecollapse.tasks.scoring import Drawn

MEMBERS, STEPS, EVERY, BATCH, WIDTH = 8, 800, 50, 32, 12
ARMS = ("real", "+ members", "+ exact", "members only", "E[x | coarse]")
Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]


class Upscaler(nn.Module):
    """Four convolutions on the repeated coarse field, each block's mean put right: x = coarse · w, mean_B(w) = 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, WIDTH, 5, padding=2), nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU(), nn.Conv2d(WIDTH, 1, 5, padding=2),
        )  # fmt: skip

    def forward(self, coarse: Tensor) -> Tensor:
        weight = F.softplus(self.layers(coarse.log1p()))
        mean = F.interpolate(F.avg_pool2d(weight, 8), scale_factor=8)
        return coarse * weight / mean.clamp(min=1e-6)


class Measured(NamedTuple):
    """On the held-out storms: squared error of each storm, and the whole's figures."""

    by_storm: list[float]
    figures: dict[str, float]


def pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.context is not None
    return batch.context[:, :1], batch.x


def fitted(draw: Draw, held: tuple[Tensor, Tensor], seed: int) -> Upscaler:
    """The network at the step that was best on `held`."""
    torch.manual_seed(seed)
    net, rng, best, least = Upscaler(), torch.Generator().manual_seed(seed), None, math.inf
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for step in range(1, STEPS + 1):
        coarse, fine = draw(rng)
        optimizer.zero_grad()
        F.mse_loss(net(coarse), fine).backward()
        optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                error = float(F.mse_loss(net(held[0]), held[1]))
            if error < least:
                best, least = copy.deepcopy(net), error
    assert best is not None
    return best


def batches(real: tuple[Tensor, Tensor], made: Tensor | None, *, only: bool = False) -> Draw:
    """Random batches of real fields, half of them of `made` (member, field, …) in their place."""
    coarse, fine = real

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(fine), (BATCH,), generator=rng)
        x = fine[rows]
        if made is not None:
            member = torch.randint(len(made), (BATCH,), generator=rng)
            swapped = torch.arange(BATCH) >= (0 if only else BATCH // 2)
            x = torch.where(swapped[:, None, None, None], made[member, rows], x)
        return coarse[rows], x

    return draw


@torch.no_grad()
def measured(net: Callable[[Tensor], Tensor], held: tuple[Tensor, Tensor], storm: Tensor) -> Measured:
    coarse, fine = held
    found = net(coarse)
    error = (found - fine).square().mean((1, 2, 3))
    by_storm = [float(error[storm == number].mean()) for number in storm.unique()]
    power = [radial_spectrum(each[:, 0]).mean(0) for each in (found, fine)]
    ratio = 10 * (power[0] / power[1]).log10()
    figures = {"RMSE": float(error.mean().sqrt()), "MAE": float((found - fine).abs().mean()),
               "fine dB": float(ratio[len(ratio) // 2 :].mean())}  # fmt: skip
    return Measured(by_storm, figures)


def members(place: Path, count: int) -> tuple[RainData, Tensor]:
    """The run's data, and members under each training condition, in their order."""
    run = opened(composed("evaluate", f"run={place}"))
    data = run.data
    assert isinstance(data, RainData)
    positions = range(len(cast(Sized, data.splits.train)))
    drawn = Drawn(run.module, data, "train", positions, count=count, mode="prior", temperature=1.0, seed=run.seed)
    return data, torch.cat([each for _, each in drawn.parts()], 1)[:, :, None]


def compared(seed: int, folder: Path) -> Mapping[str, Measured]:
    """Every arm at one seed."""
    place = folder / str(seed)
    if not (place / "trained.json").exists():
        lines = ["experiment=precip_augmentation", f"seed={seed}", "trainer.accelerator=cpu",
                 f"logger.csv.directory={place}"]  # fmt: skip
        quietly(lambda: tasks.train(config.compose(lines), place, lines))
    data, made = members(place, MEMBERS)
    real, checked, held = (
        pairs(data.examples(split, len(getattr(data.splits, split)))) for split in ("train", "validation", "test")
    )
    storm = torch.tensor([data.block("test", row) for row in range(len(held[1]))])
    exact = data.members(real[0], MEMBERS, seed=1)
    given = {
        "real": batches(real, None),
        "+ members": batches(real, made),
        "+ exact": batches(real, exact),
        "members only": batches(real, made, only=True),
    }
    found = {arm: measured(fitted(draw, checked, seed), held, storm) for arm, draw in given.items()}
    return found | {ARMS[-1]: measured(lambda coarse: data.members(coarse, 128, seed=2).mean(0), held, storm)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("outputs/augmentation"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    config.register()
    found = []
    for seed in given.seeds:
        found.append(compared(seed, given.folder))
        print(f"seed {seed}: { {arm: each.figures for arm, each in found[-1].items()} }", file=sys.stderr, flush=True)
    names = list(found[0]["real"].figures)
    storms = [f"MSE over storms, seed {seed}" for seed in given.seeds]
    print(f"| trained on | {' | '.join([*names, *storms])} |\n{'|---' * (1 + len(names) + len(storms))}|")
    for arm in ARMS:
        cells = []
        for name in names:
            each = [(one["real"].figures[name], one[arm].figures[name]) for one in found]
            cells.append(f"{statistics.fmean(b for _, b in each):.4g}" + ("" if arm == "real" else said(each)))
        for one in found:
            both = list(zip(one["real"].by_storm, one[arm].by_storm, strict=True))
            cells.append(f"{statistics.fmean(b for _, b in both):.4g}" + ("" if arm == "real" else said(both)))
        print(f"| {arm} | {' | '.join(cells)} |")


def said(each: list[tuple[float, float]]) -> str:
    """A paired difference, bold where its interval excludes 0."""
    found = difference(each)
    text = f"{found.mean:+.2g} ± {(found.high - found.low) / 2:.2g}"
    return f" (**{text}**)" if found.settled else f" ({text})"


if __name__ == "__main__":
    main()
