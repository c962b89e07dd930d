"""Distributions of vectors as distributions of arrays (rows, units): a latent of several tokens."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from .flows import FlowDistribution


class _Rows:
    """Transforms of vectors, each on its own row."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    @property
    def inv(self) -> "_Rows":
        return _Rows([part.inv for part in self.parts])

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([part(row) for part, row in zip(self.parts, x.unbind(-2), strict=True)], -2)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = [part.call_and_ladj(row) for part, row in zip(self.parts, x.unbind(-2), strict=True)]
        values, log_dets = zip(*both, strict=True)
        return torch.stack(values, -2), torch.stack(log_dets).sum(0)


class _Flat:
    """A transform of one vector, on all rows as that vector."""

    def __init__(self, part: Any, rows: int) -> None:
        self.part, self.rows = part, rows

    @property
    def inv(self) -> "_Flat":
        return _Flat(self.part.inv, self.rows)

    def __call__(self, x: Tensor) -> Tensor:
        return self.part(x.flatten(-2)).unflatten(-1, (self.rows, -1))

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = self.part.call_and_ladj(x.flatten(-2))
        return y.unflatten(-1, (self.rows, -1)), log_det


def side_by_side(parts: Sequence[Distribution]) -> Distribution:
    """Gaussians of (batch, units), or flows on such, as one distribution of (batch, rows, units), rows independent.

    >>> one = Independent(Normal(torch.zeros(3, 4), torch.ones(3, 4)), 1)
    >>> both = side_by_side([one, one]); z = torch.randn(3, 2, 4)
    >>> tuple(both.event_shape), torch.allclose(both.log_prob(z), sum(one.log_prob(row) for row in z.unbind(1)))
    ((2, 4), True)
    """
    first = parts[0]
    if isinstance(first, FlowDistribution):
        bases, transforms = zip(*((part.base, part.transform) for part in parts), strict=True)  # pyright: ignore
        return _on(first, side_by_side(bases), _Rows(transforms))
    inner = [_normal(part) for part in parts]
    return _gaussian(inner[0], *(torch.stack([getattr(part, name) for part in inner], -2) for name in ("loc", "scale")))


def as_rows(whole: Distribution, rows: int) -> Distribution:
    """A Gaussian of (units,) or a flow on one, dependent as it may be, as one of (rows, units/rows).

    >>> tuple(as_rows(Independent(Normal(torch.zeros(8), torch.ones(8)), 1), 2).event_shape)
    (2, 4)
    """
    if isinstance(whole, FlowDistribution):
        return _on(whole, as_rows(whole.base, rows), _Flat(whole.transform, rows))
    inner = _normal(whole)
    return _gaussian(inner, *(part.unflatten(-1, (rows, -1)) for part in (inner.loc, inner.scale)))


def _on(flow: FlowDistribution, base: Distribution, transform: Any) -> FlowDistribution:
    return FlowDistribution(base, transform, inverted=flow.inverted, spline_range=flow.spline_range)


def _normal(distribution: Distribution) -> Normal:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if not isinstance(distribution, Normal):
        raise TypeError(f"expected a Gaussian or a flow on one, but got {type(distribution).__name__}")
    return distribution


def _gaussian(like: Normal, loc: Tensor, scale: Tensor) -> Independent:
    """With what a declared Gaussian says of itself."""
    made = copy(like)
    made.loc, made.scale, made._batch_shape = loc, scale, loc.shape
    return Independent(made, 2)
