"""Which crops of a record are used, and for what: why the others are not, and how blocks of them fall to the splits."""

import logging
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..refusal import Refused
from .blocks import SPLITS, Dealt, dealt, equal_blocks, separated
from .crops import Record, Seen, Window
from .precipitation_options import Split

log = logging.getLogger(__name__)

KEPT, DRY, GAP, HOLE, UNKNOWN, NOWHERE = range(6)
REASONS = (
    "used",
    "drier than crop.min_wet_fraction",
    "in a gap between splits",
    "with cells missing at some times",
    "with predictors missing",
    "outside the coverage",
)


class Chosen(NamedTuple):
    """(moment, window) of each example of the three splits; the block of each moment or window; crops by `REASONS`."""

    examples: tuple[Int[np.ndarray, "example 2"], ...]
    block: Int[np.ndarray, "time window"]
    counts: Int[np.ndarray, " reason"]

    @property
    def windows(self) -> Int[np.ndarray, " window"]:
        """Those with examples."""
        return np.unique(np.concatenate(self.examples)[:, 1])

    def why(self) -> list[tuple[int, str]]:
        """How many crops are left out for which reason."""
        return [(int(count), reason) for count, reason in zip(self.counts[1:], REASONS[1:], strict=True) if count]


def choose(
    record: Record, windows: list[Window], seen: Seen, *, wet: float, mask: str, split: Split, seed: int
) -> Chosen:
    """Deals the crops that can be used to the splits, in an order keyed by the seed. Refused where one stays empty."""
    fate = _fates(record, windows, seen, wet)
    if mask == "error" and (holes := np.argwhere(fate == HOLE)).size:
        first = record.target.times.stamp(int(holes[0, 0]))
        raise Refused(
            f"{len(holes)} crops have cells missing at some times, the first at {first}; type dataset.mask=auto to "
            "leave them out"
        )
    found = _deal(record, windows, fate == KEPT, split, seed)
    fate[(fate == KEPT) & (found.split < 0)] = GAP
    rng = np.random.default_rng(seed)
    examples = tuple(rng.permutation(np.argwhere((fate == KEPT) & (found.split == number))) for number in range(3))
    chosen = Chosen(examples, found.block, np.bincount(fate.ravel(), minlength=len(REASONS)))
    for name, part, least in zip(SPLITS, examples, (2, 1, int(split.test_fraction > 0)), strict=True):
        if len(part) < least:
            why = ", ".join(f"{count} {reason}" for count, reason in chosen.why()) or "none left out"
            raise Refused(
                f"the {name} split has {len(part)} crops of {fate.size} ({why}); type another seed, or a smaller "
                "dataset.crop.min_wet_fraction, dataset.crop.size or dataset.split.gap"
            )
    return chosen


def planned(record: Record, windows: list[Window], split: Split, seed: int) -> Dealt | None:
    """How crops will fall to the splits, where that does not depend on their rain; None where it does."""
    if split.by == "time_block" and not equal_blocks(len(record.target), gap=split.gap, least=1):
        return None
    if split.by == "region":
        along, strip = _strips(record, windows)
        if not equal_blocks(int(strip.max()) + 1, gap=_whole_crops(record, along, split), least=4):
            return None
    return _deal(record, windows, np.ones((len(record.target), len(windows)), bool), split, seed)


def _strips(record: Record, windows: list[Window]) -> tuple[int, Int[np.ndarray, " window"]]:
    """The longer side, and the strip across it that each window lies in."""
    along = int(record.area.shape[1] > record.area.shape[0])
    return along, np.array([(window[along] - windows[0][along]) // record.sides[along] for window in windows])


def _whole_crops(record: Record, along: int, split: Split) -> int:
    """How many strips a gap leaves out."""
    return -(-split.gap // record.sides[along])


def _fates(record: Record, windows: list[Window], seen: Seen, wet: float) -> Int[np.ndarray, "time window"]:
    never = np.array([int(seen.never[record.cells(window)].sum()) for window in windows])
    size = int(np.prod(record.sides))
    fate = np.where(seen.wet < wet, DRY, KEPT)
    fate[~seen.complete] = UNKNOWN
    fate[seen.missing > never] = HOLE
    fate[:, never == size] = NOWHERE
    return fate


def _deal(
    record: Record, windows: list[Window], usable: Bool[np.ndarray, "time window"], split: Split, seed: int
) -> Dealt:
    """Of each moment and window its split, −1 in a gap, and its block. Regions are strips across the longer side."""
    plan: dict[str, Any] = dict(validation=split.val_fraction, test=split.test_fraction, seed=seed)
    if split.by == "region":
        along, strip = _strips(record, windows)
        weights = np.bincount(strip, usable.sum(0))
        strips = dealt(weights, gap=_whole_crops(record, along, split), least=4, **plan)
        return Dealt(*(np.broadcast_to(each[strip], usable.shape) for each in strips))
    if split.by == "year":
        times = separated(np.array([stamp[0] for stamp in record.target.times.stamps]), gap=split.gap, **plan)
    else:
        times = dealt(usable.sum(1).astype(float), gap=split.gap, least=1, **plan)
    return Dealt(*(np.broadcast_to(each[:, None], usable.shape) for each in times))
