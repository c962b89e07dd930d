"""Kills a training with SIGKILL at random moments, resumes it, and compares it with one that was never killed.

    python benchmarks/kill.py [--kills 50] [--seed 0] [--only linear drums]

A moment is uniform over the run's wall time from its first line to its last, and the resumed run may be killed again
before it is let finish. Drawn with each: how often checkpoints are taken (as often as they can be, so that kills hit
their writing too; every 0.3 s; once), an average of the weights, the weights of another run to start from, gradient
accumulation, a loader process. Equal means: every tensor of the last checkpoint (parameters, optimizer, buffers,
callbacks), of the best and of the average bit by bit, every line of metrics.jsonl and units.csv, the verdict, and the
names of the files. Runs are forked from one process that has imported torch, to save its start.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

CASES = {
    "linear": ["model=linear", "dataset=gaussian", "batch_size=64", "max_epochs=4", "trainer.log_every_n_steps=1",
               "trainer.check_val_every_n_epoch=1", "callback.collapse_monitor.every_n_steps=10"],
    "drums": ["model=audio_nf", "dataset.clips=160", "capacity=2", "latent_dim=4", "batch_size=8", "max_epochs=3",
              "trainer.log_every_n_steps=1", "callback.collapse_monitor.every_n_steps=10",
              "callback.collapse_monitor.full_every_n_steps=20", "callback.samples.examples=32"],
}  # fmt: skip
WITH_EMA = "callback=[learning_rate,collapse_monitor,samples,checkpoints,progress,ema]"


class Variant(NamedTuple):
    """What is drawn with a kill; the first three are another run, the others must change no bit of it."""

    ema: bool
    init_from: bool
    accumulate: int
    every_seconds: float
    workers: int

    @classmethod
    def drawn(cls, rng: random.Random) -> "Variant":
        yes = (False, True)
        return cls(rng.choice(yes), rng.choice(yes), rng.choice((1, 2)), rng.choice((0, 0.3, 1000)), rng.choice((0, 1)))

    def plain(self) -> "Variant":
        """The run it must be equal to."""
        return self._replace(every_seconds=0, workers=0)

    def line(self, case: str, source: Path) -> list[str]:
        words = [
            *CASES[case],
            f"trainer.accumulate_grad_batches={self.accumulate}",
            f"callback.checkpoints.every_seconds={self.every_seconds:g}",
            f"dataset.num_workers={self.workers}",
        ]
        return words + [WITH_EMA] * self.ema + [f"init_from='{source}'"] * self.init_from

    def __str__(self) -> str:
        told = ["ema"] * self.ema + ["init_from"] * self.init_from + ["accumulated"] * (self.accumulate > 1)
        return ", ".join([f"checkpoints every {self.every_seconds:g} s", *told, *["loader process"] * self.workers])


def start(line: list[str]) -> int:
    """A forked training; the process number."""
    child = os.fork()
    if child:
        return child
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(os.open(line[-1].partition("=")[2].strip("'") + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sys.argv = ["vaecollapse-train", *line]
        from vaecollapse import cli

        code = cli.train()
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    os._exit(code)


def whole(line: list[str]) -> float:
    """Runs to the end; seconds."""
    began = time.monotonic()
    _, status = os.waitpid(start(line), 0)
    if status:
        raise SystemExit(f"{' '.join(line)} ended with status {status}")
    return time.monotonic() - began


def killed(line: list[str], after: float) -> bool:
    """Was it still running when it was killed?"""
    child = start(line)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def tensors(value: object, name: str = "") -> dict[str, object]:
    """Leaves by path."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return {name: value}
    return {path: leaf for key, part in parts for path, leaf in tensors(part, f"{name}.{key}").items()}


def unpaced(value: object) -> object:
    """A prescribed command without what may differ between a run and the one it must be equal to."""
    return re.sub(r"(every_seconds|num_workers)=[\d.]+", r"\1", value) if isinstance(value, str) else value


