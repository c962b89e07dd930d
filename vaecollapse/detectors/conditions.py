"""Whose z may stand in for whose: permutations that stay within a condition c, so that c's own effect is not read as
z's."""

import hashlib

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def derangements(n: int, count: int, key: tuple[int, ...]) -> Int[Tensor, "count n"]:
    """Permutations without a fixed point: distinct shifts along a random order, keyed.

    >>> p = derangements(5, 4, (0, 0)); bool((p == torch.arange(5)).any()), p.sort().values.unique(dim=0).tolist()
    (False, [[0, 1, 2, 3, 4]])
    """
    rng = np.random.default_rng(key)
    order = rng.permutation(n)
    shifts = 1 + rng.permutation(n - 1)[:count]
    table = np.empty((len(shifts), n), dtype=np.int64)
    for row, shift in enumerate(shifts):
        table[row, order] = np.roll(order, shift)
    return torch.from_numpy(table)


def labels(context: Shaped[Tensor, "batch *context"]) -> Int[Tensor, " batch"]:
    """One number per condition, equal where every element of two contexts is (a hash, so the same on any rank), how far
    tokens may be padded.

    >>> a, b, c = labels(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])).tolist(); a == c, a == b
    (True, False)
    >>> torch.equal(labels(torch.tensor([[7, 8]])), labels(torch.tensor([[7, 8, 0]])))
    True
    """
    rows = context.detach().cpu().reshape(len(context), -1)
    rows = rows.double() + 0.0 if rows.is_floating_point() else rows.contiguous()  # −0 is 0
    padded = not rows.is_floating_point() and rows.dtype != torch.bool
    written = [row.numpy().tobytes().rstrip(b"\0") if padded else row.numpy().tobytes() for row in rows]
    digests = [hashlib.blake2b(row, digest_size=8).digest() for row in written]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def are_shared(label: Int[Tensor, " batch"]) -> bool:
    """Is c discrete: do at least half of the examples share it with another one?"""
    _, inverse, counts = label.unique(return_inverse=True, return_counts=True)
    return bool((counts[inverse] > 1).double().mean() >= 0.5)


def are_names(context: Shaped[Tensor, "batch *context"]) -> bool:
    """Is c a name, one whole number or a one-hot row? Two names are equal or not, and none is nearer than another.

    >>> are_names(torch.tensor([3, 1, 2])), are_names(torch.eye(3)), are_names(torch.rand(3, 2))
    (True, True, False)
    """
    rows = context.detach().reshape(len(context), -1)
    if rows.shape[1] == 1:
        return not rows.is_floating_point()
    return bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(1) == 1).all())


def are_groups(context: Shaped[Tensor, "batch *context"]) -> bool:
    """Is z exchanged within equal conditions (else among near ones)? What I(x; z | c) and the value of z both go by."""
    return are_names(context) or are_shared(labels(context))


def within_groups(
    label: Int[Tensor, " batch"], count: int, key: tuple[int, ...]
) -> tuple[Int[Tensor, "count batch"], Bool[Tensor, " batch"]]:
    """Derangements within equal labels, and which examples have a partner at all.

    A group of two has one derangement, which then stands for all `count`.
    """
    table = torch.arange(len(label)).repeat(count, 1)
    paired = torch.zeros(len(label), dtype=torch.bool)
    for number, value in enumerate(label.unique()):
        members = (label == value).nonzero()[:, 0]
        if len(members) > 1:
            orders = derangements(len(members), count, (*key, number))
            table[:, members] = members[orders[torch.arange(count) % len(orders)]]
            paired[members] = True
    return table, paired


def distances(context: Shaped[Tensor, "batch *context"]) -> Float[Tensor, "batch batch"]:
    """Between conditions: Euclidean in standardised elements; of tokens, 1 − the cosine of their counts (0 is padding).

    >>> distances(torch.tensor([[7, 8, 0], [8, 7, 0], [9, 0, 0]])).round().tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    rows = context.detach().cpu().reshape(len(context), -1)
    if rows.is_floating_point():
        rows = rows.double()
        spread = rows.std(0)
        rows = (rows - rows.mean(0)) / torch.where(spread > 0, spread, 1.0)
        return torch.cdist(rows, rows)
    tokens, inverse = rows.unique(return_inverse=True)
    counts = torch.zeros(len(rows), len(tokens), dtype=torch.float64)
    counts.scatter_add_(1, inverse.reshape(len(rows), -1), torch.ones(rows.shape, dtype=torch.float64))
    counts = counts * (tokens != 0)
    counts = counts / counts.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return 1 - counts @ counts.T


def nearest(context: Shaped[Tensor, "batch *context"], among: int) -> Int[Tensor, "batch neighbours"]:
    """The `among` examples (fewer where there are no more) with the nearest conditions, never the example itself."""
    far = distances(context)
    far.fill_diagonal_(torch.inf)
    return far.topk(min(among, len(far) - 1), largest=False).indices


def have_near(context: Shaped[Tensor, "batch *context"], few: int, many: int) -> Bool[Tensor, " batch"]:
    """Which examples have nearer conditions among the `few` nearest than among the `many` (or equal ones): where all
    distances tie, the nearest are anybody."""
    far = distances(context)
    far.fill_diagonal_(torch.inf)
    by_distance = far.topk(min(many, len(far) - 1), largest=False).values
    last, first = by_distance[:, -1], by_distance[:, min(few, by_distance.shape[1]) - 1]
    return (first < (1 - 1e-6) * last) | (last == 0) | torch.tensor(by_distance.shape[1] <= few)


def from_neighbours(
    neighbours: Int[Tensor, "batch neighbours"], count: int, key: tuple[int, ...]
) -> Int[Tensor, "count batch"]:
    """For each example `count` of its neighbours at random (distinct, as far as there are enough)."""
    rng = np.random.default_rng(key)
    ranks = torch.from_numpy(rng.random(tuple(neighbours.shape)).argsort(1))
    picked = ranks[:, torch.arange(count) % neighbours.shape[1]]
    return neighbours.gather(1, picked).T
