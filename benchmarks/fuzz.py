"""Random command lines against the real entry points: each ends in a verdict, in figures or in a sentence.

    python benchmarks/fuzz.py --runs 1000 --seed 0

Overrides are drawn from what `conf/` composes to: every key, group and option, with values good and bad. Some go on
with a run (resume), start from its weights (init_from), measure it (vaecollapse-evaluate), write samples of it
(vaecollapse-sample) or read a folder of wavs.
A case is a forked child in a folder of its own, beside copies of the runs and folders it may name (`Place`), under a
time limit; a case that fails is printed as a command to type again, which `--one` does.
"""

import argparse
import array
import contextlib
import hashlib
import itertools
import json
import math
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
import wave
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
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
    "folder": (
        "model=audio_nf",
        "dataset=audio_folder",
        "dataset.root=wavs",
        "dataset.seconds=0.1",
        "capacity=2",
        "latent_dim=4",
        "callback.samples.clips=2",
        *SMALL,
    ),
}
TRAIN, EVALUATE, SAMPLE = "vaecollapse-train", "vaecollapse-evaluate", "vaecollapse-sample"
READS = {EVALUATE: ("figures", "**/evaluation.json"), SAMPLE: ("samples", "**/samples/*")}  # of a run: what each leaves
UNBOUNDED = ("+trainer.max_steps=2", "max_epochs=1")  # what a run that is gone on with must not be bounded by
RUNS = {  # trained once, copied beside each case that names one
    "finished": [word for word in BASES["linear"] if word not in UNBOUNDED] + ["max_epochs=2"],
    "sounds": [word for word in BASES["audio"] if word not in UNBOUNDED] + ["max_epochs=1"],
    "averaged": [*(word for word in BASES["linear"] if word not in UNBOUNDED), "max_epochs=1", "latent_dim=3",
                 "callback=[collapse_monitor,checkpoints,ema]"],
    "interrupted": [word for word in BASES["linear"] if word not in UNBOUNDED]
    + ["max_epochs=2", "callback.checkpoints.every_seconds=0"],
    "unsaved": [*(word for word in BASES["linear"] if word not in UNBOUNDED), "max_epochs=2"],
}  # fmt: skip
SAVES = {"interrupted": 3, "unsaved": 0}  # these are ended in place of the next checkpoint
FOLDERS = ("wavs", "broken", "spoilt", "empty", "notes")
GIVEN = (*RUNS, *FOLDERS)
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
TRIED = ("-1", "0", "1", "2", "7", "1.5", "null", "nan", "abc", "''", "[]", "true")  # of a number of a verb
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
    verb: str = TRAIN

    def __str__(self) -> str:
        return shlex.join([self.verb, *self.words])


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
            self.paths[name] = list(config.dotted(plain))

    def cases(self) -> Iterator[Case]:
        while True:
            yield Case(["run=finished", "samples=2"], [], EVALUATE)  # most that are drawn are refused
            yield Case(["run=finished", "n=2"], [], SAMPLE)
            yield from (self.case() for _ in range(18))

    def case(self) -> Case:
        draw = self.random.choices(
            (self.new, self.going_on, self.started_from, self.measured, self.sampled), (6, 1, 1, 1, 1)
        )[0]
        return draw()

    def going_on(self) -> Case:
        """A run gone on with, with what may change and what may not."""
        pick, where = self.random.choice, self.place(("finished", "interrupted", "unsaved", "sounds", "averaged"))
        # none that never ends
        epochs = ("0", "-1", "1", "2", "3", "4", "null", "2.5", "1e400", "nan", "''", "[]", "abc")
        trainer = [path for path, _ in self.paths["linear"]
                   if path.startswith("trainer.") and "max_epochs" not in path]  # fmt: skip
        more = {
            "epochs": lambda: f"{pick(['', '', '+', '++', '~'])}max_epochs={pick(epochs)}",
            "trainer": lambda: f"{pick(trainer)}={pick([*VALUES, *WORDS])}",
            "logger": lambda: f"logger={pick(['csv', 'tensorboard', '[csv,tensorboard]', 'wandb', 'null', '[]', 'x'])}",
            "free": lambda: pick(["preflight=only", "preflight=x", "fail_on=[healthy]", "fail_on=[x]", "trust=[x]",
                                  "trust=[vaecollapse]", "trust=x/y", "trust=null", "~logger", "~logger.csv",
                                  "logger.csv.directory=elsewhere", "logger.csv.directory=null"]),
            "other": lambda: self.word("linear"),
        }  # fmt: skip
        drawn = [more[pick(("epochs", "epochs", "trainer", "logger", "free", "other"))]()
                 for _ in range(self.random.choices((0, 1, 2, 3), (1, 4, 2, 1))[0])]  # fmt: skip
        words = [f"{pick(['', '', '', '', '+', '++', '~'])}resume={where}", *drawn]
        if self.random.random() < 0.1:
            words.append(f"resume={self.place(tuple(RUNS))}")
        if self.random.random() < 0.3:
            self.random.shuffle(words)
        return Case(words, words)

    def started_from(self) -> Case:
        """A new run from another's weights, of the same architecture or not."""
        base = self.random.choice(list(BASES))
        same = {"linear": ("finished", "interrupted"), "audio": ("sounds",), "folder": ("sounds",)}[base]
        drawn = [f"init_from={self.random.choice(same) if self.random.random() < 0.5 else self.place(tuple(RUNS))}"]
        other = ("latent_dim=3", "latent_dim=5", "capacity=3", "pool=mean", "prior=normal", "likelihood=normal",
                 "model=linear", "model=audio", "trainer.precision=32-true", "seed=5", "posterior=iaf",
                 "regularizer=free_bits", "checkpoint=last")  # fmt: skip
        for _ in range(self.random.choices((0, 1, 2), (3, 4, 1))[0]):
            drawn.append(self.random.choice(other) if self.random.random() < 0.6 else self.word(base))
        return Case([*BASES[base], *drawn], drawn)

    def measured(self) -> Case:
        """An evaluation, with keys good and bad."""
        return self.read(EVALUATE, {"samples": TRIED, "examples": (*TRIED, "999999999999")})

    def sampled(self) -> Case:
        """Samples of a run, with keys good and bad."""
        modes = ("prior", "posterior", "interpolate", "traverse", "x", "null", "[prior]")
        few = {
            "n": TRIED,
            "steps": TRIED,
            "draws": TRIED,
            "temperature": (*TRIED, "0.5", "1e30"),
            "tokens": (*TRIED, "0.5"),
        }
        return self.read(
            SAMPLE, {**few, "mode": modes, "format": ("wav", "flac", "csv", "npz", "txt", "nc", "x", "null")}
        )

    def read(self, verb: str, own: Mapping[str, Sequence[str]]) -> Case:
        """A verb that reads a run, with the keys that all have and its own."""
        pick = self.random.choice
        keys = {
            **own,
            "split": ("train", "validation", "test", "val", "null", "3", "''", "[test]", "${nowhere}"),
            "checkpoint": ("best", "last", "ema", "previous", "best.ckpt", "../last", "null", "''", "/etc/passwd"),
            "seed": (*TRIED, "4294967295", "4294967296", "${seed}"),
            "device": ("cpu", "cuda", "cuda:1", "cuda:99999999999999999999", "cpu:1", "mps", "gpu", "null", "''", "0"),
            "trust": ("[]", "[vaecollapse]", "[nowhere]", "nowhere", "[os]", "[a.b]", "['']", "null", "[1]", "[[x]]"),
            "overrides": (
                "[]", "['dataset.seed=1']", "['dataset.val_examples=3']", "['dataset.batch_size=0']", "[dataset=drums]",
                "['dataset.eigenvalues=[1,2]']", "['dataset.examples=-1']", "['dataset.root=wavs']", "['model.x=1']",
                "['dataset.clips=3']", "['dataset._target_=os.getcwd']", "['~dataset.seed']", "['+dataset.x=1']", "x",
                "['dataset.seed=1,2']", "['dataset.seed']", "['=']", "['']", "null", "[1]", "['dataset.exact=maybe']",
                "['dataset=null']", "['dataset.seed=${nowhere}']", "['dataset.test_examples=0']", "['seed=3']",
                "['dataset.num_workers=2']", "['dataset={}']", "['dataset.val_fraction=1']", "['dataset.seconds=nan']",
            ),
        }  # fmt: skip
        drawn = [f"run={self.place(tuple(RUNS))}"] if self.random.random() < 0.95 else []
        for _ in range(self.random.choices((0, 1, 2, 3), (1, 4, 3, 1))[0]):
            kind = self.random.choices(("key", "odd", "garbage", "flag", "hydra"), (30, 4, 1, 1, 1))[0]
            if kind == "key":
                key = pick(list(keys))
                drawn.append(f"{key}={pick(keys[key])}")
            elif kind == "odd":
                drawn.append(f"{pick(['', '+', '++', '~'])}{pick([*keys, 'run', 'x', 'beta', 'model'])}={pick(VALUES)}")
            else:
                drawn.append(pick({"garbage": GARBAGE, "flag": FLAGS, "hydra": HYDRA}[kind]))
        if any(word.lstrip("+").startswith("samples=") and len(word) > 14 for word in drawn):
            drawn = drawn[:1]  # so many samples take their time, as asked
        return Case(drawn, drawn, verb)

    def place(self, likely: Sequence[str]) -> str:
        """Mostly one of these, else a folder that is no run or a value that is no folder."""
        pick = self.random.choice
        odd = (*GIVEN, "nowhere", "a_file", ".", "..", "''", "null", "[finished]", "finished/checkpoints", "${seed}",
               "finished/config.yaml", "~", "~nobody/x", "'a b'", "/proc/self", "/dev/null", "3", "???")  # fmt: skip
        return pick(likely) if self.random.random() < 0.75 else pick(odd)

    def new(self) -> Case:
        """A training from nothing."""
        base = self.random.choices(list(BASES), (3, 1, 1))[0]
        drawn = [self.word(base) for _ in range(self.random.choices((1, 2, 3, 4), (8, 3, 1, 1))[0])]
        if self.random.random() < 0.05:
            drawn.append(self.random.choice(drawn))
        if base == "folder" and self.random.random() < 0.6:
            drawn[0] = f"dataset.root={self.place(FOLDERS)}"
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


