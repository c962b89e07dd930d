"""The state of the latent, from its readings, by the precedence of docs/verdicts.md."""

import math
from typing import NamedTuple

from .. import arithmetic
from ..detectors.base import Finding
from ..prescriptions import State
from .facts import Bars, Facts
from .mechanisms import revived
from .reading import (
    MISSING,
    Readings,
    at_most,
    counts_all,
    directions,
    interval,
    phrase,
    reached,
    small_interval,
    status,
    value,
)

SQUEEZED = (
    "z is made of the condition alone, a bottleneck, and at this price only {rate:.3g} nats of that pass through it: "
    "it is not that the decoder ignores what an encoder saw"
)


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
