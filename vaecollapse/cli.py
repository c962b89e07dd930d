"""The command line: `vaecollapse-train`, `-evaluate`, `-sample`, `-export`, `-diagnose` and `-report`. The only
hydra.main and the only print; nothing heavy is imported before the configuration is valid."""

import contextlib
import fcntl
import importlib.util
import io
import itertools
import logging
import os
import shlex
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from . import __version__
from .refusal import Refused
from .run import first_process

NAME, EVALUATE, SAMPLE, EXPORT, DIAGNOSE, REPORT = (
    f"vaecollapse-{verb}" for verb in ("train", "evaluate", "sample", "export", "diagnose", "report")
)
WHOLE_ERRORS = "HYDRA_FULL_ERROR"
CLAIM = ".running"  # in a run directory while the run is under way
FAILED, USAGE, FAIL_ON, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143


class Extra(NamedTuple):
    """What pip installs, and where it is then found."""

    name: str
    plugin: str


EXTRAS = {
    "hydra/launcher=joblib": Extra("sweep", "hydra_plugins.hydra_joblib_launcher"),
    "hydra/launcher=submitit_local": Extra("sweep", "hydra_plugins.hydra_submitit_launcher"),
    "hydra/launcher=submitit_slurm": Extra("sweep", "hydra_plugins.hydra_submitit_launcher"),
    "hydra/sweeper=optuna": Extra("optuna", "hydra_plugins.hydra_optuna_sweeper"),
    "logger=tensorboard": Extra("tensorboard", "tensorboard"),
}


def train() -> int:
    """Trains, prints the verdict, and returns the exit code."""
    argv = sys.argv[1:]
    _speak_any_locale()
    if "--version" in argv:
        print(f"vaecollapse {__version__}")
        return 0
    if "--help" in argv or "-h" in argv:
        from .help import train_help

        with _an_open_pipe():
            print(train_help(NAME, _sources(argv)), flush=True)
        return 0
    return TrainSession(argv).command()


def evaluate() -> int:
    """Measures a trained run on a split, prints the figures, and returns the exit code."""
    return verb("evaluate", EvaluateSession)


def sample() -> int:
    """Writes what a trained run's latent decodes to, and returns the exit code."""
    return verb("sample", SampleSession)


def export() -> int:
    """Writes a trained run's functions as programs of their own, and returns the exit code."""
    return verb("export", ExportSession)


def diagnose() -> int:
    """Says what a latent is, from whatever there is of it, and returns the exit code."""
    return verb("diagnose", DiagnoseSession)


def report() -> int:
    """Makes one page of run directories, and returns the exit code."""
    return verb("report", ReportSession)


def verb(primary: str, kind: type["Session"]) -> int:
    """A verb whose keys are all in its primary configuration."""
    argv = sys.argv[1:]
    _speak_any_locale()
    if "--version" in argv:
        print(f"vaecollapse {__version__}")
        return 0
    if "--help" in argv or "-h" in argv:
        from .help import verb_help

        with _an_open_pipe():
            print(verb_help(kind.name, primary), flush=True)
        return 0
    return kind(argv).command()


