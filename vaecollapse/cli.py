"""The command line: `vaecollapse-train`. The only hydra.main and the only print; nothing heavy is imported before
the configuration is valid."""

import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__
from .refusal import Refused

NAME = "vaecollapse-train"
FAILED, USAGE, FAIL_ON, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143


def train() -> int:
    """Trains, prints the verdict, and returns the exit code."""
    argv = sys.argv[1:]
    if "--version" in argv:
        print(f"vaecollapse {__version__}")
        return 0
    if "--help" in argv or "-h" in argv:
        print(help_text(argv))
        return 0
    import hydra

    from . import config

    config.register()
    session = Session(argv)
    # a plain function: Hydra asks it for its module and name
    main = hydra.main(version_base="1.3", config_path=str(config.folder()), config_name="train")(
        lambda cfg: session.job(cfg)
    )
    return session.run(main)


class Session:
    """One command: one job, or the jobs of a sweep, and the exit code after the last of them."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = list(argv)
        self.jobs = 0
        self.codes: set[int] = {0}
        self.said: set[str] = set()
        self.sweep_directory: Path | None = None

    def run(self, main: Callable[[], None]) -> int:
        """Hands over to Hydra; what Hydra refuses before the first job gets the nearest names."""
        try:
            main()
        except KeyboardInterrupt:
            return self.interrupted()
        except SystemExit as stop:
            if _was_interrupted(stop):
                return self.interrupted()
            if stop.code is None:  # Lightning's answer to SIGTERM
                self.say("terminated")
                return TERMINATED
            if stop.code and not self.jobs:
                self.suggest()
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if self.sweep_directory is not None:
            _remove_if_only(self.sweep_directory, {"multirun.yaml"})
        # a refusal outranks a verdict
        return min(self.codes - {0}, default=0)

    def job(self, cfg) -> None:
        """One training: refusals become a sentence and a code, so that the rest of a sweep goes on."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.errors import InstantiationException

        self.jobs += 1
        directory = Path(HydraConfig.get().runtime.output_dir)
        try:
            self.attempt(cfg, directory)
        except (Refused, InstantiationException) as error:
            refusal = _refusal(error)
            if refusal is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            self.say(str(refusal))
            self.codes.add(FAILED)
        except OSError as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            self.say(f"{error}: give the run a folder it can write to, hydra.run.dir=…, with room on its disk")
            self.codes.add(FAILED)
        finally:
            _remove_if_only(directory, set())
            if self.is_sweep():
                self.sweep_directory = directory.parent

    def attempt(self, cfg, directory: Path) -> None:
        from hydra.core.hydra_config import HydraConfig

        from . import config

        context = HydraConfig.get()
        overrides = list(context.overrides.task)
        if self.is_sweep():
            self.say(f"job {context.job.num}: {' '.join(overrides)}")
        config.check(cfg)
        choices, sources = dict(context.runtime.choices), config.folders(context.runtime.config_sources)
        for sentence in config.without_effect(cfg, overrides, choices, sources):
            if not self.sweeps_a_group(list(config.options(sources))):
                raise Refused(sentence)
            self.say(f"warning: {sentence}")
        _show_log()
        if os.getcwd() not in sys.path:  # a console script does not see the user's own package beside it
            sys.path.append(os.getcwd())
        from .tasks import train as task

        outcome = task(cfg, directory, overrides)
        show(outcome.diagnosis, directory)
        if outcome.verdict in cfg.fail_on:
            self.codes.add(FAIL_ON)

    def is_sweep(self) -> bool:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        return HydraConfig.get().mode == RunMode.MULTIRUN

    def sweeps_a_group(self, groups: Sequence[str]) -> bool:
        """A knob without effect is then expected in some of the jobs."""
        from hydra.core.hydra_config import HydraConfig

        from . import config

        params = HydraConfig.get().sweeper.get("params") or {}
        lines = [*_overrides(self.argv), *(f"{key}={value}" for key, value in params.items())]
        return self.is_sweep() and config.sweeps_a_group(lines, groups)

    def suggest(self) -> None:
        from . import config

        if wrong := [a for a in self.argv if a.startswith("--") and a[2:].split("=")[0] in config.KNOBS]:
            name = wrong[0][2:].split("=")[0]
            self.say(f"knobs are written without dashes: {name}=…")
        for line in config.suggestions(_overrides(self.argv), _sources(self.argv)):
            self.say(line)

    def say(self, sentence: str) -> None:
        """One line on stderr, once."""
        if sentence not in self.said:
            self.said.add(sentence)
            print(f"{NAME}: {sentence}", file=sys.stderr)

    def interrupted(self) -> int:
        self.say("interrupted")
        return INTERRUPTED


