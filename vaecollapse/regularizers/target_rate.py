"""D + γ·|R − R*| (Alemi 2018): the rate is asked for, whatever it costs or carries."""

import torch

from ..elbo import ELBO, Objective, Progress
from ..refusal import Refused
from .base import Weighted
from .coefficients import Coefficient
from .step_mean import StepMean
from .targets import check_fits, checked_target


class TargetRate(Weighted):
    """loss = mean_b D + γ(t) · |mean_b R − target|, `target` in nats per example, γ the weight.

    `per: example` takes mean_b |R_b − target| instead, another objective: every example is held to the target, so that
    above and below it gradients of both signs act at once. Where posterior or prior is a flow R_b is one noisy draw,
    and `example` is refused.

    A nat costs +γ above the target and −γ below it: γ bounds its price and is not it. The target is met where the
    data's own price of a nat, −dD/dR there, lies within ±γ. Below the target R is pushed up by whatever is nearest, a
    code that says nothing included (`fake_rate`).

    >>> from .coefficients import Constant
    >>> elbo = ELBO(torch.tensor([1.0]), torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2), None, None)
    >>> TargetRate(weight=Constant(value=4.0), target=3.0)(elbo, Progress()).loss.item()
    9.0
    """

    def __init__(self, *, weight: Coefficient, target: float, per: str = "batch") -> None:
        super().__init__(weight=weight)
        if weight.listens:
            raise Refused(
                "coefficient@regularizer.weight=pid brings R to a target of its own, beside regularizer.target: "
                "take regularizer=beta with it, or another coefficient"
            )
        if per not in ("batch", "example"):
            raise Refused(f"regularizer.per={per} is neither batch nor example: take batch, the paper's")
        self.target, self.per = checked_target("regularizer.target", target), per
        self.step = StepMean()

    def at(self, progress: Progress) -> float:
        """The target at this point of training, in nats per example."""
        return self.target

    def forward(self, elbo: ELBO, progress: Progress) -> Objective:
        target, rate = self.at(progress), elbo.rate
        gamma = self.price(rate, progress)
        if self.per == "example":
            if elbo.kl.ndim == 1:
                raise Refused(
                    "regularizer.per=example needs a KL per example, and a flow posterior or prior gives it as one "
                    "noisy draw: set regularizer.per=batch, or posterior=normal prior=normal"
                )
            side = (rate.detach() - target).sign()
        else:
            rate = rate.mean(0, keepdim=True)
            # a reading prices its own block, since ranks read different numbers of them
            whole = self.step(rate[:, None], progress)[:, 0] if self.training else rate.detach()
            side = (whole - target).sign()
        penalty = gamma * (side * (rate - target)).mean()
        return Objective(
            loss=elbo.distortion.mean() + penalty,
            weight=(gamma * side).mean(0, keepdim=True),
            declared=None,
            penalty=penalty,
            scalars={"target": torch.as_tensor(target).to(rate), "gamma": gamma},
        )

    def check(self, elbo: ELBO) -> None:
        super().check(elbo)
        check_fits("regularizer.target", self.target, elbo)

    def end_weight(self, *, asked: bool = False) -> None:
        return None

    def compared(self, distortion: float, rate: float) -> float:
        return distortion + self.weight.cost(abs(rate - self.target))
