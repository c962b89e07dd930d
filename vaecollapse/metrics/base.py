"""The contract of a metric: real against generated, streamed; what it says is a score with its block-aware error."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torchmetrics
from jaxtyping import Float
from torch import Tensor


class Score(NamedTuple):
    """One number: `value` of what was generated, None where it is not defined; `truth`, the same of what is real, where
    that has one.

    `se` is the standard error over independent `blocks`, of value − truth where there is a truth (both saw the same
    weather, so that is what can be judged), None with fewer than two blocks. `n` examples.
    """

    name: str
    value: float | None
    se: float | None = None
    n: int = 0
    blocks: int = 0
    truth: float | None = None
    note: str = ""


class Metric(torchmetrics.Metric, ABC):
    """A streaming comparison of real and generated data: stream = whole, shards add up."""

    full_state_update = False

    def __getattr__(self, name: str) -> Any:
        """States are attributes that type checkers cannot see."""
        return super().__getattr__(name)

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)

    @abstractmethod
    def update(self, real: Any, generated: Tensor) -> None:
        """Takes in one part of the data."""

    @abstractmethod
    def scores(self) -> list[Score]:
        """What was measured; the metric's own score first."""

    def compute(self) -> Tensor:
        """The first score, NaN where it is not defined."""
        value = self.scores()[0].value
        return torch.tensor(torch.nan if value is None else value, dtype=torch.float64)


def jackknife(
    function: Callable[[Float[Tensor, "*rows n"]], Float[Tensor, "*rows m"]], sums: Float[Tensor, "blocks n"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """A function of sums, and its standard error over independent blocks: √((B − 1)/B Σ_b (f_b − f̄)²), f_b without
    block b (Tukey 1958). NaN with fewer than two blocks.

    The mean of blocks of equal size has its usual standard error:

    >>> sums = torch.tensor([[1.0, 1.0], [2.0, 1.0], [6.0, 1.0]], dtype=torch.float64)
    >>> [round(float(part), 3) for part in jackknife(lambda s: s[..., :1] / s[..., 1:], sums)]
    [3.0, 1.528]
    """
    total, blocks = sums.sum(0), len(sums)
    value = function(total)
    if blocks < 2:
        return value, torch.full_like(value, torch.nan)
    without = function(total - sums)
    return value, ((without - without.mean(0)).square().sum(0) * (blocks - 1) / blocks).sqrt()
