"""I(x; z) by the paired estimator, with its ceiling, its growth and what they make of it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..batch import Batch
from ..elbo import ELBO, Objective, gaussian, pairwise_log_prob
from ..refusal import check_least
from ..vae import VAE
from .base import Detector, Finding, Status, judge, undefined


def pointwise(log_q: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """ln q(z_m|x_m) − ln (1/N) Σ_n q(z_m|x_n) from the matrix of all pairs, its own term included."""
    return log_q.diagonal() - torch.logsumexp(log_q, 1) + math.log(len(log_q))


def mutual_information(
    posterior: Distribution, z: Float[Tensor, "n *unit"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, ""]]:
    """I(x; z) per example in nats, and the growth Î(N) − mean of the halves' Î(N/2), all from one matrix.

    At most ln N and 0 at collapse. Growth up to 0.02 nats says converged, above 0.05 a lower bound.
    Source: Hoffman & Johnson 2016.
    """
    log_q = pairwise_log_prob(posterior, z)
    whole, half = pointwise(log_q), len(log_q) // 2
    halves = torch.cat([pointwise(log_q[:half, :half]), pointwise(log_q[half:, half:])])
    return whole, whole.mean() - halves.mean()


class MutualInformation(Detector):
    """Î with N, ln N, standard error and growth.

    Gaussian posteriors: one matrix over all examples read (at most `examples`). Anything else: one matrix per block.
    Absent: upper limit below max(`absent_nats`, `absent_share_of_rate`·R) at growth ≤ `bounded`. Present: lower limit
    above `present_nats`. A growth above `bounded` makes the value a lower bound.
    """

    def __init__(
        self,
        *,
        examples: int = 4096,
        absent_nats: float = 0.1,
        absent_share_of_rate: float = 0.05,
        present_nats: float = 0.1,
        bounded: float = 0.05,
        saturated: float = 0.35,
        material_examples: int = 64,
        absent_examples: int = 500,
    ) -> None:
        super().__init__()
        counts = {"material_examples": material_examples, "absent_examples": absent_examples}
        nats = {"absent_nats": absent_nats, "present_nats": present_nats, "bounded": bounded, "saturated": saturated}
        check_least("detector.mutual_information", 4, examples=examples)
        check_least("detector.mutual_information", 1, **counts)
        check_least("detector.mutual_information", 0, absent_share_of_rate=absent_share_of_rate, **nats)
        self.examples, self.bounded, self.saturated = examples, bounded, saturated
        self.absent_nats, self.absent_share_of_rate, self.present_nats = absent_nats, absent_share_of_rate, present_nats
        self.least = counts
        self.add_column("rate", "information", "growth", "block")
        for name in ("position", "location", "scale", "z"):
            self.add_state(name, [], dist_reduce_fx="cat", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        self.accumulate("rate", elbo.rate)
        parameters = gaussian(elbo.posterior)
        if parameters is None:
            if len(batch.x) >= 4:
                with torch.no_grad():
                    whole, growth = mutual_information(elbo.posterior, elbo.z)
                self.accumulate("information", whole)
                self.accumulate("growth", growth.expand(len(whole)))
                self.accumulate("block", torch.full((len(whole),), float(len(whole))))
        elif sum(map(len, self.z)) < self.examples:
            columns = (batch.positions(), parameters[0], parameters[1], elbo.z)
            for name, value in zip(("position", "location", "scale", "z"), columns, strict=True):
                getattr(self, name).append(value.detach().flatten(1).double() if value.ndim > 1 else value.detach())

    def estimate(self) -> tuple[float, float, float, int, int] | None:
        """(Î, standard error, growth, examples, N of the matrix)."""
        if self.count("information"):
            information, block = float(self.mean("information")), int(self.mean("block"))
            return information, self.se("information"), float(self.mean("growth")), self.count("information"), block
        if not len(self.z):
            return None
        position, mean, scale, z = (
            torch.cat(s) if isinstance(s, list) else s for s in (self.position, self.location, self.scale, self.z)
        )
        order = position.argsort()[: self.examples]
        if len(order) < 4:
            return None
        whole, growth = mutual_information(Independent(Normal(mean[order], scale[order]), 1), z[order])
        n = len(whole)
        return float(whole.mean()), float(whole.std() / math.sqrt(n)), float(growth), n, n

    def reading(self) -> Tensor:
        estimate = self.estimate()
        return torch.tensor(torch.nan if estimate is None else estimate[0], dtype=torch.float64)

    def findings(self) -> list[Finding]:
        estimate = self.estimate()
        if estimate is None:
            return [undefined("mi", "fewer than four examples")]
        value, se, growth, n, block = estimate
        ceiling = math.log(block)
        absent_below = max(self.absent_nats, self.absent_share_of_rate * float(self.mean("rate")))
        status: Status = judge(value, se, n, absent_below=absent_below, present_above=self.present_nats, **self.least)
        if status == "absent" and growth > self.bounded:
            status = "undecided"
        note = "saturated" if growth > self.saturated or value > ceiling - 0.5 else ""
        note = note or ("lower bound" if growth > self.bounded else "")
        return [
            Finding("mi", value, se, n, status, absent_below, note),
            Finding("mi_ceiling", ceiling, None, block),
            Finding("mi_growth", growth, None, n, threshold=self.bounded),
        ]
