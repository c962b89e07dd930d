"""From findings to a verdict: the state of the latent, the mechanisms behind it, how sure, and what to do next.

The value of z splits the families first: it is the one reading that needs no density and separates contradictory cures.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from .detectors.base import Finding
from .refusal import Refused

State = Literal[
    "posterior_collapse", "fake_rate", "bypassed_latent", "overfit", "variance_collapse", "partial_collapse",
    "rate_pinned", "diverged", "too_early", "healthy", "inconclusive",
]
STATES: tuple[str, ...] = get_args(State)
Readings = Mapping[str, Finding]

MEANING = {
    "posterior_collapse": "the posterior is the prior: z carries nothing",
    "fake_rate": "KL is paid for a z that carries nothing",
    "bypassed_latent": "z informs, but the decoder does not listen",
    "overfit": "z serves the training examples and is worth nothing on held-out ones",
    "variance_collapse": "the posterior's noise is gone: an autoencoder",
    "partial_collapse": "only part of the latent the data could fill is alive",
    "rate_pinned": "the KL sits at its floor; what lies under it is undecided",
    "diverged": "training left the finite or the sensible numbers",
    "too_early": "too little training to say anything",
    "healthy": "z carries information and the decoder uses it",
    "inconclusive": "the evidence does not decide",
}


class Prescription(NamedTuple):
    """Overrides to add to the run's own, and why; `command` is filled in by whoever knows the run's own."""

    overrides: tuple[str, ...]
    why: str
    command: str | None = None


class Facts(NamedTuple):
    """What is known of a run besides its readings.

    `weight` is the KL weight the schedule ends at, `forecast` the directions the data offers at the run's own e,
    `unsettled` the largest relative movement of gap and R over the last fifth of training, `share` the part of the
    planned steps done, `fault` what diverged, `finished` False while training goes on, `floor` the run's own in nats
    per unit (0 without one).
    """

    units: int = 0
    weight: float | None = None
    forecast: int | None = None
    unsettled: float | None = None
    share: float = 1.0
    epochs: int = 2
    fault: str | None = None
    finished: bool = True
    schedule_done: bool = True
    floor: float = 0.0


class Verdict(NamedTuple):
    """`deciding` names the readings that decided; `readings` are those of the held-out probe, `train/…` the others."""

    verdict: State
    confidence: Literal["high", "medium", "low"]
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
        prescriptions = [{"command": p.command, "why": p.why} for p in self.prescriptions]
        return {**self._asdict(), "readings": readings, "prescriptions": prescriptions}


MISSING = Finding("missing", None, status="undefined", note="not measured")


def diagnose(held_out: Readings, training: Readings | None = None, facts: Facts | None = None) -> Verdict:
    """The verdict on these readings. `held_out` are the findings of the held-out probe by name (`training`: of the
    training probe). It never says healthy for want of evidence.

    Raises Refused where no reading is given at all.
    """
    if not held_out:
        raise Refused("expected at least one reading, but got none: run the detectors on a held-out probe first")
    facts, training = facts or Facts(), training or {}
    state, deciding, sentence = decide(held_out, training, facts)
    mechanisms = find_mechanisms(held_out, facts, state)
    readings = {**held_out, **{f"train/{name}": finding for name, finding in training.items()}}
    if state == "diverged" or state == "too_early":
        return Verdict(state, "high" if state == "diverged" else "low", mechanisms, [sentence], [], [], readings,
                       prescribe(state, facts), deciding)
    return Verdict(
        state, confidence(held_out, deciding, facts), mechanisms, [sentence, *remarks(held_out, facts, mechanisms)],
        refute(held_out, state), missing(held_out, training), readings, prescribe(state, facts), deciding,
    )


def value(readings: Readings, name: str, default: float = float("nan")) -> float:
    found = readings.get(name, MISSING).value
    return default if found is None else found


def status(readings: Readings, name: str) -> str:
    return readings.get(name, MISSING).status


def reached(readings: Readings, name: str) -> bool:
    """Is the reading at or above its own threshold?"""
    found = readings.get(name, MISSING)
    return found.value is not None and found.threshold is not None and found.value >= found.threshold


def directions(readings: Readings) -> float:
    """Informative directions: the rank, or 1 where I is present and the rank sees nothing (it is blind to σ)."""
    return max(value(readings, "information_rank", 0.0), float(status(readings, "mi") == "material"))


def decide(held_out: Readings, training: Readings, facts: Facts) -> tuple[State, list[str], str]:
    """(state, the readings that decided, one sentence), by the precedence of docs/verdicts.md."""
    rate = value(held_out, "rate")
    if facts.fault:
        return "diverged", ["rate", "gap", "distortion"], facts.fault
    if rate != rate or rate > 1e4 * max(1, facts.units):
        return "diverged", ["rate", "gap", "distortion"], f"the rate is {rate:.4g} nats over {facts.units} units"
    gap = status(held_out, "gap")
    # Healthy runs read 1-61 nats with no information in their first steps, so nothing is said before one of these.
    if not facts.finished and gap != "material" and facts.share < 0.1 and facts.epochs < 2:
        return "too_early", ["rate", "gap", "information_rank"], "less than a tenth of the planned steps is done"
    if gap == "undefined":
        return without_gap(held_out)
    if gap == "absent":
        return gap_absent(held_out, training)
    return gap_material(held_out, facts) if gap == "material" else gap_undecided(held_out)


def gap_absent(held_out: Readings, training: Readings) -> tuple[State, list[str], str]:
    rate, mi = value(held_out, "rate"), status(held_out, "mi")
    if status(held_out, "rate") == "absent" or value(held_out, "dead_units") == value(held_out, "units"):
        return "posterior_collapse", ["gap", "rate", "information_rank"], f"another's z serves as well, and R is {rate:.3g} nats"
    if status(training, "gap") == "material":
        return "overfit", ["train/gap", "gap", "rate"], (
            f"on training examples z is worth {value(training, 'gap'):.3g}, on held-out ones nothing")
    if mi == "absent":
        return "fake_rate", ["gap", "rate", "mi"], (
            f"R is {rate:.3g} nats, I(x; z) is {value(held_out, 'mi'):.2g}, and another's z serves as well")
    if mi == "material":
        return "bypassed_latent", ["gap", "mi", "rate"], (
            f"I(x; z) is at least {value(held_out, 'mi'):.3g} nats, yet another's z serves as well")
    return "inconclusive", ["gap", "rate", "mi"], "z is worth nothing to the decoder, and I(x; z) is not settled"


def gap_material(held_out: Readings, facts: Facts) -> tuple[State, list[str], str]:
    if status(held_out, "sigma_median") == "material" and status(held_out, "beta_effective") == "absent":
        return "variance_collapse", ["sigma_median", "beta_effective", "rate"], (
            f"the median σ is {value(held_out, 'sigma_median'):.2g} and a nat costs {value(held_out, 'beta_effective'):.2g} of the ELBO's price")
    alive = directions(held_out)
    if facts.forecast and alive <= facts.forecast / 2:
        return "partial_collapse", ["information_rank", "gap", "rate"], (
            f"{alive:.0f} of the {facts.forecast} directions that the data offers at this price are alive")
    if status(held_out, "mi") == "material" or value(held_out, "information_rank", 0.0) >= 1:
        return "healthy", ["gap", "information_rank", "mi"], (
            f"another's z costs {value(held_out, 'gap'):.3g}, {value(held_out, 'information_rank', 0.0):.0f} directions "
            "carry information")
    return "inconclusive", ["gap", "information_rank", "mi"], "the decoder uses z, but no information was measured in it"


def gap_undecided(held_out: Readings) -> tuple[State, list[str], str]:
    gap = held_out["gap"]
    if status(held_out, "floor_saturation") == "material":
        return "rate_pinned", ["floor_saturation", "rate", "gap"], (
            f"{value(held_out, 'floor_saturation'):.0%} of the groups sit at the floor; what lies under it is undecided")
    low, high = interval(gap)
    dead, units = value(held_out, "dead_units"), value(held_out, "units", 0.0)
    if gap.threshold and low > 0 and high < 2 * gap.threshold and units and dead >= units / 2:
        return "partial_collapse", ["gap", "dead_units", "rate"], f"{dead:.0f} of {units:.0f} units are dead"
    return "inconclusive", ["gap", "rate", "mi"], (
        f"the gap lies in [{low:.3g}, {high:.3g}] over {gap.n} examples, which does not decide against {gap.threshold:.3g}")


def without_gap(held_out: Readings) -> tuple[State, list[str], str]:
    """No decoder was read: convict or be inconclusive, never acquit (I ≤ R proves collapse at R ~ 0)."""
    if status(held_out, "rate") == "absent":
        return "posterior_collapse", ["rate", "mi", "information_rank"], (
            f"R is {value(held_out, 'rate'):.3g} nats, and I(x; z) is never more")
    if status(held_out, "mi") == "absent":
        return "fake_rate", ["rate", "mi", "information_rank"], (
            f"R is {value(held_out, 'rate'):.3g} nats and I(x; z) is {value(held_out, 'mi'):.2g}")
    if status(held_out, "floor_saturation") == "material":
        return "rate_pinned", ["floor_saturation", "rate", "mi"], "the KL sits at its floor"
    return "inconclusive", ["rate", "mi", "information_rank"], "the decoder was not read, so z cannot be acquitted"


def interval(finding: Finding) -> tuple[float, float]:
    """The 95 % interval of a reading."""
    centre, half = finding.value or 0.0, 1.96 * (finding.se or 0.0)
    return centre - half, centre + half


def find_mechanisms(held_out: Readings, facts: Facts, state: str) -> list[str]:
    """Why the latent is as it is; these choose among cures."""
    units, applied = value(held_out, "units", 0.0), value(held_out, "weight_declared")
    price, floored = held_out.get("price_of_a_nat", MISSING), value(held_out, "floor_saturation", 0.0) > 0
    inert = facts.finished and (applied == 0 or reached(held_out, "zero_gradient"))
    # After the schedule's end the weight that acts must be the one it declares, and, with no floor in the way, the
    # one the trained model shows.
    late = facts.finished and facts.weight is not None and applied == applied and abs(applied - facts.weight) > 0.05 * facts.weight
    unseen = bool(facts.weight) and not floored and price.value is not None and interval(price)[1] < 0.05 * (facts.weight or 0)
    found = {
        "rate_pinned": status(held_out, "floor_saturation") == "material" and state != "rate_pinned",
        "inert_penalty": inert,
        "schedule_not_applied": (late or unseen) and not inert,
        "sigma_at_floor": reached(held_out, "sigma_at_floor"),
        "unused_units": state == "healthy" and 0 < value(held_out, "dead_units", 0.0) < units,
    }
    return [name for name, holds in found.items() if holds]


def remarks(held_out: Readings, facts: Facts, mechanisms: list[str]) -> list[str]:
    """Sentences on what else was seen."""
    said = []
    if value(held_out, "kl_is_low", 0.0) == 1:
        said.append(f"the KL is low ({value(held_out, 'rate'):.3g} nats); alone that decides nothing")
    if "unused_units" in mechanisms:
        said.append(f"{value(held_out, 'dead_units'):.0f} units are unused: surplus, no illness")
    if "rate_pinned" in mechanisms:
        said.append(f"the KL is pinned at the floor ({value(held_out, 'kl_over_floor'):.2f} of it): it follows the floor, "
                    "not the data")
    if "inert_penalty" in mechanisms:
        said.append("the KL penalty exerts no force: a floor removes the price of the nats below it, it pushes nothing")
    if "schedule_not_applied" in mechanisms:
        said.append(f"the weight declared for the end of training ({facts.weight:.3g}) is not the one that acts "
                    f"(applied {value(held_out, 'weight_declared'):.3g}, price of a nat {value(held_out, 'price_of_a_nat'):.3g})")
    if facts.unsettled is not None and facts.unsettled > 0.2:
        said.append(f"gap or R moved {facts.unsettled:.0%} over the last fifth of training: it has not settled")
    return said


def refute(held_out: Readings, state: str) -> list[str]:
    """What the evidence rules out."""
    out = []
    if status(held_out, "gap") == "material":
        out.append("posterior_collapse: another's z costs the decoder")
    elif status(held_out, "mi") == "material" and state != "bypassed_latent":
        out.append("posterior_collapse: z informs about x")
    if state != "variance_collapse" and status(held_out, "sigma_median") == "absent":
        out.append(f"variance_collapse: the median σ is {value(held_out, 'sigma_median'):.2g}")
    elif status(held_out, "sigma_median") == status(held_out, "beta_effective") == "material":
        out.append("variance_collapse: σ is small, but a nat has its price")
    return out


def missing(held_out: Readings, training: Readings) -> list[str]:
    """Measurements that would settle more."""
    wanted = []
    gap = held_out.get("gap", MISSING)
    if gap.status == "undefined":
        wanted.append("the value of z: give the decoder (decode=…) so that a permuted z can be tried")
    elif gap.status == "undecided" and gap.n < 500:
        wanted.append(f"a larger held-out probe: {gap.n} examples, and absence is only said from 500")
    if status(held_out, "mi") in ("undefined", "undecided"):
        wanted.append("I(x; z) on more examples")
    if not training:
        wanted.append("the same readings on training examples, to tell overfit")
    wanted.append("whether the aggregate posterior fills the prior (prior_hole): not measured")
    return wanted


def confidence(held_out: Readings, deciding: list[str], facts: Facts) -> Literal["high", "medium", "low"]:
    """High: limits clear by a factor 2 and at least 2000 examples; low: no gap, or the trend unsettled."""
    gap = held_out.get("gap", MISSING)
    if gap.status not in ("material", "absent") or (facts.unsettled or 0) > 0.2 or not facts.schedule_done:
        return "low"
    low, high = interval(gap)
    size = gap.threshold or 0.0
    clear = low > 2 * size if gap.status == "material" else high < size / 2
    return "high" if clear and gap.n >= 2000 else "medium"


def prescribe(state: str, facts: Facts) -> list[Prescription]:
    """Up to three moves, likeliest first; none raises the weight of a KL that is already dead."""
    weight = 1.0 if not facts.weight else facts.weight
    lower = f"beta={weight / 10:.3g}"
    anneal = ("coefficient@regularizer.weight=linear", "warmup=0.5")
    if state in ("posterior_collapse", "fake_rate"):
        floor = [Prescription(("regularizer=beta", lower), "the floor keeps the KL up and carries nothing: remove it and "
                              "lower the price")] if state == "fake_rate" and facts.floor else []
        return [*floor, Prescription((lower,), "a nat costs more than the data pays for it: R and the gap should rise"),
                Prescription((lower, *anneal), "and give z half of training before the full price")][:3]
    if state == "partial_collapse":
        return [Prescription((lower,), "more directions pay for themselves at a lower price"),
                Prescription(anneal, "a slow warm-up lets more directions establish themselves")]
    if state == "variance_collapse":
        return [Prescription((f"beta={max(weight * 10, 1e-3):.3g}",), "σ is free: raise the price of a nat")]
    if state == "overfit":
        return [Prescription(("latent_dim=4",), "less to remember with; more data would serve better")]
    if state == "bypassed_latent":
        return [Prescription((lower, *anneal), "let the decoder learn to listen before z is charged in full")]
    if state == "rate_pinned":
        return [Prescription(("regularizer=beta", lower), "without the floor, R shows what the data pays for")]
    if state == "diverged":
        return [Prescription(("lr=1e-4",), "smaller steps"),
                Prescription(("trainer.gradient_clip_val=1",), "bound a single step")]
    if state in ("inconclusive", "too_early"):
        return [Prescription(("max_epochs=20",), "more training, and another look")]
    return [Prescription(("seed=1",), "the same from another start: a verdict worth having holds")]
