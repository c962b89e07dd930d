"""Two sets by all moments up to the third: a distance whose estimate is unbiased at any n."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..refusal import check_least
from .sets import Others, Rows, SetMetric


def polynomial_mmd(
    real: Rows, generated: Others, *, centre: Float[Tensor, " d"], scale: Float[Tensor, ""] | float, degree: int = 3
) -> float:
    """The unbiased estimate of MMD² (Gretton 2012) under k(x, y) = ((x − c)·(y − c)/s + 1)^degree (Bińkowski 2018,
    where c = 0 and s is the number of dimensions), without unit; below 0 half of the time where both are of one law.
    """
    x, y = real - centre, generated - centre
    within = [((rows @ rows.T / scale + 1) ** degree).fill_diagonal_(0.0).sum() / (len(rows) * (len(rows) - 1))
              for rows in (x, y)]  # fmt: skip
    return float(within[0] + within[1] - 2 * ((x @ y.T / scale + 1) ** degree).mean())


class KernelDistance(SetMetric):
    """`kernel_distance`: MMD² with a polynomial kernel whose bandwidth is the real set's: c its mean, s the mean of
    ‖x − c‖². The mean over pairs of disjoint subsets of at most `block` clips, which is as unbiased."""

    def __init__(self, *, degree: int = 3, block: int = 1000, splits: int = 20, seed: int = 0) -> None:
        super().__init__("kernel_distance", splits=splits, seed=seed)
        check_least("metric.kernel_distance", 1, degree=degree)
        check_least("metric.kernel_distance", 2, block=block)
        self.degree, self.block = degree, block

    def compare(self, real: Rows, generated: Others) -> dict[str, float]:
        centre = real.mean(0)
        scale = (real - centre).square().sum(1).mean().clamp_min(1e-12)
        parts = max(1, -(-len(real) // self.block))
        found = [
            polynomial_mmd(a, b, centre=centre, scale=scale, degree=self.degree)
            for a, b in zip(real.tensor_split(parts), generated.tensor_split(parts), strict=True)
        ]
        return {"kernel_distance": float(torch.tensor(found, dtype=torch.float64).mean())}
