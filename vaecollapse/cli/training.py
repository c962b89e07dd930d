"""`vaecollapse-train`: one run, or a sweep of them."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..refusal import Refused
from .codes import FAIL_ON, FAILED, INTERRUPTED, NAME, TERMINATED, WHOLE_ERRORS
from .extras import missing_extras
from .process import config_folders, overrides_of, remove_if_only, searches, typed_of
from .session import Session
from .showing import show, show_log, show_tables


class TrainSession(Session):
    """Trains, and leads a sweep of trainings: each is a command of its own, in a process of its own."""

    name, primary = NAME, "train"
    of_sweep = lenient = False

    def __init__(self, argv: Sequence[str], warned: Sequence[str] = ()) -> None:
        super().__init__(argv)
        self.warned: set[str] = {*warned}  # once in a sweep
        self.unwritten: dict[str, Any] = {}  # what became of jobs whose directories could not keep it

    def replayed(self, argv: Sequence[str]) -> list[str]:
        from .. import sweeping
        from ..resuming import replayed

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
        from ..sweeping import Watch

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

        from .. import sweeping
        from ..agreeing import Group

        context = HydraConfig.get()
        typed, directory = typed_of(context), Path(context.runtime.output_dir)
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
        if ended.whole and searches(context):
            ended = ended.judged(place, cfg.search, context.sweeper)
        self.note(place, ended)
        if place != directory:
            remove_if_only(directory, set())
        return ended.objective

    def carried_out(self, context, place: Path, line: Sequence[str], group):
        """The job in a process of its own; interrupted, it is noted and the interruption goes on."""
        from functools import partial

        import vaecollapse.tasks  # noqa: F401  the forks then have it

        from .. import sweeping
        from ..apart import Said, apart

        typed, began = typed_of(context), time.monotonic()
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
        from .. import sweeping

        try:
            sweeping.note(place, ended)
        except OSError as error:
            self.unwritten[ended.directory] = ended
            self.say(f"{sweeping.ENDED} of job {ended.directory} cannot be written ({error})")

    def attempt(self, cfg, directory: Path) -> None:
        from hydra.core.hydra_config import HydraConfig

        from .. import config

        context = HydraConfig.get()
        overrides = typed_of(context)
        config.check(cfg)
        choices, sources = dict(context.runtime.choices), config.folders(context.runtime.config_sources)
        for sentence in missing_extras(f"logger={name}" for name in cfg.logger or ()):
            raise Refused(sentence)
        for sentence in config.without_effect(cfg, overrides, choices, sources):
            if not self.lenient:
                raise Refused(sentence)
            if sentence not in self.warned:
                self.warned.add(sentence)
                self.say(f"warning: {sentence}")
        show_log()
        # a console script does not see the user's own package beside it; a resumed run may be a stranger's
        if os.getcwd() not in sys.path and (not cfg.resume or cfg.trust):
            sys.path.append(os.getcwd())
        from ..tasks import train as task

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

        from .. import config

        groups = list(config.options(config.folders(HydraConfig.get().runtime.config_sources)))
        params = HydraConfig.get().sweeper.get("params") or {}
        lines = [*overrides_of(self.line), *(f"{key}={value}" for key, value in params.items())]
        return config.sweeps_a_group(lines, groups)

    def told(self, directory: Path, code: int) -> int:
        """The sweep's table, how to go on with what is not finished, and the code of its worst job."""
        import shutil

        from .. import agreeing, sweeping
        from ..table import sweep_table

        if code not in (INTERRUPTED, TERMINATED):  # else tasks of SLURM's may go on
            shutil.rmtree(directory / agreeing.FOLDER, ignore_errors=True)
        found = {job.directory: job for job in sweeping.jobs(directory)} | self.unwritten
        rows = sorted(found.values(), key=lambda job: job.number)
        if all(job.outcome == "refused" for job in rows):
            return self.nothing_ran(directory, rows, code)
        show_tables(directory, sweep_table(*sweeping.lines(directory, rows)))
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
        from .. import sweeping

        if sweeping.Watch.elsewhere:  # else they have said it themselves
            for sentence in sweeping.lines(directory, rows)[2]:
                self.say(sentence)
        if not rows and not code:
            self.say(f"no job of the sweep left a word in {directory}")
        for job in rows:
            remove_if_only(directory / job.directory, {sweeping.ENDED})
        remove_if_only(directory, {"multirun.yaml", sweeping.PLAN})
        return max(code, FAILED)

    def suggest(self) -> None:
        from .. import config

        if wrong := [a for a in self.argv if a.startswith("--") and a[2:].split("=")[0] in config.KNOBS]:
            name = wrong[0][2:].split("=")[0]
            self.say(f"knobs are written without dashes: {name}=…")
        for sentence in missing_extras(overrides_of(self.argv)):
            self.say(sentence)
        for line in config.suggestions(overrides_of(self.argv), config_folders(self.argv)):
            self.say(line)


def job_of_a_sweep(argv: Sequence[str], lenient: bool, whole_errors: bool, warned: Sequence[str]):
    """A job as the command that it is, in the process made for it; `lenient`: a knob may be without effect in it, which
    is said where it was not yet `warned` of."""
    from .. import sweeping
    from ..apart import Said

    sweeping.alone_with(argv)
    os.environ[WHOLE_ERRORS] = str(int(whole_errors))
    session = TrainSession(argv, warned)
    session.of_sweep, session.lenient = True, lenient
    code = session.command()
    return Said(code, session.reason, session.directory and str(session.directory), tuple(session.warned))
