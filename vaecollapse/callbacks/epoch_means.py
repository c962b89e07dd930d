"""KLr, KLa and fb% of an epoch, as training went through it: a log's three numbers, by their definitions."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..arithmetic import FLOOR_BANDS
from ..elbo import ELBO, Objective
from ..regularizers.step_mean import over_ranks

MOST_PINNED = 0.8  # of the groups in the band: pinned
LEAST = 1e-6  # nats per unit: below it fb% is 0 by definition
COUNTS = 5  # examples, D, KLr, KLa, and whether a form compares examples


class Means(NamedTuple):
    """Means over an epoch's training examples. `klr` and `kla` are nats per unit, D and R as ever; `kla`, `floor` and
    `pinned` are None where the objective has no floor."""

    distortion: float
    rate: float
    klr: float
    kla: float | None
    floor: float | None
    pinned: bool | None

    @property
    def fb_percent(self) -> float | None:
        """100 (KLr − KLa)/KLr, 0 where KLr ≤ 1e-6.

        >>> round(Means(1.0, 2.0, 0.022, 0.017, 0.005, False).fb_percent, 1)
        22.7
        """
        if self.kla is None:
            return None
        return 100 * (self.klr - self.kla) / self.klr if self.klr > LEAST else 0.0


class EpochMeans:
    """Listens to a regularizer while it trains; sums are over this process until they are taken or saved."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.units, self.floor = 1, 0.0

    def listen(self, regularizer: nn.Module) -> Any:
        return regularizer.register_forward_hook(self.heard)

    @torch.no_grad()
    def heard(self, regularizer: nn.Module, given: tuple[Any, ...], objective: Objective) -> None:
        if not regularizer.training:  # a reading
            return
        elbo: ELBO = given[0]
        n, self.units = len(elbo.distortion), elbo.units
        group, floor, size = objective.group_kl, objective.floor, float(objective.scalars.get("units_per_group", 1.0))
        if group is None or floor is None:
            rows, mean, after, per_example = elbo.rate.new_zeros(1), elbo.rate.mean() / self.units, None, False
        else:
            per_example = group.ndim > floor.ndim
            rows = (group.mean(0) if per_example else group) / size
            mean, after = rows.mean(), (group - floor).clamp(min=0).mean() / size
            self.floor = float(floor.max()) / size
        own = [elbo.distortion.mean(), mean, mean.new_tensor(torch.nan) if after is None else after]
        counts = torch.stack([mean.new_tensor(1.0), *own, mean.new_tensor(float(per_example))]).double()
        sums = n * torch.cat([counts, rows.double()])
        self.sums = sums if self.sums is None else self.sums.to(sums) + sums

    def take(self) -> Means | None:
        """The epoch's means over all processes; begins the next epoch."""
        if self.sums is None:
            return None
        sums, self.sums = over_ranks(self.sums[None])[0].cpu(), None
        _, distortion, klr, kla, per_example, *groups = (sums / sums[0]).tolist()
        rate, floor = klr * self.units, self.floor
        if kla != kla and klr == klr:
            return Means(distortion, rate, klr, None, None, None)
        return Means(distortion, rate, klr, kla, floor, pinned(groups, floor, per_example=per_example > 0))

    def state_dict(self) -> dict[str, Any]:
        """Every process keeps the mean over all, so that the first one's is as good as each one's own."""
        sums = None if self.sums is None else over_ranks(self.sums[None])[0].tolist()
        return {"sums": sums, "units": self.units, "floor": self.floor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = None if state["sums"] is None else torch.tensor(state["sums"], dtype=torch.float64)
        self.units, self.floor = state["units"], state["floor"]


def pinned(groups: list[float], floor: float, *, per_example: bool) -> bool:
    """Do at least `MOST_PINNED` of the groups sit in the form's binding band around the floor?

    >>> pinned([0.05, 0.045, 0.06], 0.05, per_example=False), pinned([0.05, 0.5], 0.05, per_example=True)
    (True, False)
    """
    low, high = FLOOR_BANDS["sample" if per_example else "batch"]
    return floor > 0 and sum(low <= kl / floor <= high for kl in groups) >= MOST_PINNED * len(groups)
