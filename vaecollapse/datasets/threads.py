"""One function on many files: a few at a time, results in order, with a sign of life when it takes long."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

THREADS = min(8, os.cpu_count() or 1)  # libsndfile works outside Python's lock
PATIENCE, SILENCE = 1.0, 10.0  # seconds before the first sign of life, and between lines without a terminal

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], *, doing: str, chunk: int = 1
) -> Iterator[Result]:
    """`map(function, items)`, `chunk` of them at once in each thread; few results wait, so they need little memory."""

    def some(part: Sequence[Item]) -> list[Result]:
        return [function(item) for item in part]

    def results() -> Iterator[Result]:
        waiting: deque[Future[list[Result]]] = deque()
        pool = ThreadPoolExecutor(THREADS)
        try:
            for start in range(0, len(items), chunk):
                waiting.append(pool.submit(some, items[start : start + chunk]))
                if len(waiting) > 2 * THREADS:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    return watched(results(), len(items), doing=doing)


def watched(results: Iterable[Result], total: int, *, doing: str) -> Iterator[Result]:
    """The same results; a bar on a terminal, lines in the log elsewhere, once `PATIENCE` is over."""
    bar, due = None, time.monotonic() + PATIENCE
    try:
        for done, result in enumerate(results, 1):
            yield result
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
            elif time.monotonic() >= due:
                bar = _bar(doing, total)
                due = time.monotonic() + SILENCE
                if bar is None:
                    log.info("%s: %d of %d files", doing, done, total)
    finally:
        if bar is not None:
            bar.stop()


def _bar(doing: str, total: int) -> Progress | None:
    """A running bar where there is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True)
    bar.add_task(doing, total=total)
    bar.start()
    return bar
