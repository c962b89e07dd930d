"""Does each generated clip lie among the real ones, and each real one among the generated?"""

import torch
from jaxtyping import Bool
from torch import Tensor

from ..refusal import check_least
from .sets import Others, Rows, SetMetric


def among(rows: Rows, manifold: Others, neighbours: int) -> Bool[Tensor, " n"]:
    """Which rows lie in a ball around some row of the manifold that reaches to its `neighbours`-th nearest.

    >>> among(torch.tensor([[1.4], [2.4]]), torch.tensor([[0.0], [1.0]]), 1).tolist()
    [True, False]
    """
    own = torch.cdist(manifold, manifold, compute_mode="donot_use_mm_for_euclid_dist")
    radius = own.kthvalue(neighbours + 1, dim=1).values  # its own distance, 0, is the first
    return (torch.cdist(rows, manifold, compute_mode="donot_use_mm_for_euclid_dist") <= radius).any(1)


class PrecisionRecall(SetMetric):
    """`precision`: the share of generated clips among the real ones; `recall`: of real ones among the generated
    (Kynkäänniemi 2019). A collapse has recall near 0 at a precision near that of real clips; what is merely bad has
    little of both."""

    def __init__(self, *, neighbours: int = 5, most: int = 1000, splits: int = 20, seed: int = 0) -> None:
        super().__init__("precision_recall", splits=splits, seed=seed)
        check_least("metric.precision_recall", 1, neighbours=neighbours)
        check_least("metric.precision_recall", neighbours + 1, most=most)
        self.neighbours, self.most, self.least = neighbours, most, neighbours + 1

    def compare(self, real: Rows, generated: Others) -> dict[str, float]:
        return {
            "precision": float(among(generated, real, self.neighbours).double().mean()),
            "recall": float(among(real, generated, self.neighbours).double().mean()),
        }
