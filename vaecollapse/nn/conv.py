"""Bricks of the image networks: the grids an image becomes, residual units, strided encoder, upsampling decoder.

No normalisation crosses examples, and none is needed: residual branches start small.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .audio import SLOPE, variance_preserving


class Grid(NamedTuple):
    """One resolution: `height` rows and `width` columns of `channels`, and the strides that led to it."""

    height: int
    width: int
    channels: int
    strides: tuple[int, int] = (1, 1)


def plan(
    *, height: int, width: int, capacity: int, max_channels: int, stride: int = 2, smallest: int = 4
) -> tuple[Grid, ...]:
    """The grids from the image's own down: each side is divided by `stride`, rounded up, as long as `smallest` or more
    are left. Channels are min(capacity·2^i, max_channels).

    >>> [grid[:3] for grid in plan(height=28, width=9, capacity=8, max_channels=16)]
    [(28, 9, 8), (14, 5, 16), (7, 5, 16), (4, 5, 16)]
    """
    grids = [Grid(height, width, min(capacity, max_channels))]
    while True:
        rows, columns = (stride if side > 1 and -(-side // stride) >= smallest else 1 for side in grids[-1][:2])
        if rows == columns == 1:
            return tuple(grids)
        channels = min(capacity * 2 ** len(grids), max_channels)
        smaller = math.ceil(grids[-1].height / rows), math.ceil(grids[-1].width / columns)
        grids.append(Grid(*smaller, channels, (rows, columns)))


class ResidualUnit(nn.Module):
    """x + conv1(act(conv3(act(x)))) (He 2016, as in VQ-VAE)."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, padding=1)
        self.point = nn.Conv2d(channels, channels, 1)
        variance_preserving(self)
        with torch.no_grad():
            self.point.weight.mul_(0.3)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return x + self.point(F.leaky_relu(self.wide(F.leaky_relu(x, SLOPE)), SLOPE))


def _conv(inputs: int, outputs: int, strides: tuple[int, int], *, strided: bool) -> nn.Conv2d:
    """The kernel covers a stride's span about its centre, 2·stride − 1, so n becomes ceil(n / stride)."""
    kernel = max(3, 2 * max(strides) - 1)
    return variance_preserving(
        nn.Conv2d(inputs, outputs, kernel, stride=strides if strided else 1, padding=kernel // 2)
    )


class Down(nn.Module):
    """Residual units on one grid, then a strided convolution to the next."""

    def __init__(self, *, grid: Grid, to: Grid, units: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(*[ResidualUnit(channels=grid.channels) for _ in range(units)])
        self.conv = _conv(grid.channels, to.channels, to.strides, strided=True)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out rows columns"]:
        return self.conv(F.leaky_relu(self.residual(x), SLOPE))


class Up(nn.Module):
    """Mirror of `Down`: nearest neighbours at the next grid's size, whatever that is, and a convolution (no
    checkerboard: Odena 2016), then residual units."""

    def __init__(self, *, grid: Grid, to: Grid, units: int) -> None:
        super().__init__()
        self.size = to.height, to.width
        self.conv = _conv(grid.channels, to.channels, grid.strides, strided=False)
        self.residual = nn.Sequential(*[ResidualUnit(channels=to.channels) for _ in range(units)])

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out rows columns"]:
        return self.residual(self.conv(F.interpolate(F.leaky_relu(x, SLOPE), size=self.size, mode="nearest")))


class ImageEncoder(nn.Module):
    """Images (batch, planes, height, width) → features (batch, `features`) for a posterior's head."""

    def __init__(self, *, grids: tuple[Grid, ...], planes: int, units: int) -> None:
        super().__init__()
        self.first = variance_preserving(nn.Conv2d(planes, grids[0].channels, 3, padding=1))
        self.stages = nn.ModuleList(Down(grid=grid, to=to, units=units) for grid, to in pairwise(grids))
        self.features = math.prod(grids[-1][:3])

    def forward(self, x: Float[Tensor, "batch planes height width"]) -> Float[Tensor, "batch features"]:
        h = self.first(x)
        for stage in self.stages:
            h = stage(h)
        return F.leaky_relu(h, SLOPE).flatten(1)


class ImageDecoder(nn.Module):
    """z (batch, latent) → (batch, planes, height, width), without a bias of its own."""

    def __init__(self, *, grids: tuple[Grid, ...], planes: int, latent: int, units: int) -> None:
        super().__init__()
        last = grids[-1]
        self.seed_shape = (last.channels, last.height, last.width)
        self.seed = nn.Linear(latent, math.prod(self.seed_shape))
        self.stages = nn.ModuleList(Up(grid=grid, to=to, units=units) for grid, to in pairwise(grids[::-1]))
        self.last = variance_preserving(nn.Conv2d(grids[0].channels, planes, 3, padding=1, bias=False))
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # a start near the intercept, the best there is without z

    def features(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        """What the last convolution sees: what z says of each pixel."""
        h = self.seed(z).unflatten(1, self.seed_shape)
        for stage in self.stages:
            h = stage(h)
        return F.leaky_relu(h, SLOPE)

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch planes height width"]:
        return self.last(self.features(z))
