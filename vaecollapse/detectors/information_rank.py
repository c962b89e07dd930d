"""How many directions of z carry information, whatever linear map z went through."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..batch import Batch
from ..distributions.posteriors import batch_normalised
from ..elbo import ELBO, Moments, Objective, unit_moments
from ..refusal import check_least
from ..vae import VAE
from .base import BATCH_NORMALISED, Detector, Finding, undefined
from .conditions import are_groups


def information_eigenvalues(between: Float[Tensor, "k k"], within: Float[Tensor, "k k"]) -> Float[Tensor, " k"]:
    """Eigenvalues of Σ_within^{−½} Σ_between Σ_within^{−½}, largest first, none below 0.

    >>> information_eigenvalues(torch.diag(torch.tensor([3.0, 0.0])).double(), torch.eye(2).double()).round(decimals=6)
    tensor([3., 0.], dtype=torch.float64)
    """
    return information_directions(between, within)[0]


def information_directions(
    between: Float[Tensor, "k k"], within: Float[Tensor, "k k"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k k"]]:
    """The eigenvalues λ and, as columns, the directions in z of one within standard deviation, most informative first:
    along column i, E[z|x] spreads by √λ_i times its length."""
    if not torch.isfinite(between + within).all():
        raise ValueError("expected finite covariances, but z or its posterior is not finite")
    scale = within.diagonal().clamp(min=1e-300).rsqrt()
    within, between = (scale[:, None] * matrix * scale for matrix in (within, between))
    root = torch.linalg.cholesky(within + 1e-12 * torch.eye(len(within)).to(within))
    half = torch.linalg.solve_triangular(root, between, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.T, upper=False)
    values, vectors = torch.linalg.eigh((whitened + whitened.T) / 2)
    return values.flip(0).clamp(min=0), (root @ vectors).flip(1) / scale[:, None]


WIDEST = 2**22  # numbers of a condition times units of z, of which products are summed
LARGEST = 2048  # units of which eigenvalues are taken: beyond, examples are always too few


def layout(unit: Sequence[int]) -> tuple[int, int]:
    """Groups, and units or channels in each, of a latent: (C, H, W) has channels, (tokens, units) groups.

    >>> layout((16,)), layout((8, 4, 4)), layout((6, 256))
    ((1, 16), (1, 8), (6, 256))
    """
    if len(unit) == 2:
        return unit[0], unit[1]
    return 1, unit[0] if len(unit) == 3 else math.prod(unit)


def pooled(rows: Float[Tensor, "n k"], groups: int, channels: int) -> Float[Tensor, "groups n_positions channels"]:
    """A latent as vectors of its channels, one for each position of each example, group by group."""
    return rows.reshape(len(rows), groups, channels, -1).permute(1, 0, 3, 2).reshape(groups, -1, channels)


def within_groups(found: Moments, groups: int, channels: int) -> Float[Tensor, "groups channels channels"]:
    """Σ over examples of the groups' own Cov(z|x)."""
    if groups == 1:
        return found.within(channels)[None]
    columns = torch.arange(groups * channels).split(channels)
    parts = [
        Moments(found.mean[:, own], found.variance[:, own], found.draws,
                None if found.centred is None else found.centred[..., own])
        for own in columns
    ]  # fmt: skip
    return torch.stack([part.within() for part in parts])


