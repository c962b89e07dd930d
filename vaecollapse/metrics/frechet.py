"""Two sets as two Gaussians: how far apart, and how far with infinitely many clips."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..refusal import check_least
from .sets import Others, Rows, SetMetric


def deviations(rows: Rows) -> Float[Tensor, "n d"]:
    """X with XᵀX the unbiased covariance."""
    return (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5


def frechet_distance(real: Rows, generated: Others) -> float:
    """‖m − m′‖² + tr Σ + tr Σ′ − 2 tr (Σ Σ′)^½ of the sets' means and unbiased covariances (Fréchet 1957; of audio
    Kilgour 2019), in squared units of the rows.

    The last trace is the sum of singular values of R R′ᵀ, R from X = QR: no root of a matrix, never complex, whatever
    the rank.

    >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]]))
    18.0
    """
    a, b = (deviations(rows.double()) for rows in (real, generated))
    roots = torch.linalg.qr(a, mode="r").R @ torch.linalg.qr(b, mode="r").R.T
    apart = (real.double().mean(0) - generated.double().mean(0)).square().sum()
    traces = a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(roots).sum()
    return max(0.0, round(float(apart + traces), 12))


class Frechet(SetMetric):
    """`fad`: the Fréchet distance. `fad_share`: over the real set's total variance tr Σ, without unit. Both rise as n
    falls: compare them at one n only, or with the real set's own."""

    def __init__(self, *, splits: int = 20, seed: int = 0) -> None:
        super().__init__("fad", splits=splits, seed=seed)

    def compare(self, real: Rows, generated: Others) -> dict[str, float]:
        distance = frechet_distance(real, generated)
        variance = float(real.var(0).sum())
        rank = min(len(real) - 1, real.shape[1])
        return {"fad": distance, "fad_share": distance / max(variance, 1e-12), "_rank": rank, "_d": real.shape[1]}

    def note(self, own: Mapping[str, float]) -> str:
        short = f": fewer clips than dimensions, covariances of rank {own['_rank']:.0f}"
        return f"{own['_d']:.0f} dimensions{short if own['_rank'] < own['_d'] else ''}"


class FrechetInfinity(SetMetric):
    """`fad_infinity`: the Fréchet distance extrapolated to n → ∞ (Chong & Forsyth 2020).

    The distance at n/j, the mean over j disjoint pairs of subsets, j = 1 … `parts`, is a line in j/n; its value at 0 is
    told, with the share R² of the distances' variance that the line explains. May be below 0.
    """

    def __init__(self, *, parts: int = 5, splits: int = 20, seed: int = 0) -> None:
        super().__init__("fad_infinity", splits=splits, seed=seed)
        check_least("metric.fad_infinity", 3, parts=parts)
        self.parts, self.least = parts, 2 * parts

    def compare(self, real: Rows, generated: Others) -> dict[str, float]:
        found = {
            f"_{j}": float(np.mean([frechet_distance(a, b) for a, b in pairs(real, generated, j)]))
            for j in range(1, self.parts + 1)
        }
        return {"fad_infinity": line(list(found.values()))[0], **found, "_n": len(real), "_d": real.shape[1]}

    def note(self, own: Mapping[str, float]) -> str:
        n, least = int(own["_n"]), int(own["_n"]) // self.parts
        r2 = line([own[f"_{j}"] for j in range(1, self.parts + 1)])[1]
        short = f", below {own['_d']:.0f} dimensions no line" if least <= own["_d"] else ""
        return f"R² {r2:.3f} over n = {least} … {n}{short}"


def pairs(real: Rows, generated: Others, j: int) -> list[tuple[Tensor, Tensor]]:
    """j disjoint pairs of subsets, all of one size."""
    size = len(real) // j
    return list(zip(real[: j * size].split(size), generated[: j * size].split(size), strict=True))


def line(values: list[float]) -> tuple[float, float]:
    """Of values at 1, 2, 3 … the straight line's value at 0, and R².

    >>> line([3.0, 5.0, 7.0])
    (1.0, 1.0)
    """
    at = np.arange(1, len(values) + 1)
    slope, start = np.polyfit(at, values, 1)
    total = float(np.var(values))
    left = float(np.var(np.array(values) - slope * at))
    return round(float(start), 12), 1 - left / total if total > 0 else 1.0
