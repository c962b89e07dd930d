"""The contract of a regularizer: it prices the KL and sees no network."""

from abc import ABC, abstractmethod

from torch import nn

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
