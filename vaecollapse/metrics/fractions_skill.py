"""Is the heavy rain about where it was? Shares of cells above a threshold, in neighbourhoods."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..refusal import Refused
from .fields import FieldMetric, Fields, positive


def box_sums(fields: Float[Tensor, "*batch height width"], size: int) -> Float[Tensor, "*batch height width"]:
    """The sum over the size × size cells around each cell (an odd size); beyond the edge there are none.

    >>> box_sums(torch.ones(3, 3), 3)
    tensor([[4., 6., 4.],
            [6., 9., 6.],
            [4., 6., 4.]])
    """
    if size == 1:
        return fields
    down, across = (near(length, size).to(fields) for length in fields.shape[-2:])
    return down @ (fields @ across)


def near(length: int, size: int) -> Float[Tensor, "length length"]:
    """1 where two positions along an axis lie within half a box of each other."""
    at = torch.arange(length)
    return ((at[:, None] - at).abs() <= size // 2).float()


def fractions_skill_sums(
    members: Float[Tensor, "members times height width"],
    truth: Float[Tensor, "times height width"],
    valid: Bool[Tensor, "times height width"],
    threshold: float,
    size: int,
) -> Float[Tensor, "times two"]:
    """Σ (p̂ − p)² and Σ (p̂² + p²) over cells and members, p the share of valid cells of at least `threshold` mm among
    the size × size around a cell. FSS = 1 − their ratio (Roberts & Lean 2008)."""
    share = torch.where(valid, 1 / box_sums(valid.to(truth), size), 0)

    def fractions(fields: Tensor) -> Tensor:
        return box_sums(((fields >= threshold) & valid).to(truth), size) * share

    true, found = fractions(truth), torch.zeros(len(truth), 2, dtype=torch.float64)
    square = true.square().sum((-2, -1))
    for member in members:
        made = fractions(member)
        both = square + made.square().sum((-2, -1))
        found += torch.stack([(made - true).square().sum((-2, -1)), both], 1).double().cpu()
    return found


class FractionsSkill(FieldMetric):
    """`fss_THRESHOLD_SIZE`: the fractions skill score of single members, from 0 to 1, for each threshold in mm and odd
    neighbourhood in cells. Useful above ½ + f/2, f the share of truths above the threshold. Not defined where neither
    truth nor members reach it.
    """

    def __init__(self, *, thresholds: Sequence[float] = (1.0, 10.0), sizes: Sequence[int] = (1, 5, 17)) -> None:
        super().__init__()
        positive("fractions_skill", thresholds=tuple(thresholds), sizes=tuple(sizes))
        if even := [size for size in sizes if size % 2 == 0]:
            raise Refused(f"metric.fractions_skill.sizes must be odd, but got {even[0]}: type {even[0] + 1}")
        self.thresholds, self.sizes = tuple(thresholds), tuple(sizes)

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        found = [valid.sum((-2, -1))[:, None].double().cpu()]
        for threshold in self.thresholds:
            found.append(((real.values >= threshold) & valid).sum((-2, -1))[:, None].double().cpu())
            found += [fractions_skill_sums(generated, real.values, valid, threshold, size) for size in self.sizes]
        return torch.cat(found, 1)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        found = {}
        for threshold, part in zip(self.thresholds, sums[..., 1:].chunk(len(self.thresholds), -1), strict=True):
            apart, both = part[..., 1:].unflatten(-1, (-1, 2)).unbind(-1)
            each = (1 - apart / both).unbind(-1)
            found |= {f"fss_{threshold:g}_{size}": skill for size, skill in zip(self.sizes, each, strict=True)}
        return found

    def note(self, name: str) -> str:
        sums = self.by_block()[1].sum(0)
        at = [f"{threshold:g}" for threshold in self.thresholds].index(name.split("_")[1])
        share = float(sums[1 + at * (1 + 2 * len(self.sizes))] / sums[0])
        return f"useful above {0.5 + share / 2:.3f}"
