"""What set-up gathers of a record while it reads it: statistics of training, and crops that are held in memory."""

from collections.abc import Sequence

import numpy as np

from ..batch import Batch
from .blocks import Dealt
from .choosing import Chosen
from .crops import Frames, Record, Seen, Window
from .fields import HeldFields, Statistics


class Passed:
    """What the pass over a record keeps of it: all fields where there is `room`, else the statistics of those crops of
    training of which `plan` and their own rain tell at once that they are used. `whole`: these are all of them."""

    def __init__(
        self, record: Record, windows: Sequence[Window], statistics: Statistics, room: bool, plan: Dealt | None,
        wet: float,
    ) -> None:  # fmt: skip
        self.record, self.windows, self.statistics, self.room, self.wet = record, windows, statistics, room, wet
        self.train = None if plan is None else plan.split == 0
        self.frames: dict[int, Frames] = {}
        self.whole = False

    def __call__(self, start: int, stop: int, frames: Frames, seen: Seen) -> None:
        if self.room:
            self.frames[start] = frames
        if self.train is None:
            return
        wet, missing, complete, train = (
            each[start:stop] for each in (seen.wet, seen.missing, seen.complete, self.train)
        )
        used = train & (wet >= self.wet) & (missing == 0) & complete
        for number in np.flatnonzero(used.any(0)).tolist():
            self.statistics.update(self.record.cut(frames, np.flatnonzero(used[:, number]), self.windows[number]))

    def finish(self, chosen: Chosen, seen: Seen) -> None:
        """Crops with cells that have no value could not be told from those with a gap."""
        moments, numbers = chosen.examples[0].T
        self.whole = self.train is not None and not seen.missing[moments, numbers].any()


def read(
    record: Record,
    windows: Sequence[Window],
    examples: Sequence[np.ndarray],
    statistics: Statistics | None,
    stores: Sequence[HeldFields],
    kept: dict[int, Frames],
) -> None:
    """Reads training, and what is to be held, chunk by chunk, where it is not kept from before."""
    for start, stop in record.chunks():
        frames = None
        for split, part in enumerate(examples[: len(stores) or 1]):
            there = np.flatnonzero((part[:, 0] >= start) & (part[:, 0] < stop))
            for number in np.unique(part[there, 1]):
                frames = frames or kept.get(start) or record.frames(start, stop)
                rows = there[part[there, 1] == number]
                rows = rows[np.argsort(part[rows, 0])]  # as in the first pass: sums are the same to the bit
                batch = record.cut(frames, part[rows, 0] - start, windows[number])
                if split == 0 and statistics is not None:
                    statistics.update(batch)
                if stores:
                    _keep(stores[split], rows, batch)


def _keep(store: HeldFields, rows: np.ndarray, batch: Batch) -> None:
    assert batch.context is not None
    store.x[rows], store.context[rows] = batch.x, batch.context
    if store.mask is not None and batch.mask is not None:
        store.mask[rows] = batch.mask
