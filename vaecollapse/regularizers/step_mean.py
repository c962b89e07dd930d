"""The mean over everything that one optimizer step sees: all ranks, and all batches whose gradients add up."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..elbo import Progress


def processes() -> int:
    """How many processes train together."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def over_ranks(k: Float[Tensor, "rows groups"]) -> Float[Tensor, "rows groups"]:
    """A batch mean as the mean over all ranks, so that every rank decides the same."""
    k = k.detach()
    if processes() > 1:
        k = k.clone()
        torch.distributed.all_reduce(k)
        k = k / processes()
    return k


class StepMean(nn.Module):
    """A batch's mean in, the step's mean out, without gradient.

    All batches of a step must be decided alike, and those to come are not known: they are given the mean of the step
    before (in the first step, what has been seen of it), which is kept in checkpoints.

    >>> mean, k = StepMean(), torch.tensor([[1.0]])
    >>> [float(mean(part * k, Progress(part=part, parts=2))) for part in (0, 1, 0, 1)]
    [0.0, 0.5, 0.5, 0.5]
    """

    def __init__(self) -> None:
        super().__init__()
        self.sum = self.before = torch.zeros(0)

    def forward(self, k: Float[Tensor, "rows groups"], progress: Progress) -> Float[Tensor, "rows groups"]:
        k = over_ranks(k)
        if progress.parts == 1:
            return k
        first = progress.part == 0 or self.sum.shape != k.shape
        self.sum = k if first else self.sum + k
        mean = self.before.to(k) if self.before.shape == k.shape else self.sum / (progress.part + 1)
        if progress.part + 1 == progress.parts:
            self.before = self.sum / progress.parts
        return mean

    def get_extra_state(self) -> Float[Tensor, " numbers"]:
        return self.before.flatten().cpu().double()

    def set_extra_state(self, state: Float[Tensor, " numbers"]) -> None:
        self.before = state[None]
