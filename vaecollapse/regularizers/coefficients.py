"""Numbers that move: the KL weight as a function of the share of training done, or of the rate that is observed."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..elbo import ELBO, Progress
from ..refusal import Refused
from .targets import check_fits, checked_target


class Coefficient(nn.Module, ABC):
    """A number as a function of `Progress`; `value` is where a ramp ends.

    `value` may be moved while training (a tuner, an intervention): the moved one is kept in checkpoints, and `end`
    stays the one that was asked for. A controller sets `listens`, overrides `observe` and keeps its state in buffers.
    """

    listens = False

    def __init__(self, *, value: float) -> None:
        super().__init__()
        if not (math.isfinite(value) and value >= 0):
            raise Refused(f"a KL weight must be a finite number of at least 0, but beta={value}: try beta=1")
        self.value = self.asked = float(value)

    @property
    def end(self) -> float | None:
        """Where the schedule was asked to end, whatever moved it since: what checkpoints are compared at. None where
        training finds it."""
        return self.asked * self.ramp(1.0)

    def cost(self, rate: float) -> float:
        """What R adds to D where checkpoints are compared by a distance, the same at all epochs."""
        return self.asked * self.ramp(1.0) * rate

    def check(self, elbo: ELBO) -> None:
        """Raises Refused where such a latent cannot do what is asked; called once, before step 1."""
        return

    def settled(self, progress: Progress) -> bool:
        """Has the schedule reached its end?"""
        return self.ramp(progress.share) >= 0.999 * self.ramp(1.0)

    def observe(self, rate: Float[Tensor, ""], progress: Progress) -> None:
        """Told R once an optimizer step, where it `listens`; see `Regularizer.observe`."""
        return

    def get_extra_state(self) -> Float[Tensor, ""]:
        return torch.tensor(self.value, dtype=torch.float64)

    def set_extra_state(self, state: Float[Tensor, ""]) -> None:
        self.value = float(state)

    def forward(self, progress: Progress) -> float:
        return self.value * self.ramp(progress.share)

    @abstractmethod
    def ramp(self, share: float) -> float:
        """The multiplier of `value` in [0, 1] after this share of training."""


class Constant(Coefficient):
    """The same weight from the first step."""

    def ramp(self, share: float) -> float:
        return 1.0


class Ramp(Coefficient):
    """A coefficient that reaches `value` after the share `warmup` of training.

    Raises Refused where the ramp would end after training does.
    """

    def __init__(self, *, value: float, warmup: float = 0.1) -> None:
        super().__init__(value=value)
        if not 0 <= warmup <= 1:
            raise Refused(
                f"warmup={warmup} is a share of training, so the ramp would end after training does: "
                "give a number from 0 to 1, such as warmup=0.3"
            )
        self.warmup = float(warmup)

    def position(self, share: float) -> float:
        return 1.0 if self.warmup == 0 else min(1.0, share / self.warmup)


class Linear(Ramp):
    """Linear warm-up (Bowman 2016).

    >>> Linear(value=2.0, warmup=0.5)(Progress(step=25, total=100))
    1.0
    """

    def ramp(self, share: float) -> float:
        return self.position(share)


class Cosine(Ramp):
    """Half a cosine from 0 to `value`: flat at both ends."""

    def ramp(self, share: float) -> float:
        return 0.5 * (1 - math.cos(math.pi * self.position(share)))


class Logistic(Ramp):
    """1/(1 + e^{−a(t−t0)}), t0 half of the warm-up and a such that the ramp runs from e^{−steepness} to its mirror
    image over the warm-up (Bowman 2016)."""

    def __init__(self, *, value: float, warmup: float = 0.1, steepness: float = 6.0) -> None:
        super().__init__(value=value, warmup=warmup)
        if steepness <= 0:
            raise Refused(f"steepness must be positive, but steepness={steepness}: try 6")
        self.steepness = float(steepness)

    def ramp(self, share: float) -> float:
        if self.warmup == 0:
            return 1.0
        return 1 / (1 + math.exp(min(700.0, -self.steepness * (2 * share / self.warmup - 1))))


class Cyclical(Coefficient):
    """`cycles` times: 0 for the share `zero` of the cycle, up over the share `ramp_share`, then `value` (Fu 2019)."""

    def __init__(self, *, value: float, cycles: int = 4, ramp_share: float = 0.5, zero: float = 0.0) -> None:
        super().__init__(value=value)
        if cycles < 1 or ramp_share <= 0 or zero < 0 or zero + ramp_share > 1:
            raise Refused(
                f"expected cycles >= 1, ramp_share > 0, zero >= 0 and zero + ramp_share <= 1, but got "
                f"cycles={cycles} ramp_share={ramp_share} zero={zero}"
            )
        self.cycles, self.ramp_share, self.zero = int(cycles), float(ramp_share), float(zero)

    def ramp(self, share: float) -> float:
        within = 1.0 if share >= 1 else (share * self.cycles) % 1
        return min(1.0, max(0.0, within - self.zero) / self.ramp_share)


class PID(Coefficient):
    """The weight that a controller finds so that R comes to `target` nats (ControlVAE, Shao 2020):
    β(t) = value · clip(kp · sigmoid(−ε) − ki · Σε, minimum, maximum), ε = target − R in nats of the step before.

    Gains and bounds are in multiples of `value`, so that at value = 1 they are the paper's. Anti-windup: where ε
    drives the weight out of its bounds the sum ends at the bound, and what drives it back counts at once; published
    code asks for a weight beyond bounds that it has clipped already, which never holds. Lower the gains where the
    weight swings: R answers late.

    >>> weight = PID(value=1.0, target=3.0, ki=0.01)
    >>> for rate in (8.0, 8.0):
    ...     weight.observe(torch.tensor(rate), Progress())
    >>> round(weight(Progress()), 3)
    0.11
    """

    listens = True

    def __init__(
        self,
        *,
        value: float,
        target: float,
        kp: float = 0.01,
        ki: float = 0.001,
        minimum: float = 0.0,
        maximum: float = 10.0,
    ) -> None:
        super().__init__(value=value)
        for name, gain in (("kp", kp), ("ki", ki)):
            if not 0 < gain < math.inf:
                raise Refused(
                    f"a gain is a finite number above 0, but {name}={gain:g}: without it the weight does not follow R; "
                    f"try {name}=0.01"
                )
        if not 0 <= minimum < maximum < math.inf:
            raise Refused(
                f"the weight moves between minimum and maximum, 0 <= minimum < maximum, but minimum={minimum:g} "
                f"maximum={maximum:g}: try minimum=0 maximum=10"
            )
        self.target = checked_target("regularizer.weight.target", target)
        self.kp, self.ki, self.minimum, self.maximum = kp, ki, minimum, maximum
        self.register_buffer("error", torch.tensor(self.target))  # as if nothing were carried yet
        self.register_buffer("integral", torch.tensor(0.0))

    def ramp(self, share: float) -> float:
        """Where the controller stands, whatever the share of training."""
        wanted = self.proportional(float(self.get_buffer("error"))) - self.ki * float(self.get_buffer("integral"))
        return min(self.maximum, max(self.minimum, wanted))

    def proportional(self, error: float) -> float:
        """kp · sigmoid(−ε)."""
        return self.kp / (1 + math.exp(max(-700.0, min(700.0, error))))

    def observe(self, rate: Float[Tensor, ""], progress: Progress) -> None:
        error = self.target - float(rate)
        self.get_buffer("integral").fill_(self.summed(error, float(self.get_buffer("integral"))))
        self.get_buffer("error").fill_(error)

    def summed(self, error: float, integral: float) -> float:
        """Σε with this error, no further beyond a bound of the weight than the bound itself."""
        proportional, total = self.proportional(error), integral + error
        if error < 0:  # the weight rises
            return max(total, (proportional - self.maximum) / self.ki)
        return min(total, (proportional - self.minimum) / self.ki)

    @property
    def end(self) -> float | None:
        return None

    def cost(self, rate: float) -> float:
        """The dearest weight on every nat off the target, which no gain in D outweighs where the target can be met."""
        return self.asked * self.maximum * abs(rate - self.target)

    def check(self, elbo: ELBO) -> None:
        check_fits("regularizer.weight.target", self.target, elbo)
