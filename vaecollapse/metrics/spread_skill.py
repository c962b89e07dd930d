"""Is the ensemble as uncertain as it is wrong?"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .fields import FieldMetric, Fields


class SpreadSkill(FieldMetric):
    """`spread_skill`: √((K + 1)/K)·spread/RMSE of the ensemble's mean, spread² the mean of the members' unbiased
    variance (Fortin 2014). 1 for a perfect ensemble of any size, below 1 for one that is too sure. Not defined where
    the mean is never wrong.
    """

    least = 2

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        mean = generated.mean(0)
        square = torch.zeros_like(mean)
        for member in generated:
            square += (member - mean).square()
        parts = (square / (len(generated) - 1), (mean - real.values).square(), valid)
        return torch.stack([part.sum((-2, -1)) for part in parts], 1)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        variance, error, cells = sums.unbind(-1)
        spread, rmse = ((self.members + 1) / self.members * variance / cells).sqrt(), (error / cells).sqrt()
        return {"spread_skill": torch.where(rmse > 0, spread / rmse, torch.nan), "rmse_of_mean": rmse}
