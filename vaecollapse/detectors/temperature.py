"""The temperature sweep: how the diversity of what is decoded grows when z is drawn wider. It explains, and decides
nothing."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from ..batch import Batch
from ..distributions.flows import can_rescale, from_standard, rescaled
from ..elbo import ELBO, Objective, noise
from ..refusal import Refused, check_least
from ..vae import VAE
from .base import Detector, Finding, undefined

MODES = {
    "prior": "z from the prior",
    "posterior": "z from the posterior",
    "live": "z from the posterior, dead units at T = 1",
    "dead": "z from the posterior, live units at T = 1",
}


def decoded(vae: VAE, batch: Batch, z: Float[Tensor, "batch *unit"]) -> Float[Tensor, "batch values"] | None:
    """The decoder's mean for each z; None for a likelihood that has none, or only element by element (an autoregressive
    one)."""
    out = vae.decode(z, batch.context, batch.mask)
    if getattr(out, "sequential", False):
        return None
    try:
        mean = out if isinstance(out, Tensor) else out.mean
    except (NotImplementedError, AttributeError):
        return None
    if batch.mask is not None and batch.mask.shape == mean.shape:
        mean = mean * batch.mask
    return mean.double().flatten(1)


class Temperature(Detector):
    """diversity(T): the variance over `draws` of z of the decoder's mean, averaged over its elements and examples.

    T multiplies σ of the prior or the posterior (of the base of a flow). For a smooth decoder and small noise it grows
    as T²; a threshold decoder may grow ×4000 without any dead unit, which is why the live and the dead units (mean KL
    below `dead` nats in the block) are also swept apart. `examples` of each block are read.
    """

    def __init__(
        self,
        *,
        temperatures: Sequence[float] = (0.5, 1.0, 2.0, 3.0),
        examples: int = 8,
        draws: int = 4,
        dead: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_least("detector.temperature", 2, examples=examples, draws=draws)
        check_least("detector.temperature", 0, dead=dead, seed=seed)
        if 1.0 not in [float(t) for t in temperatures] or min(temperatures) <= 0 or len(temperatures) < 2:
            raise Refused(
                f"temperatures are above 0, and 1 is among them, but got {list(temperatures)}: type "
                "detector.temperature.temperatures=[0.5,1,2,3]"
            )
        self.temperatures = tuple(sorted(float(t) for t in temperatures))
        self.examples, self.draws, self.dead, self.seed = examples, draws, dead, seed
        self.add_column("reference", *MODES, *(f"{mode}_product" for mode in MODES))

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        if not vae.decodes or len(batch.x) < 2:
            return
        part = batch.part(slice(0, self.examples))
        own = vae.elbo(part, seed=self.seed)
        eps = noise(part.positions(), tuple(own.posterior.event_shape), draws=self.draws, seed=self.seed, epoch=7)
        if decoded(vae, part, own.z) is None:
            return
        one = torch.ones(own.posterior.event_shape, dtype=own.z.dtype, device=own.z.device)
        sweeps: dict[str, tuple[Distribution, Tensor]] = {"prior": (own.prior, one), "posterior": (own.posterior, one)}
        if elbo.kl.ndim > 1:
            live = (elbo.kl.double().mean(0) >= self.dead).to(one)
            if 0 < live.mean() < 1:
                sweeps |= {"live": (own.posterior, live), "dead": (own.posterior, 1 - live)}
        for mode, (distribution, swept) in sweeps.items():
            if not can_rescale(distribution):
                continue
            factors = [1 + (temperature - 1) * swept for temperature in self.temperatures]
            each = [self.diversity(vae, part, rescaled(distribution, factor), eps) for factor in factors]
            values = torch.stack(each, 1)
            self.accumulate(mode, values)
            self.accumulate(f"{mode}_product", values[:, -1] * values[:, self.temperatures.index(1.0)])
        x = batch.x.double()
        self.accumulate("reference", (x - x.mean(0)).square().flatten(1).mean(1) * len(x) / (len(x) - 1))

    def diversity(self, vae: VAE, batch: Batch, distribution: Distribution, eps: Tensor) -> Float[Tensor, " batch"]:
        """Per example, the variance over draws of each decoded element, averaged over elements."""
        total: Tensor | float = 0.0
        square: Tensor | float = 0.0
        reference: Tensor | None = None
        for e in eps:
            out = decoded(vae, batch, from_standard(distribution, e)[0])
            assert out is not None
            reference = out if reference is None else reference
            total, square = total + (out - reference), square + (out - reference).square()
        return ((square - torch.as_tensor(total).square() / len(eps)) / (len(eps) - 1)).clamp(min=0).mean(1)

    def light(self) -> None:
        """Too dear while training."""
        return

    def reading(self) -> Tensor:
        """The diversity of what the prior decodes to at T = 1."""
        if not self.count("prior"):
            return torch.tensor(torch.nan, dtype=torch.float64)
        return self.mean("prior")[self.temperatures.index(1.0)]

    def findings(self) -> list[Finding]:
        if not self.count("posterior") and not self.count("prior"):
            return [undefined("diversity_prior", "nothing was decoded to a mean, or prior and posterior have no scale")]
        n = self.count("reference")
        found = [finding for mode, what in MODES.items() if self.count(mode) for finding in self.of(mode, what)]
        return [*found, Finding("diversity_reference", float(self.mean("reference")), self.se("reference"), n)]

    def of(self, mode: str, what: str) -> list[Finding]:
        """Diversity at T = 1 (of the whole posterior and prior only) and its growth to the highest T."""
        n, at = self.count(mode), self.temperatures.index(1.0)
        values, squares = self.mean(mode), getattr(self, f"{mode}_square") / self.count(mode)
        variance = (squares - values.square()).clamp(min=0) / max(1, n - 1)
        base, top = float(values[at]), float(values[-1])
        curve = ", ".join(f"{t:g}: {v:.3g}" for t, v in zip(self.temperatures, values.tolist(), strict=True))
        found = []
        if mode in ("prior", "posterior"):
            note = f"explains, decides nothing; over T {curve}"
            found = [Finding(f"diversity_{mode}", base, float(variance[at].sqrt()), n, note=note)]
        name, highest = f"diversity_growth_{mode}", self.temperatures[-1]
        if base <= 1e-12 * max(float(self.mean("reference")), 1e-300):
            return [*found, undefined(name, "what is decoded does not vary at T = 1")]
        ratio = top / base
        covariance = (float(self.mean(f"{mode}_product")) - base * top) / max(1, n - 1)
        spread = float(variance[-1]) - 2 * ratio * covariance + ratio**2 * float(variance[at])
        if spread < 1e-12 * float(variance[-1]):  # rounding: a linear decoder grows by T² in every example
            spread = 0.0
        note = f"T = {highest:g} over T = 1, {what}; {highest**2:g} for a smooth decoder"
        return [*found, Finding(name, ratio, math.sqrt(spread) / base, n, note=note)]
