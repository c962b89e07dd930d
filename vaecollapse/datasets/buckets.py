"""Orders in which a batch holds sequences of like length, so that little of it is padding."""

from math import ceil, sqrt

import numpy as np
from jaxtyping import Int

POOL = 256  # batches whose examples are sorted together: fewer pad more, all of an epoch would mix less

Lengths = Int[np.ndarray, "count part"]
Order = Int[np.ndarray, " chosen"]


def tiled(lengths: Lengths, order: Order, size: int) -> Order:
    """`order` rearranged so that each `size` in a row are of like lengths: sorted by the first, cut into slabs, each
    slab sorted by the second (Leutenegger et al. 1997); ties as in `order`. Of n batches, s slabs leave a batch about
    σ₁/s and σ₂ s/n of the spreads σ of the lengths, which is least for s = √(n σ₁/σ₂).

    >>> lengths = np.array([[9, 1], [2, 7], [9, 8], [2, 1], [9, 1], [2, 7], [9, 8], [2, 1]])
    >>> tiled(lengths, np.arange(8), 2)
    array([3, 7, 1, 5, 0, 4, 2, 6])
    """
    batches = ceil(len(order) / size)
    width = max(1, ceil(batches / _slabs(lengths[order], batches))) * size
    first = order[np.argsort(lengths[order, 0], kind="stable")]
    cuts = (first[start : start + width] for start in range(0, len(first), width))
    return np.concatenate([cut[np.argsort(lengths[cut, -1], kind="stable")] for cut in cuts] or [order])


def _slabs(lengths: Lengths, batches: int) -> int:
    if lengths.shape[1] == 1 or not batches:
        return 1
    first, second = lengths.std(0)
    return min(batches, max(1, round(sqrt(batches * first / second)))) if second else batches


def bucketed(lengths: Lengths, order: Order, *, size: int, world: int, rng: np.random.Generator) -> Order:
    """A training order from a random one: tiled in pools of `POOL` batches, then steps (a batch for each of `world`
    ranks) shuffled, so that neither lengths nor neighbours come in a fixed order."""
    stride = size * world
    pool = max(1, POOL // world) * stride
    sorted_ = np.concatenate([tiled(lengths, order[s : s + pool], size) for s in range(0, len(order), pool)] or [order])
    return rng.permutation(sorted_.reshape(-1, stride)).ravel()


def wasted(lengths: Lengths, order: Order, size: int) -> float:
    """Share of padding among the tokens of an epoch in this order: each part of a batch is as long as its longest.

    >>> wasted(np.array([[4], [1], [3]]), np.arange(3), 2)
    0.2727272727272727
    """
    batches = (lengths[order[start : start + size]] for start in range(0, len(order), size))
    return 1 - float(lengths[order].sum() / sum(len(batch) * batch.max(0).sum() for batch in batches))