class Session:
    """One command: one job, or the jobs of a sweep, and the exit code after the last of them."""

    name, primary = NAME, "train"

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = list(argv)
        self.line = self.argv  # what it stands for; a sweep's jobs may be in processes of another sys.argv
        self.jobs = 0
        self.codes: set[int] = {0}
        self.said: set[str] = set()
        self.sweep_directory: Path | None = None
        self.held: IO[str] | None = None
        self.reason: str | None = None  # why it came to nothing
        self.directory: Path | None = None
        self.start = Path.cwd()
        self.whole_errors = os.environ.get(WHOLE_ERRORS) == "1"

    def command(self) -> int:
        """The whole of it: the command line as it stands, and the exit code."""
        import hydra

        from . import config

        config.register()
        try:
            # Lightning gives its further processes the whole line; SLURM, torchrun or another node what was typed
            if first_process() or not self.names_directory(self.argv):
                sys.argv[1:] = self.line = self.replayed(self.argv)
        except Refused as refusal:
            self.refused(str(refusal))
            return FAILED
        # a plain function: Hydra asks it for its module and name
        main = hydra.main(version_base="1.3", config_path=str(config.folder()), config_name=self.primary)(
            lambda cfg: self.job(cfg)
        )
        return self.run(main)

    def replayed(self, argv: Sequence[str]) -> list[str]:
        """The command line that a resumed one stands for."""
        return list(argv)

    def refused(self, sentence: str) -> None:
        self.reason = sentence
        self.say(sentence)

    def run(self, main: Callable[[], None]) -> int:
        """Hands over to Hydra; what Hydra refuses before the first job becomes sentences, with the nearest names."""
        with _terminable():
            return self._run(main)

    def _run(self, main: Callable[[], None]) -> int:
        os.environ[WHOLE_ERRORS] = "1"  # Hydra then raises its errors and prints nothing: the words are ours
        try:
            main()
        except Exception as error:
            if self.whole_errors:
                raise
            return self.failed(error)
        except KeyboardInterrupt:
            return self.interrupted()
        except SystemExit as stop:
            if _was_interrupted(stop):
                return self.interrupted()
            if stop.code is None:  # Lightning's answer to SIGTERM
                return self.ended("terminated", TERMINATED)
            if stop.code and not self.jobs:
                self.suggest()
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            if not self.whole_errors:
                os.environ.pop(WHOLE_ERRORS, None)
        if self.sweep_directory is not None:
            _remove_if_only(self.sweep_directory, {"multirun.yaml"})
        # a refusal outranks a verdict
        return min(self.codes - {0}, default=0)

    def job(self, cfg) -> None:
        """One command: refusals become a sentence and a code, so that the rest of a sweep goes on."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.errors import InstantiationException

        self.jobs += 1
        if not self.whole_errors:
            os.environ.pop(WHOLE_ERRORS, None)  # the further processes of this run speak in sentences too
        directory = Path(HydraConfig.get().runtime.output_dir)
        try:
            if not cfg.get("resume"):
                directory = self.claimed(directory)
            elif first_process() and not self.claim(directory):
                raise Refused(f"another process is training in {directory}: wait for it, or stop it")
            self.attempt(cfg, directory)
        except (KeyboardInterrupt, SystemExit):
            self.go_on(directory)
            raise
        except (Refused, InstantiationException) as error:
            if self.whole_errors:
                raise
            self.refused(str(_refusal(error) or _sentence(error)))
            self.codes.add(FAILED)
        except BrokenPipeError:  # `| head` has seen enough
            _close_pipe()
        except OSError as error:
            if self.whole_errors:
                raise
            self.refused(f"{error}: give the run a folder it can write to, hydra.run.dir=…, with room on its disk")
            self.go_on(directory)
            self.codes.add(FAILED)
        except Exception:
            self.go_on(directory)
            raise
        finally:
            os.environ[WHOLE_ERRORS] = "1"
            self.directory = directory
            self.unclaim(directory)
            if directory not in (self.start, *self.start.parents):
                _remove_if_only(directory, set())
            if self.is_sweep():
                self.sweep_directory = directory.parent

    def attempt(self, cfg, directory: Path) -> None:
        """What the verb does, in its directory."""
        raise NotImplementedError

    def claimed(self, directory: Path) -> Path:
        """The run's directory, this run's alone: of two that start in the same microsecond one gets another name."""
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import read_write

        if not first_process():  # of a run that has its directory
            return directory
        context: Any = HydraConfig.get()
        first = directory
        for number in itertools.count(2):
            directory.mkdir(parents=True, exist_ok=True)
            if self.claim(directory) and not (directory / "config.yaml").exists():
                break
            self.unclaim(directory)
            if self.names_directory(context.overrides.hydra):
                raise Refused(f"{directory} holds a run already: give this one a folder of its own")
            directory = first.with_name(f"{first.name}-{number}")
        with read_write(context.runtime):
            context.runtime.output_dir = str(directory)
        return directory

    def names_directory(self, lines: Sequence[str]) -> bool:
        """Was the directory asked for by its name?"""
        return any(line.startswith(("hydra.run.dir=", "hydra.sweep.")) for line in lines)

    def claim(self, directory: Path) -> bool:
        """Is the directory this process's? A record lock says so, which ends with the process however that ends."""
        # a link there may be a stranger's, and lead anywhere
        self.held = os.fdopen(os.open(directory / CLAIM, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "a")
        try:
            fcntl.lockf(self.held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.held.close()
            self.held = None
            return False
        except OSError:  # a file system without locks
            pass
        return True

    def unclaim(self, directory: Path) -> None:
        if self.held is not None:
            (directory / CLAIM).unlink(missing_ok=True)
            self.held.close()
            self.held = None

    def go_on(self, directory: Path) -> None:
        """The command that takes up what was interrupted, where a checkpoint is left."""
        from .resuming import FREE, has_begun, key

        if first_process() and has_begun(directory):
            more = [line for line in self.argv if "resume" in map(key, self.argv) and key(line) in FREE]
            directory = directory.relative_to(self.start) if directory.is_relative_to(self.start) else directory
            self.say(f"go on with: {shlex.join([self.name, f'resume={directory}', *more])}")

    def failed(self, error: Exception) -> int:
        """The exit code for what Hydra raised. After a job has begun it is a bug, and a bug shows its traceback."""
        if isinstance(error, OSError) and not _is_hydras(error):
            self.refused(f"{error}: give the run a folder it can write to, hydra.run.dir=…, with room on its disk")
        elif self.jobs:
            self.reason = f"{type(error).__name__}: {textwrap.shorten(str(error), 200)}"
            traceback.print_exception(error)
        else:
            self.refused(_sentence(error))
            self.suggest()
        return FAILED

    def is_sweep(self) -> bool:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        return HydraConfig.get().mode == RunMode.MULTIRUN

    def suggest(self) -> None:
        """The nearest names for what Hydra did not know."""

    def say(self, sentence: str) -> None:
        """One line on stderr, once."""
        if sentence not in self.said:
            self.said.add(sentence)
            print(f"{self.name}: {sentence}", file=sys.stderr)

    def interrupted(self) -> int:
        return self.ended("interrupted", INTERRUPTED)

    def ended(self, word: str, code: int) -> int:
        if first_process():
            self.say(word)
        return code


class TrainSession(Session):
    """Trains, and leads a sweep of trainings: each is a command of its own, in a process of its own."""

    name, primary = NAME, "train"
    of_sweep = lenient = False

    def __init__(self, argv: Sequence[str], warned: Sequence[str] = ()) -> None:
        super().__init__(argv)
        self.warned: set[str] = {*warned}  # once in a sweep
        self.unwritten: dict[str, Any] = {}  # what became of jobs whose directories could not keep it

    def replayed(self, argv: Sequence[str]) -> list[str]:
        from . import sweeping
        from .resuming import replayed

        sweeping.Watch.directory, sweeping.Watch.planned, sweeping.Watch.taken_up = None, None, False
        return sweeping.taken_up(replayed(argv))

    def names_directory(self, lines: Sequence[str]) -> bool:
        return not self.of_sweep and super().names_directory(lines)

    def go_on(self, directory: Path) -> None:
        if not self.of_sweep:  # the sweep says how all of it goes on
            super().go_on(directory)

    def ended(self, word: str, code: int) -> int:
        return code if self.of_sweep else super().ended(word, code)

    def run(self, main: Callable[[], None]) -> int:
        from .sweeping import Watch

        code = super().run(main)
        return code if self.of_sweep or Watch.directory is None else self.told(Watch.directory, code)

    def job(self, cfg) -> float | None:
        if not self.is_sweep():
            return super().job(cfg)
        self.jobs += 1
        return self.lead(cfg)

    def lead(self, cfg) -> float | None:
        """One job of a sweep: what it came to is written in its directory. Returns a search's objective."""
        from functools import partial

        from hydra.core.hydra_config import HydraConfig

        from . import sweeping
        from .agreeing import Group

        context = HydraConfig.get()
        typed, directory = _typed(context), Path(context.runtime.output_dir)
        group = Group.of(directory.parent, context.job.num)
        try:
            if group.size > 1 and sweeping.Watch.directory:
                raise Refused(sweeping.led_by(group.size))
            plan = group.agreed(partial(sweeping.decided, cfg, context, typed, self.line))
        except Refused as refusal:  # of a task that stands outside its job
            self.refused(str(refusal))
            self.codes.add(FAILED)
            return None
        place, line = directory.with_name(plan["place"]), plan["line"]
        named = f"job {context.job.num}: {' '.join(typed)}"
        self.say(named if line else f"{named} (finished before, in {place.name})")
        ended = self.carried_out(context, place, line, group) if line else sweeping.job_of(place).asked_as(typed)
        place = place.with_name(ended.directory)
        if ended.whole and _searches(context):
            ended = ended.judged(place, cfg.search, context.sweeper)
        self.note(place, ended)
        if place != directory:
            _remove_if_only(directory, set())
        return ended.objective

    def carried_out(self, context, place: Path, line: Sequence[str], group):
        """The job in a process of its own; interrupted, it is noted and the interruption goes on."""
        from functools import partial

        import vaecollapse.tasks  # noqa: F401  the forks then have it

        from . import sweeping
        from .apart import Said, apart

        typed, began = _typed(context), time.monotonic()
        ended = partial(sweeping.ended, context.job.num, typed)
        work = partial(job_of_a_sweep, line, self.sweeps_a_group(), self.whole_errors, tuple(self.warned))
        try:
            said = apart(work, None if group.size == 1 else lambda: group.lost() is not None)
        except (KeyboardInterrupt, SystemExit):
            if (place / "config.yaml").is_file():
                self.note(place, ended(place, Said(INTERRUPTED), time.monotonic() - began))
            raise
        if said.code == TERMINATED and "SLURM_STEP_ID" in os.environ and group.lost() is None:
            self.note(place, ended(place, said, time.monotonic() - began))
            raise SystemExit(TERMINATED)  # it may be put back into the queue: nothing is told to who waits for its end
        if said.code not in (0, FAIL_ON):
            group.tell(said.code)
        self.warned |= {*said.lines}
        if not said.told:
            self.say(f"job {context.job.num}: {said.reason}")
        return ended(Path(said.directory or place), said, time.monotonic() - began)

    def note(self, place: Path, ended) -> None:
        """What became of a job, in its directory; where the disk is full, in the table alone."""
        from . import sweeping

        try:
            sweeping.note(place, ended)
        except OSError as error:
            self.unwritten[ended.directory] = ended
            self.say(f"{sweeping.ENDED} of job {ended.directory} cannot be written ({error})")

    def attempt(self, cfg, directory: Path) -> None:
        from hydra.core.hydra_config import HydraConfig

        from . import config

        context = HydraConfig.get()
        overrides = _typed(context)
        config.check(cfg)
        choices, sources = dict(context.runtime.choices), config.folders(context.runtime.config_sources)
        for sentence in _missing_extras(f"logger={name}" for name in cfg.logger or ()):
            raise Refused(sentence)
        for sentence in config.without_effect(cfg, overrides, choices, sources):
            if not self.lenient:
                raise Refused(sentence)
            if sentence not in self.warned:
                self.warned.add(sentence)
                self.say(f"warning: {sentence}")
        _show_log()
        # a console script does not see the user's own package beside it; a resumed run may be a stranger's
        if os.getcwd() not in sys.path and (not cfg.resume or cfg.trust):
            sys.path.append(os.getcwd())
        from .tasks import train as task

        config.check_kinds(cfg)
        outcome = task(cfg, directory, overrides)
        show(outcome.diagnosis, directory)
        if outcome.diagnosis is None and outcome.verdict == "inconclusive":
            self.say("no verdict: the run had no callback.collapse_monitor, or it ended before a reading")
        if outcome.verdict in config.listed(cfg.fail_on):
            self.codes.add(FAIL_ON)

    def sweeps_a_group(self) -> bool:
        """A knob without effect is then expected in some of the jobs."""
        from hydra.core.hydra_config import HydraConfig

        from . import config

        groups = list(config.options(config.folders(HydraConfig.get().runtime.config_sources)))
        params = HydraConfig.get().sweeper.get("params") or {}
        lines = [*_overrides(self.line), *(f"{key}={value}" for key, value in params.items())]
        return config.sweeps_a_group(lines, groups)

    def told(self, directory: Path, code: int) -> int:
        """The sweep's table, how to go on with what is not finished, and the code of its worst job."""
        import shutil

        from . import agreeing, sweeping
        from .table import sweep_table

        if code not in (INTERRUPTED, TERMINATED):  # else tasks of SLURM's may go on
            shutil.rmtree(directory / agreeing.FOLDER, ignore_errors=True)
        found = {job.directory: job for job in sweeping.jobs(directory)} | self.unwritten
        rows = sorted(found.values(), key=lambda job: job.number)
        if all(job.outcome == "refused" for job in rows):
            return self.nothing_ran(directory, rows, code)
        _show_tables(directory, sweep_table(*sweeping.lines(directory, rows)))
        lost = [job for job in rows if not job.whole]
        missing = sweeping.missing(sweeping.Watch.planned or (), rows)
        if missing:
            self.say(f"jobs that have not begun: {missing}")
        if missing or [job for job in lost if job.outcome != "refused"]:
            shown = directory.relative_to(self.start) if directory.is_relative_to(self.start) else directory
            self.say(f"go on with: {shlex.join([self.name, f'sweep.resume={shown}'])}")
        worst = {FAILED if job.code < 0 else job.code for job in rows} - {0}
        return code if code in (INTERRUPTED, TERMINATED) else min(worst | ({code} - {0}), default=0)

    def nothing_ran(self, directory: Path, rows: Sequence[Any], code: int) -> int:
        """Says what the jobs were refused for, and removes what they left."""
        from . import sweeping

        if sweeping.Watch.elsewhere:  # else they have said it themselves
            for sentence in sweeping.lines(directory, rows)[2]:
                self.say(sentence)
        if not rows and not code:
            self.say(f"no job of the sweep left a word in {directory}")
        for job in rows:
            _remove_if_only(directory / job.directory, {sweeping.ENDED})
        _remove_if_only(directory, {"multirun.yaml", sweeping.PLAN})
        return max(code, FAILED)

    def suggest(self) -> None:
        from . import config

        if wrong := [a for a in self.argv if a.startswith("--") and a[2:].split("=")[0] in config.KNOBS]:
            name = wrong[0][2:].split("=")[0]
            self.say(f"knobs are written without dashes: {name}=…")
        for sentence in _missing_extras(_overrides(self.argv)):
            self.say(sentence)
        for line in config.suggestions(_overrides(self.argv), _sources(self.argv)):
            self.say(line)


def job_of_a_sweep(argv: Sequence[str], lenient: bool, whole_errors: bool, warned: Sequence[str]):
    """A job as the command that it is, in the process made for it; `lenient`: a knob may be without effect in it, which
    is said where it was not yet `warned` of."""
    from . import sweeping
    from .apart import Said

    sweeping.alone_with(argv)
    os.environ[WHOLE_ERRORS] = str(int(whole_errors))
    session = TrainSession(argv, warned)
    session.of_sweep, session.lenient = True, lenient
    code = session.command()
    return Said(code, session.reason, session.directory and str(session.directory), tuple(session.warned))


def _missing_extras(lines: Iterable[str]) -> Iterator[str]:
    """A sentence for each override that needs what is not installed."""
    for line in lines:
        if (extra := EXTRAS.get(line)) and not _importable(extra.plugin):
            yield f"{line} comes with an extra: pip install -c constraints.txt '.[{extra.name}]'"


def _importable(name: str) -> bool:
    """Is it there? (find_spec raises where the package it would lie in is not.)"""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _searches(context) -> bool:
    """Does something wait for the jobs' numbers?"""
    return not str(context.sweeper.get("_target_")).endswith("BasicSweeper")


class VerbSession(Session):
    """As a training's, of a verb whose keys are all in its primary configuration."""

    primary = ""

    def suggest(self) -> None:
        import difflib

        from .help import keys_of

        names = [name for name, *_ in keys_of(self.primary)]
        for line in _overrides(self.argv):
            key = line.lstrip("+~").partition("=")[0]
            if key == "overrides":
                self.say("overrides are quoted one by one: \"overrides=['dataset.root=/new/place']\"")
            if key in ("values", "columns"):
                self.say(f"{key} is one word for the shell: {key}='{{rate: {'12.48' if key == 'values' else 'kl'}}}'")
            if key not in names and (near := difflib.get_close_matches(key, names, n=1)):
                self.say(f"{key} (did you mean {near[0]}?)")


class EvaluateSession(VerbSession):
    """Measures a run."""

    name, primary = EVALUATE, "evaluate"

    def attempt(self, cfg, directory: Path) -> None:
        from hydra.core.hydra_config import HydraConfig

        from . import loading

        overrides = _typed(HydraConfig.get())
        if self.is_sweep():
            self.say(f"job {HydraConfig.get().job.num}: {' '.join(overrides)}")
        self.check(cfg)
        if not (cfg.get("file") or cfg.get("real")):
            loading.run_directory(cfg.run)
        _show_log()
        if cfg.trust and os.getcwd() not in sys.path:  # else nothing of the folder one stands in is imported
            sys.path.append(os.getcwd())
        self.carry_out(cfg, directory, overrides)

    def check(self, cfg) -> None:
        from . import config

        config.check_evaluation(cfg)

    def carry_out(self, cfg, directory: Path, overrides: list[str]) -> None:
        if cfg.file:
            from .tasks import score_file

            show_scores(score_file(cfg, directory, overrides))
            return
        if cfg.real:
            from .tasks import compare_folders

            show_comparison(compare_folders(cfg, directory, overrides))
            return
        from .tasks import evaluate as task

        show_evaluation(task(cfg, directory, overrides))


class SampleSession(EvaluateSession):
    """Writes samples of a run."""

    name, primary = SAMPLE, "sample"

    def check(self, cfg) -> None:
        from . import config

        config.check_evaluation(cfg, config.SampleSchema)

    def carry_out(self, cfg, directory: Path, overrides: list[str]) -> None:
        from .tasks import sample as task

        show_samples(task(cfg, directory, overrides))


class ExportSession(EvaluateSession):
    """Writes a run's functions as programs."""

    name, primary = EXPORT, "export"

    def check(self, cfg) -> None:
        from . import config

        config.check_evaluation(cfg, config.ExportSchema)

    def carry_out(self, cfg, directory: Path, overrides: list[str]) -> None:
        from .table import export_table
        from .tasks import export as task

        outcome = task(cfg, directory, overrides)
        _show_tables(outcome.directory, export_table(outcome.what, outcome.files))


class DiagnoseSession(VerbSession):
    """Judges whatever there is of a latent."""

    name, primary = DIAGNOSE, "diagnose"

    def attempt(self, cfg, directory: Path) -> None:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        from . import config, loading
        from .evidence import given

        overrides = _typed(HydraConfig.get())
        if self.is_sweep():
            self.say(f"job {HydraConfig.get().job.num}: {' '.join(overrides)}")
        config.check_diagnosis(cfg)
        which = given.check(cast(dict, OmegaConf.to_container(cfg, resolve=True)))
        if which == "run":
            loading.run_directory(cfg.run)
        _show_log()
        # a module is the user's own, as its name was typed; of a stranger's run nothing here is imported unless trusted
        if (which == "module" or cfg.distance or cfg.trust) and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        from .tasks import diagnose as task

        outcome = task(cfg, directory, overrides)
        show_diagnosis(outcome, cfg.format)
        if outcome.verdict.verdict in config.listed(cfg.fail_on):
            self.codes.add(FAIL_ON)


class ReportSession(VerbSession):
    """Shows what run directories hold."""

    name, primary = REPORT, "report"

    def attempt(self, cfg, directory: Path) -> None:
        from hydra.core.hydra_config import HydraConfig

        from . import config

        overrides = _typed(HydraConfig.get())
        config.check_report(cfg)
        from .report import report as task

        runs = [str(each) for each in config.listed(cfg.runs)]
        found = task(runs, directory, form=cfg.format, out=cfg.out, cache=cfg.cache, command=overrides)
        file = found.file.relative_to(Path.cwd()) if found.file.is_relative_to(Path.cwd()) else found.file
        if found.text is None:
            print(f"\n{'report':>10}  {found.what}\n{'open':>10}  {file}", flush=True)
            return
        print(found.text, end="", flush=True)
        self.say(f"{found.what}, in {file}")


def show_diagnosis(outcome, form: str) -> None:
    """The table of a diagnosis, or its JSON alone, on stdout."""
    if form == "json":
        import json

        from .run import plain

        print(json.dumps(plain(outcome.verdict.as_dict()), indent=1, ensure_ascii=False), flush=True)
        return
    from .table import diagnosis_table

    _show_tables(outcome.directory, diagnosis_table(outcome.verdict, outcome.source))


def show_evaluation(outcome) -> None:
    """The table of an evaluation, on stdout."""
    from .ensembles.scoring import lines
    from .table import evaluation_table, scores_table

    tables = [evaluation_table(outcome.verdict, outcome.figures, outcome.what)]
    if outcome.heard:
        tables.append(heard_table(outcome.heard))
    elif outcome.scores:
        tables.append(scores_table(lines(outcome.scores), outcome.scored))
    _show_tables(outcome.directory, *tables)


def show_comparison(outcome) -> None:
    """The scores of two folders of sounds, on stdout."""
    _show_tables(outcome.directory, heard_table(outcome.heard))


def heard_table(heard):
    """A set of sounds in words, and its scores."""
    from .ensembles.scoring import lines
    from .table import sounds_table

    return sounds_table(heard.judged, lines(heard.scores), heard.what, heard.said)


def show_scores(outcome) -> None:
    """The scores of a file, on stdout."""
    from .ensembles.scoring import lines
    from .table import scores_table

    _show_tables(outcome.directory, scores_table(lines(outcome.scores), outcome.what))


def show_samples(outcome) -> None:
    """What was written and where, on stdout."""
    from .table import samples_table

    _show_tables(outcome.directory, samples_table(outcome.what, outcome.first))


def _show_tables(directory: Path, *tables) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    for table in tables:
        console.print()
        console.print(table, soft_wrap=True)  # a command must survive being copied
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    console.print(f"{'run':>10}  {directory}", style="dim", soft_wrap=True)


def show(verdict, directory: Path) -> None:
    """The table at the end, on stdout: it is what the command was asked for."""
    if not first_process():
        return
    from .table import verdict_table

    _show_tables(directory, *([] if verdict is None else [verdict_table(verdict)]))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds as Ctrl-C does, so that nothing half done is left; not outside the main thread."""

    def terminate(number: int, frame: object) -> None:
        raise SystemExit

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _speak_any_locale() -> None:
    """σ and … come out as ? where the terminal has no such letters, and stop nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def _an_open_pipe() -> Iterator[None]:
    """Whoever reads may stop reading (`| head`)."""
    try:
        yield
    except BrokenPipeError:
        _close_pipe()


def _close_pipe() -> None:
    """What is still to be written to stdout goes nowhere, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _typed(context) -> list[str]:
    """The job's overrides as they were typed, `${…}` unresolved."""
    from omegaconf import OmegaConf

    return [str(line) for line in cast(list, OmegaConf.to_container(context.overrides.task))]


def _was_interrupted(error: BaseException | None) -> bool:
    """Lightning turns Ctrl-C into exit(1) after its callbacks have run."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _refusal(error: BaseException | None) -> Refused | None:
    """The Refused inside Hydra's InstantiationException, or the error itself."""
    while error is not None and not isinstance(error, Refused):
        error = error.__cause__
    return error


def _sentence(error: Exception) -> str:
    """What Hydra or OmegaConf objects to, without their indentation and their advice to developers."""
    from hydra.errors import OverrideParseException

    if isinstance(error, OverrideParseException) and "sweep" not in error.message.lower():
        return (
            f"{textwrap.shorten(error.override, 200)} cannot be read: write key=value, a value with signs or spaces in "
            """quotes inside quotes, such as 'dataset.root="my sounds"'"""
        )
    text = f"{error}\n{error.__cause__ or ''}" if _is_hydras(error) else str(error)
    lines = [line.strip() for line in text.partition("Config search path:")[0].splitlines()]
    told = [line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_type="))]
    if not told or type(error).__module__ == "builtins":
        told = [f"this command line cannot be read ({type(error).__name__}: {' '.join(told)})"]
    return textwrap.shorten(" · ".join(dict.fromkeys(told)), 800, placeholder=" …")


def _is_hydras(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "hydra"


def _remove_if_only(directory: Path, names: set[str]) -> None:
    """Leaves no run directory behind in which nothing ran."""
    with contextlib.suppress(FileNotFoundError):  # another rank of the run was faster
        if {path.name for path in directory.iterdir()} <= names:
            for name in names:
                (directory / name).unlink(missing_ok=True)
            directory.rmdir()


class _Terminal(logging.Handler):
    """The package's log lines, plain; sys.stderr is looked up late, so that a progress bar can redirect it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _show_log() -> None:
    log = logging.getLogger("vaecollapse")
    if not first_process():
        log.addHandler(logging.NullHandler())
        return
    if not any(isinstance(handler, _Terminal) for handler in log.handlers):
        log.addHandler(_Terminal())
        log.setLevel(logging.INFO)


def _overrides(argv: Sequence[str]) -> list[str]:
    return [arg for arg in argv if not arg.startswith("-") and ("=" in arg or arg.startswith("~"))]


def _sources(argv: Sequence[str]) -> list[Path]:
    """The folders of yaml files this command sees: --config-dir, then ours."""
    from . import config

    found = []
    for arg, following in zip(argv, [*argv[1:], ""], strict=True):
        if arg in ("--config-dir", "-cd"):
            found.append(Path(following).absolute())
        elif arg.startswith("--config-dir="):
            found.append(Path(arg.partition("=")[2]).absolute())
    return [*found, config.folder()]


if __name__ == "__main__":  # a further process of a training
    sys.exit(train())
