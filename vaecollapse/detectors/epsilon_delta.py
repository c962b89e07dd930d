"""(ε, δ)-collapse per unit (Lucas 2019): for how many examples a unit's KL is next to nothing."""

import math

import torch
from torch import Tensor

from ..batch import Batch
from ..elbo import ELBO, Objective
from ..refusal import Refused, check_least
from ..vae import VAE
from .base import Detector, Finding, undefined

GRID = tuple(10 ** (exponent / 6) for exponent in range(-24, 7))  # 1e-4 to 10 nats, six a decade
SHOWN = (0.001, 0.01, 0.1, 1.0)


class EpsilonDelta(Detector):
    """Unit i is (ε, δ)-collapsed iff P_x[kl[b, i] < ε] ≥ 1 − δ. Shown, decides nothing.

    The count at `epsilon` and `delta`, and the curve over ε (in its note, and per unit as the smallest ε of the grid at
    which it is collapsed). δ cannot be certified on fewer than ln .05/ln(1 − δ) examples: 299 for δ = .01.
    """

    def __init__(self, *, epsilon: float = 0.01, delta: float = 0.01) -> None:
        super().__init__()
        check_least("detector.epsilon_delta", 0, epsilon=epsilon, delta=delta)
        if not 0 < delta < 1:
            raise Refused(
                f"detector.epsilon_delta.delta is a share of examples between 0 and 1, but got {delta:g}: type "
                "detector.epsilon_delta.delta=0.01"
            )
        self.epsilon, self.delta = epsilon, delta
        for name in ("below", "examples"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum", persistent=True)

    def grid(self) -> list[float]:
        """The ε at which the curve is read, ascending."""
        return sorted({*GRID, *SHOWN, self.epsilon})

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        if elbo.kl.ndim < 2:
            return
        kl = elbo.kl.detach().flatten(1).double()
        self.below = self.below + torch.stack([(kl < epsilon).double().sum(0) for epsilon in self.grid()])
        self.examples = self.examples + len(kl)

    def shares(self) -> Tensor:
        """P_x[kl[b, i] < ε], (grid, k)."""
        return self.below / self.examples

    def curve(self) -> dict[float, int]:
        """ε → how many units are (ε, δ)-collapsed."""
        counts = (self.shares() >= 1 - self.delta).sum(1)
        return dict(zip(self.grid(), counts.tolist(), strict=True))

    @property
    def certifiable(self) -> int:
        """With this many examples below ε and none above, P ≥ 1 − δ is certain at 95 %."""
        return math.ceil(math.log(0.05) / math.log1p(-self.delta))

    def reading(self) -> Tensor:
        if not self.examples:
            return torch.tensor(torch.nan, dtype=torch.float64)
        return torch.tensor(float(self.curve()[self.epsilon]), dtype=torch.float64)

    def findings(self) -> list[Finding]:
        n = int(self.examples)
        if not n:
            return [undefined("collapsed_units", "no KL per unit was read (a flow has none)")]
        curve = self.curve()
        said = "over ε " + ", ".join(f"{epsilon:g}: {curve[epsilon]}" for epsilon in SHOWN)
        enough = n >= self.certifiable
        if not enough:
            said = f"not certifiable below N = {self.certifiable}; {said}"
        status = "measured" if enough else "undecided"
        return [Finding("collapsed_units", float(self.reading()), None, n, status, self.epsilon, said)]

    def per_unit(self) -> dict[str, Tensor]:
        """P_x[kl < ε], and the smallest ε of the grid at which the unit is collapsed (infinite above 10 nats)."""
        if not self.examples:
            return {}
        shares, grid = self.shares(), torch.tensor(self.grid(), dtype=torch.float64)
        collapsed = shares >= 1 - self.delta
        smallest = torch.where(collapsed.any(0), grid[collapsed.double().argmax(0)], torch.inf)
        return {"kl_below": shares[self.grid().index(self.epsilon)], "collapse_epsilon": smallest.clamp(max=1e3)}