def show(verdict, directory: Path) -> None:
    """The table at the end, on stdout: it is what the command was asked for."""
    from rich.console import Console

    from .table import verdict_table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    if verdict is not None:
        console.print()
        console.print(verdict_table(verdict), soft_wrap=True)  # a command must survive being copied
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    console.print(f"{'run':>10}  {directory}", style="dim", soft_wrap=True)


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


def _remove_if_only(directory: Path, names: set[str]) -> None:
    """Leaves no run directory behind in which nothing ran."""
    if directory.is_dir() and {path.name for path in directory.iterdir()} <= names:
        for name in names:
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()


class _Terminal(logging.Handler):
    """The package's log lines, plain; sys.stderr is looked up late, so that a progress bar can redirect it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _show_log() -> None:
    log = logging.getLogger("vaecollapse")
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


HELP = """\
Trains a variational autoencoder and says, from measurement, whether its latent is alive: a verdict, the numbers that
decided it, and the command to try next. The run directory is outputs/train/<time>/.

usage: {name} [group=option …] [knob=value …] [nested.key=value …]

examples
  {name}
      the embedded default: generated drums
  {name} model=audio_nf regularizer=free_bits free_bits=0.005 \\
      dataset=audio_folder dataset.root=path/to/recordings
      the reference command, on a folder of short recordings
  {name} model=linear dataset=gaussian
      the exact truth, in seconds
  {name} -m regularizer=beta,free_bits seed=0,1
      a sweep: every combination, 4 runs
  {name} fail_on=[posterior_collapse,fake_rate]
      a verdict as exit code 3
  {name} logger=wandb logger.wandb.offline=true
      Weights & Biases, here without an account
  {name} model=custom model._target_=my_pkg.MyVAE +model.width=3
      your own class, importable from where you type this
  {name} --config-dir my_conf model=mine
      your own my_conf/model/mine.yaml

knobs (a model may set its own default, the command line always wins)
{knobs}
groups (* default; choose one, of detector, callback and logger also several: detector=[rate,active_units])
{groups}
  How the weight of the KL moves: coefficient@regularizer.weight=cyclical

flags
  --cfg job              print the composed configuration and stop
  --info defaults-tree   where each part of it comes from
  -m, --multirun         run every combination of comma-separated values
  --config-dir DIR       more groups and options, of your own
  -sc install=bash       the line that installs shell completion: eval "$({name} -sc install=bash)"
  --version              print the version
  --hydra-help           every other flag

exit codes
  0 done   1 refused or failed   2 wrong usage   3 a verdict listed in fail_on   130 interrupted   143 terminated
  HYDRA_FULL_ERROR=1 in the environment shows whole tracebacks."""


def help_text(argv: Sequence[str]) -> str:
    """Purpose, examples, and every knob and group as the yaml files have them."""
    from . import config

    sources = _sources(argv)
    text = (config.folder() / "train.yaml").read_text("utf-8")
    defaults = {group: re.findall(r"\w+", value) for group, value in re.findall(r"^  - (\w+): (.*)$", text, re.M)}
    knobs = re.findall(r"^(\w+): (\S+) *# (.*)$", text, re.M)
    lines = [f"  {name + '=' + value:<20} {meaning}\n" for name, value, meaning in knobs]
    for option in config.options(sources)["model"]:
        file = next(path for s in sources if (path := s / "model" / f"{option}.yaml").is_file())
        values = re.findall(r"^(\w+): ([^\s#]+)", file.read_text("utf-8"), re.M)
        own = [f"{name}={value}" for name, value in values if name in config.KNOBS]
        lines += [f"  {'':<20} model={option} sets {' '.join(own)}\n"] if own else []
    groups = ""
    for group, names in config.options(sources).items():
        marked = (f"{n}*" if n in defaults.get(group, ()) else n for n in names)
        groups += textwrap.fill(" ".join(marked), 120, initial_indent=f"  {group:<20} ", subsequent_indent=" " * 23)
        groups += "\n"
    return HELP.format(name=NAME, knobs="".join(lines), groups=groups)
