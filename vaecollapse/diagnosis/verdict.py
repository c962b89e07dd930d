"""From findings to a verdict: the state of the latent, the mechanisms behind it, how sure, and what to do next.

The value of z splits the families first: it is the one reading that needs no density and separates contradictory cures.
"""

from typing import NamedTuple

from ..detectors.base import Finding
from ..prescriptions import Plan, Prescription, State, prescribe
from ..refusal import Refused
from .facts import Facts
from .mechanisms import find_mechanisms
from .reading import MISSING, Readings, interval, phrase, status, value
from .sentences import Confidence, confidence, missing, refute, remarks
from .state import decide, underfit

FITS = 2.0  # a residual that many times the likelihood's scale is one that a fitted scale would follow


class Verdict(NamedTuple):
    """`deciding` names the readings that decided; `readings` are those of the held-out probe, `train/…` the others."""

    verdict: State
    confidence: Confidence
    mechanisms: list[str]
    findings: list[str]
    refuted: list[str]
    missing: list[str]
    readings: dict[str, Finding]
    prescriptions: list[Prescription]
    deciding: list[str]

    def as_dict(self) -> dict:
        """The content of verdict.json."""
        readings = {
            name: {"value": f.value, "se": f.se, "n": f.n, "status": f.status, "threshold": f.threshold, "note": f.note}
            for name, f in self.readings.items()
        }
        prescriptions = [
            {"command": p.command, "overrides": list(p.overrides), "why": p.why} for p in self.prescriptions
        ]
        return {**self._asdict(), "readings": readings, "prescriptions": prescriptions}

    @classmethod
    def from_dict(cls, content: dict) -> "Verdict":
        """The verdict that a verdict.json holds."""
        readings = {name: Finding(name, **reading) for name, reading in content["readings"].items()}
        prescriptions = [
            Prescription(tuple(p.get("overrides", ())), p["why"], p["command"]) for p in content["prescriptions"]
        ]
        own = {name: content[name] for name in cls._fields}
        return cls(**{**own, "readings": readings, "prescriptions": prescriptions})


def diagnose(held_out: Readings, training: Readings | None = None, facts: Facts | None = None) -> Verdict:
    """The verdict on these readings. `held_out` are the findings of the held-out probe by name (`training`: of the
    training probe). It never says healthy for want of evidence.

    Raises Refused where no reading is given at all.
    """
    if not held_out:
        raise Refused("expected at least one reading, but got none: run the detectors on a held-out probe first")
    facts, training = facts or Facts(), training or {}
    state, deciding, why = decide(held_out, training, facts)
    below: list[str] = []
    if state not in ("diverged", "too_early") and underfit(facts):
        below, state, deciding = [state], "underfit", ["distortion", "gap", "rate"]
        why = phrase(
            "without a price on the KL D is {over:.3g} above that of principal components of as many units: it is not "
            "the KL", held_out, over=(facts.over_reference or MISSING).value or 0.0,
        )  # fmt: skip
    mechanisms = [*below, *find_mechanisms(held_out, facts, state)]
    readings = {**held_out, **{f"train/{name}": finding for name, finding in training.items()}}
    prescriptions = prescribe(state, plan_of(held_out, facts, mechanisms))
    if state in ("diverged", "too_early"):
        sure: Confidence = "high" if state == "diverged" else "low"
        return Verdict(state, sure, mechanisms, [why], [], [], readings, prescriptions, deciding)
    return Verdict(
        state,
        confidence(held_out, training, facts, state),
        mechanisms,
        [why, *remarks(held_out, training, facts, mechanisms)],
        refute(held_out, facts, state),
        missing(held_out, training, facts),
        readings,
        prescriptions,
        deciding,
    )


def plan_of(held_out: Readings, facts: Facts, mechanisms: list[str]) -> Plan:
    """What prescriptions start from."""
    fork = facts.forks.get("price")
    size = fork.before.get("gap", MISSING).threshold if fork else None
    spread, share = value(held_out, "data_spread"), value(held_out, "residual_share")
    return Plan(
        weight=facts.beta if facts.weight is None else facts.weight,
        price=facts.beta_effective or held_out.get("beta_effective", MISSING).value,
        found=facts.weight is None and "regularizer=beta" in facts.held,
        held=facts.held or (("regularizer=beta",) if facts.floor > 0 else ()),
        mechanisms=tuple(mechanisms),
        still=fork is not None and interval(fork.better)[1] < (size or 0.0),
        knobs=facts.knobs,
        units=facts.units,
        numbers=held_out.get("data_numbers", MISSING).value,
        spread=held_out.get("data_spread", MISSING).value,
        crowded=status(held_out, "decoder_scale_margin") == "material",
        fits=spread * share**0.5 < FITS * value(held_out, "decoder_scale"),
    )
