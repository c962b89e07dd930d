"""Which distortion a loss has, by its reduction, and what a nat of R costs beside it."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from .slopes import Reference, Slope, slope

STRAIGHT = 1e-3  # relative misfit up to which a loss follows a reference; float32 losses stay below 1e-4
NAMED = 1e-2  # relative distance up to which a factor is that of a reduction


def _l2(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square()


def _l1(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs()


def _binary(x: Tensor, p: Tensor) -> Tensor:
    return -(x * p.log().clamp(min=-100) + (1 - x) * (-p).log1p().clamp(min=-100))  # torch clamps alike


def _binary_logits(x: Tensor, logits: Tensor) -> Tensor:
    return F.softplus(logits) - x * logits


def _tokens(x: Tensor, logits: Tensor) -> Tensor:
    last = tuple(logits.shape[:-1]) == tuple(x.shape)
    return F.cross_entropy(logits.movedim(-1, 1) if last else logits, x, reduction="none")


NAMES = {
    "l2": "squared errors",
    "l1": "absolute errors",
    "binary": "binary cross-entropies",
    "binary_logits": "binary cross-entropies",
    "tokens": "token NLLs",
}
REFERENCES: Mapping[str, Reference] = {
    "l2": _l2,
    "l1": _l1,
    "binary": _binary,
    "binary_logits": _binary_logits,
    "tokens": _tokens,
}
DENSITIES = ("binary", "binary_logits", "tokens")  # the ELBO's own price is that of their sum: they have no scale


def possible(x: Tensor, y: Tensor) -> list[str]:
    """The references that these shapes and ranges allow."""
    if not x.is_floating_point():
        tokens = y.ndim == x.ndim + 1 and tuple(x.shape) in (tuple(y.shape[:-1]), (len(y), *y.shape[2:]))
        return ["tokens"] if tokens else []
    if x.shape != y.shape:
        return []
    binary = ["binary_logits"] if bool(((x >= 0) & (x <= 1)).all()) else []
    return ["l2", "l1", *binary, *(["binary"] if binary and bool(((y >= 0) & (y <= 1)).all()) else [])]


class Distortion(NamedTuple):
    """What part of the loss the reconstruction moves: `factor` × the sum over the cells of one example (mean over
    examples), `kind` of `REFERENCES` or `other`."""

    kind: str
    factor: float
    words: str


def read_distortion(
    pairs: Sequence[tuple[Tensor, Tensor]], losses: Sequence[float], cells: float, mask: Tensor | None = None
) -> Distortion:
    """The kind and factor of a distortion by its values at (x, reconstruction) pairs."""
    found: dict[str, Slope] = {}
    for kind in possible(*pairs[0]):
        terms = (REFERENCES[kind](x, y) for x, y in pairs)
        totals = [float((part if mask is None else part * mask).flatten(1).sum(1).mean()) for part in terms]
        found[kind] = slope(losses, totals)
    kind = min(found, key=lambda name: found[name].misfit, default="other")
    if kind == "other" or found[kind].misfit > STRAIGHT or found[kind].value <= 0:
        return named("other", math.nan, cells)
    return named(kind, found[kind].value, cells)


def named(kind: str, factor: float, cells: float) -> Distortion:
    """With the reduction's own words where the factor is that of one."""
    if kind not in NAMES:
        return Distortion(kind, factor, "a distance that is no plain L1, L2 or cross-entropy")
    name = NAMES[kind]
    words = {1.0: f"the sum of {name}", 1 / cells: f"the mean of {name} over {cells:.6g} cells"}
    if kind == "l2":
        words |= {0.5: f"half the sum of {name}", 0.5 / cells: f"half the mean of {name} over {cells:.6g} cells"}
    scale = {"l2": 1 / math.sqrt(2 * factor), "l1": 1 / factor}.get(kind)
    unknown = f"{factor:.4g} × the sum of {name}" + (f" (scale {scale:.3g})" if scale else "")
    return Distortion(kind, factor, nearest(factor, words) or unknown)


def nearest(factor: float, words: Mapping[float, str]) -> str | None:
    """The words of the first factor that this one is, None where it is none."""
    return next((said for value, said in words.items() if abs(factor / value - 1) < NAMED), None)


def prices(
    distortion: Distortion, weight: float, *, cells: float, stretch: float | None, square: float | None
) -> tuple[float | None, float | None]:
    """(e, β_eff) of a weight per nat.

    `stretch` is dD/d ln t of residuals stretched by t, so that β_eff = w·n/stretch: c·Σ|r|ᵖ has the stretch p·D, and is
    a density of the fitting scale where that is n. So a mean L1 gives w·n/L_rec and a mean squared error w·n/(2 MSE),
    weighted or not. `square` is the residuals' mean square ŝ²; e = β_eff·ŝ², for L2 w/2c alone.
    """
    if distortion.kind in DENSITIES:
        return None, weight / distortion.factor
    if distortion.kind == "l1" and square is not None:  # its curvature about Gaussian residuals
        e = weight / distortion.factor * math.sqrt(square * math.pi / 2)
    elif distortion.kind == "l2":
        e = weight / (2 * distortion.factor)
    else:
        e = None
    effective = weight * cells / stretch if stretch is not None and stretch > 0 else None
    if e is None and effective is not None and square is not None:
        e = effective * square
    return e, effective
