"""Numbers that are given instead of measured, judged by the detectors' own thresholds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import arithmetic
from ..detectors.active_units import ActiveUnits
from ..detectors.base import Finding, Status, judge
from ..detectors.decoder_reliance import DecoderReliance, judge_gap
from ..detectors.floor_saturation import FloorSaturation
from ..detectors.mutual_information import CEILING_MARGIN, MutualInformation
from ..detectors.price_of_a_nat import PriceOfANat
from ..detectors.rate import Rate, kl_is_low
from .base import Evidence, known
from .logs import Log

ALONE = "given, not measured"
PLAIN = ("sigma_mean", "sigma_min", "distortion", "autoencoder_distortion", "data_entropy", "beta", "event_size",
         "floor", "kl_mean_per_unit", "kl_after_floor", "diversity_posterior", "diversity_prior",
         "diversity_reference")  # fmt: skip


def from_values(values: Mapping[str, Any], splits: Mapping[str, str], source: str = "numbers typed in") -> Evidence:
    """The readings that a few numbers give (names of `given.NAMES`, checked)."""
    return _evidence(values, splits, source, [])


def from_log(log: Log, file: Path) -> Evidence:
    """The same of a log's last rows, with how far R and the gap still moved."""
    moved = {"unsettled": log.unsettled, "schedule_done": log.weight_settled}
    step = f" up to step {log.values['step']:g}" if "step" in log.values else ""
    return _evidence(log.values, log.splits, f"the log {file}{step}", log.notes, **moved)


def _evidence(
    values: Mapping[str, Any], splits: Mapping[str, str], source: str, notes: Sequence[str], **more: Any
) -> Evidence:
    found = findings(values)
    facts = known(
        units=values.get("units"),
        weight=values.get("beta"),
        floor=values.get("floor"),
        beta=values.get("beta"),
        event_size=values.get("event_size"),
        free_bits_form=values.get("free_bits_form"),
        distortion_kind=values.get("distortion_kind"),
        distortion_reduction=values.get("distortion_reduction"),
        held_out=set(splits.values()) != {"training"},
        arithmetic=True,
        **more,
    )
    return Evidence(found, None, facts, source, [*notes, *disagreements(values, splits)])


def disagreements(values: Mapping[str, Any], splits: Mapping[str, str]) -> list[str]:
    """Sentences where the numbers are not of one thing."""
    said = []
    if len(set(splits.values())) > 1:
        of = {split: [name for name, each in splits.items() if each == split] for split in sorted(set(splits.values()))}
        parts = " and ".join(f"{', '.join(names)} of {split} examples" for split, names in of.items())
        said.append(f"these numbers come from different splits: {parts}")
    if {"rate", "kl_mean_per_unit", "units"} <= set(values):
        summed = values["kl_mean_per_unit"] * values["units"]
        if abs(summed - values["rate"]) > 0.05 * max(abs(summed), abs(values["rate"])):
            said.append(
                f"kl_mean_per_unit × units is {summed:.4g} nats but rate is {values['rate']:.4g}: one of them is "
                "weighted, or averaged over something"
            )
    return said


def findings(values: Mapping[str, Any]) -> dict[str, Finding]:
    """Every reading that the numbers give, by name."""
    n = values.get("examples", 0)
    rate, units = total_rate(values), values.get("units", 0)
    found = [] if rate is None else of_rate(rate, units, values.get("examples"))
    found += [Finding(name, float(values[name]), None, n, note=ALONE) for name in PLAIN if name in values]
    if "active_units" in values:
        found.append(
            Finding("active_units", values["active_units"], None, n, threshold=ActiveUnits().threshold, note=ALONE)
        )
    for temperature, value in values.get("diversity_at_temperature", {}).items():
        found.append(Finding(f"diversity_at_{temperature:g}", value, None, n, note=ALONE))
    if "weight_applied" in values:
        for name in ("weight_applied", "weight_declared"):
            found.append(Finding(name, values["weight_applied"], None, n, note=ALONE))
    for reading in (of_information, of_gap, of_price, of_floor):
        found += reading(values, rate)
    return {finding.name: finding for finding in found}


def total_rate(values: Mapping[str, Any]) -> float | None:
    """R in nats: as given, or the mean per unit times the units."""
    if "rate" in values:
        return float(values["rate"])
    mean, units = values.get("kl_mean_per_unit"), values.get("units")
    return None if mean is None or units is None else float(mean * units)


def of_rate(rate: float, units: int, examples: int | None) -> list[Finding]:
    """R as `detectors.rate` judges it; a log's mean is one over so many examples that N need not be given."""
    detector, n = Rate(), examples or 0
    least = max(detector.absent_nats, detector.absent_nats_per_unit * units)
    absent = rate < least and (examples is None or examples >= detector.absent_examples)
    found = [
        Finding("rate", rate, None, n, "absent" if absent else "measured", least, ALONE),
        Finding(
            "kl_is_low", float(kl_is_low(rate, detector.low)), None, n, threshold=detector.low,
            note="decides nothing alone",
        ),
    ]  # fmt: skip
    return [*found, *([Finding("units", float(units), None, n, note=ALONE)] if units else [])]


