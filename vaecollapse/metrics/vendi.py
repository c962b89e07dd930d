"""How many different clips there are, in effect."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..refusal import check_least
from .sets import Others, Rows, SetMetric


def apart(rows: Rows) -> Float[Tensor, "n n"]:
    """Distances in pairs; of copies exactly 0. A fifth of the time of cdist that promises as much."""
    found = rows.new_zeros(len(rows), len(rows))
    first, second = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    found[first, second] = found[second, first] = torch.pdist(rows)
    return found


def vendi_score(rows: Rows, bandwidth: float) -> float:
    """exp of the entropy of the eigenvalues of K/n, K = exp(−‖x − y‖²/bandwidth²) (Friedman & Dieng 2023): 1 for copies
    of one clip, n for clips that have nothing in common.

    >>> round(vendi_score(torch.tensor([[0.0], [0.0], [9.0], [9.0]]), 1.0), 6)
    2.0
    """
    return different(apart(rows), bandwidth)


def different(distances: Float[Tensor, "n n"], bandwidth: float) -> float:
    """The Vendi score of rows so far apart."""
    values = torch.linalg.eigvalsh(torch.exp(-(distances.double() / bandwidth).square()) / len(distances))
    values = values[values > 1e-12]
    return float(torch.exp(-(values * values.log()).sum()))


def nearest(distances: Float[Tensor, "n n"]) -> float:
    """The median distance of a row to the nearest other."""
    return float(distances.clone().fill_diagonal_(torch.inf).amin(1).median())


class Vendi(SetMetric):
    """`vendi_ratio`: the Vendi score over the real set's, and `vendi` itself. The bandwidth is the median distance of a
    real clip to the nearest other, so that two takes of one sound are nearly two: the score counts clips rather than
    kinds of them, and a set that is only dull or noisy keeps most of it. Rows are not whitened: what differs by little
    would count for as much as what differs a lot."""

    whitened = False

    def __init__(self, *, most: int = 500, splits: int = 20, seed: int = 0) -> None:
        super().__init__("vendi", splits=splits, seed=seed)
        check_least("metric.vendi", 2, most=most)
        self.most = most

    def compare(self, real: Rows, generated: Others) -> dict[str, float]:
        distances = apart(real)
        bandwidth = max(nearest(distances), 1e-12)
        own = vendi_score(generated, bandwidth)
        return {"vendi_ratio": own / different(distances, bandwidth), "vendi": own}
