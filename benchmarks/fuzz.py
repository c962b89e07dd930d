"""Random command lines against the real entry point: each ends in a verdict or in a sentence.

    python benchmarks/fuzz.py --runs 1000 --seed 0

Overrides are drawn from what `conf/` composes to: every key, group and option, with values good and bad. A case is a
forked child in a folder of its own, under a time limit; a case that fails is printed as a command to type again.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

LIMIT_S, MEMORY_BYTES, LONGEST = 20, 12 * 2**30, 12
FORBIDDEN = ("Traceback", "Error executing job", "full stack trace", "complete stack trace", '  File "', "object at 0x")
SMALL = (
    "callback.collapse_monitor.examples=8",
    "callback.collapse_monitor.final_examples=16",
    "+trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "max_epochs=1",
    "batch_size=8",
)
BASES = {
    "linear": (
        "model=linear",
        "dataset=gaussian",
        "dataset.examples=64",
        "dataset.val_examples=16",
        "dataset.test_examples=16",
        "trainer.check_val_every_n_epoch=1",
        *SMALL,
    ),
    "audio": (
        "model=audio_nf",
        "dataset=drums",
        "dataset.clips=64",
        "dataset.seconds=0.1",
        "capacity=2",
        "latent_dim=4",
        "callback.samples.clips=2",
        *SMALL,
    ),
}
VALUES = (
    "-1", "0", "1", "2", "3", "0.5", "-0.5", "1e-30", "1e30", "-1e30", "1e400", "nan", ".nan", "inf", "-inf", "true",
    "false", "null", "", "''", "abc", "'a b'", "naïve", "日本語", "'\U0001f941'", "[]", "[1]", "[1,2]", "[-1]",
    "[null]",
    "[a,b]", "[[1]]", "{}", "{a:1}", "{_target_:os.getcwd}", "${seed}", "${nowhere}", "${beta}", "${model}", "${",
    "${oc.env:NOWHERE}", "'${now:}'", "???", "999999999999", "9223372036854775808", "-9223372036854775809", "1_000",
    "0x10", "1e3", "/nowhere", "../x", "a\tb", "auto", "none", "16", "64",
)  # fmt: skip
GARBAGE = (
    "=", "==", "beta", "beta==1", "beta=[1", "beta={a", 'beta="x', "beta='x", "[beta]=1", "beta=1,2", "", " ", "ä=1",
    "日本=1", "beta.x=1", "++=1", "+=1", "~", "~~beta", "+beta=1", "++beta=2", "beta =1", "beta= 1", "a.b.c.d=1",
    "model.=1", ".model=1", "model..capacity=1", "/model=linear", "model/linear=1", "@x=1", "model@=linear",
    "model@x=linear", "beta=1=2", "beta=$(ls)", "beta=\\", "seed=choice(1,2)", "seed=range(0,3)", "beta=interval(0,1)",
    "seed=int(2.5)", "seed=float(x)", "\ud7ff=1", "beta=" + "9" * 500, "x" * 3000 + "=1", "model=" + "a/" * 50,
    "beta=${",
)  # fmt: skip
FLAGS = (
    "--beta", "-x", "--cfg", "--cfg=job", "--info=defaults", "--info=all", "--info=x", "--config-name=nope",
    "--config-dir=/nowhere", "--config-path=/nowhere", "--package=model", "--resolve", "--run", "--help", "--version",
    "--hydra-help", "-m", "--multirun", "-sc", "--experimental-rerun=x", "--cfg=all",
)  # fmt: skip
HYDRA = (
    "hydra.run.dir=x", "hydra.run.dir=/proc/x", "hydra.run.dir=''", "hydra.run.dir=null", "hydra.run.dir=.",
    "hydra.run.dir=a_file/x", "hydra.run.dir=${nowhere}", "hydra.run.dir=${now:%Q}/x", "hydra.sweep.dir=a_file/y",
    "hydra.sweep.subdir=x", "hydra.mode=MULTIRUN", "hydra.mode=x", "hydra.verbose=true", "hydra.job.chdir=true",
    "hydra.output_subdir=.hydra", "hydra/launcher=joblib", "hydra/launcher=basic", "hydra/sweeper=x",
    "hydra/job_logging=default", "hydra/job_logging=x", "hydra.searchpath=[/nowhere]", "hydra.searchpath=x",
    "hydra.job.name=x", "hydra.job.num=3", "hydra.nothing=1", "~hydra.run", "hydra=null",
    "hydra.sweeper.params={seed:'0,1'}",
    "+hydra.callbacks.x._target_=nope.X", "hydra.runtime.output_dir=x", "hydra.run={}",
)  # fmt: skip
TARGETS = (
    "nope.Nope", "builtins.dict", "builtins.print", "torch.nn.Linear", "torch.nn.Identity", "vaecollapse.VAE",
    "vaecollapse", "''", "null", "3", "[]", "torch.optim.SGD", "vaecollapse.models.linear.LinearVAE", ".x", "a..b",
    "vaecollapse.datasets.gaussian.GaussianData", "lightning.pytorch.Callback", "vaecollapse.refusal.Refused",
)  # fmt: skip
ADDED = (
    "width", "x", "_partial_", "_args_", "_recursive_", "_convert_", "_target_", "fast_dev_run", "overfit_batches",
    "max_time", "min_steps", "max_steps", "deterministic", "profiler", "accumulate_grad_batches", "val_check_interval",
    "strategy", "limit_test_batches", "amsgrad", "detect_anomaly", "inference_mode", "barebones",
    "enable_checkpointing", "num_nodes",
)  # fmt: skip
WORDS = (
    "1", "0.1", "none", "mean", "random", "normal", "fixed", "learned", "optimal", "attention", "first", "log_variance",
    "scale", "batch_unit", "sample_unit", "hinge", "token", "all", "cpu", "gpu", "16-true", "bf16-mixed", "32-true",
    "l2", "nsf", "iaf", "healthy", "[healthy]", "only", "null", "strided", "meanstd", "maf", "realnvp", "auto",
)  # fmt: skip


class Case(NamedTuple):
    """One command line; `drawn` is what was added to a base that trains."""

    words: list[str]
    drawn: list[str]


class Outcome(NamedTuple):
    """How a case ended: a kind for the table, and what is wrong with it (empty: nothing)."""

    kind: str
    wrong: str
    seconds: float
    stderr: str


class Drawer:
    """Draws command lines from the composed configurations themselves."""

    def __init__(self, seed: int) -> None:
        from omegaconf import OmegaConf

        from vaecollapse import config

        self.random = random.Random(seed)
        self.groups = config.options([config.folder()])
        self.paths: dict[str, list[tuple[str, Any]]] = {}
        for name, words in BASES.items():
            plain = OmegaConf.to_container(config.compose(list(words)))
            self.paths[name] = list(config._dotted(plain))

    def cases(self) -> Iterator[Case]:
        while True:
            yield self.case()

    def case(self) -> Case:
        base = self.random.choices(list(BASES), (3, 1))[0]
        drawn = [self.word(base) for _ in range(self.random.choices((1, 2, 3, 4), (8, 3, 1, 1))[0])]
        if self.random.random() < 0.05:
            drawn.append(self.random.choice(drawn))
        kept = list(BASES[base])
        if self.random.random() < 0.7:  # the drawn value in place of the base's own
            taken = {word.partition("=")[0].lstrip("+~") for word in drawn}
            kept = [word for word in kept if word.partition("=")[0].lstrip("+") not in taken]
            if "trainer.max_steps" not in taken and not any("max_steps" in word for word in kept):
                kept.append("+trainer.max_steps=2")
        words = [*kept, *drawn]
        if self.random.random() < 0.1:
            self.random.shuffle(words)
        if self.random.random() < 0.03:
            words = ["-m", *words, self.random.choice(("seed=0,1", "beta=0.5,-1", "prior=normal,maf", "seed=0,x"))]
        return Case(words, drawn)

    def word(self, base: str) -> str:
        pick = self.random.choice
        path, value = pick(self.paths[base])
        kind = self.random.choices(
            ("leaf", "near", "group", "target", "delete", "add", "force", "package", "garbage", "flag", "hydra"),
            (18, 50, 12, 2, 3, 4, 3, 2, 3, 1, 2),
        )[0]
        if kind == "leaf":
            return f"{path}={pick(VALUES)}"
        if kind == "near":
            unread = ("posterior", "prior") if base == "linear" else ()
            path, value = pick([
                (path, value) for path, value in self.paths[base]
                if not isinstance(value, dict) and not path.endswith("_target_") and not path.startswith(unread)
            ])  # fmt: skip
            return f"{path}={self.near(value)}"
        if kind == "group":
            return f"{pick(['', '', '', '+', '~'])}{self.choice()}"
        if kind == "target":
            owners = [key for key, _ in self.paths[base] if key.endswith("_target_")]
            return f"{pick(owners)}={pick(TARGETS)}"
        if kind == "delete":
            return f"~{path}" + pick(["", "", f"={pick(VALUES)}"])
        if kind == "add":
            special = pick(ADDED)
            owner = pick([path, path.rpartition(".")[0], "trainer", "trainer", "optimizer", ""])
            return f"+{owner + '.' if owner else ''}{special}={pick(VALUES)}"
        if kind == "force":
            return f"++{path}={pick(VALUES)}"
        if kind == "package":
            where = pick([path, "regularizer.weight", "model.prior", "x", "_global_", "_global_.model"])
            group, other = pick(sorted(self.groups)), pick(sorted(self.groups))
            return f"{pick(['', '+', '++'])}{group}@{where}={self.option(pick([group, other]))}"
        return pick({"garbage": GARBAGE, "flag": FLAGS, "hydra": HYDRA}[kind])

    def near(self, value: Any) -> str:
        """Another value of the same kind, mostly a sensible one."""
        pick = self.random.choice
        if isinstance(value, bool):
            return pick(["true", "false"])
        if isinstance(value, int):
            return str(pick([0, -1, 1, 2, 3, 7, value + 1, value + 1, max(1, value // 2), value, value * 2]))
        if isinstance(value, float):
            return str(pick([0, 1, 1, -1, 0.1, 0.5, 0.9, 1.1, value / 2, value * 0.9, value * 3, 1e-9]))
        if isinstance(value, list):
            return str([self.near(item) for item in value * pick([0, 1, 2])]).replace("'", "").replace(" ", "")
        return pick(WORDS)

    def option(self, group: str) -> str:
        return self.random.choice(self.groups[group])

    def choice(self) -> str:
        group = self.random.choice(sorted(self.groups))
        options = [self.option(group) for _ in range(2)]
        named = self.random.choices(
            (options[0], f"[{','.join(options)}]", f"{options[0]}x", "null", "", "[]", "3", f"{group}/{options[0]}"),
            (10, 3, 1, 1, 1, 1, 1, 1),
        )[0]
        return f"{group}={named}"


def preload() -> None:
    """What a command imports, once, so that a child starts with it; every loader of `conf/` too."""
    import torch

    import vaecollapse.cli
    import vaecollapse.tasks  # noqa: F401

    torch.set_num_threads(1)


def child(words: Sequence[str], folder: Path, before: Callable[[], object] = lambda: None) -> None:
    """The command as the console script runs it, in `folder`/work, after `before`; never returns."""
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        for name, number in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        os.chdir(folder / "work")
        home = folder / "home"
        os.environ |= {"HOME": str(home), "XDG_CACHE_HOME": str(home), "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
        os.environ.pop("HYDRA_FULL_ERROR", None)
        before()
        sys.argv = [str(Path(sys.executable).with_name("vaecollapse-train")), *words]
        from vaecollapse import cli

        code = cli.train()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)


def forked(words: Sequence[str], folder: Path, before: Callable[[], object] = lambda: None) -> int:
    """Starts the command in a child; its process id. stdout and stderr are files of `folder`."""
    for name in ("work", "home"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "work" / "a_file").write_text("not a folder\n")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        child(words, folder, before)
    return pid


def run(words: Sequence[str]) -> Outcome:
    """One case, judged."""
    folder = Path(tempfile.mkdtemp(prefix="vaecollapse-fuzz-"))
    started = time.monotonic()
    try:
        code = waited(forked(words, folder))
        return judged(code, folder, time.monotonic() - started, words)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def waited(pid: int) -> int | None:
    """The exit code (negative: a signal); None where the time ran out."""
    deadline = time.monotonic() + LIMIT_S
    code: int | None = None
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.01)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it started and left
    return code


def judged(code: int | None, folder: Path, seconds: float, words: Sequence[str]) -> Outcome:
    """Verdict, answer to a flag, or refusal; and what is wrong with it."""
    out, err = ((folder / name).read_text("utf-8", errors="replace") for name in ("stdout", "stderr"))
    wrong = [f"shows {text!r}" for text in FORBIDDEN if text in err]
    wrong += list(litter(folder / "work"))
    lines = [line for line in err.splitlines() if line.strip()]
    if code is None:
        return Outcome("hung", f"no end after {LIMIT_S} s", seconds, err)
    if code < 0:
        return Outcome("killed", f"signal {-code}", seconds, err)
    if code in (1, 2):
        kind = "refused" if code == 1 else "usage"
        said = [line for line in lines if not line.startswith(("vaecollapse-train: job ", "  "))]
        wrong += [f"{len(said)} lines on stderr"] * (not 1 <= len(said) <= LONGEST * (3 if "-m" in words else 1))
    elif code in (0, 3):
        kind = "verdict"
        verdicts = [*(folder / "work").glob("**/verdict.json")]
        if not verdicts:
            kind = "answer" if "preflight=only" in words or any(w.startswith("-") for w in words) else "no verdict"
            if kind == "no verdict" and "no verdict" not in err:
                wrong.append("exit 0 without a verdict and without a word about it")
            elif kind == "answer" and not out.strip():
                wrong.append("exit 0 without an answer")
    else:
        kind = f"exit {code}"
        wrong.append(kind)
    return Outcome(kind, "; ".join(dict.fromkeys(wrong)), seconds, err)


def litter(folder: Path) -> Iterator[str]:
    """Run directories in which nothing ran, and files half written."""
    for path in folder.rglob("*"):
        if path.is_dir() and not any(path.iterdir()) and path.parent not in (folder, folder / "outputs"):
            yield f"empty {path.relative_to(folder).parts[0]}/…/{path.name}"
        elif path.is_file() and path.name.startswith(".") and path.name != ".lock":
            yield f"left {path.name}"
        elif path.is_file() and path.suffix in (".json", ".jsonl"):
            try:
                for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
                    json.loads(text)
            except ValueError:
                yield f"half written {path.name}"
    for run in {path.parent for name in ("checkpoints", "*.json", "events.jsonl") for path in folder.rglob(name)}:
        if not (run / "config.yaml").exists() and not {"wandb", "home"} & set(run.parts):
            yield f"no config.yaml in {run.relative_to(folder)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="cases at once")
    parser.add_argument("--one", nargs=argparse.REMAINDER, help="run this one command line and show its stderr")
    parser.add_argument("--details", type=Path, help="a file for every case's command line and stderr")
    arguments = parser.parse_args()
    preload()
    if arguments.one is not None:
        outcome = run(arguments.one)
        print(outcome.stderr)
        print(outcome.kind, "·", outcome.wrong or "fine", f"· {outcome.seconds:.1f} s")
        return bool(outcome.wrong)
    for name, words in BASES.items():  # else every refusal would be for a reason of the base's own
        if (outcome := run(words)).kind != "verdict":
            print(f"the base {name} itself ended in {outcome.kind}: {outcome.stderr}")
            return 1
    drawer = Drawer(arguments.seed)
    cases = [drawer.case() for _ in range(arguments.runs)]
    started, kinds, failed = time.monotonic(), Counter(), []
    details = arguments.details.open("w") if arguments.details else None
    for case, outcome in outcomes(cases, arguments.jobs):
        kinds[outcome.kind] += 1
        if details:
            mark = "FAIL" if outcome.wrong else "ok"
            details.write(f"--- {mark} {outcome.kind} {outcome.seconds:.1f}s {outcome.wrong}\n")
            details.write(f"{shlex.join(case.drawn)}\n    {shlex.join(case.words)}\n{outcome.stderr}\n")
            details.flush()
        if outcome.wrong:
            failed.append(case)
            print(f"FAIL {outcome.wrong}\n  vaecollapse-train {shlex.join(case.words)}", flush=True)
            print("".join(f"    {line[:300]}\n" for line in outcome.stderr.splitlines()[-6:]), flush=True)
    print(f"\n{'ended in':<12} cases")
    for kind, count in kinds.most_common():
        print(f"{kind:<12} {count:5d}")
    spent = time.monotonic() - started
    print(f"{arguments.runs - len(failed)}/{arguments.runs} as they should, seed {arguments.seed}, {spent:.0f} s")
    return bool(failed)


def outcomes(cases: Sequence[Case], jobs: int) -> Iterator[tuple[Case, Outcome]]:
    """Each case with how it ended; `jobs` forked workers, each of which forks its cases."""
    import pickle

    readers = []
    for worker in range(jobs):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                for position in range(worker, len(cases), jobs):
                    pickle.dump((position, run(cases[position].words)), pipe)
                    pipe.flush()
            os._exit(0)
        os.close(writer)
        readers.append(os.fdopen(reader, "rb"))
    for position in range(len(cases)):
        done, outcome = pickle.load(readers[position % jobs])
        yield cases[done], outcome
    for reader in readers:
        reader.close()
        os.wait()


if __name__ == "__main__":
    sys.exit(main())
