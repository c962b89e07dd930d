"""Causal bricks: what is made of a pixel sees pixels before it in reading order, and no other."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .audio import variance_preserving

Rows = Float[Tensor, "batch _ height width"]


def gate(x: Rows) -> Rows:
    """tanh(a) σ(b) of the two halves (van den Oord 2016)."""
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class CausalLayer(nn.Module):
    """One layer of two stacks, both told z at every pixel: `above` sees rows above, `across` also what lies to the left
    (Gated PixelCNN, van den Oord 2016; shifted as in PixelCNN++, Salimans 2017, so that no pixel is out of sight).

    The first layer takes pixels, shifted down by a row and to the right by one; each further one sees a row and a
    column more.
    """

    def __init__(self, *, inputs: int, channels: int, told: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.rows = nn.Conv2d(inputs, 2 * channels, (1 if first else 2, 3))
        self.pixels = nn.Conv2d(inputs, 2 * channels, (1, 1 if first else 2))
        self.link = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.told = nn.Conv2d(told, 4 * channels, 1, bias=False)

    def above(self, v: Rows, told: Rows) -> Rows:
        padded = F.pad(v, (1, 1, 0 if self.first else 1, 0))
        out = gate(self.rows(padded) + self.told(told).chunk(2, 1)[0])
        return out if self.first else v + out

    def across(self, h: Rows, v: Rows, told: Rows) -> Rows:
        padded = h if self.first else F.pad(h, (1, 0))
        out = gate(self.pixels(padded) + self.link(v) + self.told(told).chunk(2, 1)[1])
        return out if self.first else h + out


class CausalStack(nn.Module):
    """Of images and of what z says of each pixel, what is added to the decoder's output.

    Pixel (i, j) sees rows i − `field` to i − 1 of columns j − `field` to j + `field`, and `field` pixels to its left.
    """

    def __init__(self, *, planes: int, channels: int, told: int, field: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CausalLayer(inputs=channels if i else planes, channels=channels, told=told, first=not i)
            for i in range(field)
        )
        self.last = nn.Conv2d(channels, planes, 1, bias=False)
        variance_preserving(self)
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # as the decoder's own, a start near the intercept

    def above(self, x: Rows, told: Rows) -> list[Rows]:
        """What each layer knows of the rows above."""
        v, found = F.pad(x, (0, 0, 1, 0))[:, :, :-1], []
        for layer in self.layers:
            v = layer.above(v, told)  # pyright: ignore[reportCallIssue]
            found.append(v)
        return found

    def across(self, x: Rows, above: Sequence[Rows], told: Rows) -> Rows:
        """The output of these rows, given what is known of those above each."""
        h = F.pad(x, (1, 0))[..., :-1]
        for layer, v in zip(self.layers, above, strict=True):
            h = layer.across(h, v, told)  # pyright: ignore[reportCallIssue]
        return self.last(h)

    def forward(self, x: Rows, told: Rows) -> Rows:
        return self.across(x, self.above(x, told), told)
