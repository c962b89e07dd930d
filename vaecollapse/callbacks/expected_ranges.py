"""What a plan expects of its readings: each epoch against its bands, and the bands against what a floor can give."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..arithmetic import most_free
from ..refusal import Refused
from ..regularizers.step_mean import over_ranks
from ..training import Training, tokens_of
from .acting import Acting, key_of
from .epoch_means import EpochMeans

log = logging.getLogger(__name__)
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
KEYS = ("stage", "epochs", "metric", "low", "high", "severity")
OF_A_FLOOR = ("kla", "fb_percent")
SLACK = 1e-9  # of a comparison, relative
Reading = Literal["in", "below", "above", "missing"]


class Band(NamedTuple):
    """What a metric is expected to be in epochs `first` to `last`, counted from 0, both included."""

    stage: str
    first: int
    last: float
    metric: str
    low: float
    high: float
    severity: str

    @classmethod
    def parsed(cls, number: int, given: Mapping[str, Any]) -> "Band":
        """Refused where it is none."""
        if unknown := [key for key in KEYS if key not in given] + [key for key in given if key not in KEYS]:
            raise Refused(f"expected range {number}: {unknown[0]} is missing or unknown; it takes {', '.join(KEYS)}")
        first, last = given["epochs"]
        band = cls(str(given["stage"]), first, math.inf if last is None else last, given["metric"],
                   float(given["low"]), float(given["high"]), given["severity"])  # fmt: skip
        if not (0 <= band.first <= band.last and band.low <= band.high):
            raise Refused(
                f"expected range {number} is empty: {band}; give epochs [a, b] from 0 with a <= b, low <= high"
            )
        if band.severity not in LEVELS:
            raise Refused(f"expected range {number}: severity {band.severity} is none of {', '.join(LEVELS)}")
        return band

    def __str__(self) -> str:
        until = "on" if self.last == math.inf else f"to {self.last:g}"
        return f"{self.metric} {self.low:g} to {self.high:g} (stage {self.stage}, epochs {self.first} {until})"

    def meets(self, other: "Band") -> bool:
        """Do they speak of one epoch of one stage?"""
        return self.stage == other.stage and self.first <= other.last and other.first <= self.last

    def reading(self, value: float | None) -> Reading:
        """Where the value lies; the ends belong to the band.

        >>> band = Band("2", 0, 2, "klr", 0.020, 0.025, "warning")
        >>> [band.reading(value) for value in (0.02, 0.03, 0.01, None)]
        ['in', 'above', 'below', 'missing']
        """
        if value is None or not math.isfinite(value):
            return "missing"
        return "below" if value < self.low else "above" if value > self.high else "in"


class Complaint(NamedTuple):
    """What the linter found of a band: `rejects` where it can never be met, `warns` where only part of it can."""

    kind: Literal["rejects", "warns"]
    band: Band
    says: str


def bands_of(expected: Sequence[Mapping[str, Any]]) -> list[Band]:
    """Refused where two bands of one stage and metric overlap."""
    bands = [Band.parsed(number, given) for number, given in enumerate(expected, 1)]
    for one, other in combinations(bands, 2):
        if one.metric == other.metric and one.meets(other):
            raise Refused(f"two expected ranges speak of one epoch: {one} and {other}; let one begin after the other")
    return bands


def lint(bands: Sequence[Band], floor: float) -> list[Complaint]:
    """What of these bands no posterior can meet at this floor (nats per unit).

    fb% ≤ 100·min(1, floor/KLr), reached where every group is at or above the floor, and max(KLr − floor, 0) ≤ KLa ≤
    KLr, the lower end reached likewise. Each band of fb% and KLa is held against those of KLr in its stage and epochs.

    >>> kl, fb = Band("2", 0, 2, "klr", 0.020, 0.025, "info"), Band("2", 0, 2, "fb_percent", 26.0, 30.0, "info")
    >>> [(each.kind, each.says) for each in lint([kl, fb], 0.005)]
    [('rejects', 'fb% is at most 25 where KLr is 0.02 or more')]
    """
    pairs = [(band, kl) for band in bands for kl in bands if kl.metric == "klr" and band.meets(kl)]
    found = []
    for band, kl in pairs:
        checks = {"fb_percent": free_of_charge, "kla": after_the_floor}.get(band.metric)
        found += [Complaint(kind, band, says) for kind, says in (checks(band, kl, floor) if checks else ())]
    return found


Said = Iterator[tuple[Literal["rejects", "warns"], str]]


def above(value: float, limit: float) -> bool:
    return value > limit * (1 + SLACK)


def free_of_charge(band: Band, kl: Band, floor: float) -> Said:
    """fb% against what KLr leaves it."""
    most, least = most_free(kl.low, floor), most_free(kl.high, floor)
    if above(band.low, most):
        yield "rejects", f"fb% is at most {most:.3g} where KLr is {kl.low:g} or more"
        return
    if above(band.high, most):
        yield "warns", f"fb% above {most:.3g} cannot be where KLr is {kl.low:g} or more"
    if above(least, band.low):
        yield "warns", f"fb% below {least:.3g} at KLr up to {kl.high:g} needs tokens under the floor"


def after_the_floor(band: Band, kl: Band, floor: float) -> Said:
    """KLa against what KLr leaves it."""
    least, most = max(kl.low - floor, 0.0), max(kl.high - floor, 0.0)
    if above(least, band.high) or above(band.low, kl.high):
        yield "rejects", f"KLa lies from {least:.3g} to {kl.high:g} where KLr is {kl.low:g} to {kl.high:g}"
        return
    if above(least, band.low):
        yield "warns", f"KLa is at least {least:.3g} where KLr is {kl.low:g} or more"
    if above(band.high, kl.high):
        yield "warns", f"KLa above {kl.high:g} cannot be where KLr is at most {kl.high:g}"
    if above(most, band.high):
        yield (
            "warns",
            f"KLa is at least {most:.3g} where KLr is {kl.high:g}: KLr's band is not met above {band.high + floor:.3g}",
        )
    elif above(band.high, most):
        yield "warns", f"KLa above {most:.3g} at KLr up to {kl.high:g} needs tokens under the floor"


class ExpectedRanges(Acting):
    """Holds each epoch against `expected`; what lies outside is a line in the log and one `expected` in events.jsonl,
    what was never there to be read is told as missing at its band's end.

    KLr, KLa, fb%, `rate`, `distortion` and of tokens `nll_per_token` are means over the epoch's training examples; any
    other metric is the logged one of that epoch. A stage is a group of bands (`health` one of its own); within one no
    epoch of a metric has two. Bands that the floor can never meet are refused before step 1, those it can meet in part
    are warned of.
    """

    def __init__(self, *, expected: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.bands = bands_of(expected)
        self.means = EpochMeans()
        self.seen: set[int] = set()
        self.validated: dict[str, float] = {}
        self.counts: Tensor | None = None  # examples and tokens of the epoch so far, of this process

    def check(self, trainer: Trainer, module: Training) -> None:
        floor = getattr(module.regularizer, "floor", None)
        needing = [band for band in self.bands if band.metric in OF_A_FLOOR]
        if floor is None and needing:
            raise Refused(f"{needing[0]} needs a floor, which {type(module.regularizer).__name__} does not have: type "
                          "regularizer=free_bits, or leave it out")  # fmt: skip
        complaints = lint(self.bands, floor or 0.0) if needing else []
        if never := [each for each in complaints if each.kind == "rejects"]:
            raise Refused(f"{never[0].band} can never be met at floor {floor:g}: {never[0].says}")
        for each in complaints:
            log.warning("warning: expected %s: %s", each.band, each.says)

    # --- what a checkpoint keeps

    @property
    def state_key(self) -> str:
        return key_of(self, self.bands)

    def state_dict(self) -> dict[str, Any]:
        counts = None if self.counts is None else over_ranks(self.counts[None])[0].tolist()
        return {"seen": sorted(self.seen), "means": self.means.state_dict(), "validated": dict(self.validated),
                "counts": counts}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.validated = set(state_dict["seen"]), dict(state_dict["validated"])
        self.means.load_state_dict(state_dict["means"])
        counts = state_dict.get("counts")
        self.counts = None if counts is None else torch.tensor(counts, dtype=torch.float64)

    # --- while training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self.means.listen(pl_module.regularizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (tokens := tokens_of(batch)) is not None:
            own = torch.stack([tokens.new_tensor(len(tokens)), tokens.sum()]).double()
            self.counts = own if self.counts is None else self.counts.to(own) + own

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values, epoch = {**self.validated, **self.read()}, trainer.current_epoch
        self.validated = {}
        for number, band in enumerate(self.bands):
            if not band.first <= epoch <= band.last:
                continue
            value = values.get(band.metric)
            reading = band.reading(value)
            if reading != "missing":
                self.seen.add(number)
            over = epoch == band.last or epoch + 1 == trainer.max_epochs
            if reading in ("below", "above") or (number not in self.seen and over):
                self.say(trainer, band, reading, value)

    def read(self) -> dict[str, float]:
        """The epoch's own means by metric."""
        means, counts, self.counts = self.means.take(), self.counts, None
        if means is None:
            return {}
        own = {"klr": means.klr, "rate": means.rate, "distortion": means.distortion, "kla": means.kla,
               "fb_percent": means.fb_percent}  # fmt: skip
        if counts is not None:
            examples, tokens = over_ranks(counts[None])[0].tolist()
            own["nll_per_token"] = means.distortion * examples / max(tokens, 1.0)
        return {name: value for name, value in own.items() if value is not None}

    def say(self, trainer: Trainer, band: Band, reading: Reading, value: float | None) -> None:
        told = "missing" if value is None else f"{value:.4g}, {reading}"
        log.log(LEVELS[band.severity], "epoch %d: expected %s: %s", trainer.current_epoch, band, told)
        self.tell(trainer, "expected", stage=band.stage, metric=band.metric, low=band.low, high=band.high, value=value,
                  reading=reading, severity=band.severity)  # fmt: skip
