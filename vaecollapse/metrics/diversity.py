"""How different the members are from one another, beside how different the truth is from its analogs."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..refusal import Refused
from .fields import FieldMetric, Fields


class Diversity(NamedTuple):
    """`value` NaN where fewer than two members are wet; `wet` members are not 0 everywhere."""

    value: Float[Tensor, " times"]
    wet: Int[Tensor, " times"]


def diversity(members: Float[Tensor, "members times height width"]) -> Diversity:
    """1 − mean pairwise cosine of the members at each time, over those that are not dry everywhere.

    Blind to scale; drizzle lowers it. As n/(n − 1)·mean‖u_k − ū‖² of unit fields u, so that it is exact near 0.

    >>> one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> diversity(torch.stack([one, other, 0 * one])[:, None])
    Diversity(value=tensor([1.]), wet=tensor([2]))
    """
    flat = members.flatten(2)
    norm = torch.linalg.vector_norm(flat, dim=2)
    wet = norm > 0
    n = wet.sum(0)
    scale = torch.where(wet, 1 / norm, 0)
    mean = torch.einsum("kt,ktn->tn", scale, flat) / n[:, None]
    spread = torch.zeros(n.shape, dtype=torch.float64, device=n.device)
    for field, each, own in zip(flat, scale, wet, strict=True):
        apart = torch.addcmul(-mean, field, each[:, None]).square().sum(1, dtype=torch.float64)
        spread += torch.where(own, apart, 0)
    return Diversity(torch.where(n > 1, spread / (n - 1), torch.nan).to(members.dtype), n)


def analogs(
    coarse: Float[Tensor, "times *field"], library: Float[Tensor, "n *field"], count: int, *, channel: int | None = None
) -> Int[Tensor, "times count"]:
    """For each condition the positions of the `count` nearest ones of the training split, nearest first (Euclidean;
    with `channel`, the axis of predictors, each in units of its own standard deviation on train).

    Raises Refused where the library has fewer.

    >>> analogs(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0], [3.0]]), 2).tolist()
    [[1, 0]]
    """
    if len(library) < count:
        raise Refused(f"{count} analogs of {len(library)} training fields: ask for no more than there are")
    if channel is not None:
        scale = library.std([axis for axis in range(library.ndim) if axis != channel], keepdim=True).clamp(min=1e-12)
        coarse, library = coarse / scale, library / scale
    distance = torch.cdist(coarse.flatten(1), library.flatten(1))
    return distance.topk(count, largest=False).indices


def analog_members(
    coarse: Float[Tensor, "times *field"],
    library: Float[Tensor, "n *field"],
    fine: Float[Tensor, "n height width"],
    count: int,
    *,
    channel: int | None = None,
) -> Float[Tensor, "count times height width"]:
    """The ensemble that nature has made: the fine fields of the nearest conditions of the training split."""
    return fine[analogs(coarse, library, count, channel=channel).T]


class EnsembleDiversity(FieldMetric):
    """`diversity`: the mean over times of 1 − mean pairwise cosine. `diversity_ratio`: over the same of the analogs
    (`Fields.reference`), on times where both are defined; 0.5 to 2 is healthy. A raw threshold of the diversity itself
    fits only some factors of downscaling.
    """

    least = 2

    def __init__(self, *, healthy: Sequence[float] = (0.5, 2.0)) -> None:
        super().__init__()
        if len(healthy) != 2 or not 0 < healthy[0] < healthy[1]:
            raise Refused(
                f"metric.diversity.healthy must be two rising numbers above 0, but got {healthy}: type [0.5,2]"
            )
        self.low, self.high = healthy

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        ours = diversity(generated)
        own = torch.isfinite(ours.value)
        theirs = torch.full_like(ours.value, torch.nan)
        if real.reference is not None:
            theirs = diversity(torch.where(valid, real.reference, 0).nan_to_num()).value.to(theirs)
        both = own & torch.isfinite(theirs)
        dry = len(generated) - ours.wet
        columns = (
            torch.where(own, ours.value, 0), own, torch.where(both, ours.value, 0), torch.where(both, theirs, 0),
            both, dry, ours.wet == 0, ours.wet == 1,
        )  # fmt: skip
        return torch.stack([column.double() for column in columns], 1)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        total, defined, ours, theirs, both, *_ = sums.unbind(-1)
        return {"diversity": total / defined, "diversity_ratio": ours / theirs, "diversity_of_analogs": theirs / both}

    def note(self, name: str) -> str:
        _, defined, ours, theirs, both, *dropped = self.by_block()[1].sum(0).tolist()
        if name == "diversity":
            kinds = ("dry members dropped", "times with all members dry", "times with one wet member")
            return ", ".join(f"{count:.0f} {kind}" for count, kind in zip(dropped, kinds, strict=True) if count)
        if not both:
            return "no training data to take analogs from" if defined else ""
        where = "within" if self.low <= ours / theirs <= self.high else "outside"
        return f"{where} {self.low:g} to {self.high:g}" if name == "diversity_ratio" else ""
