"""Kills a training with SIGKILL at random moments, resumes it, and compares it with one that was never killed.

    python benchmarks/kill.py [--kills 50] [--seed 0] [--only linear drums]

A moment is uniform over the run's wall time from its first line to its last, checkpoints are taken as often as they
can be (so that kills hit their writing too), and the resumed run may be killed again before it is let finish. Equal
means: every tensor of the last checkpoint (parameters, optimizer, buffers) bit by bit, every line of metrics.jsonl and
units.csv, and the verdict. Runs are forked from one process that has imported torch, to save its start.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

CASES = {
    "linear": ["model=linear", "dataset=gaussian", "batch_size=64", "max_epochs=4", "trainer.log_every_n_steps=1",
               "callback.collapse_monitor.every_n_steps=10"],
    "drums": ["model=audio_nf", "dataset.clips=160", "capacity=2", "latent_dim=4", "batch_size=8", "max_epochs=3",
              "dataset.num_workers=2", "trainer.log_every_n_steps=1", "callback.collapse_monitor.every_n_steps=10",
              "callback.collapse_monitor.full_every_n_steps=20", "trainer.accumulate_grad_batches=2",
              "callback.samples.examples=32"],
}  # fmt: skip
OFTEN = ["callback.checkpoints.every_seconds=0"]


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


def content(directory: Path) -> dict[str, object]:
    """What two runs must share."""
    state = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
    leaves = tensors({name: state[name] for name in ("state_dict", "optimizer_states", "training", "global_step")})
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    verdict = json.loads((directory / "verdict.json").read_text())
    best = tensors(torch.load(directory / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"], "best")
    return leaves | best | {"metrics": lines, "units": (directory / "units.csv").read_text(), "verdict": verdict}


def differing(one: dict, other: dict) -> list[str]:
    """Names under which two runs differ."""

    def same(a: object, b: object) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b

    return sorted(name for name in one.keys() | other.keys() if not same(one.get(name), other.get(name)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--keep", action="store_true", help="leave the folders of runs that differ")
    given = parser.parse_args()
    import vaecollapse.tasks  # noqa: F401  (imported once, before the forks)

    rng, right, done, cost = random.Random(given.seed), 0, 0, []
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    for case in given.only:
        line = [*CASES[case], *OFTEN]
        truth = folder / f"{case}-whole"
        whole([*line, f"hydra.run.dir='{truth}-first'"])  # the first run of a case fills caches
        seconds = whole([*line, f"hydra.run.dir='{truth}'"])
        expected = content(truth)
        print(f"{case}: {seconds:.1f} s uninterrupted", flush=True)
        for number in range(given.kills // len(given.only) + (case == given.only[0]) * (given.kills % len(given.only))):
            directory = folder / f"{case}-{number}"
            kills, wanted, again = 0, rng.choice([1, 1, 1, 2, 3]), [*line, f"hydra.run.dir='{directory}'"]
            while kills < wanted:
                moment = rng.uniform(0, seconds)
                if not killed(again, moment):  # it was done sooner this time
                    if kills:
                        break
                    shutil.rmtree(directory)
                    continue
                kills += 1
                if (directory / "config.yaml").exists() and (directory / "overrides.txt").exists():
                    again = [f"resume={directory}"]
                elif directory.exists():
                    shutil.rmtree(directory)
            began = time.monotonic()
            child = start(again)
            _, _status = os.waitpid(child, 0)
            if kills == 1:
                cost.append(moment + time.monotonic() - began - seconds)
            wrong = differing(expected, content(directory)) if (directory / "verdict.json").exists() else ["no verdict"]
            done, right = done + 1, right + (not wrong)
            print(f"{case} {number}: {kills} kill(s), last at {moment:.2f} s, {'equal' if not wrong else wrong[:6]}",
                  flush=True)  # fmt: skip
            if not wrong or not given.keep:
                shutil.rmtree(directory)
    print(f"{right}/{done} equal to the run that was never killed")
    print(f"one kill and its resuming cost {statistics.median(cost):.1f} s (median): the start, and the work lost")


if __name__ == "__main__":
    main()
