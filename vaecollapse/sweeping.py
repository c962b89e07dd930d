"""Sweeps: what became of every job, and going on with what is not finished. Knows Hydra's words, and no network.

Each job is a single command in a process of its own, whatever launches it: killed, out of memory or by a rank that
fails, it ends alone. What a training leaves in a process (its process group, LOCAL_RANK, an open W&B run) is not there
for the next, and one on several devices starts its further processes as it would outside a sweep.
"""

import importlib.util
import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from .apart import Said
from .files import read_object
from .refusal import Refused
from .resuming import FREE, has_begun, key, path_of, quoted, recorded, words
from .run import Run, first_process
from .search import Search, best_selection, reading

log = logging.getLogger(__name__)
PLAN, ENDED = "sweep.json", "job.json"  # of a sweep: its command line; of each job: what became of it
OF_A_RUN = {*FREE} - {"max_epochs"}  # what a job may be told that leaves it the same job
SILENT = OF_A_RUN - {"trainer"} | {"search", "sweep", "resume"}  # the keys that change no number
NUMBERED = "${hydra.job.num}"  # hydra.sweep.subdir: a job's number is its directory's name
# of Hydra's own settings those that say how a sweep is run, and not what a job of it is
OF_SWEEPS = ("hydra.mode", "hydra.sweep", "hydra/sweeper", "hydra.sweeper", "hydra/launcher", "hydra.launcher")


class Job(NamedTuple):
    """What became of a job of a sweep. `outcome` is its verdict, or refused | failed | killed | interrupted |
    unfinished, with the `reason`; `objective` what a search was told, `feasible` whether it kept the constraints,
    `also` the overrides of other jobs with the same configuration."""

    number: int
    overrides: tuple[str, ...]
    directory: str
    outcome: str
    code: int = 0
    reason: str | None = None
    seconds: float | None = None
    objective: float | None = None
    feasible: bool | None = None
    also: tuple[tuple[str, ...], ...] = ()

    @property
    def whole(self) -> bool:
        return self.code in (0, 3)

    def judged(self, place: Path, plan: DictConfig, sweeper: DictConfig) -> "Job":
        """With the number that a search is told."""
        objective, feasible, why = Search.of(plan, sweeper).judged(place)
        return self._replace(objective=objective, feasible=feasible, reason=why)

    def asked_as(self, overrides: Sequence[str]) -> "Job":
        """With these overrides known to be this job's."""
        known = tuple(overrides) in (self.overrides, *self.also)
        return self if known else self._replace(also=(*self.also, tuple(overrides)))


# ---- the sweep's directory


