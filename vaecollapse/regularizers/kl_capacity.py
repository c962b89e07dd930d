"""D + γ·|R − C(t)| (Burgess 2018): a target rate that grows while training, so that z fills direction by direction."""

from ..elbo import Progress
from ..refusal import Refused
from .coefficients import Coefficient
from .target_rate import TargetRate


class KLCapacity(TargetRate):
    """A `TargetRate` whose target rises linearly from 0 to `target` nats per example over the share `ramp` of training.

    >>> from .coefficients import Constant
    >>> price = KLCapacity(weight=Constant(value=1.0), target=10.0, ramp=0.5)
    >>> [price.at(Progress(step, 100)) for step in (0, 25, 50, 100)]
    [0.0, 5.0, 10.0, 10.0]
    """

    def __init__(self, *, weight: Coefficient, target: float, ramp: float = 0.1, per: str = "batch") -> None:
        super().__init__(weight=weight, target=target, per=per)
        if not 0 <= ramp <= 1:
            raise Refused(
                f"regularizer.ramp={ramp:g} is a share of training, so the capacity would stop short of its target: "
                "give a number from 0 to 1, such as regularizer.ramp=0.5"
            )
        self.ramp = float(ramp)

    def at(self, progress: Progress) -> float:
        return self.target if progress.share >= self.ramp else self.target * progress.share / self.ramp

    def settled(self, progress: Progress) -> bool:
        return progress.share >= self.ramp and super().settled(progress)
