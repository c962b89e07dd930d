"""Anybody's loss as a function of (x, decoded, mean, log_variance)."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..refusal import Refused
from .conclusion import Audit
from .distortions import NAMED, STRAIGHT, Distortion, named, nearest, prices, read_distortion
from .slopes import MOVES, Loss, Slope, Value, mixtures, slope


def audit_loss(
    loss: Loss,
    x: Tensor,
    decoded: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    *,
    declared: float | None = None,
    cells: float | None = None,
) -> Audit:
    """e and β_eff of loss(x, decoded, mean, log_variance) → scalar, by finite differences on one batch.

    q(z|x) = N(mean, exp(log_variance)), first axis examples, prior N(0, I). `decoded` is whatever the loss takes:
    values, probabilities or logits; take a trained model's batch, since β_eff is relative to its residuals. `declared`
    is the script's number before the KL; `cells` the valid ones of an example where some are padding.

    Raises Refused where the loss is no deterministic number of one batch.

    >>> x, y, code = torch.zeros(4, 100), torch.ones(4, 100), torch.zeros(4, 8)
    >>> def loss(x, y, mean, log_variance):
    ...     kld = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp(), 1).mean()
    ...     return torch.nn.functional.mse_loss(y, x) + 0.02 * kld
    >>> audit_loss(loss, x, y, code, code, declared=0.02).lines()[0]
    'audit: the mean of squared errors over 100 cells + 0.02 · KL summed over 8 units: a nat of R costs 0.02, e = 1, beta_eff = 1'
    """  # noqa: E501
    x, decoded, mean, log_variance = (_prepared(part) for part in (x, decoded, mean, log_variance))
    _check(x, decoded, mean, log_variance, declared, cells)
    with torch.no_grad():
        value = partial(number, loss)
        if value(x, decoded, mean, log_variance) != value(x, decoded, mean, log_variance):
            raise Refused(
                "this loss gives two numbers for one input: pass what was decoded, and draw no noise in the loss"
            )
        known = float(cells or x[0].numel())
        once = _measured(value, x, decoded, mean, log_variance, cells=known)
        doubled = [torch.cat([part, part]) for part in (x, decoded, mean, log_variance)]
        twice = _measured(value, *doubled, cells=known)
    return _concluded(once, twice, mean, known, declared)


def number(loss: Loss, *parts: Tensor) -> float:
    """The loss as a number; what it objects to becomes one sentence."""
    try:
        value: Any = loss(*parts)
    except Exception as error:
        lines = str(error).splitlines() or ["no message"]
        raise Refused(
            f"the loss cannot be called as loss(x, decoded, mean, log_variance): {type(error).__name__}: {lines[0]}: "
            "wrap it in a function of these four"
        ) from error
    if not isinstance(value, Tensor | float | int) or (isinstance(value, Tensor) and value.numel() != 1):
        raise Refused(
            f"expected the loss to be one number, but got a {type(value).__name__}: wrap it in a function that returns "
            "the total alone"
        )
    if not math.isfinite(float(value)):
        raise Refused(f"the loss of this batch is {float(value)}: pass a batch of a model that has not diverged")
    return float(value)


class _Measured(NamedTuple):
    distortion: Distortion
    rate: Slope
    free: float
    stretch: float | None
    square: float | None


def _prepared(part: Tensor) -> Tensor:
    part = part.detach()
    return part.double() if part.is_floating_point() else part


def _check(
    x: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor, declared: float | None, cells: float | None
) -> None:
    if mean.shape != log_variance.shape or mean.ndim < 2:
        raise Refused(
            f"expected mean and log_variance of one shape (batch, units), but got {tuple(mean.shape)} and "
            f"{tuple(log_variance.shape)}: pass the encoder's two outputs"
        )
    if not len(x) == len(decoded) == len(mean) or len(x) < 2:
        raise Refused(
            f"expected at least two examples in each of x, decoded and mean, but got {len(x)}, {len(decoded)} and "
            f"{len(mean)}: pass one whole batch"
        )
    if declared is not None and not (math.isfinite(declared) and declared >= 0):
        raise Refused(f"a declared KL weight is a finite number of at least 0, but declared={declared}: leave it out")
    if cells is not None and not 0 < cells < math.inf:
        raise Refused(f"cells is how many values of an example are data, but cells={cells}: leave it out for all")


def _measured(
    value: Value, x: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor, *, cells: float
) -> _Measured:
    alike = x.is_floating_point() and x.shape == decoded.shape
    towards = [x] if alike else [0.5 * decoded]
    moved = list(mixtures(decoded, decoded.roll(1, 0), *towards))
    losses = [value(x, y, mean, log_variance) for y in moved]
    found = read_distortion([(x, y) for y in moved], losses, cells)
    stretch = square = None
    if alike:
        step = 0.01
        wider, nearer = (value(x, x + t * (decoded - x), mean, log_variance) for t in (1 + step, 1 - step))
        stretch = (wider - nearer) / (2 * step)
        square = float((x - decoded).square().flatten(1).sum(1).mean()) / cells
    codes = list(_codes(mean))
    rates = [float(0.5 * (m.square() + torch.expm1(v) - v).flatten(1).sum(1).mean()) for m, v in codes]
    values = [value(x, decoded, m, v) for m, v in codes]
    rate = slope(values, rates)
    nothing = value(x, decoded, torch.zeros_like(mean), torch.zeros_like(mean))
    free = abs(nothing - (values[0] - rate.value * rates[0])) / abs(rate.value) if rate.value else 0.0
    return _Measured(found, rate, free if free > 1e-3 * rates[0] else 0.0, stretch, square)


def _codes(mean: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Codes that cost at least 2 nats in every unit, more than most floors."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(MOVES):
        size, sign, spread = (torch.rand(mean.shape, generator=generator, dtype=torch.float64) for _ in range(3))
        scale = 2 + 2 * float(torch.rand(1, generator=generator))
        yield ((scale + size) * (sign - 0.5).sign()).to(mean.device), (spread - 0.5).to(mean.device)


def _concluded(once: _Measured, twice: _Measured, mean: Tensor, cells: float, declared: float | None) -> Audit:
    """From the batch and the same batch twice over, what is summed over examples, and from that the price of one."""
    faults, batch = [], len(mean)
    data, code = (_summed(of(once), of(twice)) for of in (_force, lambda measured: measured.rate.value))
    per_example = batch if data else 1
    distortion = once.distortion
    if data:
        distortion = named(distortion.kind, distortion.factor / per_example, cells)
        distortion = distortion._replace(words=f"{distortion.words}, over the batch too")
    weight = once.rate.value / per_example
    if once.rate.misfit > STRAIGHT and weight != 0:
        faults.append("the loss is no straight line in R: a target, a power or another divergence acts on the KL")
    if code != data and weight != 0:
        which = ("KL", "distortion", "grows") if code else ("distortion", "KL", "falls")
        faults.append(
            f"the {which[0]} is summed over the batch and the {which[1]} is not: the price of a nat {which[2]} with "
            f"the batch size, here {batch}"
        )
    acting = once.rate.value / (batch if code else 1)
    penalty = penalty_words(acting, declared, tuple(mean.shape[1:]), cells) + (", over the batch too" if code else "")
    stretch = None if once.stretch is None else once.stretch / per_example
    e, effective = prices(distortion, weight, cells=cells, stretch=stretch, square=once.square)
    return Audit(distortion.words, penalty, weight, declared, e, effective, once.free, tuple(faults))


def _force(measured: _Measured) -> float:
    """How strongly the loss follows the reconstruction."""
    return (measured.stretch or 0.0) if measured.distortion.kind == "other" else measured.distortion.factor


def _summed(once: float, twice: float) -> bool:
    return once != 0 and abs(twice / once - 2) < 2 * NAMED


def penalty_words(
    acting: float, declared: float | None, unit: tuple[int, ...], cells: float, over_batch: bool = False
) -> str:
    """What stands behind a declared weight, by the ratio of what acts to it.

    >>> penalty_words(0.1 * 2 / 30, 0.1, (30, 4), 999.0)
    'KL without its ½, averaged over 30 frames'
    """
    units = math.prod(unit)
    if acting == 0:
        return "no KL at all"
    if not declared:
        return "KL"
    ways = {1.0: f"summed over {units} units", 1 / units: f"averaged over {units} units"}
    if len(unit) > 1:
        ways |= {1 / unit[0]: f"averaged over {unit[0]} frames"}
        ways |= {1 / size: f"averaged over an axis of {size}" for size in unit[1:]}
    ways |= {1 / cells: f"divided by {cells:.6g} cells"}
    said = {share: f"KL {how}" for share, how in ways.items()}
    for share, how in ways.items():  # after all plain ones: 2/2 is 1
        said.setdefault(2 * share, f"KL without its ½, {how}")
    ratio = acting / declared
    return nearest(ratio, said) or f"{ratio:.4g} × KL"
