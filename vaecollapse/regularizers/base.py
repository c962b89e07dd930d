"""The contract of a regularizer: it prices the KL and sees no network."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..elbo import ELBO, Objective, Progress
from .coefficients import Coefficient


class Regularizer(nn.Module, ABC):
    """Turns the bound's pieces into what the optimizer minimises. State lives in buffers, time is an argument.

    Where the price of a nat is no number of the plan but found while training, `end_weight` is None.
    """

    @abstractmethod
    def forward(self, elbo: ELBO, progress: Progress) -> Objective:
        """The objective at this point of training. Raises Refused where the form cannot price this latent."""

    def check(self, elbo: ELBO) -> None:
        """Raises Refused where the plan cannot be met by such a latent; called once, before step 1."""
        return

    @property
    def listens(self) -> bool:
        """Must `observe` be called while training? The objectives of two steps then have no common price."""
        return False

    def observe(self, distortion: Float[Tensor, ""], rate: Float[Tensor, ""], progress: Progress) -> None:
        """Told D and R once an optimizer step before it is taken, each the mean over the step's batches and over all
        processes, so that every process moves alike."""
        return

    def settled(self, progress: Progress) -> bool:
        """Has what the plan moves reached its end?"""
        return True

    def end_weight(self, *, asked: bool = False) -> float | None:
        """The weight of a nat of R beside D at the end of the plan, `asked`: as it was given, whatever moved it since.
        None where no number of the plan says it."""
        return None

    def compared(self, distortion: float, rate: float) -> float:
        """What checkpoints are compared by where the likelihood is a distance, lower is better: the same at all epochs,
        and never at the weight of the moment."""
        weight = self.end_weight(asked=True)
        return distortion + (1.0 if weight is None else weight) * rate

    def moved(self, knob: str, value: float) -> float | None:
        """Sets a knob of a training that runs, by its name on the command line. Returns what it was, or None where
        there is no such knob here."""
        return None


class Weighted(Regularizer):
    """A regularizer whose price is scaled by a coefficient."""

    def __init__(self, *, weight: Coefficient) -> None:
        super().__init__()
        self.weight = weight

    def price(self, like: Float[Tensor, "*shape"], progress: Progress) -> Float[Tensor, ""]:
        """The coefficient's number now, beside `like`."""
        return torch.as_tensor(self.weight(progress), dtype=like.dtype, device=like.device)

    def check(self, elbo: ELBO) -> None:
        self.weight.check(elbo)

    @property
    def listens(self) -> bool:
        return self.weight.listens

    def observe(self, distortion: Float[Tensor, ""], rate: Float[Tensor, ""], progress: Progress) -> None:
        self.weight.observe(rate, progress)

    def settled(self, progress: Progress) -> bool:
        return self.weight.settled(progress)

    def end_weight(self, *, asked: bool = False) -> float | None:
        end = self.weight.end
        return end if asked or end is None else self.weight(Progress(1, 1))

    def compared(self, distortion: float, rate: float) -> float:
        return distortion + self.weight.cost(rate)

    def moved(self, knob: str, value: float) -> float | None:
        if knob != "beta" or self.end_weight() is None:  # of a target β is no price of a nat
            return None
        old, self.weight.value = self.weight.value, float(value)
        return old