def content(directory: Path) -> dict[str, object]:
    """What two runs must share."""
    folder = directory / "checkpoints"
    state = torch.load(folder / "last.ckpt", weights_only=True)
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "training", "global_step", "epoch")
    found = tensors({name: state[name] for name in kept})
    found |= tensors(json.loads((directory / "verdict.json").read_text()), "verdict")
    for name in ("best", "ema"):
        if (file := folder / f"{name}.ckpt").exists():
            found |= tensors(torch.load(file, weights_only=True)["state_dict"], name)
    # how many checkpoints there were is a matter of time
    names = {str(path.relative_to(directory)) for path in directory.rglob("*")} - {"checkpoints/previous.ckpt"}
    found |= {f"file {name}": True for name in names}
    found |= {name: (directory / name).read_text() for name in ("metrics.jsonl", "units.csv")}
    return {name: unpaced(leaf) for name, leaf in found.items()}


def differing(one: dict, other: dict) -> list[str]:
    """Names under which two runs differ."""

    def same(a: object, b: object) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b

    return sorted(name for name in one.keys() | other.keys() if not same(one.get(name), other.get(name)))


def tried(
    rng: random.Random, line: list[str], directory: Path, seconds: float, expected: dict
) -> tuple[list[float], float, list[str]]:
    """One run killed, resumed and let finish: the moments, how long its last part took, and what differs."""
    moments: list[float] = []
    wanted, again = rng.choice([1, 1, 1, 2, 3]), [*line, f"hydra.run.dir='{directory}'"]
    while len(moments) < wanted:
        moment = rng.uniform(0, seconds)
        if not killed(again, moment):  # it was done sooner this time
            if moments:
                break
            shutil.rmtree(directory)
            continue
        moments.append(moment)
        if (directory / "config.yaml").exists() and (directory / "overrides.txt").exists():
            again = [f"resume={directory}"]
        elif directory.exists():
            shutil.rmtree(directory)
    began = time.monotonic()
    _, status = os.waitpid(start(again), 0)
    if not (directory / "verdict.json").exists():
        said = Path(f"{directory}.log").read_text().strip().splitlines()
        return moments, 0.0, [f"no verdict, status {status}: {' '.join(said[-1:])[:300]}"]
    return moments, time.monotonic() - began, differing(expected, content(directory))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--keep", action="store_true", help="leave the folders of runs that differ")
    given = parser.parse_args()
    import vaecollapse.tasks  # noqa: F401  (imported once, before the forks)

    rng, failed, cost = random.Random(given.seed), [], []
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    truths: dict[tuple[str, Variant], tuple[float, dict]] = {}
    for case in given.only:
        whole([*CASES[case], "seed=1", f"hydra.run.dir='{folder / case}-source'"])  # fills caches too
    for number in range(given.kills):
        case, variant = given.only[number % len(given.only)], Variant.drawn(rng)
        source, directory = folder / f"{case}-source", folder / f"{case}-{number}"
        if (case, variant.plain()) not in truths:
            truth = folder / f"{case}-{number}-whole"
            seconds = whole([*variant.plain().line(case, source), f"hydra.run.dir='{truth}'"])
            truths[case, variant.plain()] = seconds, content(truth)
            shutil.rmtree(truth)
        seconds, expected = truths[case, variant.plain()]
        moments, spent, wrong = tried(rng, variant.line(case, source), directory, seconds, expected)
        if len(moments) == 1 and not variant.every_seconds:
            cost.append(moments[0] + spent - seconds)
        if wrong:
            failed.append(f"{case} {number} ({variant}): {wrong[:6]}")
        told = ", ".join(f"{moment:.2f}" for moment in moments)
        print(f"{case} {number}: {variant}; killed at {told} of {seconds:.1f} s: {wrong[:6] or 'equal'}", flush=True)
        if not wrong or not given.keep:
            shutil.rmtree(directory)
    print(f"\n{given.kills - len(failed)}/{given.kills} equal to the run that was never killed, seed {given.seed}")
    print("".join(f"not equal: {line}\n" for line in failed), end="")
    if cost:
        print(f"one kill and its resuming cost {statistics.median(cost):.1f} s (median, checkpoints every 0 s)")
    if not failed or not given.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