class Watch(Callback):
    """Hydra's word that a sweep begins, in the process that leads it: its directory is made, and its plan written."""

    directory: Path | None = None
    planned: Sequence[tuple[str, ...]] | None = None  # the jobs of a grid
    taken_up = False  # an earlier sweep goes on
    elsewhere = False  # what the jobs say is in files of their launcher, not on this terminal

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not HydraConfig.initialized():
            HydraConfig.instance().set_config(config)
        Watch.elsewhere = "submitit" in str(OmegaConf.select(config, "hydra.launcher._target_"))
        if Watch.elsewhere:
            wait_for_all()
        try:
            directory = Path(config.hydra.sweep.dir)
            if not Watch.taken_up:
                directory = alone(directory)
        except OSError:  # Hydra meets it again, and may raise
            return
        named = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # pyright: ignore
        if named != NUMBERED:  # by a yaml; on the command line it is refused
            log.warning("hydra.sweep.subdir: %s is left out: the jobs of a sweep have their numbers for names", named)
        with read_write(config.hydra):  # the jobs' own configurations are composed from the overrides once more
            config.hydra.sweep.dir, config.hydra.sweep.subdir = str(directory), NUMBERED
            config.hydra.overrides.hydra += [f"hydra.sweep.dir={quoted(directory)}", f"hydra.sweep.subdir={NUMBERED}"]
        Watch.directory, Watch.planned = directory.absolute(), planned(config)
        if not Watch.taken_up:
            plan = {"command": sys.argv[1:], "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            try:
                Run(directory).write(PLAN, plan)
            except OSError as error:
                log.warning("%s cannot be written (%s): to go on, type this command beside sweep.resume", PLAN, error)


def wait_for_all() -> None:
    """A job that submitit loses (cancelled, out of time, its node gone) is said, and the others are waited for; its
    launcher would leave at the first of them."""
    import submitit
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core.utils import FailedJobError, UncompletedJobError

    results = submitit.Job.results

    def lenient(job: Any) -> list[Any]:
        try:
            return results(job)
        except (UncompletedJobError, FailedJobError) as error:
            log.warning("submitit's job %s is lost: %s", job.job_id, str(error).splitlines()[0])
            lost = JobReturn()
            lost.status, lost.return_value = JobStatus.COMPLETED, None
            return [lost]

    submitit.Job.results = lenient  # pyright: ignore[reportAttributeAccessIssue]


def planned(config: DictConfig) -> list[tuple[str, ...]] | None:
    """The overrides of each job of a grid; None of a search."""
    if not str(config.hydra.sweeper.get("_target_")).endswith("BasicSweeper"):
        return None
    params = (config.hydra.sweeper.get("params") or {}).items()
    lines = [*(f"{name}={value}" for name, value in params), *config.hydra.overrides.task]
    known = GlobalHydra.instance()
    parser = OverridesParser.create(known.config_loader() if known.is_initialized() else None)  # for glob(*)
    try:
        (found,) = BasicSweeper.split_arguments(parser.parse_overrides(lines), None)
    except HydraException:  # which its sweeper is about to raise
        return None
    return [tuple(recorded(each)) for each in found]


def alone(directory: Path) -> Path:
    """A directory no sweep has: of two that start in the same microsecond one gets another name."""
    directory.mkdir(parents=True, exist_ok=True)
    named = directory
    for number in range(2, 1000):
        try:
            os.close(os.open(named / PLAN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            return named
        except FileExistsError:
            named = directory.with_name(f"{directory.name}-{number}")
            named.mkdir(parents=True, exist_ok=True)
    raise FileExistsError(f"{directory} holds a sweep already")


def jobs(directory: Path) -> list[Job]:
    """Every job of a sweep that has a directory, in their order."""
    return sorted(map(job_of, places(directory)), key=lambda job: job.number)


def places(directory: Path) -> list[Path]:
    """The jobs' directories."""
    if not directory.is_dir():
        return []
    return [path for path in directory.iterdir() if path.is_dir() and re.fullmatch(r"[0-9]+(-[0-9]+)?", path.name)]


def number_of(place: Path) -> int:
    """A job's number, of `3` and of `3-2`."""
    return int(place.name.partition("-")[0])


def job_of(place: Path) -> Job:
    """What a job's directory says of it."""
    found = read_object(place / ENDED)
    try:
        known: dict[str, Any] = {name: found[name] for name in Job._fields if name in found}
        known["also"] = tuple(map(tuple, known.get("also", ())))
        return Job(**known | {"directory": place.name, "overrides": tuple(known["overrides"])})
    except (KeyError, TypeError):
        number, lines = number_of(place), place / "overrides.txt"
        said = tuple(lines.read_text(encoding="utf-8").splitlines()) if lines.is_file() else ()
        if finished(place):  # its sweep was killed before it could say so
            return Job(number, said, place.name, str(read_object(place / "verdict.json").get("verdict")))
        return Job(number, said, place.name, "unfinished", 1, "no word of its end: it runs, or its machine is gone")


def note(place: Path, job: Job) -> None:
    """Writes what became of a job into its directory."""
    if first_process():
        Run(place).write(ENDED, job._asdict())


def finished(place: Path) -> bool:
    """Did this run's training reach its end?"""
    return (place / "verdict.json").is_file() and (place / "trained.json").is_file()


# ---- going on


def taken_up(argv: Sequence[str]) -> list[str]:
    """The command line that goes on with the sweep named by `sweep.resume=DIR`, or `argv` where there is none: that
    sweep's own with what is typed of how it is run, or the grid typed beside it. Raises Refused where DIR holds no
    sweep."""
    said = words(argv)
    if named := [line for line in said if path_of(line) == "hydra.sweep.subdir"]:
        raise Refused(f"{named[0]}: the jobs of a sweep have their numbers for names: leave it out")
    asked = [line for line in said if line.lstrip("+").startswith("sweep.resume=")]
    if not asked or asked[-1].partition("=")[2] in ("", "null"):
        return list(argv)
    directory = Path(os.path.expanduser(asked[-1].partition("=")[2].strip("'\"")))
    if not directory.is_dir() or not (places(directory) or (directory / PLAN).is_file()):
        raise Refused(f"sweep.resume={directory} holds no sweep: give the directory of one, outputs/multirun/<time>")
    typed = [line for line in said if line not in asked]
    own = typed if any(map(of_a_grid, typed)) else read_object(directory / PLAN).get("command")
    if not own or not all(isinstance(line, str) for line in own):
        raise Refused(f"{directory}/{PLAN} names no command: type the sweep again beside sweep.resume={directory}")
    if any(line.startswith("hydra.sweep.dir=") for line in typed):
        raise Refused("sweep.resume goes on in its own directory: leave hydra.sweep.dir out")
    Watch.taken_up = True
    replaced = {"hydra.sweep.dir", "sweep.resume", *map(path_of, typed)}
    kept = [*(line for line in words(own) if path_of(line) not in replaced), *typed]
    multirun = [] if {"-m", "--multirun"} & set(kept) else ["-m"]
    return [*multirun, *kept, f"hydra.sweep.dir={quoted(directory.absolute())}"]


def of_a_grid(line: str) -> bool:
    """Does this word say what the jobs are, and not only how they are run?"""
    if line.startswith("-"):
        return False
    return key(line) not in (*OF_A_RUN, "hydra") or path_of(line).startswith("hydra.sweeper.params")


def plan_of(place: Path) -> str | None:
    """What a run's resolved configuration says of its numbers, whatever its directory is."""
    try:
        text = (place / "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return counting(text, place)


def counting(text: str, place: Path) -> str:
    """A configuration without the blocks that change no number, and without its own directory."""
    blocks = re.split(r"(?m)^(?=[^\s-])", text)
    kept = "".join(block for block in blocks if block.partition(":")[0] not in SILENT)
    return kept.replace(str(place.absolute()), "{}")


def place_for(cfg: DictConfig, directory: Path) -> Path:
    """Where a job of a sweep belongs: with the run of the same resolved configuration where the sweep has one (the one
    that is finished first), else in its own directory, or the next number's where that is another's."""
    sweep = directory.parent
    wanted = counting(OmegaConf.to_yaml(cfg, resolve=True), directory)
    alike = [place for place in places(sweep) if plan_of(place) == wanted]
    if alike:
        return max(alike, key=lambda place: (finished(place), has_begun(place)))
    if not (directory / "config.yaml").exists():
        return directory
    taken = max(map(number_of, places(sweep)), default=-1)
    return next(place for number in itertools.count(taken + 1) if made(place := sweep / str(number)))


def made(place: Path) -> bool:
    """Is the directory new, and this process the one that made it?"""
    try:
        place.mkdir()
    except FileExistsError:
        return False
    return True


# ---- a job's own command line


def alone_with(argv: Sequence[str]) -> None:
    """Makes this process, a fork of a sweep's, the one of a single command."""
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    # further processes of a run are started as `python -m` this, with sys.argv
    vars(sys.modules["__main__"])["__spec__"] = importlib.util.find_spec("vaecollapse.__main__")
    sys.argv[1:] = argv


def line_of(context: Any, task: Sequence[str], argv: Sequence[str], directory: Path) -> list[str]:
    """The command line of one job, of which `task` was typed, run alone in this directory; where it has begun there,
    it goes on."""
    if (directory / "config.yaml").exists():
        return [*flags(argv), *(line for line in task if key(line) in OF_A_RUN), f"resume={quoted(directory)}"]
    hydras = [str(line) for line in context.overrides.hydra if not str(line).lstrip("+~").startswith(OF_SWEEPS)]
    return [*flags(argv), *task, *hydras, "hydra.mode=RUN", f"hydra.run.dir={quoted(directory)}"]


def flags(argv: Sequence[str]) -> list[str]:
    """The flags that say where configurations lie, each with its value."""
    return [word for word in words(argv) if word.startswith(("--config-dir=", "--config-path=", "--config-name="))]


def decided(cfg: DictConfig, context: Any, task: Sequence[str], argv: Sequence[str]) -> dict[str, Any]:
    """Where a job belongs, and its command line; None where it is finished there. What it rests on changes as soon as
    it begins: once for a job, whatever the number of its ranks."""
    place = place_for(cfg, Path(context.runtime.output_dir))
    return {"place": place.name, "line": None if finished(place) else line_of(context, task, argv, place)}


def led_by(tasks: int) -> str:
    """Why no sweep begins here."""
    return (
        f"a sweep is led by one process, and srun starts {tasks} of this: leave srun out, SLURM's tasks for each job "
        f"are hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node={tasks}"
    )


# ---- what a job comes to


def ended(number: int, overrides: Sequence[str], place: Path, said: Said, seconds: float) -> Job:
    """The job as its directory and its process tell it."""
    verdict = read_object(place / "verdict.json").get("verdict")
    there = (place / "config.yaml").is_file()
    if said.code in (0, 3):
        outcome = str(verdict or "inconclusive")
    elif said.code in (130, 143):
        outcome = "interrupted"
    elif said.code < 0:
        outcome = "killed"
    else:
        outcome = "failed" if there else "refused"
    return Job(number, tuple(overrides), place.name, outcome, said.code, said.reason, seconds)


def missing(jobs_of_grid: Sequence[tuple[str, ...]], rows: Sequence[Job]) -> int:
    """How many jobs of a grid have not begun."""
    begun = {tuple(recorded(overrides)) for job in rows for overrides in (job.overrides, *job.also)}
    return len({*jobs_of_grid} - begun)


def varied(rows: Sequence[Job]) -> list[str]:
    """The keys that are not the same in all jobs."""
    said = [{path_of(line): line for line in job.overrides} for job in rows if job.overrides]
    names = dict.fromkeys(name for each in said for name in each)
    seen = {name: {each.get(name) for each in said} for name in names}
    return [name for name, values in seen.items() if len(values) > 1]


READINGS = {"value of z": "gap", "rank": "information_rank", "R": "rate", "D": "distortion"}


def lines(directory: Path, rows: Sequence[Job]) -> tuple[list[str], list[list[str]], list[str]]:
    """The table of a sweep: its head, a line for each job, and for those that came to nothing a sentence."""
    keys = varied(rows)
    searched = any(job.objective is not None for job in rows)
    head = ["job", *keys, "verdict", *READINGS, "selection", *(["objective"] if searched else []), "s"]
    table, sentences = [], {}
    for job in rows:
        said = {path_of(line): line.partition("=")[2] for line in job.overrides}
        place = directory / job.directory
        verdict = read_object(place / "verdict.json") if job.whole else {}
        numbers = [
            *(reading(verdict, name) for name in READINGS.values()),
            best_selection(place) if job.whole else None,
        ]
        numbers += [job.objective] if searched else []
        shown = [short(number) for number in [*numbers, job.seconds]]
        table.append([job.directory, *(said.get(name, "") for name in keys), job.outcome, *shown])
        if job.reason:
            sentences.setdefault(job.reason, []).append(job.directory)
    told = (f"job{'s' * (len(which) > 1)} {', '.join(which)}: {reason}" for reason, which in sentences.items())
    return head, table, list(told)


def short(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"
