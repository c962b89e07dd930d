"""One command from its line to its exit code: what every verb shares."""

import fcntl
import itertools
import os
import shlex
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from ..refusal import Refused
from ..run import first_process
from .codes import CLAIM, FAILED, INTERRUPTED, NAME, TERMINATED, WHOLE_ERRORS
from .errors import is_hydras, refusal_behind, sentence_of
from .process import close_pipe, overrides_of, remove_if_only, terminable, was_interrupted


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

        from .. import config

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
        with terminable():
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
            if was_interrupted(stop):
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
            remove_if_only(self.sweep_directory, {"multirun.yaml"})
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
            self.refused(str(refusal_behind(error) or sentence_of(error)))
            self.codes.add(FAILED)
        except BrokenPipeError:  # `| head` has seen enough
            close_pipe()
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
                remove_if_only(directory, set())
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
        from ..resuming import FREE, has_begun, key

        if first_process() and has_begun(directory):
            more = [line for line in self.argv if "resume" in map(key, self.argv) and key(line) in FREE]
            directory = directory.relative_to(self.start) if directory.is_relative_to(self.start) else directory
            self.say(f"go on with: {shlex.join([self.name, f'resume={directory}', *more])}")

    def failed(self, error: Exception) -> int:
        """The exit code for what Hydra raised. After a job has begun it is a bug, and a bug shows its traceback."""
        if isinstance(error, OSError) and not is_hydras(error):
            self.refused(f"{error}: give the run a folder it can write to, hydra.run.dir=…, with room on its disk")
        elif self.jobs:
            self.reason = f"{type(error).__name__}: {textwrap.shorten(str(error), 200)}"
            traceback.print_exception(error)
        else:
            self.refused(sentence_of(error))
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


class VerbSession(Session):
    """As a training's, of a verb whose keys are all in its primary configuration."""

    primary = ""

    def suggest(self) -> None:
        import difflib

        from ..help import keys_of

        names = [name for name, *_ in keys_of(self.primary)]
        for line in overrides_of(self.argv):
            key = line.lstrip("+~").partition("=")[0]
            if key == "overrides":
                self.say("overrides are quoted one by one: \"overrides=['dataset.root=/new/place']\"")
            if key in ("values", "columns"):
                self.say(f"{key} is one word for the shell: {key}='{{rate: {'12.48' if key == 'values' else 'kl'}}}'")
            if key not in names and (near := difflib.get_close_matches(key, names, n=1)):
                self.say(f"{key} (did you mean {near[0]}?)")
