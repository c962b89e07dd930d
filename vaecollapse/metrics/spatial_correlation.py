"""Does each member have its rain where the truth has it?"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .fields import FieldMetric, Fields


def spatial_correlation(
    members: Float[Tensor, "members times height width"],
    truth: Float[Tensor, "times height width"],
    valid: Bool[Tensor, "times height width"],
) -> Float[Tensor, "members times"]:
    """Pearson's r over the valid cells of each member and time; NaN where a field is constant.

    >>> field = torch.arange(4.0).reshape(1, 2, 2)
    >>> spatial_correlation(torch.stack([2 * field, -field, 0 * field]), field, torch.ones(1, 2, 2).bool()).T
    tensor([[ 1., -1., nan]])
    """
    cells = valid.sum((-2, -1)).clamp(min=1)[:, None, None]

    def centred(field: Tensor) -> Tensor:
        seen = torch.where(valid, field, 0)
        return torch.where(valid, field - seen.sum((-2, -1), keepdim=True) / cells, 0)

    true, found = centred(truth), []
    for member in members:
        own = centred(member)
        lengths = torch.linalg.vector_norm(own, dim=(-2, -1)) * torch.linalg.vector_norm(true, dim=(-2, -1))
        found.append(torch.where(lengths > 0, (own * true).sum((-2, -1)) / lengths, torch.nan))
    return torch.stack(found)


class SpatialCorrelation(FieldMetric):
    """`spatial_correlation`: the mean over times and members; constant fields, such as dry ones, are left out and
    counted."""

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        found = spatial_correlation(generated, real.values, valid).double()
        defined = torch.isfinite(found)
        return torch.stack([torch.where(defined, found, 0).sum(0), defined.sum(0), (~defined).sum(0)], 1)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        return {"spatial_correlation": sums[..., 0] / sums[..., 1]}

    def note(self, name: str) -> str:
        undefined = int(self.by_block()[1][:, 2].sum())
        return f"{undefined} pairs of fields with a constant one left out" if undefined else ""
