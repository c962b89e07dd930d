"""Bare arrays: what an encoder gave, and what decoding cost, example by example. No model is needed."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..batch import Batch
from ..callbacks.monitor import all_detectors
from ..detectors.active_units import ActiveUnits
from ..detectors.base import Finding, undefined
from ..detectors.decoder_reliance import INTERVENTIONS, DecoderReliance
from ..detectors.information_rank import LARGEST, InformationRank, layout, pooled
from ..detectors.price_of_a_nat import PriceOfANat
from ..detectors.rate import Rate
from ..elbo import ELBO, Progress, noise, pieces
from ..evaluation import blocks_of, distinct, mean_of, read
from ..refusal import Refused
from ..regularizers.base import Regularizer
from ..regularizers.beta import Beta
from ..regularizers.coefficients import Constant
from ..regularizers.free_bits import FreeBits
from ..vae import VAE
from .base import Evidence, known
from .given import TEXTS, near

DISTORTIONS = ("distortion", "distortion_permuted", "distortion_at_mean", "distortion_mean_z", "distortion_prior",
               "distortion_zero", "distortion_constant")  # fmt: skip
PER_EXAMPLE = (*DISTORTIONS, "group", "split", "kl")
LATENT = ("mean", "scale", "log_variance", "prior_mean", "prior_scale", "samples")
SCALARS = ("likelihood_scale", "beta", "normalised", "floor", "free_bits_form", "free_bits_groups", "event_size",
           "scale_floor")  # fmt: skip
NAMES = (*LATENT, *PER_EXAMPLE, *SCALARS)
TEXT = ("group", "split", "free_bits_form", "free_bits_groups")
TRAINING, HELD_OUT = ("train", "training"), ("validation", "val", "valid", "test", "held_out")
OF_DECODERS = ("decoder_reliance", "decoder_variance", "price_of_a_nat", "temperature")  # read from what decoding cost
BLOCK = 1024


# ---- what is in it


def checked(given: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays by name, in float64, and sentences on what was left out. Refused where they do not fit together."""
    arrays, notes, extra = {}, [], []
    for name, value in given.items():
        if name not in NAMES:
            if said := near(name, NAMES):
                raise Refused(f"arrays: {name}{said} is no name: take {', '.join(NAMES)}")
            extra.append(name)
            continue
        value = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        kinds = "fiubUS" if name in TEXT else "fiub"
        if value.dtype.kind not in kinds or (name not in TEXT and value.dtype.kind in "US"):
            raise Refused(f"arrays: {name} holds {value.dtype}, where numbers are needed: give it as floats")
        arrays[name] = value.astype(np.float64) if value.dtype.kind == "f" or name not in TEXT else value
    if "samples" in arrays and (unread := [name for name in ("mean", "scale", "log_variance") if name in arrays]):
        notes.append(f"samples are given, so {' and '.join(unread)} are not read")
        arrays = {name: value for name, value in arrays.items() if name not in unread}
    if extra:
        notes.append(f"arrays not read, their names mean nothing here: {', '.join(extra[:10])}")
    _check_latent(arrays)
    _check_columns(arrays)
    for name, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            bad = np.flatnonzero(~np.isfinite(value.reshape(len(value), -1) if value.ndim else value).reshape(-1))
            raise Refused(
                f"arrays: {name} has {len(bad)} of {value.size} numbers that are not finite, the first at position "
                f"{np.unravel_index(bad[0], value.shape or (1,))[0]}: leave these examples out, or save before the "
                "model diverged"
            )
    _check_signs(arrays)
    return arrays, notes


def _check_latent(arrays: Mapping[str, np.ndarray]) -> None:
    """Refused where posterior parameters or samples are missing or of different shapes."""
    if "samples" in arrays:
        shape = arrays["samples"].shape
        if len(shape) < 3 or shape[1] < 2:
            raise Refused(f"arrays: samples has shape {shape}, but (N, S, *unit) with at least 2 draws each is needed")
        if "kl" not in arrays:
            raise Refused("arrays: samples come with kl (N,), ln q(z|x) − ln p(z) of each example: add it")
        return
    if "mean" not in arrays or not {"scale", "log_variance"} & set(arrays):
        lacking = "mean" if "mean" not in arrays else "scale (σ) or log_variance"
        raise Refused(
            f"arrays: {lacking} is missing: give mean and scale of the posterior, both (N, *unit), or of a flow "
            "samples (N, S, *unit) and kl (N,)"
        )
    if {"scale", "log_variance"} <= set(arrays):
        raise Refused("arrays: both scale and log_variance are given: leave one of them out")
    if "kl" in arrays:
        raise Refused("arrays: kl belongs to samples (a flow); of mean and scale it is computed here: leave kl out")
    shape = arrays["mean"].shape
    if len(shape) < 2 or len(shape) > 4 or 0 in shape:
        raise Refused(f"arrays: mean has shape {shape}, but (N, *unit) is needed: N examples of at least one unit")
    if shape[0] < 2:
        raise Refused("arrays: one example says nothing of a latent: give at least 64")
    spread = "scale" if "scale" in arrays else "log_variance"
    if arrays[spread].shape != shape:
        raise Refused(f"arrays: mean has shape {shape} but {spread} {arrays[spread].shape}: both are (N, *unit)")