class Place:
    """The runs and folders of sounds that cases name, made once; each case gets copies of its own."""

    def __init__(self, folder: Path, cases: Sequence[Case]) -> None:
        self.folder = folder
        wanted = self.named([word for case in cases for word in case.words])
        for name, files in (("wavs", 12), ("broken", 12), ("spoilt", 1), ("empty", 0), ("notes", 0)):
            (folder / name).mkdir()
            for number in range(files):
                beep(folder / name / f"{number}.wav", 200 + 50 * number)
        whole = (folder / "wavs" / "0.wav").read_bytes()
        (folder / "broken" / "torn.wav").write_bytes(whole[:30])
        (folder / "spoilt" / "torn.wav").write_bytes(whole[:-100])
        (folder / "spoilt" / "text.wav").write_text("no sound")
        (folder / "spoilt" / "nothing.flac").touch()
        (folder / "notes" / "notes.txt").write_text("neither a run nor a sound\n")
        for name, words in RUNS.items():
            if name not in wanted:
                continue
            trial = folder / f".{name}"
            trial.mkdir()
            line = [*words, f"hydra.run.dir={folder / name}"]
            code = waited(forked(Case(line, line), trial, lambda name=name: end_after(SAVES.get(name))))
            if code not in (0, 9):
                raise SystemExit(f"the run {name} itself ended in {code}: {(trial / 'stderr').read_text()}")

    def named(self, words: Sequence[str]) -> list[str]:
        return [name for name in GIVEN if any(name in word for word in words)]

    def lay(self, words: Sequence[str], work: Path) -> None:
        """Copies of what the words name, into the folder in which they are typed."""
        for name in self.named(words):
            shutil.copytree(self.folder / name, work / name)


