"""What processes do alike that are started one by one as the ranks of a job, as SLURM starts the tasks of a step: the
first decides and writes it down, the others read it; where one comes to nothing, the others do not wait for it.

They share nothing yet but a file system. A word is kept under SLURM's number of the job, of its step and of how often
the job was put back into the queue, so that none is taken for that of an earlier start.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .files import read_object, write_object
from .refusal import Refused

FOLDER = ".tasks"  # of a sweep
PATIENCE, PAUSE = 300.0, 0.1  # seconds: until the first task must have decided; between two looks
START = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")


class Group(NamedTuple):
    """The tasks of a job of a sweep: which of how many this one is, and the folder of their words."""

    folder: Path
    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, sweep: Path, job: int) -> "Group":
        """As srun says it; a group of one in any process that it did not start.

        >>> Group.of(Path("sweep"), 3).size
        1
        """
        start = "-".join(os.environ.get(name, "0") for name in START)
        if "SLURM_STEP_ID" not in os.environ:
            return cls(sweep / FOLDER)
        rank, size = (int(os.environ.get(*name)) for name in (("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")))
        return cls(sweep / FOLDER / f"{start}-{job}", rank, size)

    def agreed(self, decide: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What the first task decides; on the others `decide` is not called. Refused where it does not say so."""
        if self.size == 1:
            return decide()
        word = self.folder / "decided.json"
        if self.rank == 0:
            try:
                write_object(word, decide())
            except BaseException:
                self.tell(1)
                raise
        until = time.monotonic() + PATIENCE
        while not (found := read_object(word)):
            if self.lost() == 0:
                raise Refused(f"the first of {self.size} tasks could not decide where the job lies: look into its log")
            if time.monotonic() > until:
                raise Refused(
                    f"task {self.rank} of {self.size} waited {PATIENCE:g} s for the first to write {word}: give the "
                    "sweep a folder that all nodes see, hydra.sweep.dir=…, and look into the first task's log"
                )
            time.sleep(PAUSE)
        return found

    def tell(self, code: int) -> None:
        """This task's part came to nothing."""
        if self.size > 1:
            with contextlib.suppress(OSError):  # on a full disk an empty file may have room
                word = self.folder / f"{self.rank}.json"
                word.parent.mkdir(parents=True, exist_ok=True)
                word.touch()
                write_object(word, {"code": code})

    def lost(self) -> int | None:
        """The rank of another whose part came to nothing; None while all of them go on or have ended well."""
        others = (rank for rank in range(self.size) if rank != self.rank)
        return next((rank for rank in others if (self.folder / f"{rank}.json").exists()), None)
