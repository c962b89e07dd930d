"""What follows from a few numbers of a log, with no model at hand. Everything in nats, summed over units."""

import math

FLOOR_BANDS = {"hinge": (0.45, 1.25), "sample": (0.45, 1.25), "batch": (0.8, 1.25)}


def least_kl(sigma: float) -> float:
    """The least a unit of this σ_q/σ_p costs, its mean being the prior's: ½(σ² − 1 − ln σ²).

    >>> round(least_kl(0.01), 2), round(least_kl(0.1), 2)
    (4.11, 1.81)
    """
    return 0.5 * (sigma**2 - 1) - math.log(sigma)


def units_at_most(rate: float, sigma: float = 0.01) -> int:
    """How many units can have a σ as small as that at a rate of R nats.

    >>> units_at_most(12.48)
    3
    """
    return int(rate / least_kl(sigma))


def even_sigma(rate: float, units: int) -> float:
    """The σ of each unit if R is spread evenly over units whose means are the prior's.

    >>> round(even_sigma(12.48, 128), 3)
    0.706
    """
    low, high = 1e-12, 1.0
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if least_kl(middle) > rate / units else (low, middle)
    return high


def effective_beta(
    beta: float, distortion: float | None, event_size: float | None, *, kind: str | None, reduction: str | None
) -> float | None:
    """β over the price at which the loss would be an ELBO with the scale that fits (1 is the ELBO's own).

    L1 mean over n cells L: β n/L; summed: β n²/… with L/n as the mean. Squared error, mean MSE over d: β d/(2 MSE)
    (definitions of the loss conventions: README, docs/verdicts.md). None where the convention is not known.

    >>> round(effective_beta(0.01, 2.23, 20592.0, kind="l1", reduction="mean"))
    92
    """
    if kind == "nll":
        return beta * (event_size or math.nan) if reduction == "mean" else beta
    if kind not in ("l1", "l2") or not distortion or not event_size or reduction is None or distortion <= 0:
        return None
    mean = distortion if reduction == "mean" else distortion / event_size
    # of a sum the gradient is event_size times as large, so a nat is that much cheaper
    price = beta if reduction == "mean" else beta / event_size
    return price * event_size / (mean if kind == "l1" else 2 * mean)


def most_free(mean_kl: float, floor: float) -> float:
    """The largest fb% that a floor can give at this mean KL per unit, 100·min(1, floor/KLr), whatever the groups.

    >>> round(most_free(0.022, 0.005), 1)
    22.7
    """
    return 100.0 * min(1.0, floor / mean_kl) if mean_kl > 1e-6 else 0.0


def most_reached(mean_kl: float, after_floor: float, floor: float) -> float:
    """The largest share of groups that can be at or above the floor: (KLr − KLa)/floor.

    >>> round(most_reached(0.022, 0.0187, 0.02), 3)
    0.165
    """
    return (mean_kl - after_floor) / floor


def sits_at_floor(mean_kl: float, after_floor: float | None, floor: float, form: str | None) -> bool:
    """The log's rule for a pinned rate: KLr/floor within the form's band and at least half of KLr free.

    The equilibrium lies below the floor where the form compares examples or groups, hence the wide band.
    """
    low, high = FLOOR_BANDS.get((form or "hinge").partition("_")[0], FLOOR_BANDS["hinge"])
    free = 1.0 if after_floor is None else (mean_kl - after_floor) / mean_kl if mean_kl > 1e-6 else 0.0
    return low <= mean_kl / floor <= high and after_floor is not None and free >= 0.5
