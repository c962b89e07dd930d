"""What `on_alarm=intervene` does: the first prescription that can be carried out on a training that runs."""

from typing import NamedTuple

from ..prescriptions import Plan, Prescription, prescribe
from ..regularizers.base import Regularizer

# What a grave alarm foretells; its prescriptions are taken before it has come about.
FORETOLD = {
    "forecast_collapse": "posterior_collapse",
    "fading": "posterior_collapse",
    "variance_collapse": "variance_collapse",
}
MOST = 3  # interventions in a run: each moves the weight tenfold


class Move(NamedTuple):
    """A knob that was moved, by its name on the command line."""

    knob: str
    old: float
    new: float

    def __str__(self) -> str:
        return f"{self.knob} from {self.old:g} to {self.new:g}"


def knobs_of(prescription: Prescription) -> dict[str, float] | None:
    """The knobs that a prescription sets where all of them can be moved while training, else None.

    >>> knobs_of(Prescription(("regularizer=beta", "beta=0.1"), ""))
    {'free_bits': 0.0, 'beta': 0.1}
    >>> knobs_of(Prescription(("beta=0.1", "warmup=0.5"), ""))  # the ramp is behind us
    """
    found: dict[str, float] = {}
    for override in prescription.overrides:
        knob, _, value = override.partition("=")
        if override == "regularizer=beta":
            found["free_bits"] = 0.0  # a plain weight is free bits without a floor
        elif knob in ("beta", "free_bits"):
            found[knob] = float(value)
        else:
            return None
    return found


def intervene(
    alarm: str, regularizer: Regularizer, weight: float | None, *, floored: bool
) -> tuple[list[Move], list[Prescription]]:
    """Carries out the first live prescription against what the alarm foretells. Returns what was moved (nothing, where
    no prescription is live), and the prescriptions that take a new run."""
    held = ("regularizer=beta",) if floored else ()
    offered = prescribe(FORETOLD[alarm], Plan(weight, found=weight is None, held=held))
    for number, prescription in enumerate(offered):
        knobs = knobs_of(prescription)
        if knobs and (moves := carried_out(regularizer, knobs)):
            return moves, offered[:number] + offered[number + 1 :]
    return [], offered


def carried_out(regularizer: Regularizer, knobs: dict[str, float]) -> list[Move]:
    """All of these moves, or none where one cannot be made or changes nothing."""
    moves = []
    for knob, new in knobs.items():
        old = regularizer.moved(knob, new)
        if old is None and not (knob == "free_bits" and new == 0.0):  # without a floor there is none to lift
            for move in moves:
                regularizer.moved(move.knob, move.old)
            return []
        moves += [Move(knob, old, new)] if old is not None and old != new else []
    return moves
