"""What is known of a run besides its readings, and the sizes that decide between states."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..detectors.base import Finding
from ..refusal import Refused, check_least


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
