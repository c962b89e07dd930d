"""Bricks of conditional downscaling: the condition as a map, a decoder of it that z acts on, layers that keep mass."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from .audio import SLOPE, FiLM, variance_preserving
from .conv import Grid, ResidualUnit, Up

Fine = Float[Tensor, "batch 1 height width"]
Coarse = Float[Tensor, "batch 1 h w"]


def ladder(*, height: int, width: int, factor: int, capacity: int, max_channels: int) -> tuple[Grid, ...]:
    """The grids from the coarse one to the fine one, by the prime factors of `factor`; channels double with each step
    away from the fine one.

    >>> [grid[:3] for grid in ladder(height=24, width=12, factor=6, capacity=8, max_channels=16)]
    [(4, 2, 16), (12, 6, 16), (24, 12, 8)]
    """
    steps = primes(factor)
    grids = [Grid(height, width, min(capacity, max_channels))]
    for number, step in enumerate(steps):
        channels = min(capacity * 2 ** (number + 1), max_channels)
        grids.append(Grid(grids[-1].height // step, grids[-1].width // step, channels, (step, step)))
    return tuple(reversed(grids))


def primes(number: int) -> list[int]:
    """In order.

    >>> primes(12), primes(1)
    ([2, 2, 3], [])
    """
    least = next((each for each in range(2, number + 1) if number % each == 0), None)
    return [] if least is None else [least, *primes(number // least)]


class ConditionMap(nn.Module):
    """The condition on the coarse grid: means over blocks (of repeated predictors their own values), convolutions."""

    def __init__(self, *, channels: int, grid: Grid, factor: int, units: int) -> None:
        super().__init__()
        self.factor = factor
        self.first = variance_preserving(nn.Conv2d(channels, grid.channels, 3, padding=1))
        self.residual = nn.Sequential(*[ResidualUnit(channels=grid.channels) for _ in range(units)])

    def forward(self, context: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch out h w"]:
        return self.residual(self.first(F.avg_pool2d(context, self.factor)))


class FilmOfMap(nn.Module):
    """z as a gain and a shift of each channel, the same in every cell (Perez 2018)."""

    def __init__(self, *, latent: int, channels: int) -> None:
        super().__init__()
        self.film = FiLM(units=latent, channels=channels)

    def forward(
        self, h: Float[Tensor, "batch channel height width"], z: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch channel height width"]:
        return self.film(h.flatten(2), z).unflatten(2, h.shape[2:])


class MapOfLatent(nn.Module):
    """z as a map that is added: each coarse cell is told something of its own."""

    def __init__(self, *, latent: int, grid: Grid) -> None:
        super().__init__()
        self.shape = grid.channels, grid.height, grid.width
        self.linear = nn.Linear(latent, grid.channels * grid.height * grid.width)

    def forward(
        self, h: Float[Tensor, "batch channel h w"], z: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch channel h w"]:
        return h + self.linear(z).unflatten(1, self.shape)


class FieldDecoder(nn.Module):
    """The condition's map and z up to the fine grid; the last convolution sees the condition there again.

    film: z acts on every grid; spatial: on the coarse one, where it has cells of its own.
    """

    def __init__(
        self, *, grids: tuple[Grid, ...], planes: int, context: int, latent: int, units: int, injection: str
    ) -> None:
        super().__init__()
        film, after = injection == "film", grids[1:]
        self.injections = nn.ModuleList(
            [FilmOfMap(latent=latent, channels=grid.channels) for grid in grids]
            if film
            else [MapOfLatent(latent=latent, grid=grids[0])]
        )
        self.stages = nn.ModuleList(Up(grid=grid, to=to, units=units) for grid, to in zip(grids, after, strict=False))
        self.last = variance_preserving(nn.Conv2d(grids[-1].channels + context, planes, 3, padding=1, bias=False))
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # a start near the intercept

    def forward(
        self,
        seen: Float[Tensor, "batch channel h w"],
        z: Float[Tensor, "batch latent"],
        context: Float[Tensor, "batch context height width"],
    ) -> Float[Tensor, "batch planes height width"]:
        first, *later = self.injections
        h = first(seen, z)
        for number, stage in enumerate(self.stages):
            h = stage(h)
            h = later[number](h, z) if later else h
        return self.last(torch.cat([F.leaky_relu(h, SLOPE), context], 1))


# ---- layers after which block means are the condition's


def by_block(field: Float[Tensor, "batch 1 height width"], factor: int) -> Float[Tensor, "batch h w cells"]:
    """The cells of each block side by side."""
    rows = field[:, 0].unflatten(2, (-1, factor)).unflatten(1, (-1, factor))
    return rows.transpose(2, 3).flatten(3)


def on_grid(cells: Float[Tensor, "batch h w cells"], factor: int) -> Fine:
    """The inverse of `by_block`."""
    rows = cells.unflatten(3, (factor, factor)).transpose(2, 3)
    return rows.flatten(3, 4).flatten(1, 2)[:, None]


def conserved(
    field: Fine, coarse: Coarse, factor: int, how: str, mask: Bool[Tensor, "batch 1 height width"] | None = None
) -> Fine:
    """A field of 0 mm or more whose means over the valid cells of each block are `coarse` (Harder 2022), dry where that
    is dry.

    mult: the field's own share of its block (alike where it is dry); softmax: shares e^field; add: the nearest such
    field, field − τ where that is above 0 and else 0, with one τ for each block (a projection on a simplex: Held 1974).

    >>> field, wet = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]]]]), torch.tensor([[[[2.0]]]])
    >>> [conserved(field, wet, 2, how).flatten().tolist() for how in ("mult", "add")]
    [[2.0, 6.0, 0.0, 0.0], [2.0, 4.0, 1.0, 1.0]]
    """
    cells = by_block(field, factor)
    valid = torch.ones_like(cells, dtype=torch.bool) if mask is None else by_block(mask.to(cells), factor) > 0
    total = coarse[:, 0].clamp(min=0) * valid.sum(3)
    if how == "add":
        return on_grid(projected(cells, valid, total), factor)
    if how == "softmax":
        highest = cells.detach().masked_fill(~valid, -torch.inf).amax(3, keepdim=True).nan_to_num(neginf=0)
        cells = (cells - highest).masked_fill(~valid, -torch.inf).exp()
    cells = cells * valid
    mass = cells.sum(3, keepdim=True)
    alike = valid / valid.sum(3, keepdim=True).clamp(min=1)
    share = torch.where(mass > 0, cells / torch.where(mass > 0, mass, 1), alike)
    return on_grid(share * total[..., None], factor)


def projected(
    cells: Float[Tensor, "batch h w cells"], valid: Bool[Tensor, "batch h w cells"], total: Float[Tensor, "batch h w"]
) -> Float[Tensor, "batch h w cells"]:
    """The nearest values of 0 or more in the valid cells that add up to `total`."""
    low = cells.masked_fill(~valid, -torch.inf)
    ordered = low.sort(3, descending=True).values
    finite = torch.where(ordered.isfinite(), ordered, 0)
    count = torch.arange(1, cells.shape[3] + 1, device=cells.device, dtype=cells.dtype)
    tau = (finite.cumsum(3) - total[..., None]) / count
    kept = ((ordered - tau > 0) & ordered.isfinite()).sum(3, keepdim=True).clamp(min=1)
    level = tau.gather(3, kept - 1)
    dry = (total <= 0)[..., None] | ~valid
    return torch.where(dry, 0, (torch.where(valid, cells, 0) - level).clamp(min=0))
