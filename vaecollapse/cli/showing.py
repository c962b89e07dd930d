"""What a terminal is shown."""

import logging
import sys
from pathlib import Path

from ..run import first_process


def show_diagnosis(outcome, form: str) -> None:
    """The table of a diagnosis, or its JSON alone, on stdout."""
    if form == "json":
        import json

        from ..run import plain

        print(json.dumps(plain(outcome.verdict.as_dict()), indent=1, ensure_ascii=False), flush=True)
        return
    from ..table import diagnosis_table

    show_tables(outcome.directory, diagnosis_table(outcome.verdict, outcome.source))


def show_evaluation(outcome) -> None:
    """The table of an evaluation, on stdout."""
    from ..ensembles.scoring import lines
    from ..table import evaluation_table, scores_table

    tables = [evaluation_table(outcome.verdict, outcome.figures, outcome.what)]
    if outcome.heard:
        tables.append(heard_table(outcome.heard))
    elif outcome.scores:
        tables.append(scores_table(lines(outcome.scores), outcome.scored))
    show_tables(outcome.directory, *tables)


def show_comparison(outcome) -> None:
    """The scores of two folders of sounds, on stdout."""
    show_tables(outcome.directory, heard_table(outcome.heard))


def heard_table(heard):
    """A set of sounds in words, and its scores."""
    from ..ensembles.scoring import lines
    from ..table import sounds_table

    return sounds_table(heard.judged, lines(heard.scores), heard.what, heard.said)


def show_scores(outcome) -> None:
    """The scores of a file, on stdout."""
    from ..ensembles.scoring import lines
    from ..table import scores_table

    show_tables(outcome.directory, scores_table(lines(outcome.scores), outcome.what))


def show_samples(outcome) -> None:
    """What was written and where, on stdout."""
    from ..table import samples_table

    show_tables(outcome.directory, samples_table(outcome.what, outcome.first))


def show_tables(directory: Path, *tables) -> None:
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
    from ..table import verdict_table

    show_tables(directory, *([] if verdict is None else [verdict_table(verdict)]))


class _Terminal(logging.Handler):
    """The package's log lines, plain; sys.stderr is looked up late, so that a progress bar can redirect it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def show_log() -> None:
    log = logging.getLogger("vaecollapse")
    if not first_process():
        log.addHandler(logging.NullHandler())
        return
    if not any(isinstance(handler, _Terminal) for handler in log.handlers):
        log.addHandler(_Terminal())
        log.setLevel(logging.INFO)
