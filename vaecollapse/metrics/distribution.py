"""Does it rain as hard, and as seldom? Two samples of amounts, whatever their place and time."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import kolmogorov
from torch import Tensor

from ..refusal import Refused, check_least
from .base import Score
from .fields import FieldMetric, Fields, permutation_p, permuted, positive, sign_flips

# amounts as a float32 rounds them: 256 steps in each of 24 octaves from 2^-10 mm on, so a step is at most 0.4 %;
# the first holds what is less, and is counted as 0
OCTAVES, FIRST, DROPPED_BITS = 24, 117, 15
STEPS = OCTAVES * 2 ** (23 - DROPPED_BITS) + 1


def distances(real: Float[Tensor, " n"], generated: Float[Tensor, " m"]) -> tuple[float, float]:
    """Of two samples the Kolmogorov–Smirnov distance max|F − G|, and the first Wasserstein distance ∫|F − G| dx, in the
    samples' unit.

    >>> distances(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.0]))
    (0.5, 1.0)
    """
    real_, generated_ = (np.sort(part.detach().cpu().numpy()) for part in (real, generated))
    both = np.sort(np.concatenate([real_, generated_]))
    cdf, other = (np.searchsorted(part, both, side="right") / len(part) for part in (real_, generated_))
    apart = np.abs(cdf - other)
    return float(apart.max()), float((apart[:-1] * np.diff(both.astype(np.float64))).sum())


def raw_p(distance: float, n: int, m: int) -> float:
    """The asymptotic p of a Kolmogorov–Smirnov distance between independent values. Cells are not independent: at
    10⁵ of them it rejects real against real nearly always."""
    return float(kolmogorov(distance * (n * m / (n + m)) ** 0.5))


def steps(values: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Amounts in mm as the numbers of their steps, 0 to `STEPS` − 1, in their order.

    >>> steps(torch.tensor([0.0, 0.0005, 1.0, 1.005])).tolist()
    [0, 0, 2561, 2562]
    """
    bits = values.float().contiguous().view(torch.int32)
    return ((bits >> DROPPED_BITS) - (FIRST << 23 - DROPPED_BITS) + 1).clamp(0, STEPS - 1)


def amounts() -> Float[Tensor, " steps"]:
    """The middle of each step in mm, 0 for the first."""
    edges = (torch.arange(STEPS, dtype=torch.int32) + (FIRST << 23 - DROPPED_BITS)) << DROPPED_BITS
    low = edges.view(torch.float32).double()
    return torch.cat([torch.zeros(1, dtype=torch.float64), (low[:-1] + low[1:]) / 2])


class Distribution(FieldMetric):
    """The truth's amounts against those of all members, over cells and times together.

    `ks`: the distance D, and `ks_p`: its p from 2^(B − 1) exchanges of truth and members within whole blocks
    (`permutations` of them drawn, where there are more). `w1` in mm. `p95` …: percentiles of the wet cells, those of at
    least `wet` mm, and `p95_ratio` over the truth's. Amounts are read to 0.4 %; below 0.001 mm they count as 0.
    """

    def __init__(
        self,
        *,
        quantiles: Sequence[float] = (95.0, 99.0, 99.9),
        wet: float = 0.1,
        permutations: int = 999,
        seed: int = 0,
    ) -> None:
        super().__init__()
        positive("distribution", quantiles=tuple(quantiles), wet=wet)
        if max(quantiles) >= 100:
            raise Refused(f"metric.distribution.quantiles are in %, below 100, but got {max(quantiles):g}")
        check_least("metric.distribution", 19, permutations=permutations)
        self.quantiles, self.wet, self.permutations, self.seed = tuple(quantiles), wet, permutations, seed

    def take(self, real: Fields, generated: Tensor, valid: Tensor) -> None:
        block, at = real.labels("block").unique(return_inverse=True)
        self.add(block, counts(real.values, valid, at, 0) + sum(counts(member, valid, at, 1) for member in generated))

    def cumulated(self, sums: Float[Tensor, "*blocks n"]) -> Float[Tensor, "*blocks two steps"]:
        """F of the truth and of the members on the steps."""
        held = sums.unflatten(-1, (2, STEPS))
        return held.cumsum(-1) / held.sum(-1, keepdim=True)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        where = amounts()
        cdf = self.cumulated(sums)
        apart = (cdf[..., 0, :] - cdf[..., 1, :]).abs()
        found = {"w1": (apart[..., :-1] * where.diff()).sum(-1)}
        wet = sums.unflatten(-1, (2, STEPS)) * (where >= self.wet)
        below = wet.cumsum(-1)
        for percent in self.quantiles:
            wanted = below[..., -1:] * (percent / 100)
            at = where[torch.searchsorted(below, wanted).clamp(max=STEPS - 1)].squeeze(-1)
            true, made = torch.where(below[..., -1] > 0, at, torch.nan).unbind(-1)
            name = f"p{percent:g}"
            found |= {name: made, f"{name}/truth": true, f"{name}_ratio": made / true}
        return found

    def beside(self) -> list[Score]:
        block, sums = self.by_block()
        held = sums.unflatten(-1, (2, STEPS))
        n, m = (int(each) for each in held.sum((0, 2)))
        each = (held.cumsum(-1) / held.sum((0, 2))[:, None]).diff(dim=1).squeeze(1)
        found = sign_flips(each, permutations=self.permutations, seed=self.seed).abs().amax(1)
        raw = f"raw p {raw_p(float(found[0]), n, m):.1g}, not independent"
        return [
            Score("ks", float(found[0]), n=int(self.times), blocks=len(block), note=raw),
            permuted("ks_p", permutation_p(found), len(block), int(self.times)),
        ]


def counts(
    values: Float[Tensor, "times h w"], valid: Bool[Tensor, "times h w"], at: Int[Tensor, " times"], side: int
) -> Float[Tensor, "blocks n"]:
    """How many valid cells fall into each step, by block, on the truth's side (0) or the members' (1)."""
    blocks = int(at.max()) + 1
    place = steps(values).cpu() + (STEPS * at.to(torch.int32))[:, None, None]
    place = place.flatten() if valid.all() else place[valid.cpu()]
    found = torch.zeros(blocks, 2, STEPS, dtype=torch.float64)
    found[:, side] = torch.bincount(place, minlength=blocks * STEPS).reshape(blocks, STEPS)
    return found.flatten(1)
