"""The score of an ensemble that rewards being sharp and right, cell by cell."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..refusal import Refused
from .fields import FieldMetric, Fields


def crps(
    members: Float[Tensor, "members *cells"], truth: Float[Tensor, "*cells"], *, fair: bool = True
) -> Float[Tensor, "*cells"]:
    """E|X − y| − ½ E|X − X'| in the units of y. `fair`: the second mean over pairs of different members, so that the
    expectation does not depend on K and is least for members of the truth's own law (Ferro 2014); else over all K²
    pairs, which is the CRPS of the empirical distribution (Gneiting & Raftery 2007).

    Raises Refused for a fair one of a single member.

    >>> crps(torch.tensor([0.0, 1.0]), torch.tensor(0.5)), crps(torch.tensor([0.0, 1.0]), torch.tensor(0.5), fair=False)
    (tensor(0.), tensor(0.2500))
    """
    count = len(members)
    if fair and count < 2:
        raise Refused("the fair CRPS needs at least 2 members, but got 1: draw more, such as n=10")
    apart = torch.from_numpy(np.sort((members - truth).cpu().numpy(), axis=0)).to(truth.device)
    rank = torch.arange(1, count + 1, dtype=apart.dtype, device=apart.device)
    pairs = torch.tensordot(2 * rank - count - 1, apart, 1) / (count * (count - 1) if fair else count**2)
    return apart.abs().mean(0) - pairs


class CRPS(FieldMetric):
    """`crps` in mm: the fair one, the mean over valid cells. `mae_of_mean`: the mean absolute error of the ensemble's
    mean, which a collapsed ensemble has as its CRPS."""

    least = 2

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        score = crps(generated, real.values)  # 0 where nothing is valid: all is 0 there
        error = (generated.mean(0) - real.values).abs()
        return torch.stack([part.sum((-2, -1)) for part in (score, error, valid)], 1)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        score, error, cells = sums.unbind(-1)
        return {"crps": score / cells, "mae_of_mean": error / cells}
