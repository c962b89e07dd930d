"""Causal bricks: what is made of a pixel sees pixels before it in reading order, and no other."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .audio import SLOPE, variance_preserving

Rows = Float[Tensor, "batch _ height width"]


class CausalLayer(nn.Module):
    """One layer of two stacks, both told z at every pixel: `above` sees rows above, `across` also what lies to the left
    (van den Oord 2016; shifted as in PixelCNN++, Salimans 2017, so that no pixel is out of sight).

    The first layer (`dilation` 0) takes pixels, shifted down by a row and to the right by one; each further one sees
    `dilation` rows and columns more.
    """

    def __init__(self, *, inputs: int, channels: int, told: int, dilation: int) -> None:
        super().__init__()
        self.dilation, self.first = dilation, (first := not dilation)
        step = max(1, dilation)
        self.rows = nn.Conv2d(inputs, channels, (1 if first else 2, 3), dilation=step)
        self.pixels = nn.Conv2d(inputs, channels, (1, 1 if first else 2), dilation=step)
        self.link = nn.Conv2d(channels, channels, 1, bias=False)
        self.told_rows = nn.Conv2d(told, channels, 1, bias=False)
        self.told_pixels = nn.Conv2d(told, channels, 1, bias=False)

    def above(self, v: Rows, told: Rows) -> Rows:
        side = max(1, self.dilation)
        padded = F.pad(v, (side, side, self.dilation, 0))
        out = F.leaky_relu(self.rows(padded) + self.told_rows(told), SLOPE)
        return out if self.first else v + out

    def across(self, h: Rows, v: Rows, told: Rows) -> Rows:
        padded = F.pad(h, (self.dilation, 0))
        out = F.leaky_relu(self.pixels(padded) + self.link(v) + self.told_pixels(told), SLOPE)
        return out if self.first else h + out


def reach(field: int) -> list[int]:
    """Dilations of the layers that together see `field` pixels far, without gaps: after the first, doubled as long as
    that does not see too far.

    >>> reach(1), reach(4), reach(27)
    ([0], [0, 1, 2], [0, 1, 2, 4, 8, 11])
    """
    found = [0]
    while (left := field - 1 - sum(found)) > 0:
        found.append(min(left, max(1, 2 * found[-1])))
    return found


class CausalStack(nn.Module):
    """Of images and of what z says of each pixel, what is added to the decoder's output.

    Pixel (i, j) sees rows i − `field` to i − 1 of columns j − `field` to j + `field`, and `field` pixels to its left.
    """

    def __init__(self, *, planes: int, channels: int, told: int, field: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CausalLayer(inputs=channels if dilation else planes, channels=channels, told=told, dilation=dilation)
            for dilation in reach(field)
        )
        self.last = nn.Conv2d(channels, planes, 1, bias=False)
        variance_preserving(self)
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # as the decoder's own, a start near the intercept
            for weight in (p for layer in self.layers[1:] for p in layer.parameters()):
                weight.mul_(0.3)  # residual branches start small

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
