"""p(z): the standard Gaussian, and flows on it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..refusal import Refused
from .flows import Flow


class NormalPrior(nn.Module):
    """p(z) = N(0, I)."""

    def __init__(self, *, units: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(units), persistent=False)

    def forward(self, context: Tensor | None = None) -> Distribution:
        mean = self.get_buffer("mean")
        return Independent(Normal(mean, torch.ones_like(mean), validate_args=False), 1)


class FlowPrior(nn.Module):
    """p(z) = a flow on N(0, I), trained with the rest. It lowers the KL at equal information, so runs are never
    ranked by KL. `components` are those of a `mixture`."""

    def __init__(
        self,
        *,
        units: int,
        kind: str = "maf",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        components: int = 8,
    ) -> None:
        super().__init__()
        if kind not in ("maf", "nsf", "realnvp", "mixture"):
            raise Refused(f"expected a prior flow maf, nsf, realnvp or mixture, but got {kind!r}")
        self.base = NormalPrior(units=units)
        self.flow = Flow(kind=kind, units=units, transforms=transforms, hidden=hidden, components=components)

    def forward(self, context: Tensor | None = None) -> Distribution:
        with torch.autocast(self.base.get_buffer("mean").device.type, enabled=False):
            return self.flow(self.base())
