"""Does a floor bind? r = KL/floor for the form's own groups; pinned, slack, or priced."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import Batch
from ..elbo import ELBO, Objective
from ..refusal import Refused, check_least
from ..vae import VAE
from .base import Detector, Finding, undefined


class FloorSaturation(Detector):
    """Share of groups whose mean KL lies in the binding band around the floor, and KLr, KLa and fb%.

    The equilibrium sits below the floor (0.49–1.10 in 26 pinned runs), so the bands reach below 1: `batch_band` where
    the form compares batch means, `example_band` where it compares examples. *pinned*: at least `pinned` of the groups
    are in the band, *slack*: below it. "Penalty reduction %" (fb%) is shown beside it; it measures no constraint.
    """

    def __init__(
        self,
        *,
        batch_band: Sequence[float] = (0.8, 1.25),
        example_band: Sequence[float] = (0.45, 1.25),
        pinned: float = 0.8,
        inert: float = 0.99,
    ) -> None:
        super().__init__()
        for name, band in (("batch_band", batch_band), ("example_band", example_band)):
            if len(band) != 2 or not 0 <= band[0] < band[1]:
                raise Refused(
                    f"detector.floor_saturation.{name} is a lower and a higher ratio, but got {list(band)}: "
                    f"type detector.floor_saturation.{name}=[0.8,1.25]"
                )
        check_least("detector.floor_saturation", 0, pinned=pinned, inert=inert)
        self.batch_band, self.example_band, self.pinned, self.inert = (
            tuple(batch_band),
            tuple(example_band),
            pinned,
            inert,
        )
        self.add_column("kl", "mean", "after", "zero", "weight", "declared")
        for name in ("floor", "per_example"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        if objective is None:
            return
        n = len(batch.x)
        if objective.declared is not None:
            self.accumulate("declared", objective.declared.expand(n))
        self.accumulate("weight", objective.weight.mean().expand(n))
        if objective.floor is None or objective.group_kl is None:
            return
        self.floor = torch.maximum(self.floor, objective.floor.max().double())
        per_example = objective.group_kl.ndim == objective.floor.ndim + 1
        self.per_example = self.per_example.clamp(min=float(per_example))
        kl = objective.group_kl if per_example else objective.group_kl.expand(n, *objective.group_kl.shape)
        self.accumulate("kl", kl)
        size = objective.scalars.get("units_per_group", torch.ones(()))  # from nats of a group to nats per unit
        self.accumulate("mean", kl.flatten(1).mean(1) / size)
        self.accumulate("after", (kl - objective.floor).clamp(min=0).flatten(1).mean(1) / size)
        if "zero_gradient" in objective.scalars:
            self.accumulate("zero", objective.scalars["zero_gradient"].expand(n))

    def reading(self) -> Tensor:
        """The share of groups in the binding band (NaN without a floor)."""
        if not self.count("kl") or self.floor <= 0:
            return torch.tensor(torch.nan, dtype=torch.float64)
        low, high = self.example_band if self.per_example > 0 else self.batch_band
        ratio = self.mean("kl") / self.floor
        return ((ratio >= low) & (ratio <= high)).double().mean()

    def slack(self) -> float:
        """The share of groups below the band: the floor lies above what the data asks for."""
        low = (self.example_band if self.per_example > 0 else self.batch_band)[0]
        return float((self.mean("kl") / self.floor < low).double().mean())

    def findings(self) -> list[Finding]:
        found = []
        if n := self.count("weight"):
            found = [Finding("weight_applied", float(self.mean("weight")), None, n)]
        if n := self.count("declared"):
            found.append(Finding("weight_declared", float(self.mean("declared")), None, n))
        if not self.count("kl") or self.floor <= 0:
            return [undefined("floor_saturation", "the objective has no floor"), *found]
        n, share, over = self.count("kl"), float(self.reading()), float(self.mean("kl").mean() / self.floor)
        mean, after = float(self.mean("mean")), float(self.mean("after"))
        zero = [Finding("zero_gradient", float(self.mean("zero")), None, n, threshold=self.inert)]
        return [
            Finding(
                "floor_saturation", share, None, n, "material" if share >= self.pinned else "measured", self.pinned
            ),
            *found,
            Finding(
                "floor_slack",
                self.slack(),
                None,
                n,
                "material" if self.slack() >= self.pinned else "measured",
                self.pinned,
                "share of groups below the binding band",
            ),
            Finding("floor", float(self.floor), None, n),
            Finding("kl_over_floor", over, None, n),
            Finding("kl_mean_per_unit", mean, self.se("mean"), n),
            Finding("kl_after_floor", after, self.se("after"), n),
            Finding("fb_percent", 0.0 if mean <= 1e-6 else 100 * (mean - after) / mean, None, n),
            *(zero if self.count("zero") else []),
        ]
