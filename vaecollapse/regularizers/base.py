"""The contract of a regularizer: it prices the KL and sees no network."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from ..elbo import ELBO, Objective, Progress
from .coefficients import Coefficient


class Regularizer(nn.Module, ABC):
    """Turns the bound's pieces into what the optimizer minimises. State lives in buffers, time is an argument."""

    def __init__(self, *, weight: Coefficient) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def forward(self, elbo: ELBO, progress: Progress) -> Objective:
        """The objective at this point of training. Raises Refused where the form cannot price this latent."""

    @property
    def listens(self) -> bool:
        """Must `observe` be called while training?"""
        return self.weight.listens

    def observe(self, distortion: Float[Tensor, ""], rate: Float[Tensor, ""], progress: Progress) -> None:
        """Told D and R once an optimizer step before it is taken, each the mean over the step's batches and over all
        processes, so that every process moves alike."""
        self.weight.observe(rate, progress)

    def moved(self, knob: str, value: float) -> float | None:
        """Sets a knob of a training that runs, by its name on the command line. Returns what it was, or None where
        there is no such knob here."""
        if knob != "beta":
            return None
        old, self.weight.value = self.weight.value, float(value)
        return old
