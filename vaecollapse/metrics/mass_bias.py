"""Does it rain as much as it did?"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .fields import FieldMetric, Fields


def masses(
    fields: Float[Tensor, "*members times height width"],
    valid: Bool[Tensor, "times height width"],
    area: Float[Tensor, "times height width"] | None = None,
) -> Float[Tensor, "*members times"]:
    """Σ area·mm over the valid cells of each field (area 1 where none is given)."""
    weight = valid.to(fields.dtype) if area is None else area.to(fields) * valid
    return torch.einsum("...thw,thw->...t", fields, weight)


class MassBias(FieldMetric):
    """`mass_bias` in %: (Σ m x̂ − Σ m y)/Σ m y over all times, m the cells' area, x̂ the mean of the members.

    Not defined where the truth is dry everywhere.
    """

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        made = torch.stack([masses(member, valid, real.area) for member in generated]).double().mean(0)
        return torch.stack([made, masses(real.values, valid, real.area).double()], 1)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        made, true = sums.unbind(-1)
        return {"mass_bias": torch.where(true > 0, 100 * (made - true) / true, torch.nan)}
