"""Is what prior samples decode to further from the data than what encoded examples decode to?"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..batch import Batch
from ..elbo import ELBO, Objective, draw, noise
from ..refusal import check_least
from ..vae import VAE
from .base import Collecting, Finding, judge, undefined
from .temperature import decoded

BUCKETS = 256


def sketch(values: Float[Tensor, "n cells"], *, buckets: int = BUCKETS, seed: int = 0) -> Float[Tensor, "n few"]:
    """Fewer numbers whose distances are those of all cells on average: a count sketch (Charikar 2002), always the same
    for the same number of cells."""
    cells = values.shape[1]
    if cells <= buckets:
        return values
    generator = torch.Generator().manual_seed(seed + cells)
    where = torch.randint(buckets, (cells,), generator=generator).to(values.device)
    sign = (2 * torch.randint(2, (cells,), generator=generator) - 1).to(values)
    return values.new_zeros(len(values), buckets).index_add_(1, where, values * sign)


def energy(
    a: Float[Tensor, "n d"], x: Float[Tensor, "n d"], *, paired: bool = False
) -> tuple[Float[Tensor, " n"], float]:
    """Terms whose mean is the energy distance 2E|a − x| − E|a − a′| − E|x − x′| (Székely 2013), and E|x − x′|.

    Where row i of both is of one example (`paired`), it is no pair. The mean's standard error is 2·std/√n.
    """
    n = len(x)
    across, own, other = torch.cdist(a, x), torch.cdist(a, a), torch.cdist(x, x)
    if paired:
        across = across.clone().fill_diagonal_(0.0)
    pairs = n - 1 if paired else n
    mean = across.sum(1) / pairs + across.sum(0) / pairs
    return mean - own.sum(1) / (n - 1) - other.sum(1) / (n - 1), float(other.sum()) / (n * (n - 1))


class PriorSamples(Collecting):
    """`prior_samples`: by how much the energy distance of decoded prior samples to the data exceeds `worse` times that
    of decoded posterior samples, as a share of the mean distance between two examples. Material above `share`.

    Waveforms are compared by the log-magnitudes of their own distance, everything else by its values.
    """

    def __init__(
        self,
        *,
        examples: int = 512,
        worse: float = 2.0,
        share: float = 0.01,
        material_examples: int = 64,
        absent_examples: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__("real", "prior", "posterior", examples=examples)
        least = {"material_examples": material_examples, "absent_examples": absent_examples}
        check_least("detector.prior_samples", 8, examples=examples)
        check_least("detector.prior_samples", 1, **least)
        check_least("detector.prior_samples", 0, worse=worse, share=share, seed=seed)
        self.worse, self.share, self.least, self.seed = worse, share, least, seed

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        if not vae.decodes or len(batch.x) < 2 or sum(map(len, self.position)) >= self.examples:
            return
        part = batch.part(slice(0, self.examples))
        n, unit = len(part.x), tuple(elbo.posterior.event_shape)
        eps = noise(part.positions(), unit, seed=self.seed, epoch=11)[0].to(elbo.z)
        with torch.random.fork_rng():  # for a prior that takes its own noise
            torch.manual_seed(self.seed + int(part.positions()[0]))
            z = draw(vae.prior(part.context), eps)
        z = z if z.shape == elbo.z[:n].shape else z.expand_as(elbo.z[:n])
        seen = [decoded(vae, part, each) for each in (z, elbo.z[:n])]
        if any(each is None or each.shape != part.x.flatten(1).shape for each in seen):
            return
        shaped = [each.reshape(part.x.shape).to(part.x) for each in seen if each is not None]
        rows = [sketch(features(vae, x, part.mask)) for x in (part.x, *shaped)]
        self.collect(part.positions(), real=rows[0], prior=rows[1], posterior=rows[2])

    def light(self) -> None:
        """Too dear while training."""
        return

    def terms(self) -> Float[Tensor, " n"] | None:
        rows = self.collected()
        if not rows or len(rows["real"]) < 8:
            return None
        real, prior, posterior = (rows[name] for name in ("real", "prior", "posterior"))
        (far, spread), (near, _) = energy(prior, real), energy(posterior, real, paired=True)
        return (far - self.worse * near) / max(spread, 1e-300)

    def reading(self) -> Tensor:
        terms = self.terms()
        return torch.tensor(torch.nan, dtype=torch.float64) if terms is None else terms.mean()

    def findings(self) -> list[Finding]:
        terms = self.terms()
        if terms is None or not torch.isfinite(terms).all():
            return [undefined("prior_samples", "the decoder gives no mean of the shape of x, or too few of them")]
        n, value = len(terms), float(terms.mean())
        se = 2 * float(terms.std()) / math.sqrt(n)
        return [Finding("prior_samples", value, se, n, judge(value, se, n, absent_below=self.share, **self.least),
                        self.share)]  # fmt: skip


def features(vae: VAE, x: Float[Tensor, "n *event"], mask: Tensor | None) -> Float[Tensor, "n cells"]:
    """What examples are compared by."""
    magnitudes: Any = getattr(getattr(vae, "likelihood", None), "log_magnitudes", None)
    if magnitudes is not None:
        return torch.cat([(values * valid).double() for values, valid in magnitudes(x, mask)], 1)
    return (x if mask is None else x * mask).double().flatten(1)
