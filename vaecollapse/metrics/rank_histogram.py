"""Where the truth lies among the members: everywhere alike, if the ensemble is reliable."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..refusal import check_least
from .base import Score
from .fields import FieldMetric, Fields, permutation_p, permuted, sign_flips


def ranks(
    members: Float[Tensor, "members times *cells"],
    truth: Float[Tensor, "times *cells"],
    *,
    index: Int[Tensor, " times"] | None = None,
    seed: int = 0,
) -> Int[Tensor, "times *cells"]:
    """The rank of the truth among the members, 0 to K; ties, such as dry cells, are broken at random (Hamill 2001), by
    noise keyed with (seed, index).

    >>> ranks(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([3.0])).tolist()
    [2]
    """
    below, tied = (torch.zeros(truth.shape, dtype=torch.int32) for _ in range(2))
    for member in members:
        below += (member < truth).cpu()
        tied += (member == truth).cpu()
    positions = range(len(truth)) if index is None else index.tolist()
    for at, position in enumerate(positions):
        drawn = np.random.Generator(np.random.Philox(key=[seed, position])).random(truth.shape[1:], dtype=np.float32)
        below[at] += (torch.from_numpy(np.asarray(drawn)) * (tied[at] + 1)).int().clamp(max=tied[at])
    return below


class RankHistogram(FieldMetric):
    """`rank_reliability`: Σ_r |f_r − 1/(K + 1)|, 0 for a flat histogram (Delle Monache 2006). `rank_outliers`: the
    share of truths beyond all members over the 2/(K + 1) that a perfect ensemble leaves there; above 1 where the
    ensemble is too sure. `rank_flatness_p`: of Σ_r (counts − expected)² against sign flips of whole blocks, since
    cells hang together. `histogram` has the shares.
    """

    def __init__(self, *, permutations: int = 999, seed: int = 0) -> None:
        super().__init__()
        check_least("metric.rank_histogram", 19, permutations=permutations)
        self.permutations, self.seed = permutations, seed

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        found = ranks(generated, real.values, index=real.labels("index"), seed=self.seed)
        size, times = len(generated) + 1, len(found)
        at = found + size * torch.arange(times)[:, None, None]
        counts = torch.bincount(at[valid.cpu()].long(), minlength=size * times).reshape(times, size)
        tied = ((generated == real.values).all(0) & valid).sum((-2, -1)).cpu()
        return torch.cat([counts, tied[:, None]], 1).double()

    def histogram(self) -> Float[Tensor, " ranks"]:
        """The share of truths at each rank, 0 to K."""
        counts = self.by_block()[1].sum(0)[:-1]
        return counts / counts.sum()

    def flatness_p(self) -> float | None:
        """Of Σ_r (Σ_b s_b (counts − expected))², None with too few blocks."""
        counts = self.by_block()[1][:, :-1]
        apart = counts - counts.mean(1, keepdim=True)
        return permutation_p(sign_flips(apart, permutations=self.permutations, seed=self.seed).square().sum(1))

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        counts = sums[..., :-1]
        share, size = counts / counts.sum(-1, keepdim=True), counts.shape[-1]
        return {
            "rank_reliability": (share - 1 / size).abs().sum(-1),
            "rank_outliers": (share[..., 0] + share[..., -1]) * size / 2,
        }

    def beside(self) -> list[Score]:
        return [permuted("rank_flatness_p", self.flatness_p(), len(self.by_block()[0]), int(self.times))]

    def note(self, name: str) -> str:
        sums = self.by_block()[1]
        tied = float(sums[:, -1].sum() / sums[:, :-1].sum())
        return f"{tied:.0%} of truths tie with all members" if name == "rank_reliability" and tied else ""
