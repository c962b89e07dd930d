"""How a loss follows what moves: slopes, and the mixtures that move a reconstruction."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MOVES = 6  # differences per slope: enough to tell a straight line from a bent one
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Value = Callable[..., float]
Reference = Callable[[Tensor, Tensor], Tensor]


class Slope(NamedTuple):
    """`value` of loss against reference, and the relative `misfit` of the straight line."""

    value: float
    misfit: float


def slope(losses: Sequence[float], references: Sequence[float]) -> Slope:
    """The least-squares slope of differences from the first point.

    >>> slope([1.0, 3.0, 5.0], [0.0, 1.0, 2.0])
    Slope(value=2.0, misfit=0.0)
    """
    rise = [value - losses[0] for value in losses[1:]]
    run = [value - references[0] for value in references[1:]]
    square = sum(r * r for r in run)
    if square == 0 or not all(map(math.isfinite, run)):
        return Slope(0.0, math.inf)
    found = sum(a * b for a, b in zip(rise, run, strict=True)) / square
    left = math.sqrt(sum((a - found * b) ** 2 for a, b in zip(rise, run, strict=True)))
    return Slope(found, left / max(math.sqrt(sum(a * a for a in rise)), 1e-300))


def mixtures(*parts: Tensor) -> Iterator[Tensor]:
    """The first, then random convex mixtures of all: no part leaves a range that all of them keep to."""
    generator = torch.Generator().manual_seed(0)
    yield parts[0]
    for _ in range(MOVES):
        share = torch.rand(len(parts), generator=generator, dtype=torch.float64) + 0.05
        share = share / share.sum()
        yield sum((float(s) * part for s, part in zip(share, parts, strict=True)), torch.zeros_like(parts[0]))