def beep(file: Path, hz: float) -> None:
    """A tenth of a second of a sine."""
    with wave.open(str(file), "wb") as wav:
        wav.setparams((1, 2, 8000, 0, "NONE", ""))
        samples = (int(9000 * math.sin(2 * math.pi * hz * step / 8000)) for step in range(800))
        wav.writeframes(array.array("h", samples).tobytes())


def end_after(saves: int | None) -> None:
    """Ends this process in place of the checkpoint after so many, as SIGKILL would; None: never."""
    from vaecollapse.callbacks.checkpoints import Checkpoints

    taken, save = [], Checkpoints.save

    def counted(self: Checkpoints, trainer: Any) -> None:
        if len(taken) == saves:
            os._exit(9)
        save(self, trainer)
        taken.append(trainer.global_step)

    Checkpoints.save = counted


def contents(folder: Path) -> dict[Path, str]:
    """What the files below it hold, in short; a run's claim on its directory is none of it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", ".running"))
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def child(case: Case, folder: Path, before: Callable[[], object] = lambda: None) -> None:
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
        sys.argv = [str(Path(sys.executable).with_name(case.verb)), *case.words]
        from vaecollapse import cli

        code = {TRAIN: cli.train, EVALUATE: cli.evaluate, SAMPLE: cli.sample}[case.verb]()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)


def forked(case: Case, folder: Path, before: Callable[[], object] = lambda: None) -> int:
    """Starts the command in a child; its process id. stdout and stderr are files of `folder`."""
    for name in ("work", "home"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "work" / "a_file").write_text("not a folder\n")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        child(case, folder, before)
    return pid


def run(case: Case, place: Place) -> Outcome:
    """One case, judged."""
    folder = Path(tempfile.mkdtemp(prefix="vaecollapse-fuzz-"))
    try:
        (folder / "work").mkdir()
        place.lay(case.words, folder / "work")
        given, started = contents(folder / "work"), time.monotonic()
        code = waited(forked(case, folder))
        return judged(code, folder, time.monotonic() - started, case, given)
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


def judged(
    code: int | None, folder: Path, seconds: float, case: Case, given: Mapping[Path, str] = MappingProxyType({})
) -> Outcome:
    """Verdict, figures, answer to a flag, or refusal; and what is wrong with it. `given` is what lay there before."""
    words, work = case.words, folder / "work"
    out, err = ((folder / name).read_text("utf-8", errors="replace") for name in ("stdout", "stderr"))
    wrong = [f"shows {text!r}" for text in FORBIDDEN if text in err]
    wrong += list(litter(work, given))
    lines = [line for line in err.splitlines() if line.strip()]
    asked = [word for word in words if word.lstrip("+~").startswith("resume=")]
    if code is None:
        return Outcome("hung", f"no end after {LIMIT_S} s", seconds, err)
    if code < 0:
        return Outcome("killed", f"signal {-code}", seconds, err)
    if code in (1, 2) or not asked or "preflight=only" in words:  # nothing that was given is written to
        now = contents(work)
        wrong += [f"changed {path.relative_to(work)}" for path in given if now.get(path) != given[path]]
        mine = {path.relative_to(work).parts[0] for path in given}
        new = (path.relative_to(work) for path in now.keys() - given)
        wrong += [f"added {path}" for path in new if path.parts[0] in mine]
    if code in (1, 2):
        kind = "refused" if code == 1 else "usage"
        said = [line for line in lines if not line.startswith((f"{case.verb}: job ", "  "))]
        wrong += [f"{len(said)} lines on stderr"] * (not 1 <= len(said) <= LONGEST * (3 if "-m" in words else 1))
        if case.verb in READS:
            wrong += [f"left {path.relative_to(work)}" for path in work.glob("outputs/*/*")]
    elif code == 0 and case.verb in READS:
        kind, pattern = READS[case.verb]
        if not [path for path in work.glob(pattern) if path not in given]:
            wrong += [] if any(word.startswith("-") for word in words) else [f"exit 0 without {kind}"]
            kind = "answer"
        elif not out.strip():
            wrong.append("exit 0 without a word on stdout")
    elif code in (0, 3) and case.verb == TRAIN:
        kind = "verdict"
        verdicts = [path for path in work.glob("**/verdict.json") if asked or path not in given]
        if not verdicts or "preflight=only" in words:
            kind = "answer" if "preflight=only" in words or any(w.startswith("-") for w in words) else "no verdict"
            if kind == "no verdict" and "no verdict" not in err:
                wrong.append("exit 0 without a verdict and without a word about it")
            elif kind == "answer" and not out.strip():
                wrong.append("exit 0 without an answer")
    else:
        kind = f"exit {code}"
        wrong.append(kind)
    return Outcome(kind, "; ".join(dict.fromkeys(wrong)), seconds, err)


def litter(folder: Path, given: Container[Path] = ()) -> Iterator[str]:
    """Run directories in which nothing ran, and files half written."""
    for path in folder.rglob("*"):
        if path in given:
            continue
        if path.is_dir() and not any(path.iterdir()) and path.parent not in (folder, folder / "outputs"):
            yield f"empty {path.relative_to(folder).parts[0]}/…/{path.name}"
        elif path.is_file() and path.name.startswith(".") and path.name not in (".lock", ".running"):
            yield f"left {path.name}"
        elif path.is_file() and path.suffix in (".json", ".jsonl"):
            try:
                for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
                    json.loads(text)
            except ValueError:
                yield f"half written {path.name}"
    told = [path for name in ("checkpoints", "*.json", "events.jsonl") for path in folder.rglob(name)]
    for run in {path.parent for path in told if path.name not in ("sweep.json", "job.json")}:  # of a sweep and its jobs
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
    drawer = Drawer(arguments.seed)
    cases = list(itertools.islice(drawer.cases(), arguments.runs))
    if arguments.one is not None:
        verb = arguments.one[0] if arguments.one and arguments.one[0] in (TRAIN, *READS) else TRAIN
        words = arguments.one[arguments.one[:1] == [verb] :]
        cases = [Case(words, words, verb)]
    folder = Path(tempfile.mkdtemp(prefix="vaecollapse-fuzz-place-"))
    try:
        return fuzzed(cases, arguments, Place(folder, cases))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fuzzed(cases: Sequence[Case], arguments: argparse.Namespace, place: Place) -> int:
    """Every case, and the table; the exit code."""
    if arguments.one is not None:
        outcome = run(cases[0], place)
        print(outcome.stderr)
        print(outcome.kind, "·", outcome.wrong or "fine", f"· {outcome.seconds:.1f} s")
        return bool(outcome.wrong)
    bases = [Case([*words], [name]) for name, words in BASES.items()]
    for case, outcome in outcomes(
        bases, arguments.jobs, place
    ):  # else refusals would be for a reason of the base's own
        if outcome.kind != "verdict":
            print(f"the base {case.drawn[0]} itself ended in {outcome.kind}: {outcome.stderr}")
            return 1
    started, kinds, failed = time.monotonic(), Counter(), []
    details = arguments.details.open("w") if arguments.details else None
    for case, outcome in outcomes(cases, arguments.jobs, place):
        kinds[outcome.kind] += 1
        if details:
            mark = "FAIL" if outcome.wrong else "ok"
            details.write(f"--- {mark} {outcome.kind} {outcome.seconds:.1f}s {outcome.wrong}\n")
            details.write(f"{shlex.join(case.drawn)}\n    {case}\n{outcome.stderr}\n")
            details.flush()
        if outcome.wrong:
            failed.append(case)
            print(f"FAIL {outcome.wrong}\n  {case}", flush=True)
            print("".join(f"    {line[:300]}\n" for line in outcome.stderr.splitlines()[-6:]), flush=True)
    print(f"\n{'ended in':<12} cases")
    for kind, count in kinds.most_common():
        print(f"{kind:<12} {count:5d}")
    spent = time.monotonic() - started
    print(f"{arguments.runs - len(failed)}/{arguments.runs} as they should, seed {arguments.seed}, {spent:.0f} s")
    return bool(failed)


def outcomes(cases: Sequence[Case], jobs: int, place: Place) -> Iterator[tuple[Case, Outcome]]:
    """Each case with how it ended; `jobs` forked workers, each of which forks its cases."""
    import pickle

    readers = []
    for worker in range(jobs):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                for position in range(worker, len(cases), jobs):
                    pickle.dump((position, run(cases[position], place)), pipe)
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
