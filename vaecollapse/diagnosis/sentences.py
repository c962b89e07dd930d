"""What a verdict says besides the state: what else was seen, what is ruled out, what is missing, and how sure it is."""

import math
from typing import Literal

from .. import arithmetic
from .facts import Facts, Fork
from .reading import MISSING, Readings, interval, phrase, small_interval, status, value
from .state import no_hole, pinned_in_log

Confidence = Literal["high", "medium", "low"]
SMALL_SIGMA = 0.01  # at which numbers of a log are held against a variance collapse
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