def _check_columns(arrays: Mapping[str, np.ndarray]) -> None:
    n, unit = size_of(arrays)
    for name in PER_EXAMPLE:
        if name in arrays and arrays[name].shape != (n,):
            raise Refused(
                f"arrays: {name} has shape {arrays[name].shape}, but one number for each of {n} examples is needed"
            )
    for name in ("prior_mean", "prior_scale"):
        if name in arrays and arrays[name].shape not in (unit, (n, *unit), ()):
            raise Refused(f"arrays: {name} has shape {arrays[name].shape}, but {unit} or {(n, *unit)} is needed")
    for name in SCALARS:
        if name in arrays and arrays[name].size != 1:
            raise Refused(f"arrays: {name} is one number or word, but has shape {arrays[name].shape}")
    if "distortion" not in arrays and (alone := [name for name in DISTORTIONS if name in arrays]):
        raise Refused(f"arrays: {alone[0]} is compared with distortion, which is missing: add D(x|z) of each example")
    if "split" in arrays:
        words = {str(word) for word in np.unique(arrays["split"].astype(str))}
        if wrong := sorted(words - {*TRAINING, *HELD_OUT}):
            raise Refused(f"arrays: split has {wrong[0]!r}: write train or validation for each example")
    form = text_of(arrays, "free_bits_form")
    if form is not None and form not in TEXTS["free_bits_form"]:
        raise Refused(f"arrays: free_bits_form={form}{near(form, TEXTS['free_bits_form'])} is no form of free bits")


def _check_signs(arrays: Mapping[str, np.ndarray]) -> None:
    for name in ("scale", "prior_scale", "likelihood_scale"):
        if name in arrays and (wrong := int((arrays[name] <= 0).sum())):
            raise Refused(
                f"arrays: {name} has {wrong} values of 0 or less, but it is a standard deviation σ: give σ, or what "
                "you have as log_variance = ln σ²"
            )
    if "log_variance" in arrays and float(np.abs(arrays["log_variance"]).max()) > 200:
        raise Refused("arrays: log_variance has values beyond ±200, so it is no ln σ²: give scale = σ")
    for name in ("beta", "floor", "scale_floor"):
        if name in arrays and float(arrays[name]) < 0:
            raise Refused(f"arrays: {name} cannot be below 0: give the number that was used")


def size_of(arrays: Mapping[str, np.ndarray]) -> tuple[int, tuple[int, ...]]:
    """N and *unit."""
    if "samples" in arrays:
        return len(arrays["samples"]), arrays["samples"].shape[2:]
    return len(arrays["mean"]), arrays["mean"].shape[1:]


def scalar(arrays: Mapping[str, np.ndarray], name: str) -> float | None:
    return float(arrays[name].reshape(())) if name in arrays else None


def text_of(arrays: Mapping[str, np.ndarray], name: str) -> str | None:
    if name not in arrays:
        return None
    value = arrays[name].reshape(()).item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# ---- its readings


