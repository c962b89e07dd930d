"""Why the latent is as it is."""

import math

from ..detectors.base import Z95
from .facts import Facts
from .reading import MISSING, Readings, interval, reached, status, value


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
