"""R + m·(D − κ) (GECO, Rezende & Viola 2018): the smallest rate whose distortion is at most κ."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..elbo import ELBO, Objective, Progress
from ..refusal import Refused
from .base import Regularizer


class Geco(Regularizer):
    """loss = (mean_b R + m · (mean_b D − κ)) / max(1, m); after every step ln m moves by clip(ν · EMA(D − κ), ±limit),
    and m stays within minimum and maximum.

    `kappa` is in units of D and per example (nats where the likelihood is a density), `speed` ν per unit of D: 0.01
    for nats, about 1 for a spectral distance. `smoothing` is the average's decay, `start` the first m. The applied
    weight of the KL is 1/m, and that is what is logged; the multiplier stands beside it. β has no place here.

    The paper's loss is not divided by max(1, m). That moves no minimum, and takes from m what it is besides a price: a
    loss that grows faster than Adam's averages is a larger step, and a tighter clipping of gradients.

    `limit` bounds the windup. Where D begins hundreds of nats above κ, an unbounded m grows by powers of e a step while
    the network has had no time to follow, and needs as many small steps to come back: at .02 it is doubled in 35 steps
    at the earliest, and n steps of any violation are undone by n that lie limit/ν (two nats, as configured) or more on
    the other side. `limit=inf` is the paper's. Where the averaged D scatters by more than limit/ν from step to step, it
    is rather its median that ends at κ than its mean.

    The average delays the answer by 1/(1 − smoothing) steps; within the limit it takes no noise from m, which is then
    the sum of all violations whatever they were averaged over. The paper's .99, made for millions of steps, keeps m
    growing for a hundred steps after κ is reached, from all that D lacked at the start.

    A κ below what the autoencoder reaches drives m to its maximum; one above D of the collapsed model asks for
    collapse.

    >>> price = Geco(kappa=10.0, speed=0.1, limit=1.0)
    >>> price.observe(torch.tensor(15.0), torch.tensor(2.0), Progress())
    >>> round(float(price.multiplier), 3)
    1.649
    """

    multiplier: Float[Tensor, ""]
    violation: Float[Tensor, ""]
    observed: Tensor

    def __init__(
        self,
        *,
        kappa: float,
        speed: float = 0.01,
        smoothing: float = 0.9,
        limit: float = 0.02,
        start: float = 1.0,
        minimum: float = 1e-6,
        maximum: float = 1e6,
    ) -> None:
        super().__init__()
        if not math.isfinite(kappa):
            raise Refused(
                f"kappa is the distortion to be reached, a finite number, but regularizer.kappa={kappa}: "
                "take D of a run that reconstructs well enough, val/distortion in its metrics.csv"
            )
        if not 0 < speed < math.inf or not 0 <= smoothing < 1:
            raise Refused(
                f"expected regularizer.speed above 0 and regularizer.smoothing from 0 to below 1, but got "
                f"speed={speed:g} smoothing={smoothing:g}: try speed=0.01 smoothing=0.9"
            )
        if not limit > 0:
            raise Refused(
                f"regularizer.limit is the largest move of ln m in a step, above 0, but got {limit:g}: try limit=0.02"
            )
        if not 0 < minimum <= start <= maximum < math.inf or minimum == maximum:
            raise Refused(
                f"the multiplier starts and moves between minimum and maximum, all above 0, but got start={start:g} "
                f"minimum={minimum:g} maximum={maximum:g}: try start=1 minimum=1e-6 maximum=1e6"
            )
        self.kappa, self.speed, self.smoothing = float(kappa), float(speed), float(smoothing)
        self.limit = float(limit)
        self.minimum, self.maximum = float(minimum), float(maximum)
        self.register_buffer("multiplier", torch.tensor(float(start)))
        self.register_buffer("violation", torch.tensor(0.0))
        self.register_buffer("observed", torch.tensor(False))

    def forward(self, elbo: ELBO, progress: Progress) -> Objective:
        distortion, rate = elbo.distortion.mean(), elbo.rate.mean()
        m = self.multiplier.to(rate, copy=True)  # `observe` moves it before some backward passes have read it
        weight = 1 / m
        return Objective(
            loss=(rate + m * (distortion - self.kappa)) / m.clamp(min=1),
            weight=weight.reshape(1),
            declared=weight,
            penalty=weight * rate,
            scalars={"multiplier": m, "violation": self.violation.to(rate, copy=True)},
        )

    @property
    def listens(self) -> bool:
        return True

    def observe(self, distortion: Float[Tensor, ""], rate: Float[Tensor, ""], progress: Progress) -> None:
        over = distortion.to(self.violation) - self.kappa
        smooth = self.smoothing * self.violation + (1 - self.smoothing) * over
        self.violation.copy_(torch.where(self.observed, smooth, over))
        self.observed.fill_(True)
        growth = (self.speed * self.violation).clamp(-self.limit, self.limit)
        grown = self.multiplier * torch.exp(growth)
        self.multiplier.copy_(grown.clamp(self.minimum, self.maximum))

    def compared(self, distortion: float, rate: float) -> float:
        """R, and the largest multiplier on what D lacks to κ: of the checkpoints that reach κ the cheapest."""
        return rate + self.maximum * max(0.0, distortion - self.kappa)
