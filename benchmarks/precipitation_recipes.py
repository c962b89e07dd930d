"""Case C and the fallback grid: recipes of the rain model, what they are told and how their ensembles score.

    OMP_NUM_THREADS=1 python benchmarks/precipitation_recipes.py [--seeds 0 1 2] [--small | --grid]

`experiment=precip_v3`, `precip_v4` and `precip_works` on generated rain, trained and scored on the test split (10
members, prior mode) one after the other in one process. Prints a markdown table, differences to precip_v3 paired by
seed with 95 % intervals, and the scores of exact draws from p(x | coarse), which no model can beat. `--small`: with the
networks and fields of the grid. `--grid`: the 36 runs of `experiment=precip_grid` at the first seed. A run that has
ended is not repeated.
"""

import argparse
import contextlib
import io
import itertools
import json
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
import torch
import yaml
from hydra.utils import instantiate
from torch import Tensor

from vaecollapse import config, tasks
from vaecollapse.comparison import Trial, table, trial
from vaecollapse.datasets.rain import RainData
from vaecollapse.ensembles.scoring import scores
from vaecollapse.metrics.base import Score
from vaecollapse.metrics.fields import Fields
from vaecollapse.run import Run
from vaecollapse.tasks.scoring import Library

RECIPES = ("precip_v3", "precip_v4", "precip_works")
METRICS = "metric=[diversity,crps,spread_skill,spectrum,mass_bias]"
SHOWN = {"beta_effective": "β_eff", "rate": "R", "gap": "value of z", "sigma_mean": "σ", "crps": "fair CRPS",
         "diversity_ratio": "diversity ratio", "spread_skill": "spread/skill", "spectrum_fine": "fine dB",
         "mass_bias": "mass %"}  # fmt: skip
MEMBERS = 10
SMALL = ("capacity=4", "dataset.size=16")


def composed(verb: str, *typed: str):
    with hydra.initialize_config_dir(str(config.folder()), job_name=verb, version_base="1.3"):
        return hydra.compose(verb, list(typed))


def quietly(what: Callable[[], object]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        what()


def trained(name: str, typed: Sequence[str], seed: int, place: Path) -> Trial:
    """The run, as it lies there or newly made, with the scores of its ensemble."""
    if not (place / "trained.json").exists():
        shutil.rmtree(place, ignore_errors=True)  # what was cut short
        lines = [*typed, f"seed={seed}", "trainer.accelerator=cpu", f"logger.csv.directory={place}"]
        quietly(lambda: tasks.train(config.compose(lines), place, lines))
    scored = place / "scored"
    if not (scored / "evaluation.json").exists():
        cfg = composed("evaluate", f"run={place}", f"members={MEMBERS}", "samples=2", METRICS)
        quietly(lambda: tasks.evaluate(cfg, scored, []))
    found = {each["name"]: each["value"] for each in Run(scored).read("evaluation.json")["scores"]}
    audit = Run(place).read("preflight.json")["audit"]
    more = {key: value for key, value in found.items() if value is not None}
    return trial(place, f"{name}, seed {seed}", more | {"beta_effective": float(audit["beta_effective"])})


class Exact:
    """Draws from p(x | coarse) of a split, read as an ensemble is."""

    count = MEMBERS

    def __init__(self, data: RainData, split: str) -> None:
        self.data, self.split = data, split

    def parts(self, times: int = 64):
        batch = self.data.examples(self.split, len(getattr(self.data.splits, self.split)))
        assert batch.context is not None
        members: Tensor = self.data.members(batch.context, self.count, seed=1)[:, :, 0]
        index = torch.arange(len(batch.x))
        block = torch.tensor([self.data.block(self.split, row) for row in index.tolist()])
        yield Fields(batch.x[:, 0], block=block, index=index, unit="mm/h"), members


def of_exact(seed: int, more: Sequence[str]) -> list[Score]:
    data = instantiate(config.compose(["model=precip_cvae", f"seed={seed}", *more]).dataset)
    cfg = composed("evaluate", "run=none", METRICS)
    found = Exact(data, "test")
    return scores(found, instantiate(cfg.metric), analogs=Library(data, "test", MEMBERS), times=10**9)


def grid() -> list[tuple[str, ...]]:
    """Each choice of the sweep, without its seeds."""
    node = yaml.safe_load((config.folder() / "experiment" / "precip_grid.yaml").read_text("utf-8"))
    params = {key: str(values).split(",") for key, values in node["hydra"]["sweeper"]["params"].items()}
    del params["seed"]
    each = [tuple(map("=".join, zip(params, values, strict=True))) for values in itertools.product(*params.values())]
    return random.Random(0).sample(each, len(each))  # so that what is cut short is spread over the grid


def short(line: str) -> str:
    """An override without the groups of its key.

    >>> short("likelihood.lambda_grad=0.5")
    'lambda_grad=0.5'
    """
    key, _, value = line.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def said(begun: float, one: Trial) -> None:
    readings = {key: round(one.readings[key], 4) for key in SHOWN if key in one.readings}
    print(f"{time.time() - begun:.0f} s, {one.name}: {one.verdict} {json.dumps(readings)}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--first", type=int, help="so many runs of the grid, in an order drawn once")
    parser.add_argument("--small", action="store_true", help="as small as the grid")
    parser.add_argument("--folder", type=Path, default=Path("outputs/rain"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    config.register()
    began, runs = time.time(), {}
    if given.grid:
        chosen = grid()[: given.first]
        jobs = {" ".join(map(short, each)): ["experiment=precip_grid", *each] for each in chosen}
        given.seeds = given.seeds[:1]
    else:
        jobs = {name: [f"experiment={name}", *SMALL * given.small] for name in RECIPES}
    for seed in given.seeds:
        for name, typed in jobs.items():
            place = given.folder / name.replace(" ", "_").replace("=", "") / str(seed)
            runs.setdefault(name, []).append(trained(name, typed, seed, place))
            said(began, runs[name][-1])
    print("\n".join(table(runs, SHOWN, next(iter(runs)))))
    if not given.grid:
        for seed in given.seeds:
            shown = [f"{s.name} {s.value:.3f}" for s in of_exact(seed, SMALL * given.small) if s.name in SHOWN]
            print(f"\nexact draws, seed {seed}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