class InformationRank(Detector):
    """rank = #{λ > `eigenvalue`} of Σ_within^{−½} Σ_between Σ_within^{−½}, Î_rank = ½ Σ ln(1 + λ) over those.

    Σ_between = Cov_x(E[z|x]), Σ_within = E_x[Cov(z|x)]; from S draws Σ_within/S is taken off Σ_between (undebiased, a
    fully collapsed flow reads full rank). Invariant to any invertible linear map of z, which active units are not.
    Blind to information carried in σ alone. Needs `examples_per_unit` × units examples. Of a spatial latent (C, H, W)
    the rank is that of its C channels: each position's own mean is removed, then positions are pooled. Of tokens
    (tokens, units) it is that of each token alone, and the largest of them (no more than that of all together), for
    which examples suffice. Not defined under a batch-normalised posterior, where it is full by construction.

    `information_rank_beyond_condition`: under a continuous condition c the same, with what is linear in c taken off
    E[z|x]: what z tells of c is nothing of x. Under one that is a name it is not defined (I(x; z | c) is).
    """

    def __init__(self, *, eigenvalue: float = 0.1, examples_per_unit: int = 10) -> None:
        super().__init__()
        check_least("detector.information_rank", 0, eigenvalue=eigenvalue)
        check_least("detector.information_rank", 1, examples_per_unit=examples_per_unit)
        self.eigenvalue, self.examples_per_unit = eigenvalue, examples_per_unit
        self.add_column("mean", "condition")
        for name in ("outer", "within", "condition_outer", "condition_cross"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum", persistent=True)
        for name in ("draws", "groups", "channels", "fixed", "conditional"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        posterior = elbo.relative_posterior()
        self.fixed = self.fixed.clamp(min=float(batch_normalised(elbo.posterior)))
        groups, channels = layout(tuple(posterior.event_shape))
        self.channels, self.groups = self.channels.clamp(min=channels), self.groups.clamp(min=groups)
        if channels > LARGEST:
            return
        found = unit_moments(posterior, batch.positions())
        self.accumulate("mean", found.mean)
        rows = pooled(found.mean, groups, channels)
        self.outer = self.outer + rows.mT @ rows
        self.within = self.within + within_groups(found, groups, channels)
        self.draws = self.draws.clamp(min=found.draws or 0)
        condition = vae.condition(batch)
        self.conditional = self.conditional.clamp(min=float(condition is not None))
        if condition is not None and condition.is_floating_point() and not are_groups(condition):
            c = condition.flatten(1).to(found.mean)
            if c.shape[1] * found.mean.shape[1] <= WIDEST:
                self.accumulate("condition", c)
                self.condition_outer = self.condition_outer + c.T @ c
                self.condition_cross = self.condition_cross + c.T @ found.mean

    def covariances(self) -> tuple[Float[Tensor, "groups k k"], Float[Tensor, "groups k k"]]:
        """Between examples, debiased where moments are of draws, and within them."""
        n = self.count("mean")
        groups, channels = self.layout()
        centre = pooled(self.mean("mean")[None], groups, channels)
        outer, within = (part.reshape(groups, channels, channels) for part in (self.outer, self.within))
        between, within = (outer - n * centre.mT @ centre) / (n - 1), within / n
        if self.draws > 0:
            between = between - within / self.draws
        return between / centre.shape[1], within / centre.shape[1]

    def beyond_condition(self) -> Finding:
        """The rank without what is linear in a continuous condition."""
        name, n, mean = "information_rank_beyond_condition", self.count("mean"), self.mean("condition")
        size = mean.numel()
        if self.count("condition") < n:
            return undefined(name, "the condition is a name or words, so near ones there are none (or it is too wide)")
        if n <= 2 * size + 2:
            return undefined(name, f"too few examples: {n} for a condition of {size} numbers")
        spread = self.condition_outer - n * torch.outer(mean, mean)
        cross = self.condition_cross - n * torch.outer(mean, self.mean("mean"))
        explained = torch.linalg.pinv(spread, hermitian=True, rtol=1e-10) @ cross
        parts = [part.reshape(size, *self.layout(), -1) for part in (cross, explained)]
        between, within = self.covariances()
        taken = torch.einsum("pgci,pgdi->gcd", *parts) / self.positions()
        rest = ((n - 1) * between - (taken + taken.mT) / 2) / (n - 1 - size)
        rank = float(self.most(torch.stack(list(map(information_eigenvalues, rest, within)))))
        enough = n >= self.examples_per_unit * within.shape[-1]
        return Finding(name, rank, None, n, "measured" if enough else "undecided", self.eigenvalue)

    def eigenvalues(self) -> Float[Tensor, "groups k"]:
        return torch.stack(list(map(information_eigenvalues, *self.covariances())))

    def ranks(self, values: Float[Tensor, "groups k"]) -> Float[Tensor, " groups"]:
        return (values > self.eigenvalue).double().sum(1)

    def most(self, values: Float[Tensor, "groups k"]) -> Tensor:
        """The rank of the group that has the largest."""
        return self.ranks(values).max()

    def layout(self) -> tuple[int, int]:
        """Groups, and channels of each; of sums that were not streamed one group of all units."""
        return max(1, int(self.groups)), int(self.channels) or self.mean("mean").numel()

    def positions(self) -> int:
        """How many positions of a latent (C, …) share the channels that are read; 1 for a vector."""
        return self.mean("mean").numel() // math.prod(self.layout())

    def idle(self) -> int:
        """How many units of a group, all of them together, could not make up one direction: Σ between/within ≤
        `eigenvalue`.

        They cost no examples: an eigenvalue of the whole exceeds that of the others by at most their sum (Weyl).
        """
        between, within = (part.diagonal(dim1=1, dim2=2) for part in self.covariances())
        each = (between / within.clamp(min=1e-300)).clamp(min=0).sort(1).values
        return int((each.cumsum(1) <= self.eigenvalue).sum(1).min())

    def reading(self) -> Tensor:
        if self.count("mean") < 2 or not bool(torch.isfinite(self.outer + self.within).all()):
            return torch.tensor(torch.nan, dtype=torch.float64)
        return self.most(self.eigenvalues())

    def findings(self) -> list[Finding]:
        n, rank = self.count("mean"), float(self.reading())
        if rank != rank:
            many = f"{int(self.channels)} units need more examples than can be read"
            few = "fewer than two examples, or z is not finite"
            return [undefined("information_rank", many if self.channels > LARGEST else few)]
        if self.fixed:
            return [undefined("information_rank", BATCH_NORMALISED)]
        values = self.eigenvalues()
        needed = self.examples_per_unit * max(1, values.shape[1] - self.idle())
        enough = n >= needed
        nats = 0.5 * torch.log1p(values)
        note = [] if enough else [f"too few examples: {n} of {needed}"]
        if len(values) > 1:
            each = ", ".join(f"{rank:.0f}" for rank in self.ranks(values).tolist())
            note.append(f"the largest of the {len(values)} tokens' own: {each}")
        return [
            Finding(
                "information_rank",
                rank,
                None,
                n,
                "measured" if enough else "undecided",
                self.eigenvalue,
                "; ".join(note),
            ),
            Finding("information_rank_nats", float((nats * (values > self.eigenvalue)).sum(1).max()), None, n),
            Finding("information_in_means", self.positions() * float(nats.sum()), None, n),
            Finding(
                "directions_at_most",
                float(self.ranks(values).sum()) * self.positions(),
                None,
                n,
                "measured" if enough else "undecided",
            ),
            Finding("information_eigenvalue_max", float(values.max()), None, n, threshold=self.eigenvalue),
            *([self.beyond_condition()] if self.conditional > 0 else []),
        ]
