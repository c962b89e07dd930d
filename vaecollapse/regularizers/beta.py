"""D + β R (Higgins 2017); with a moving coefficient also annealing (Bowman 2016) and cycles (Fu 2019)."""

from ..elbo import ELBO, Objective, Progress
from .base import Weighted


class Beta(Weighted):
    """loss = mean_b D + β(t) · mean_b R.

    >>> import torch
    >>> from .coefficients import Constant
    >>> elbo = ELBO(torch.tensor([1.0]), torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2), None, None)
    >>> Beta(weight=Constant(value=4.0))(elbo, Progress()).loss.item()
    5.0
    """

    def forward(self, elbo: ELBO, progress: Progress) -> Objective:
        rate = elbo.rate.mean()
        weight = self.price(rate, progress)
        return Objective(elbo.distortion.mean() + weight * rate, weight.reshape(1), weight, weight * rate)
