"""The wettest day of each cell."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from .base import Score
from .fields import FieldMetric, Fields


class Rx1Day(FieldMetric):
    """`rx1day` in mm: the mean over cells and blocks of the largest amount of a day (ETCCDI's, where a block is a
    year), of each member by itself, beside the truth's. Not defined where a step is no day."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("place", [], dist_reduce_fx="cat", persistent=True)
        self.add_state("days", torch.ones((), dtype=torch.long), dist_reduce_fx="min", persistent=True)

    def take(self, real: Fields, generated: Tensor, valid: Tensor) -> None:
        self.days = self.days.clamp(max=int(real.unit == "mm/day"))
        if not self.days:
            generated, valid = generated[:, :, :1, :1], valid[:, :1, :1]  # what is counted is the blocks
            real = real._replace(values=real.values[:, :1, :1])
        fields = torch.cat([real.values[None], generated]).masked_fill(~valid, -torch.inf)
        own, at = torch.stack([real.labels("block"), real.labels("place")], 1).unique(dim=0, return_inverse=True)
        peaks = [fields[:, at == row].amax(1).flatten().cpu() for row in range(len(own))]
        self.highest(own, torch.stack(peaks))

    def highest(self, keys: Shaped[Tensor, "rows two"], peaks: Float[Tensor, "rows n"]) -> None:
        """The largest value of each column for each (block, place), beside those that are kept."""
        block, place = (self.kept(name, key) for name, key in zip(("block", "place"), keys.unbind(1), strict=True))
        own, at = torch.stack([block, place], 1).unique(dim=0, return_inverse=True)
        every = self.kept("sums", peaks.float())
        found = torch.full((len(own), every.shape[1]), -torch.inf).scatter_reduce_(
            0, at[:, None].expand_as(every), every, "amax"
        )
        self.block, self.place, self.sums = ([each] for each in (*own.unbind(1), found))

    def by_block(self) -> tuple[Shaped[Tensor, " blocks"], Float[Tensor, "blocks n"]]:
        """Σ over cells of members' peaks, of the truth's, and the number of cells, by block."""
        if not len(self.block):
            return super().by_block()
        width = (self.sums[0] if isinstance(self.sums, list) else self.sums).shape[-1]
        self.highest(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, width))  # ranks may share a place
        peaks = self.sums[0].unflatten(1, (int(self.members) + 1, -1))
        seen = torch.isfinite(peaks[:, :1])
        peaks = torch.where(seen, peaks, 0)
        rows = torch.stack([peaks[:, 1:].mean(1).sum(1), peaks[:, 0].sum(1), seen.sum((1, 2))], 1).double()
        block, at = self.block[0].unique(return_inverse=True)
        return block, rows.new_zeros(len(block), 3).index_add_(0, at, rows)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        made, true, cells = sums.unbind(-1)
        return {"rx1day": made / cells, "rx1day/truth": true / cells}

    def scores(self) -> list[Score]:
        found = super().scores()
        why = "a step is no day"
        return found if self.days else [each._replace(value=None, se=None, truth=None, note=why) for each in found]
