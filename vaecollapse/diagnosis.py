"""From findings to a verdict: the state of the latent, the mechanisms behind it, how sure, and what to do next.

The value of z splits the families first: it is the one reading that needs no density and separates contradictory cures.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from scipy.special import stdtrit

from . import arithmetic
from .detectors.base import Z95, Finding
from .prescriptions import Plan, Prescription, State, prescribe
from .refusal import Refused, check_least

Readings = Mapping[str, Finding]
Confidence = Literal["high", "medium", "low"]


class Fork(NamedTuple):
    """What a short training from a checkpoint moved: readings of the held-out probe before and after it.

    `cause`: `price` (β = 0), `encoder` (the decoder frozen), `decoder` (a weaker one), `floor` (lifted). `better` is
    the mean fall of D over the fork with its standard error, paired per example.
    """

    cause: str
    before: Mapping[str, Finding]
    after: Mapping[str, Finding]
    better: Finding
    steps: int


class Bars(NamedTuple):
    """Sizes that decide between states and belong to no single detector; conf/callback/collapse_monitor.yaml gives each
    its reason."""

    endless_rate: float = 1e4
    overpriced: float = 4.0
    half: float = 0.5
    blind: float = 2.0
    varied: float = 0.2
    reference: float = 0.035
    contrast_examples: int = 10
    contrast_share: float = 0.25
    mismatch: float = 0.05
    unsettled: float = 0.2
    sure_examples: int = 2000


def bars_of(given: Mapping[str, Any]) -> Bars:
    """The sizes that decide between states, those given in place of the defaults. Refused where one is none."""
    where = "callback.collapse_monitor.bars"
    for name, number in given.items():
        if name not in Bars._fields:
            raise Refused(f"{where}.{name} is no size that a verdict knows: take {', '.join(Bars._fields)}")
        if not isinstance(number, int | float):
            raise Refused(f"{where}.{name}={number} is no number: leave it out for {getattr(Bars(), name):g}")
        check_least(where, 0, **{name: number})
    return Bars()._replace(**given)


class Facts(NamedTuple):
    """What is known of a run besides its readings.

    `weight` is the KL weight the schedule ends at, `forecast` the directions the data offers at the run's own e,
    `unsettled` the largest relative movement of gap and R over the last fifth of training, `share` the part of the
    planned steps done, `fault` what diverged, `finished` False while training goes on, `floor` the run's own in nats
    per unit (0 without one), `held` the choices that give up what keeps R from falling, `knobs` the run's
    own values of what a prescription may move, `held_out` False where only training examples were read.
    `beta_effective` is e over the residual that the forecast leaves (1: the ELBO's own price), `forecast_at_one` the
    directions the data offers at that very price.
    `forks` are the short trainings of a probe, by cause; `over_reference` how much worse than the closed-form reference
    with the same number of units the autoencoder among them is on held-out examples.
    `arithmetic`: numbers of a log alone, with what `beta`, `distortion_kind` (nll, l1, l2, other),
    `distortion_reduction` (sum, mean), `event_size` and `free_bits_form` say of its loss. `ours` is False for a model,
    arrays or numbers of others, to whom our keys mean nothing; `prior` is False for an autoencoder of which no prior is
    known, so that there is none that q(z) could miss. `bottleneck`: the encoder sees the condition
    alone, never what is decoded.
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
    held: tuple[str, ...] = ()
    knobs: Mapping[str, float] = {}
    held_out: bool = True
    beta_effective: float | None = None
    forecast_at_one: int | None = None
    forks: Mapping[str, Fork] = {}
    over_reference: Finding | None = None
    arithmetic: bool = False
    beta: float | None = None
    distortion_kind: str | None = None
    distortion_reduction: str | None = None
    event_size: float | None = None
    free_bits_form: str | None = None
    ours: bool = True
    prior: bool = True
    bottleneck: bool = False
    bars: Bars = Bars()


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


SQUEEZED = (
    "z is made of the condition alone, a bottleneck, and at this price only {rate:.3g} nats of that pass through it: "
    "it is not that the decoder ignores what an encoder saw"
)
FITS = 2.0  # a residual that many times the likelihood's scale is one that a fitted scale would follow
SMALL_SIGMA = 0.01  # at which numbers of a log are held against a variance collapse
MISSING = Finding("missing", None, status="undefined", note="not measured")


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


class _Values(dict):
    def __missing__(self, name: str) -> float:
        return float("nan")


def phrase(template: str, readings: Readings, **more: float | str) -> str:
    """A sentence with readings filled in by name."""
    known = {name: finding.value for name, finding in readings.items() if finding.value is not None}
    return template.format_map(_Values(known | more))


def value(readings: Readings, name: str, default: float = float("nan")) -> float:
    found = readings.get(name, MISSING).value
    return default if found is None else found


def status(readings: Readings, name: str) -> str:
    return readings.get(name, MISSING).status


def reached(readings: Readings, name: str) -> bool:
    """Is the reading at or above its own threshold?"""
    found = readings.get(name, MISSING)
    return found.value is not None and found.threshold is not None and found.value >= found.threshold


def interval(finding: Finding) -> tuple[float, float]:
    """The 95 % interval of a reading."""
    centre, half = finding.value or 0.0, Z95 * (finding.se or 0.0)
    return centre - half, centre + half


def directions(readings: Readings) -> float:
    """Informative directions: the rank, or 1 where I is present and the rank sees nothing (it is blind to σ)."""
    return max(value(readings, "information_rank", 0.0), float(status(readings, "mi") == "material"))


def counts_all(readings: Readings, facts: Facts) -> bool:
    """Does the rank see what there is? It takes enough examples, and most of I in the means: to what σ alone tells it
    is blind, and no direction that it misses may convict."""
    mi, means = readings.get("mi", MISSING), value(readings, "information_in_means")
    blind = mi.status == "material" and interval(mi)[0] > facts.bars.blind * means
    return readings.get("information_rank", MISSING).status == "measured" and not blind


def at_most(readings: Readings, facts: Facts) -> float | None:
    """The most directions that can carry information: the rank (times the positions of a spatial latent) where it sees
    all, and never more than there are live units. None where neither is known."""
    known = []
    if counts_all(readings, facts):
        known.append(value(readings, "directions_at_most", directions(readings)))
    if (dead := readings.get("dead_units", MISSING).value) is not None and "units" in readings:
        known.append(value(readings, "units") - dead)
    return max(min(known), float(status(readings, "mi") == "material")) if known else None


# ---- the state


class Decision(NamedTuple):
    """A state, the three readings that decided it, and why in one sentence."""

    state: State
    deciding: list[str]
    why: str


def decide(held_out: Readings, training: Readings, facts: Facts) -> Decision:
    """The state, by the precedence of docs/verdicts.md."""
    seen = ["rate", "gap", "distortion"]
    if facts.fault:
        return Decision("diverged", seen, facts.fault)
    numbers = {name: held_out.get(name, MISSING).value for name in seen}
    for name, number in numbers.items():
        if number is not None and not math.isfinite(number):
            return Decision("diverged", seen, f"the {name} is not finite on held-out examples")
    if (numbers["rate"] or 0.0) > facts.bars.endless_rate * max(1, facts.units):
        return Decision("diverged", seen, f"the rate is {numbers['rate']:.4g} nats over {facts.units} units")
    gap = status(held_out, "gap")
    # Healthy runs read 1-61 nats with no information in their first steps, so nothing is said before one of these.
    if not facts.finished and gap != "material" and facts.share < 0.1 and facts.epochs < 2:
        return Decision("too_early", ["rate", "gap", "information_rank"], "less than a tenth of the steps is done")
    if gap == "undefined" or held_out["gap"].se is None:  # without an error a gap is neither absent nor material
        return without_gap(held_out, facts)
    if gap == "absent":
        return gap_absent(held_out, training, facts)
    return gap_material(held_out, training, facts) if gap == "material" else gap_undecided(held_out, training, facts)


def gap_absent(held_out: Readings, training: Readings, facts: Facts) -> Decision:
    mi = status(held_out, "mi")
    if status(held_out, "rate") == "absent" or value(held_out, "dead_units") == value(held_out, "units"):
        state, deciding = "posterior_collapse", ["gap", "rate", "information_rank"]
        why = phrase("another's z serves as well, and R is {rate:.3g} nats", held_out)
        if held_out.get("rate", MISSING).value is None:
            why = "another's z serves as well, and z is the same for all"
        if facts.bottleneck:
            state, why = "over_compressed", phrase(SQUEEZED, held_out)
    elif status(training, "gap") == "material" or memorised(held_out, training, facts.bars):
        state, deciding = "overfit", ["train/gap", "gap", "rate"]
        why = phrase("on training examples z is worth {gap:.3g}, on held-out ones nothing", training)
    elif mi == "absent":
        state, deciding = "fake_rate", ["gap", "rate", "mi"]
        why = phrase("R is {rate:.3g} nats, I(x; z) is {mi:.2g}, and another's z serves as well", held_out)
    elif mi == "material":
        state, deciding = "bypassed_latent", ["gap", "mi", "rate"]
        why = phrase("I(x; z) is at least {mi:.3g} nats, yet another's z serves as well", held_out)
    else:
        state, deciding = "inconclusive", ["gap", "rate", "mi"]
        why = "z is worth nothing to the decoder, and I(x; z) is not settled"
    return Decision(state, deciding, why)


def gap_material(held_out: Readings, training: Readings, facts: Facts) -> Decision:
    alive = directions(held_out)
    counted = held_out.get("information_rank", MISSING).value is not None  # not under a batch-normalised posterior
    shown = ["gap", "information_rank" if counted else "rate", "mi"]
    if status(held_out, "decoder_variance") == "material":
        why = "the likelihood's own scale has collapsed ({decoder_scale:.2g}), so D has no bound and no nat a price"
        return Decision("decoder_variance_collapse", ["decoder_scale", "distortion", "gap"], phrase(why, held_out))
    if memorised(held_out, training, facts.bars):
        return kept_little(held_out, training)
    if status(held_out, "sigma_median") == "material" and status(held_out, "beta_effective") == "absent":
        why = "the median σ is {sigma_median:.2g} and a nat costs {beta_effective:.2g} of the ELBO's price"
        return Decision("variance_collapse", ["sigma_median", "beta_effective", "rate"], phrase(why, held_out))
    if status(held_out, "prior_hole") == "material":
        hole = held_out["prior_hole"]
        why = f"q(z) is at least {interval(hole)[0]:.3g} nats from the prior ({hole.note or 'by its moments'})"
        return Decision("prior_hole", ["prior_hole", "gap", "rate"], why)
    if status(held_out, "hole_auc") == status(held_out, "prior_samples") == "material":
        why = "q(z) and the prior are told apart ({hole_auc:.2f}), and what prior samples decode to is worse for it"
        return Decision("prior_hole", ["hole_auc", "prior_samples", "gap"], phrase(why, held_out))
    if squeezed := over_compressed(held_out, facts):
        return Decision("over_compressed", ["beta_effective", "information_rank", "gap"], squeezed)
    rank = held_out.get("information_rank", MISSING)
    most = at_most(held_out, facts)
    if facts.forecast and most is not None and most <= facts.bars.half * facts.forecast:
        why = f"{most:.0f} of the {facts.forecast} directions that the data offers at this price are alive"
        return Decision("partial_collapse", ["information_rank", "gap", "rate"], why)
    if silent := half_silent(held_out, facts):
        return Decision("partial_collapse", ["dead_groups", "gap", "rate"], silent)
    if not facts.held_out:
        return Decision("inconclusive", shown, "z serves the training examples; no held-out ones were read")
    beyond = held_out.get("information_rank_beyond_condition", rank)  # of c nothing counts as information on x
    replaced = status(held_out, "mi") == "undefined" and beyond.status == "measured" and (beyond.value or 0.0) >= 1
    if status(held_out, "mi") != "material" and not replaced:
        return Decision("inconclusive", shown, "the decoder uses z, but no information was measured in it")
    where = "{alive:.0f} directions carry information" if counts_all(held_out, facts) else "z informs by {mi:.3g} nats"
    why = phrase(f"another's z costs {{gap:.3g}}, and {where}", held_out, alive=alive)
    if facts.finished and facts.prior and not no_hole(held_out):  # while training nothing so dear is read
        return Decision("inconclusive", shown, f"{why}; whether q(z) fills the prior is not settled")
    return Decision("healthy", shown, why)


def half_silent(held_out: Readings, facts: Facts) -> str | None:
    """Why half of the tokens or channels are missed: the data offers more than the live ones hold, or an autoencoder
    makes more of z; None if they are surplus."""
    dead, groups = value(held_out, "dead_groups", 0.0), value(held_out, "groups")
    if not dead >= facts.bars.half * groups or dead == groups:
        return None
    said, live = f"{dead:.0f} of {groups:.0f} groups are dead", value(held_out, "units") - value(held_out, "dead_units")
    if (facts.forecast or 0) > live:
        return f"{said}, and the {live:.0f} live units are fewer than the {facts.forecast} directions the data offers"
    return f"{said}, and without the KL's price z is worth more" if revived(facts, "price") else None


def no_hole(held_out: Readings) -> bool:
    """Is a prior hole ruled out? By R − Î, or by every lower bound together with the classifier or with what prior
    samples decode to (from 64 examples: their limits widen with fewer, and nobody is convicted on an absence here)."""
    hole = held_out.get("prior_hole", MISSING)
    if status(held_out, "prior_samples") == "material" and status(held_out, "marginal_kl_upper") != "absent":
        return False  # what the prior draws is worse, and R − Î leaves room for the reason
    if hole.status != "undecided":
        return hole.status == "absent"
    bounds = [held_out.get(name, MISSING) for name in ("marginal_kl_lower", "marginal_kl_by_unit")]
    area, samples = (held_out.get(name, MISSING) for name in ("hole_auc", "prior_samples"))
    moments = bounds[0].value is not None and not bounds[0].note  # a note: too few examples for so many units
    cleared = all(ruled_out(part) for part in bounds if part.value is not None)
    # Where q(z) and the prior are told apart, prior samples acquit only if they are not twice as far from the data:
    # shapes of equal moments differ by a small share of the distance between two examples.
    doubted = area.status == "material" and interval(samples)[1] >= 0
    return moments and cleared and (ruled_out(area) or (ruled_out(samples) and not doubted))


def ruled_out(part: Finding) -> bool:
    """Does the upper limit lie below the size that matters?"""
    known = part.value is not None and part.threshold is not None and part.n >= 64
    return known and interval(part)[1] < (part.threshold or 0.0)


def over_compressed(held_out: Readings, facts: Facts) -> str | None:
    """Why the latent is a bottleneck: the price against the ELBO's, or what an autoencoder recovers; None if not.

    Below four times the ELBO's price nothing is called one: at that price an optimum leaves what it should.
    """
    price = facts.beta_effective or 0.0
    if price < facts.bars.overpriced:
        return None
    offered, most = facts.forecast_at_one, at_most(held_out, facts)
    if offered and most is not None and most <= facts.bars.half * offered:
        return (
            f"a nat costs {price:.3g} times the ELBO's price, where {most:.0f} directions live; at that price itself "
            f"the data offers {offered}"
        )
    fork, mean = facts.forks.get("price"), held_out.get("gap_mean", MISSING)
    if fork is None or mean.value is None:
        return None
    gained, whole = fork.better.value or 0.0, (fork.better.value or 0.0) + mean.value
    if interval(fork.better)[0] > facts.bars.half * whole > 0:
        return (
            f"without the KL's price D falls by {gained:.3g}, more than half of the {whole:.3g} that z could be worth"
        )
    return None


def underfit(facts: Facts) -> bool:
    """Is the autoencoder (β = 0) worse than principal components of as many units, by more than matters? (As good as
    they are is what an honest linear model can be.)"""
    over = facts.over_reference
    return over is not None and over.value is not None and interval(over)[0] > (over.threshold or 0.0)


def small_interval(finding: Finding) -> tuple[float, float]:
    """The 95 % interval of a mean of few examples, by Student's t."""
    half = float(stdtrit(finding.n - 1, 0.975)) * (math.inf if finding.se is None else finding.se)
    return (finding.value or 0.0) - half, (finding.value or 0.0) + half


def memorised(held_out: Readings, training: Readings, bars: Bars) -> bool:
    """Is the value of z on held-out examples clearly a small part of what it is on training ones?

    A contrast needs fewer examples than a statement about either split: no δ has to be ruled out on held-out examples,
    and a small training split is read whole.
    """
    mine, other = training.get("gap", MISSING), held_out.get("gap", MISSING)
    if mine.value is None or other.value is None or min(mine.n, other.n) < bars.contrast_examples:
        return False
    costs = held_out.get("distortion", MISSING), training.get("distortion", MISSING)
    if all(each.value is not None for each in costs) and not small_interval(costs[0])[1] > (costs[1].value or 0.0):
        return False  # what is known by heart costs less; held-out examples that vary less are another matter
    least, most = small_interval(mine)[0], small_interval(other)[1]
    return least > (mine.threshold or 0.0) and most < max(other.threshold or 0.0, bars.contrast_share * least)


def kept_little(held_out: Readings, training: Readings) -> Decision:
    mine, other = training["gap"], held_out["gap"]
    most = small_interval(other)[1]
    why = (
        f"on {mine.n} training examples z is worth {mine.value:.3g}, on {other.n} held-out ones at most {most:.2g}, "
        f"{max(0.0, most) / (mine.value or math.inf):.0%} of it"
    )
    return Decision("overfit", ["train/gap", "gap", "rate"], why)


def gap_undecided(held_out: Readings, training: Readings, facts: Facts) -> Decision:
    gap = held_out["gap"]
    if memorised(held_out, training, facts.bars):
        return kept_little(held_out, training)
    if status(held_out, "floor_saturation") == "material":
        why = "{floor_saturation:.0%} of the groups sit at the floor; what lies under it is undecided"
        return Decision("rate_pinned", ["floor_saturation", "rate", "gap"], phrase(why, held_out))
    low, high = interval(gap)
    size, units = gap.threshold or 0.0, value(held_out, "units", 0.0)
    if low <= 0 and status(held_out, "rate") == "absent":  # a little I may be worth a little, hence the interval
        if facts.bottleneck:
            return Decision("over_compressed", ["rate", "gap", "information_rank"], phrase(SQUEEZED, held_out))
        why = phrase("R is {rate:.3g} nats, I is never more, and no value of z is seen", held_out)
        return Decision("posterior_collapse", ["rate", "gap", "information_rank"], why)
    if low > 0 and high < 2 * size and facts.bars.half * units <= value(held_out, "dead_units") < units:
        why = phrase("{dead_units:.0f} of {units:.0f} units are dead", held_out)
        return Decision("partial_collapse", ["gap", "dead_units", "rate"], why)
    why = f"the gap lies in [{low:.3g}, {high:.3g}] over {gap.n} examples, which does not decide against {size:.3g}"
    if gap.note:
        why = f"the gap lies in [{low:.3g}, {high:.3g}]: {gap.note}"
    elif low > size or high < size:
        said = "show that it matters" if low > size else "rule it out"
        why = f"the gap lies in [{low:.3g}, {high:.3g}], but {gap.n} examples are too few to {said}"
    return Decision("inconclusive", ["gap", "rate", "mi"], why)


def without_gap(held_out: Readings, facts: Facts) -> Decision:
    """No decoder was read: convict or be inconclusive, never acquit (I ≤ R proves collapse at R ~ 0)."""
    shown = ["rate", "mi", "information_rank"]
    rate, mi = held_out.get("rate", MISSING), held_out.get("mi", MISSING)
    numbers = facts.arithmetic
    if rate.status == "absent":
        return Decision("posterior_collapse", shown, phrase("R is {rate:.3g} nats, and I is never more", held_out))
    if rate.value is not None and mi.status == "absent":
        return Decision("fake_rate", shown, phrase("R is {rate:.3g} nats and I(x; z) is {mi:.2g}", held_out))
    if status(held_out, "floor_saturation") == "material" or (numbers and pinned_in_log(held_out, facts)):
        why = "the KL sits at {kl_over_floor:.2f} of its floor, and {fb_percent:.0f} % of it is free"
        deciding = ["kl_over_floor", "fb_percent", "rate"] if numbers else ["floor_saturation", "rate", "mi"]
        return Decision("rate_pinned", deciding, phrase(why, held_out))
    mean, after, floor = (value(held_out, name) for name in ("kl_mean_per_unit", "kl_after_floor", "floor"))
    if mean > floor > 0 and arithmetic.most_reached(mean, after, floor) < facts.bars.half:
        share = arithmetic.most_reached(mean, after, floor)
        why = f"at most {share:.2g} of the groups reach the floor, though their mean lies above it"
        return Decision("partial_collapse", ["kl_mean_per_unit", "kl_after_floor", "floor"], why)
    varied, reference = value(held_out, "diversity_prior"), value(held_out, "diversity_reference", facts.bars.reference)
    if numbers and varied < facts.bars.varied * reference and (rate.value or 0.0) >= (rate.threshold or 0.0):
        why = phrase("R is {rate:.3g} nats, but prior samples vary by {diversity_prior:.2g} alone", held_out)
        return Decision("bypassed_latent", ["diversity_prior", "rate", "diversity_reference"], why)
    if reached(held_out, "sigma_at_floor") and not numbers and rate.n >= 64:
        why = phrase("{sigma_at_floor:.0%} of the posterior's σ lie at the smallest its head can give", held_out)
        return Decision("variance_collapse", ["sigma_at_floor", "sigma_median", "rate"], why)
    if value(held_out, "weight_declared") == 0:
        return Decision("inert_penalty", ["weight_declared", "rate", "mi"], "the weight of the KL is 0")
    unread = held_out.get("gap", MISSING).note
    return Decision("inconclusive", shown, f"the value of z is not known ({unread}), so z cannot be acquitted")


def pinned_in_log(held_out: Readings, facts: Facts) -> bool:
    mean, floor = value(held_out, "kl_mean_per_unit"), value(held_out, "floor")
    after = held_out.get("kl_after_floor", MISSING).value
    return floor > 0 and mean > 0 and arithmetic.sits_at_floor(mean, after, floor, facts.free_bits_form)


# ---- why, and how sure


def find_mechanisms(held_out: Readings, facts: Facts, state: str) -> list[str]:
    """Why the latent is as it is; these choose among cures."""
    applied, price = value(held_out, "weight_declared"), held_out.get("price_of_a_nat", MISSING)
    weight, floored = facts.weight or 0.0, value(held_out, "floor_saturation", 0.0) > 0
    force = held_out.get("penalty_force", MISSING)
    forceless = (
        force.value is not None and force.value < (force.threshold or 0) and status(held_out, "rate") != "absent"
    )
    inert = facts.finished and (applied == 0 or reached(held_out, "zero_gradient") or forceless)
    # At the schedule's end the weight that acts must be the one declared for it, and the one the trained model shows
    # unless a floor is in the way.
    late = facts.finished and facts.weight is not None and abs(applied - weight) > facts.bars.mismatch * weight
    unseen = (
        facts.finished
        and weight > 0
        and not floored
        and price.value is not None
        and interval(price)[1] < facts.bars.mismatch * weight
        and status(held_out, "gap") != "absent"  # of a z that nobody reads no price can be seen
    )
    found = {
        "rate_pinned": status(held_out, "floor_saturation") == "material" and state != "rate_pinned",
        "inert_penalty": inert,
        "schedule_not_applied": (late or unseen) and not inert,
        "sigma_at_floor": reached(held_out, "sigma_at_floor"),
        "price_too_high": status(held_out, "gap") != "material"
        and revived(facts, "price")
        and not (revived(facts, "encoder") or sank(facts)),
        "lagging_encoder": revived(facts, "encoder"),
        "decoder_too_strong": revived(facts, "decoder"),
        "floor_holds_rate": sank(facts),
        "unused_units": state == "healthy"
        and facts.forecast is not None
        and 0 < value(held_out, "dead_units", 0.0) < value(held_out, "units"),
    }
    return [name for name, holds in found.items() if holds]


def revived(facts: Facts, cause: str) -> bool:
    """Did z gain value by more than matters in this fork?"""
    fork = facts.forks.get(cause)
    if fork is None:
        return False
    before, after = (part.get("gap", MISSING) for part in (fork.before, fork.after))
    if before.value is None or after.value is None:
        return False
    gained = math.hypot(before.se or 0.0, after.se or 0.0)
    return after.value - before.value - Z95 * gained > (after.threshold or 0.0)


def sank(facts: Facts) -> bool:
    """Did R lose more than half with the floor lifted, and z nothing that matters?"""
    fork = facts.forks.get("floor")
    if fork is None:
        return False
    before, after = (value(part, "rate") for part in (fork.before, fork.after))
    lost = value(fork.before, "gap", 0.0) - value(fork.after, "gap", 0.0)
    size = fork.before.get("gap", MISSING).threshold or 0.0
    return after < facts.bars.half * before and lost < size


SAID = {
    "floor_holds_rate": "with the floor lifted R falls and z loses nothing: the floor holds up nats that say nothing",
    "price_too_high": "without the KL's price z is worth something: it is the price that silences it",
    "lagging_encoder": "with the decoder frozen the encoder alone makes z worth something: it lags behind",
    "decoder_too_strong": "with a weaker decoder z is worth something: the decoder does without it",
    "unused_units": "{dead_units:.0f} units are unused: surplus, no illness",
    "rate_pinned": "the KL is pinned at {kl_over_floor:.2f} of the floor: it follows the floor, not the data",
    "inert_penalty": "the KL penalty exerts no force (a floor makes the nats below it free and pushes nothing)",
    "schedule_not_applied": "the weight declared for the end of training ({weight:.3g}) is not the one that acts "
    "(applied {weight_declared:.3g}, price of a nat {price_of_a_nat:.3g})",
    "sigma_at_floor": "{sigma_at_floor:.0%} of the posterior's σ lie at the smallest its head can give",
}


def remarks(held_out: Readings, training: Readings, facts: Facts, mechanisms: list[str]) -> list[str]:
    """Sentences on what else was seen."""
    said = [phrase(SAID[name], held_out, weight=facts.weight or 0.0) for name in mechanisms if name in SAID]
    said += [fork_sentence(fork) for fork in facts.forks.values()]
    mine, other = training.get("gap", MISSING), held_out.get("gap", MISSING)
    kept = other.value / mine.value if mine.value and other.value is not None else 1.0
    if kept < 0.8 and small_interval(mine)[0] > max(small_interval(other)[1], 0.0):
        said.append(f"held-out examples keep {max(0.0, kept):.0%} of z's value on training ones")
    if value(held_out, "kl_is_low", 0.0) == 1:
        said.append(phrase("the KL is low ({rate:.3g} nats); alone that decides nothing", held_out))
    if facts.bottleneck:
        said.append(
            "z never sees what is decoded (a variational information bottleneck): R bounds what c may tell of it"
        )
    said += beaten_by(held_out)
    varied, reference = value(held_out, "diversity_prior"), value(held_out, "diversity_reference")
    if "gap_5" in held_out and varied < facts.bars.varied * reference:  # under a continuous condition
        said.append(
            f"prior samples under one condition vary by {varied:.3g} where examples vary by {reference:.3g}: the "
            "condition tells the rest, or members are too much alike (of fields see vaecollapse-evaluate)"
        )
    if facts.unsettled is not None and facts.unsettled > facts.bars.unsettled:
        said.append(f"gap or R moved {facts.unsettled:.0%} over the last fifth of training: it has not settled")
    return said + (in_numbers(held_out, facts) if facts.arithmetic else [])


NULLS = {"null_unigram": "a unigram model", "null_prompt": "an n-gram that sees the prompt"}


def beaten_by(held_out: Readings) -> list[str]:
    """The null models without a latent that lose no more than this one, in one sentence."""
    own = held_out.get("nll_per_token", MISSING)
    if own.value is None:
        return []
    better = {name: null for name in NULLS if (null := value(held_out, name)) <= own.value}
    if not better:
        return []
    whose = " and ".join(f"{null:.3g} of {NULLS[name]}" for name, null in better.items())
    return [f"a token costs {own.value:.3g} nats, no less than the {whose}: counting tells as much, without a latent"]


def fork_sentence(fork: Fork) -> str:
    """What a fork moved."""
    what = {"price": "without the KL's price", "encoder": "with the decoder frozen", "floor": "with the floor lifted"}
    moved = []
    for name, shown in (("gap", "the value of z"), ("rate", "R")):
        before, after = (part.get(name, MISSING).value for part in (fork.before, fork.after))
        if before is not None and after is not None:
            moved.append(f"{shown} went from {before:.3g} to {after:.3g}")
    return f"{what.get(fork.cause, 'with a weaker decoder')}, over {fork.steps} steps, {' and '.join(moved)}"


def in_numbers(held_out: Readings, facts: Facts) -> list[str]:
    """What numbers alone say of a plan, in words."""
    said = []
    units, floor = value(held_out, "units", 0.0), value(held_out, "floor", 0.0)
    mean, after = value(held_out, "kl_mean_per_unit"), held_out.get("kl_after_floor", MISSING).value
    if facts.beta is not None:
        price = arithmetic.effective_beta(
            facts.beta, held_out.get("distortion", MISSING).value, facts.event_size,
            kind=facts.distortion_kind, reduction=facts.distortion_reduction,
        )  # fmt: skip
        if price is not None and math.isfinite(price):
            said.append(f"beta {facts.beta:g} is {price:.3g} times the ELBO's own price (beta_eff)")
    if mean > 0 and units:
        said.append(f"{mean:.3g} nats per unit over {units:.0f} units are {mean * units:.1f} nats")
    if floor > 0 and units:
        said.append(f"a clamp at {floor:g} prints {floor * units:.4g} nats even where q is the prior: read R unclamped")
    if floor > 0 and mean > 0:
        said.append(f"at this KL a floor of {floor:g} leaves at most {arithmetic.most_free(mean, floor):.3g} % free")
    if floor > 0 and after is not None and mean > 0 and pinned_in_log(held_out, facts):
        said.append("a lower floor takes the KL down with it, and so does a higher weight: to raise the KL, lower it")
    if "diversity_posterior" in held_out:
        said.append("how much reconstructions of one x vary says nothing of whether z is used")
    return said


def refute(held_out: Readings, facts: Facts, state: str) -> list[str]:
    """What the evidence rules out."""
    out = []
    rate, units = value(held_out, "rate"), int(value(held_out, "units", 0.0))
    few = arithmetic.units_at_most(rate, SMALL_SIGMA) if math.isfinite(rate) and rate >= 0 else units
    if facts.arithmetic and few < units / 2 and state != "variance_collapse":
        out.append(
            f"variance_collapse: {units} units at σ = {SMALL_SIGMA:g} would cost "
            f"{units * arithmetic.least_kl(SMALL_SIGMA):.0f} nats; R = {rate:.4g} allows at most {few} of them, and "
            f"spread evenly it is σ ≈ {arithmetic.even_sigma(rate, units):.3f}"
        )
    if state not in ("prior_hole", "inconclusive") and status(held_out, "prior_hole") == "absent":
        out.append("prior_hole: q(z) fills the prior as far as these examples tell")
    if status(held_out, "gap") == "material":
        out.append("posterior_collapse: another's z costs the decoder")
    elif status(held_out, "mi") == "material" and state != "bypassed_latent":
        out.append("posterior_collapse: z informs about x")
    if state != "variance_collapse" and status(held_out, "sigma_median") == "absent":
        out.append(phrase("variance_collapse: the median σ is {sigma_median:.2g}", held_out))
    elif status(held_out, "sigma_median") == status(held_out, "beta_effective") == "material":
        out.append("variance_collapse: σ is small, but a nat has its price")
    return out


def missing(held_out: Readings, training: Readings, facts: Facts) -> list[str]:
    """Measurements that would settle more."""
    gap, mi = held_out.get("gap", MISSING), status(held_out, "mi")
    alone = gap.status == "undefined" and gap.note.startswith("no two examples")
    key = ", callback.collapse_monitor.final_examples=4096" if facts.ours else ""
    wanted = {
        "the value of z: give the decoder (decode=…, of arrays distortion_permuted) so that a permuted z is tried": (
            gap.status == "undefined" and not alone
        ),
        "the value of z: examples that share their condition, whose z can be exchanged": alone,
        f"a larger held-out probe: of {gap.n} examples only presence is said, absence from 500": (
            gap.status == "undecided" and gap.n < 500
        ),
        "I(x; z) on more examples": mi == "undecided",
        "I(x; z)": mi == "undefined",
        f"held-out examples{': give the trainer a validation loader' if facts.ours else ''}": not facts.held_out,
        "the same readings on training examples, to tell overfit": not training and facts.held_out,
        "whether the aggregate posterior fills the prior (prior_hole): not measured": (
            "prior_hole" not in held_out and facts.prior
        ),
        f"whether q(z) fills the prior: more held-out examples{key}": (
            gap.status == "material" and status(held_out, "prior_hole") == "undecided" and not no_hole(held_out)
        ),
        "whether z revives without the KL's price, which tells a collapse from a model that does not learn: "
        f"{'type probe=true' if facts.ours else 'train on for a while with the weight of the KL at 0'}": (
            not (facts.forks or facts.arithmetic)
            and facts.finished
            and facts.prior
            and gap.status in ("absent", "undecided")
        ),
        "the KL of each unit, which tells a partial collapse": facts.arithmetic and "dead_units" not in held_out,
        "the diversity of real examples of one condition (diversity_reference)": (
            held_out.get("diversity_prior", MISSING).value is not None
            and held_out.get("diversity_reference", MISSING).value is None
        ),
    }
    return [sentence for sentence, holds in wanted.items() if holds]


def confidence(held_out: Readings, training: Readings, facts: Facts, state: str) -> Confidence:
    """High: limits clear by a factor 2 and at least 2000 examples of either split; low: no gap, one split, or the trend
    unsettled. Of numbers alone never more than medium, and that where two of them agree."""
    if facts.arithmetic:
        return "medium" if state == "fake_rate" and value(held_out, "active_units") == 0 else "low"
    gap = held_out.get("gap", MISSING)
    unsettled = (facts.unsettled or 0) > facts.bars.unsettled or not facts.schedule_done
    if gap.status not in ("material", "absent") or unsettled or not training:
        return "low"
    low, high = interval(gap)
    size = gap.threshold or 0.0
    clear = low > 2 * size if gap.status == "material" else high < size / 2
    return "high" if clear and min(gap.n, training.get("gap", MISSING).n) >= facts.bars.sure_examples else "medium"
