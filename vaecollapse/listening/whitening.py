"""Principal directions of a set, each brought to variance one."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


def shrinkage(deviations: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d d"], float, float]:
    """S = XᵀX/n, its mean eigenvalue m, and ρ of (1 − ρ) S + ρ m I, the estimate of least expected square error
    (Ledoit & Wolf 2004)."""
    n, d = deviations.shape
    s = deviations.T @ deviations / n
    mean = float(s.diagonal().mean())
    apart = float((s - mean * torch.eye(d).to(s)).square().sum())
    noise = float((deviations.square().sum(1).square().sum() / n - s.square().sum()) / n)
    return s, mean, min(1.0, noise / apart) if apart > 0 else 1.0


class Whitening(NamedTuple):
    """y = (x − mean) · directions: of the set it was fitted to nearly uncorrelated, with variance nearly one."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "d k"]

    @classmethod
    def of(cls, rows: Float[Tensor, "n d"], dimensions: int) -> "Whitening":
        """The `dimensions` directions of the largest variance, their variances shrunk, so that a small one is not blown
        up by what few rows happen to say."""
        rows = rows.double()
        mean = rows.mean(0)
        s, middle, rho = shrinkage(rows - mean)
        values, vectors = torch.linalg.eigh(s)
        kept = slice(max(0, len(values) - dimensions), None)
        scale = (rho * middle + (1 - rho) * values[kept].clamp_min(0)).clamp_min(1e-12).sqrt()
        return cls(mean, (vectors[:, kept] / scale).flip(1))

    def __call__(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return (rows.double() - self.mean) @ self.directions
