"""Crops a second from a record of rain, and memory while training reads one that is larger than it may use.

    python benchmarks/precipitation_data.py [--gib 1.5] [--record path/to/rain.nc]

A NetCDF file of `--gib` GiB of float32 fields (512 × 512, chunks of one field by 128 × 128, no compression) is written
to a temporary folder. A process of its own whose data segment may not grow beyond half of that (RLIMIT_DATA; what
libraries map is not counted) then sets the dataset up, which reads the whole file, and takes `--steps` batches of 16
crops for training lazily. Printed: its peak resident memory beside that of a process that did the same with a record a
tenth as long, and crops a second lazily and from memory. `--record` measures a record of one's own too. `--train` is
another process under the same limit, that trains `model=precip_cvae` for `--steps` steps on it to a verdict.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDE, CHUNK, BATCH = 512, 128, 16


def write(path: Path, gib: float) -> int:
    """A record of rain in patches, written field by field; how many fields."""
    import h5netcdf
    import numpy as np

    count, rng = int(gib * 2**30 / (4 * SIDE**2)), np.random.default_rng(0)
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": count, "y": SIDE, "x": SIDE}
        for name in file.dimensions:
            axis = file.create_variable(name, (name,), np.float64, data=np.arange(file.dimensions[name].size) * 1.0)
            axis.attrs["units"] = "hours since 2001-01-01" if name == "time" else "km"
        pr = file.create_variable("pr", ("time", "y", "x"), np.float32, chunks=(1, CHUNK, CHUNK))
        pr.attrs["units"] = "mm/h"
        patch = rng.gamma(0.7, 2.0, (2 * SIDE, 2 * SIDE)).astype(np.float32)
        for step in range(count):
            row, column = rng.integers(SIDE, size=2)
            pr[step] = patch[row : row + SIDE, column : column + SIDE]
    return count


def measure(path: str, *, steps: int, cache: float, limit: float) -> dict[str, float]:
    """Sets up and takes training batches in this process, below `limit` GiB of data where it is above 0."""
    import itertools

    from vaecollapse.datasets.precipitation import PrecipitationData

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if limit > 0:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30),) * 2)
    began = time.monotonic()
    data = PrecipitationData(target={"path": path}, cache_gib=cache, batch_size=BATCH)
    data.setup()
    ready = time.monotonic()
    crops = sum(len(batch.x) for batch in itertools.islice(data.train_dataloader(), steps))
    done = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"setup_s": ready - began, "crops": crops, "crops_per_s": crops / (done - ready), "before": before,
            "peak": peak}  # fmt: skip


def train(path: str, *, steps: int, limit: float) -> dict[str, float]:
    """Trains in this process, below `limit` GiB of data where it is above 0."""
    from vaecollapse import config, tasks

    lines = ["model=precip_cvae", "dataset=precipitation", f"dataset.target.path={path}", "dataset.cache_gib=0",
             f"batch_size={BATCH}", "capacity=4", f"+trainer.max_steps={steps}", "callback=[]", "report=false",
             "trainer.accelerator=cpu", "detector=[rate]"]  # fmt: skip
    config.register()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if limit > 0:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30),) * 2)
    with tempfile.TemporaryDirectory() as place:
        cfg, began = config.compose([*lines, f"logger.csv.directory={place}"]), time.monotonic()
        tasks.train(cfg, Path(place), lines)
        taken = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"setup_s": taken, "before": before, "peak": peak}


def apart(path: str | Path, **settings: float) -> dict[str, float]:
    """`measure` in a process of its own."""
    line = [sys.executable, __file__, "--measure", json.dumps({"path": str(path), **settings})]
    return json.loads(subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def row(name: str, found: dict[str, float]) -> None:
    speed = f"{found['crops_per_s']:.0f}" if "crops_per_s" in found else "–"
    print(f"| {name} | {found['setup_s']:.1f} s | {speed} | {found['before']:.2f} | {found['peak']:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--record")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        asked = dict(given.measure)
        print(json.dumps((train if asked.pop("train", 0) else measure)(**asked)))
        return
    print("| record | set-up, or all of it | crops/s | GiB before | GiB at most |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large.nc", Path(folder) / "small.nc"
        write(large, given.gib)
        write(small, given.gib / 10)
        row(f"{given.gib / 10:g} GiB, lazily", apart(small, steps=given.steps, cache=0.0, limit=0))
        limit = given.gib / 2
        row(f"{given.gib:g} GiB, lazily, limit {limit:g} GiB", apart(large, steps=given.steps, cache=0.0, limit=limit))
        if given.train:
            for path, gib, most in ((small, given.gib / 10, 0.0), (large, given.gib, limit)):
                found = apart(path, train=1, steps=given.steps, limit=most)
                row(f"{gib:g} GiB, a training" + f", limit {most:g} GiB" * bool(most), found)
        row(f"{given.gib / 10:g} GiB, held", apart(small, steps=given.steps, cache=4.0, limit=0))
    if given.record:
        row("--record, lazily", apart(given.record, steps=given.steps, cache=0.0, limit=0))
        row("--record, held", apart(given.record, steps=given.steps, cache=4.0, limit=0))


if __name__ == "__main__":
    main()
