"""The value of z: how much worse the decoder does with somebody else's z. It decides reliance and needs no density."""

from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..batch import Batch
from ..elbo import ELBO, Objective
from ..refusal import Refused, check_least
from ..vae import VAE
from .base import Detector, Finding, judge, undefined


def derangements(n: int, count: int, key: tuple[int, int]) -> Int[Tensor, "count n"]:
    """Permutations without a fixed point: distinct shifts along a random order, keyed.

    >>> p = derangements(5, 4, (0, 0)); bool((p == torch.arange(5)).any()), p.sort().values.unique(dim=0).tolist()
    (False, [[0, 1, 2, 3, 4]])
    """
    rng = np.random.default_rng(key)
    order = rng.permutation(n)
    shifts = 1 + rng.permutation(n - 1)[:count]
    table = np.empty((len(shifts), n), dtype=np.int64)
    for row, shift in enumerate(shifts):
        table[row, order] = np.roll(order, shift)
    return torch.from_numpy(table)


class DecoderReliance(Detector):
    """gap = D(x|z′) − D(x|z) with z′ permuted within the block, paired per example, mean over derangements.

    The size that matters, δ: for a likelihood in nats max(`nats`, `share_of_rate`·min(1, β)·R); for a distance
    `share_of_distance` of D̄, the mean distance between two different examples, else `share_of_distortion` of D.
    """

    def __init__(
        self,
        *,
        permutations: int = 4,
        nats: float = 0.1,
        share_of_rate: float = 0.1,
        share_of_distance: float = 0.01,
        share_of_distortion: float = 0.02,
        material_examples: int = 64,
        absent_examples: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if permutations < 1:
            raise Refused(f"the value of z needs at least one permutation, but got permutations={permutations}: try 4")
        shares = {"share_of_rate": share_of_rate, "share_of_distance": share_of_distance}
        check_least("detector.decoder_reliance", 0, nats=nats, share_of_distortion=share_of_distortion, **shares)
        examples = {"material_examples": material_examples, "absent_examples": absent_examples}
        check_least("detector.decoder_reliance", 1, **examples)
        self.permutations, self.seed = permutations, seed
        self.nats, self.share_of_rate = nats, share_of_rate
        self.share_of_distance, self.share_of_distortion = share_of_distance, share_of_distortion
        self.examples = examples
        self.known: dict[tuple[int, int, float], Tensor | None] = {}
        self.add_column("gap", "own", "rate", "between", "declared", "normalised")

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        n = len(batch.x)
        if not vae.decodes or batch.context is not None or n < 2:
            return
        first = int(batch.positions()[0])
        orders = derangements(n, self.permutations, (self.seed, first)).to(elbo.z.device)
        wrong = torch.stack([vae.distortion(batch, elbo.z[order]).double() for order in orders]).mean(0)
        self.accumulate("gap", wrong - elbo.distortion.double())
        self.accumulate("own", elbo.distortion)
        self.accumulate("rate", elbo.rate)
        between = self.between_examples(vae, batch, elbo, orders[0])
        self.accumulate("normalised", torch.full((n,), float(vae.normalised)))
        if between is not None:
            self.accumulate("between", between)
        if objective is not None:
            self.accumulate("declared", objective.declared.expand(n))

    def between_examples(self, vae: VAE, batch: Batch, elbo: ELBO, order: Tensor) -> Tensor | None:
        """The distance of two examples: of the data alone, so a probe's block is measured once."""
        key = (int(batch.positions()[0]), len(batch.x), float(batch.x.sum()))
        if key not in self.known:
            self.known[key] = vae.between(batch, elbo.z, order)
        return self.known[key]

    def light(self) -> "DecoderReliance":
        one = deepcopy(self)
        one.permutations = 1
        return one

    def reading(self) -> Tensor:
        return self.mean("gap") if self.count("gap") else torch.tensor(torch.nan, dtype=torch.float64)

    def size(self) -> float:
        """δ, the smallest gap that matters, in the distortion's units."""
        if float(self.mean("normalised")) == 1:
            price = float(self.mean("declared")) if self.count("declared") else 1.0
            return max(self.nats, self.share_of_rate * min(1.0, price) * float(self.mean("rate")))
        if self.count("between"):
            return self.share_of_distance * float(self.mean("between"))
        return self.share_of_distortion * abs(float(self.mean("own")))

    def findings(self) -> list[Finding]:
        n = self.count("gap")
        if not n:
            return [undefined("gap", "the model was not decoded (or has a condition, or one example a block)")]
        value, se, size = float(self.reading()), self.se("gap"), self.size()
        found = [
            Finding("gap", value, se, n, judge(value, se, n, absent_below=size, **self.examples), size),
            Finding("distortion", float(self.mean("own")), self.se("own"), n),
        ]
        if self.count("between"):
            found.append(Finding("distance_between_examples", float(self.mean("between")), self.se("between"), n))
        return found
