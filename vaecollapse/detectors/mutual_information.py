"""I(x; z) by the paired estimator, with its ceiling, its growth and what they make of it."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..batch import Batch
from ..elbo import ELBO, Objective, gaussian, pairwise_blocks
from ..refusal import check_least
from ..vae import VAE
from .base import Z95, Collecting, Finding, Status, judge, undefined
from .conditions import are_groups, labels

CEILING_MARGIN = 0.5  # nats below ln N from which the estimate is its ceiling's
FEWEST = 4  # examples of one matrix
UNSHARED = (
    "decoder or prior see a condition that hardly two examples share (a prompt, say, or a continuous one): there is "
    "nothing to compare within it, and I(x; z | c) is not defined. R bounds it; the value of z among like ones decides"
)


def pointwise(posterior: Distribution, z: Float[Tensor, "n *unit"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """ln q(z_m|x_m) − ln (1/N) Σ_n q(z_m|x_n), own term included and taken from the same matrix; and the same within
    the half of the examples that m belongs to. Rows are made in blocks: memory is linear in N."""
    n, half, start = len(z), len(z) // 2, 0
    whole, halves = [], []
    for log_q in pairwise_blocks(posterior, z):
        own = log_q.diagonal(start)
        if n == 2 * half:  # in one go, which is faster
            first, second = log_q.unflatten(1, (2, half)).logsumexp(2).unbind(1)
        else:
            first, second = log_q[:, :half].logsumexp(1), log_q[:, half:].logsumexp(1)
        in_first = torch.arange(start, start + len(log_q), device=log_q.device) < half
        whole.append(own - torch.logaddexp(first, second) + math.log(n))
        halves.append(own - torch.where(in_first, first - math.log(half), second - math.log(n - half)))
        start += len(log_q)
    return torch.cat(whole), torch.cat(halves)


def mutual_information(
    posterior: Distribution, z: Float[Tensor, "n *unit"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, ""]]:
    """I(x; z) per example in nats, and the growth Î(N) − mean of the halves' Î(N/2), all from one matrix.

    At most ln N and 0 at collapse. Growth up to 0.02 nats says converged, above 0.05 a lower bound.
    Source: Hoffman & Johnson 2016.
    """
    whole, halves = pointwise(posterior, z)
    return whole, whole.mean() - halves.mean()


class Estimate(NamedTuple):
    """Î in nats and its growth with their standard errors, ln N of one matrix, and how many examples were averaged."""

    value: float
    se: float
    growth: float
    growth_se: float
    ceiling: float
    n: int


class MutualInformation(Collecting):
    """Î with N, ln N, standard error and growth.

    Gaussian posteriors: one matrix over all examples read (at most `examples`). Anything else: one matrix per block,
    whose size is the N of the ceiling (a flow's density under another example's condition is not kept beyond it).
    Under a condition that examples share, I(x; z | c): one matrix per condition; under one that hardly two share, a
    continuous one or a prompt each, not defined.
    Absent: upper limit below max(`absent_nats`, `absent_share_of_rate`·R) at growth ≤ `bounded`. Present: lower limit
    above `present_nats`. A growth whose upper limit is above `bounded` makes the value a lower bound; one above
    `saturated`, or a value within half a nat of ln N, says that N decides it; up to `converged`, that it does not.
    """

    def __init__(
        self,
        *,
        examples: int = 4096,
        absent_nats: float = 0.1,
        absent_share_of_rate: float = 0.05,
        present_nats: float = 0.1,
        converged: float = 0.02,
        bounded: float = 0.05,
        saturated: float = 0.35,
        material_examples: int = 64,
        absent_examples: int = 500,
    ) -> None:
        super().__init__("location", "scale", "z", "label", examples=examples)
        counts = {"material_examples": material_examples, "absent_examples": absent_examples}
        nats = {"absent_nats": absent_nats, "present_nats": present_nats, "bounded": bounded, "saturated": saturated}
        check_least("detector.mutual_information", FEWEST, examples=examples)
        check_least("detector.mutual_information", 1, **counts)
        shares = {"absent_share_of_rate": absent_share_of_rate, "converged": converged}
        check_least("detector.mutual_information", 0, **shares, **nats)
        self.converged, self.bounded, self.saturated = converged, bounded, saturated
        self.absent_nats, self.absent_share_of_rate, self.present_nats = absent_nats, absent_share_of_rate, present_nats
        self.least = counts
        self.add_column("rate", "information", "growth", "ceiling")
        for name in ("continuous", "conditional", "unshared"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        self.accumulate("rate", elbo.rate)
        condition = vae.condition(batch)
        label = None if condition is None else labels(condition)
        self.conditional = self.conditional.clamp(min=float(label is not None))
        parameters = gaussian(elbo.posterior)
        unshared = condition is not None and not are_groups(condition)
        self.unshared = self.unshared.clamp(min=float(unshared))
        if parameters is not None:
            extra = {} if label is None else {"label": label}
            self.collect(batch.positions(), location=parameters[0], scale=parameters[1], z=elbo.z, **extra)
        elif label is not None:
            self.continuous = self.continuous.clamp(min=1.0)
        elif len(batch.x) >= FEWEST:
            with torch.no_grad():
                whole, halves = pointwise(elbo.posterior, elbo.z)
            self.accumulate("information", whole)
            self.accumulate("growth", whole - halves)
            self.accumulate("ceiling", torch.full((len(whole),), math.log(len(whole))))

    def estimate(self) -> Estimate | str:
        """Î and what belongs to it, or why there is none."""
        if self.count("information"):
            information, growth, ceiling = (float(self.mean(name)) for name in ("information", "growth", "ceiling"))
            n = self.count("information")
            return Estimate(information, self.se("information"), growth, self.se("growth"), ceiling, n)
        if self.continuous > 0:
            return "under a condition, I(x; z | c) of a flow posterior"
        rows = self.collected()
        if not rows:
            return "fewer than four examples"
        everyone = torch.arange(len(rows["z"]))
        parts = [everyone]
        if "label" in rows:
            if self.unshared > 0:
                return UNSHARED
            parts = [everyone[rows["label"] == value] for value in rows["label"].unique()]
        read = [self.of(rows, part) for part in parts if len(part) >= FEWEST]
        if not read:
            return "fewer than four examples" + (" of each condition" if len(parts) > 1 else "")
        whole, halves, ceiling = (torch.cat(column) for column in zip(*read, strict=True))
        n, growth = len(whole), whole - halves
        se, growth_se = (float(column.std() / math.sqrt(n)) for column in (whole, growth))
        return Estimate(float(whole.mean()), se, float(growth.mean()), growth_se, float(ceiling.mean()), n)

    def of(self, rows: dict[str, Tensor], part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Per example of one matrix: Î, Î of its half, ln N."""
        mean, scale, z = (rows[name][part] for name in ("location", "scale", "z"))
        whole, halves = pointwise(Independent(Normal(mean, scale, validate_args=False), 1), z)
        return whole, halves, torch.full((len(part),), math.log(len(part)), dtype=torch.float64)

    def reading(self) -> Tensor:
        estimate = self.estimate()
        return torch.tensor(torch.nan if isinstance(estimate, str) else estimate.value, dtype=torch.float64)

    def findings(self) -> list[Finding]:
        estimate = self.estimate()
        if isinstance(estimate, str):
            return [undefined("mi", estimate)]
        value, se, growth, growth_se, ceiling, n = estimate
        absent_below = max(self.absent_nats, self.absent_share_of_rate * float(self.mean("rate")))
        status: Status = judge(value, se, n, absent_below=absent_below, present_above=self.present_nats, **self.least)
        if status == "absent" and growth > self.bounded:  # a lower bound rules nothing out, but it may show presence
            status = judge(value, se, n, absent_below=-math.inf, present_above=self.present_nats, **self.least)
        note = self.note(estimate)
        size = round(math.exp(ceiling))
        return [
            Finding("mi", value, se, n, status, absent_below, note),
            Finding("mi_ceiling", ceiling, None, size, note="ln N of one matrix" if size < n else ""),
            Finding(
                "mi_growth",
                growth,
                growth_se,
                n,
                threshold=self.bounded,
                note="converged" if growth <= self.converged else "",
            ),
        ]

    def note(self, found: Estimate) -> str:
        """What growth (its upper limit) and ceiling make of the value: `saturated`, `lower bound` or nothing."""
        growth = found.growth + Z95 * found.growth_se
        if found.growth > self.saturated or found.value > found.ceiling - CEILING_MARGIN:
            return "saturated"
        return "lower bound" if growth > self.bounded else ""