class Posteriors(VAE):
    """Recorded posteriors and priors of N examples, which no decoder goes with."""

    decodes = False

    def __init__(self, mean: Tensor, scale: Tensor, prior: tuple[Tensor, Tensor], scale_floor: float | None) -> None:
        super().__init__()
        self.location, self.scale, self.prior_parameters, self.scale_floor = mean, scale, prior, scale_floor

    def encode(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        normal: Any = Normal(self.location[x], self.scale[x], validate_args=False)
        if self.scale_floor is not None:
            normal.scale_floor = self.scale_floor
        return Independent(normal, self.location.ndim - 1)

    def prior(self, context: Tensor | None = None) -> Distribution:
        return self.prior_of(torch.arange(len(self.location)))

    def prior_of(self, index: Int[Tensor, " batch"]) -> Distribution:
        mean, scale = (each[index] for each in self.prior_parameters)
        return Independent(Normal(mean, scale, validate_args=False), self.location.ndim - 1)

    def decode(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        raise Refused("arrays hold no decoder: give distortion and distortion_permuted")

    def elbo(self, batch: Batch, *, seed: int | None = None, epoch: int = 0) -> ELBO:
        at = batch.positions()
        posterior, prior = self.encode(at), self.prior_of(at)
        z, kl = pieces(posterior, prior, noise(at, tuple(posterior.event_shape), seed=seed or 0, epoch=epoch)[0])
        return ELBO(torch.full((len(at),), torch.nan, dtype=z.dtype), kl, z, posterior, prior)


def from_arrays(given: Mapping[str, Any], source: str = "arrays") -> Evidence:
    """The readings that arrays give, see the names above; `split` separates training from held-out examples."""
    arrays, notes = checked(given)
    n, unit = size_of(arrays)
    of_training = np.zeros(n, dtype=bool)
    if "split" in arrays:
        of_training = np.isin(arrays["split"].astype(str), TRAINING)
    else:
        notes.append("no split is given: the examples are taken for held-out ones")
    parts = {name: np.flatnonzero(rows) for name, rows in (("held", ~of_training), ("train", of_training))}
    parts = {name: different(arrays, rows) for name, rows in parts.items()}
    if copies := n - sum(map(len, parts.values())):
        notes.append(f"{copies} of {n} examples are copies of another one and buy no evidence: they are left out")
    found = {name: findings(arrays, rows) for name, rows in parts.items() if len(rows) > 1}
    held_out = found.get("held") or found.get("train")
    if held_out is None:
        raise Refused("arrays: no split has two different examples: give at least 64 of each")
    units, read_ = math.prod(unit), len(parts["held"] if "held" in found else parts["train"])
    if read_ < units:
        notes.append(
            f"there are fewer examples ({read_}) than units ({units}), so the rank says nothing; if the array lies on "
            "its side, give mean.T"
        )
    normalised = scalar(arrays, "normalised")
    facts = known(
        units=units,
        weight=scalar(arrays, "beta"),
        beta=scalar(arrays, "beta"),
        floor=scalar(arrays, "floor"),
        held_out="held" in found,
        distortion_kind="nll" if normalised == 1 else None,
        event_size=scalar(arrays, "event_size"),
        free_bits_form=text_of(arrays, "free_bits_form"),
    )
    training = found.get("train") if "held" in found else None
    return Evidence(held_out, training, facts, f"{source}: {n} examples of {units} units", notes)


def by_example(arrays: Mapping[str, np.ndarray]) -> set[str]:
    """The arrays that have a row for each example."""
    own = {name for name in LATENT if name in arrays and arrays[name].ndim >= len(size_of(arrays)[1]) + 1}
    return own | {name for name in PER_EXAMPLE if name in arrays}


def different(arrays: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The rows without copies of an example, which buy no evidence.

    An example is known by its posterior, its condition and what decoding it costs: not by a permuted or drawn z's cost,
    nor by its own z's where a cost without noise is there. A posterior alone tells no two examples of a collapsed
    encoder apart, so where it is one for all and no cost is given they are taken for different ones.
    """
    told = [name for name in ("distortion_at_mean", "distortion_constant") if name in arrays] or ["distortion", "kl"]
    names = sorted(by_example(arrays) & {*LATENT, "group", *told})
    keys = zip(*(torch.from_numpy(codes(arrays[name][rows])) for name in names), strict=True)
    kept = rows[distinct(keys)]
    return rows if len(kept) == 1 and not set(told) & set(names) else kept


def codes(values: np.ndarray) -> np.ndarray:
    """Numbers as they are, words as numbers."""
    return values if values.dtype.kind == "f" else np.unique(values, return_inverse=True)[1].reshape(values.shape)


def findings(arrays: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, Finding]:
    """The readings of some of the examples, by name."""
    own = by_example(arrays)
    part = {name: value[rows] if name in own else value for name, value in arrays.items()}
    found = of_samples(part) if "samples" in part else of_posteriors(part)
    rate = found["rate"].value or 0.0
    found |= of_decoding(part, rate)
    for name in ("beta", "event_size"):
        if name in part:
            found[name] = Finding(name, scalar(part, name), None, len(rows))
    if "likelihood_scale" in part:
        found["decoder_scale"] = Finding("decoder_scale", scalar(part, "likelihood_scale"), None, len(rows))
    return found


def of_posteriors(part: Mapping[str, np.ndarray]) -> dict[str, Finding]:
    """What the detectors read on Gaussian posteriors: everything that needs no decoder."""
    mean = torch.from_numpy(part["mean"])
    scale = torch.from_numpy(part["scale"] if "scale" in part else np.exp(part["log_variance"] / 2))
    prior = [torch.as_tensor(part.get(name, otherwise), dtype=torch.float64).expand(mean.shape)
             for name, otherwise in (("prior_mean", 0.0), ("prior_scale", 1.0))]  # fmt: skip
    vae = Posteriors(mean, scale, (prior[0], prior[1]), scalar(part, "scale_floor"))
    positions, context = torch.arange(len(mean)), conditions(part)
    batch = Batch(positions, context, None, positions)
    blocks = [batch.part(block) for block in blocks_of(len(mean), BLOCK)]
    price = declared(part)
    detectors = {name: each for name, each in all_detectors().items() if name not in OF_DECODERS}
    return read(vae, blocks, detectors, price and (lambda elbo: price(elbo, Progress(1, 1))))[0]


def conditions(part: Mapping[str, np.ndarray]) -> Tensor | None:
    """The group of each example as a number."""
    return torch.from_numpy(np.unique(part["group"], return_inverse=True)[1].reshape(-1)) if "group" in part else None


def declared(part: Mapping[str, np.ndarray]) -> Regularizer | None:
    """The price that was declared: a floor of its form, or β alone; None where neither is given."""
    beta, floor = scalar(part, "beta"), scalar(part, "floor")
    if beta is None and not floor:
        return None
    weight = Constant(value=1.0 if beta is None else beta)
    if not floor:
        return Beta(weight=weight).eval()
    groups = text_of(part, "free_bits_groups") or "unit"
    return FreeBits(weight=weight, floor=floor, form=text_of(part, "free_bits_form") or "auto", groups=groups).eval()


def of_samples(part: Mapping[str, np.ndarray]) -> dict[str, Finding]:
    """Readings of a flow's draws: R of the given KL, rank and active units with the draws' noise taken off."""
    z = torch.from_numpy(part["samples"])
    draws, unit = z.shape[1], z.shape[2:]
    rate = Rate()
    rate.accumulate("rate", torch.from_numpy(part["kl"]))
    rate.units = rate.units.clamp(min=math.prod(unit))
    flat = z.flatten(2)
    mean, variance = flat.mean(1), flat.var(1)
    active = ActiveUnits()
    active.accumulate("mean", mean)
    active.accumulate("noise", variance / draws)
    found = [*rate.findings(), *active.findings(), *rank_of(flat, mean, unit)]
    found.append(undefined("mi", "a flow's samples come without its density"))
    return {finding.name: finding for finding in found}


def rank_of(z: Float[Tensor, "n draws k"], mean: Float[Tensor, "n k"], unit: tuple[int, ...]) -> list[Finding]:
    """The information rank from draws, debiased; undecided with fewer than that needs (16, 64 beyond 32 units)."""
    (groups, channels), draws = layout(unit), z.shape[1]
    if channels > LARGEST:
        return [undefined("information_rank", f"{channels} units need more examples than can be read")]
    detector = InformationRank()
    detector.accumulate("mean", mean)
    rows, within = (pooled(part, groups, channels) for part in (mean, (z - mean[:, None]).flatten(0, 1)))
    detector.outer, detector.within = rows.mT @ rows, within.mT @ within / (draws - 1)
    detector.draws, detector.channels = detector.draws.clamp(min=draws), detector.channels.clamp(min=channels)
    detector.groups = detector.groups.clamp(min=groups)
    rank, *others = detector.findings()
    needed = 16 if mean.shape[1] <= 32 else 64
    if draws < needed and rank.status == "measured":
        rank = rank._replace(status="undecided", note=f"too few draws: {draws} of {needed}")
    return [rank, *others]


# ---- what decoding cost


def of_decoding(part: Mapping[str, np.ndarray], rate: float) -> dict[str, Finding]:
    """Gap, interventions and the price of a nat, from distortions per example."""
    if "distortion" not in part:
        return {}
    column = {name: torch.from_numpy(part[name]) for name in DISTORTIONS if name in part}
    own = column["distortion"]
    found = {"distortion": mean_of("distortion", own)}
    if "distortion_permuted" in column:
        swapped = partners(part)
        paired = {name: each[swapped] for name, each in column.items()}
        if swapped.sum() < 2:
            found["gap"] = undefined("gap", "no two examples share their group, within which z is exchanged")
        else:
            found |= of_gap(paired, rate, scalar(part, "normalised"), scalar(part, "beta"))
    if "distortion_constant" in column:
        found["distortion_constant"] = mean_of("distortion_constant", column["distortion_constant"])
    if "distortion_at_mean" in column and "mean" in part:
        found |= of_price(part, column)
    return found


def partners(part: Mapping[str, np.ndarray]) -> Bool[Tensor, " n"]:
    """Which examples have another one of their group, whose z they may have been given."""
    if "group" not in part:
        return torch.ones(len(part["distortion"]), dtype=torch.bool)
    _, row, count = np.unique(part["group"], return_inverse=True, return_counts=True)
    return torch.from_numpy(count[row.reshape(-1)] > 1)


def of_gap(
    column: Mapping[str, Tensor], rate: float, normalised: float | None, beta: float | None
) -> dict[str, Finding]:
    """The gap as `detectors.decoder_reliance` judges it. Where it is not said whether D is a density, only what both
    sizes that matter say."""
    first, *rest = [
        judged(column, rate, each, beta) for each in ([normalised] if normalised is not None else [1.0, 0.0])
    ]
    if rest and first["gap"].status != rest[0]["gap"].status:
        note = "normalised is not given: 1 where distortion is −ln p(x|z) in nats, else 0"
        first["gap"] = first["gap"]._replace(status="undecided", note=note)
    return first


def judged(column: Mapping[str, Tensor], rate: float, normalised: float, beta: float | None) -> dict[str, Finding]:
    own = column["distortion"]
    excess = {
        name: column[f"distortion_{given}"] - own for name, given in EXCESS.items() if f"distortion_{given}" in column
    }
    gap = column["distortion_permuted"] - own
    detector = DecoderReliance()
    detector.accumulate("gap", gap)
    detector.accumulate("own", own)
    detector.accumulate("rate", torch.full_like(own, rate))
    detector.accumulate("normalised", torch.full_like(own, normalised))
    if beta is not None:
        detector.accumulate("declared", torch.full_like(own, beta))
    detector.gaps.append(gap)
    for name, each in excess.items() if "mean" in excess else ():
        detector.accumulate(name, each)
    if "mean" in excess:
        detector.accumulate("product", gap * excess["mean"])
    alone = {f"gap_{name}": mean_of(f"gap_{name}", each, f"{INTERVENTIONS[name]}: explains, decides nothing")
             for name, each in excess.items()}  # fmt: skip
    return alone | {finding.name: finding for finding in detector.findings()}


EXCESS = {"prior": "prior", "zero": "zero", "mean": "mean_z"}


def of_price(part: Mapping[str, np.ndarray], column: Mapping[str, Tensor]) -> dict[str, Finding]:
    """The shortcut 2[D(z) − D(μ)]/Σ(1 − σ²): exact for a quadratic D, else for small σ."""
    scale = part["scale"] if "scale" in part else np.exp(part["log_variance"] / 2)
    nats = torch.from_numpy((1 - np.square(scale / part.get("prior_scale", 1.0))).reshape(len(scale), -1).sum(1))
    loss = 2 * (column["distortion"] - column["distortion_at_mean"])
    detector, normalised = PriceOfANat(), scalar(part, "normalised")
    detector.accumulate("loss", loss)
    detector.accumulate("nats", nats)
    detector.accumulate("product", loss * nats)
    detector.accumulate("distortion", column["distortion"])
    event = scalar(part, "event_size")
    detector.normalised = detector.normalised.clamp(min=1.0 if normalised == 1 else 0.0)
    detector.size = detector.size.clamp(min=event or 0.0)
    found = {finding.name: finding for finding in detector.findings()}
    price = found.get("price_of_a_nat")
    if price and price.value is not None:
        found["price_of_a_nat"] = price._replace(note="the shortcut 2[D(z) − D(μ)]/Σ(1 − σ²)")
    if normalised != 1 and not event:
        lacking = "event_size" if normalised == 0 else "normalised"
        found["beta_effective"] = undefined("beta_effective", f"{lacking} is not given")
    return found