def of_information(values: Mapping[str, Any], rate: float | None) -> list[Finding]:
    """I(x; z) without its error: absent or present only where that could not matter, by a factor of two."""
    if (value := values.get("mutual_information")) is None:
        return []
    detector, n = MutualInformation(), values.get("mutual_information_examples")
    counted = n or max(detector.least.values())
    # an estimate ends at ln N: a share of an R far above that would call any I absent
    below = max(detector.absent_nats, detector.absent_share_of_rate * min(rate or 0.0, math.log(counted)))
    status: Status = judge(2 * value, 0.0, counted, absent_below=below, present_above=math.inf, **detector.least)
    if status != "absent":
        above = 2 * detector.present_nats
        status = judge(value, 0.0, counted, absent_below=-math.inf, present_above=above, **detector.least)
    note = f"{ALONE}; its error is not known"
    if n and value > math.log(n) - CEILING_MARGIN:
        note = f"saturated, {note}"
    found = [Finding("mi", float(value), None, n or 0, status, below, note)]
    return [*found, *([Finding("mi_ceiling", math.log(n), None, n)] if n else [])]


def of_gap(values: Mapping[str, Any], rate: float | None) -> list[Finding]:
    """The gap against the size that matters: δ of a likelihood in nats, else 2 % of the distortion."""
    if (value := values.get("gap")) is None:
        return []
    detector, kind = DecoderReliance(), values.get("distortion_kind")
    size = None
    if kind == "nll" and values.get("distortion_reduction", "sum") == "sum":
        size = max(detector.nats, detector.share_of_rate * min(1.0, values.get("beta", 1.0)) * (rate or 0.0))
    elif kind is not None and "distortion" in values:
        size = detector.share_of_distortion * abs(values["distortion"])
    se, n = values.get("gap_se"), values.get("examples", 0)
    if se is None or not n or size is None:
        lacking = [name for name, absent in (("gap_se", se is None), ("examples", not n)) if absent]
        lacking += ["distortion_kind and distortion"] if size is None else []
        note = f"{ALONE}; without {', '.join(lacking)} it is neither absent nor material"
        return [Finding("gap", float(value), se, n, "undecided", size, note)]
    unknown = kind == "nll" and "beta" not in values
    status, why = judge_gap(value, se, n, size, detector.nats if unknown else size, detector.examples)
    return [Finding("gap", float(value), float(se), n, status, size, "; ".join(filter(None, (ALONE, why))))]


def of_price(values: Mapping[str, Any], rate: float | None) -> list[Finding]:
    """What the weight makes of a nat: β over the likelihood's own scale, by the convention of the loss."""
    beta = values.get("weight_applied", values.get("beta"))
    if beta is None:
        return []
    kind, reduction = values.get("distortion_kind"), values.get("distortion_reduction")
    price = arithmetic.effective_beta(
        float(beta), values.get("distortion"), values.get("event_size"), kind=kind, reduction=reduction
    )
    if price is None or not math.isfinite(price):
        return []
    least = PriceOfANat().priceless
    status: Status = "absent" if price < least else "material"
    note = "of the weight as it is declared, by the loss's convention"
    return [Finding("beta_effective", price, None, values.get("examples", 0), status, least, note)]


def of_floor(values: Mapping[str, Any], rate: float | None) -> list[Finding]:
    """The log's rule: KLr/floor within the form's band and at least half of KLr free; and what fb% can be at most."""
    floor, n = values.get("floor"), values.get("examples", 0)
    mean, after = values.get("kl_mean_per_unit"), values.get("kl_after_floor")
    groups = values.get("free_bits_groups")
    found = [Finding("free_bits_groups", float(groups), None, n, note=ALONE)] if isinstance(groups, int) else []
    if mean is None and rate is not None and values.get("units"):
        mean = rate / values["units"]
        found.append(Finding("kl_mean_per_unit", mean, None, n, note="rate / units"))
    if mean is None:
        return found
    if after is not None:
        percent = 0.0 if mean <= 1e-6 else 100 * (mean - after) / mean
        found.append(Finding("fb_percent", percent, None, n, note="measures no constraint"))
    if not floor:
        return found
    found += [
        Finding("kl_over_floor", mean / floor, None, n),
        Finding("fb_percent_at_most", arithmetic.most_free(mean, floor), None, n, note="whatever the groups"),
    ]
    if after is None:
        return found
    detector = FloorSaturation()
    pinned = arithmetic.sits_at_floor(mean, after, floor, values.get("free_bits_form"))
    share = min(1.0, max(0.0, arithmetic.most_reached(mean, after, floor)))
    note = "at most this share of the groups reaches the floor (from the log's means)"
    status: Status = "material" if pinned else "measured"
    return [Finding("floor_saturation", share, None, n, status, detector.pinned, note), *found]
