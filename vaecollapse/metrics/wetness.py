"""How often it rains, and how much when it does."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .fields import FieldMetric, Fields, positive


def wet_sums(
    fields: Float[Tensor, "times height width"], valid: Bool[Tensor, "times height width"], wet: float
) -> Float[Tensor, "times two"]:
    """Of the valid cells with at least `wet` mm the number, and their sum in mm."""
    above = ((fields >= wet) & valid).to(fields)
    return torch.stack([above.sum((-2, -1)), torch.einsum("thw,thw->t", fields, above)], 1).double()


class Wetness(FieldMetric):
    """`wet_fraction`: the share of cells with at least `wet` mm. `sdii` in mm: their mean, the simple daily intensity
    index where a step is a day (ETCCDI). Both beside the truth's; SDII is not defined where none is wet."""

    def __init__(self, *, wet: float = 1.0) -> None:
        super().__init__()
        positive("wetness", wet=wet)
        self.wet = wet

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        made = torch.stack([wet_sums(member, valid, self.wet) for member in generated]).mean(0)
        return torch.cat([made, wet_sums(real.values, valid, self.wet), valid.sum((-2, -1))[:, None]], 1)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        made, amount, true, true_amount, cells = sums.unbind(-1)
        return {
            "wet_fraction": made / cells,
            "wet_fraction/truth": true / cells,
            "sdii": amount / made,
            "sdii/truth": true_amount / true,
        }
