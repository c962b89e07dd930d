"""Does the aggregate posterior q(z) fill the prior? A bracket for KL(q(z)‖p(z)), and a classifier of two samples."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Independent, Normal

from ..batch import Batch
from ..elbo import ELBO, Objective, gaussian, noise
from ..refusal import check_least
from ..vae import VAE
from .base import Z95, Collecting, Finding, Status, judge, undefined
from .mutual_information import CEILING_MARGIN, pointwise
from .two_samples import told_apart

IDLE = 0.05  # nats
WORK = 2**26  # pairs × units of the one-dimensional estimates
FEATURES = 48  # of a spatial latent that are compared at once: ten examples each are what a probe has
NAMES = ("prior_hole", "marginal_kl_lower", "marginal_kl_by_unit", "marginal_kl_upper", "hole_auc")


def matched_gaussian_kl(u: Float[Tensor, "n k"]) -> tuple[float, float] | None:
    """KL(g‖N(0, I)) of the Gaussian g with the moments of u, its bias k(k + 3)/(4N) removed, and its standard error.

    The error is the delta method's, plus the spread k(k + 3)/(4N²) that is left where g is N(0, I) itself and the
    first order vanishes. None where N is too small for a covariance.

    >>> value, se = matched_gaussian_kl(torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)).double())
    >>> abs(value) < 4 * se
    True
    """
    n, k = u.shape
    if n < k + 2:
        return None
    mean = u.mean(0)
    centred = u - mean
    covariance = centred.T @ centred / (n - 1)
    root, info = torch.linalg.cholesky_ex(covariance)
    if int(info) or not torch.isfinite(root).all():
        return None
    trace, log_det = covariance.diagonal().sum(), 2 * root.diagonal().log().sum()
    bias = k * (k + 3) / (4 * n)
    value = 0.5 * float(trace + mean.square().sum() - k - log_det) - bias
    whitened = torch.linalg.solve_triangular(root, centred.T, upper=False).square().sum(0)
    influence = 0.5 * (centred.square().sum(1) - trace - whitened + k) + centred @ mean
    return value, math.sqrt(float(influence.var()) / n + bias / n)


def one_dimensional(
    mean: Float[Tensor, " n"], scale: Float[Tensor, " n"], z: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], float]:
    """ln q̂(z_m) − ln p(z_m) of one unit, whose mean is R_i − Î_i of these draws, and the growth of Î_i."""
    posterior = Independent(Normal(mean[:, None], scale[:, None], validate_args=False), 1)
    whole, halves = pointwise(posterior, z[:, None])
    rate = -((z - mean) / scale).square() / 2 - scale.log() + z.square() / 2
    return rate - whole, float(whole.mean() - halves.mean())


def by_units(rows: Mapping[str, Tensor]) -> bool:
    """Are posterior and prior Gaussian, and u all of z, so that units can be read one by one?"""
    return "rate" in rows and rows["z"].shape == rows["u"].shape and torch.equal(rows["z"], rows["u"])


def told(rows: Mapping[str, Tensor]) -> Bool[Tensor, " k"]:
    """The units but those whose KL to the prior amounts to at most `IDLE` nats, all of them together.

    KL(q(z)‖p) of the others is no more than of all, and less by no more than that.
    """
    mean, scale = rows["location"], rows["scale"]
    rates = (0.5 * (mean.square() + scale.square() - 1) - scale.log()).mean(0)
    order = rates.argsort()
    idle = rates[order].cumsum(0) <= IDLE
    kept = torch.ones_like(idle)
    kept[order[idle]] = False
    kept[order[-1]] = True  # a covariance of none is none
    return kept


class AggregatePosterior(Collecting):
    """Prior holes, read on u = (z − μ_p)/σ_p (of a flow prior its base space), where p is N(0, I), with one draw of z.

    `marginal_kl_lower`: KL(g‖p) of the moment-matched Gaussian over the units that are not idle;
    `marginal_kl_by_unit`: Σ_i (R_i − I_i) over the units with R_i < ln N − 2, what moments cannot see (±.99 codes), the
    growth of Î_i taken off; both bound KL(q(z)‖p) from below. `marginal_kl_upper`: R − Î, never less than the KL but
    for noise; it is the KL where Î has converged (growth up to `converged`), and no evidence of a hole where it has
    not. Material: above max(`nats`, `share_of_rate`·R).
    `hole_auc`: the area under the curve of a classifier between q(z) and p(z), material with its lower limit above
    `auc`, absent with its upper one below.

    `prior_hole` puts them together: material by a lower bound (or R − Î converged); absent where R − Î is below the
    size that matters, or all of the lower bounds and the area are; a material area alone leaves it undecided, since a
    thin difference that the decoder does not mind may be told apart too.

    Of a wide spatial latent (C, H, W) a patch of each example is read, and the map pooled to few blocks: less than the
    whole KL, so that either may convict and only both together acquit. A prior that is neither Gaussian nor a flow on
    one is compared by the classifier alone. Sources: Hoffman & Johnson 2016
    (bracket); Lopez-Paz & Oquab 2017 (classifier); DeLong 1988 (its error).
    """

    def __init__(
        self,
        *,
        nats: float = 1.0,
        share_of_rate: float = 0.25,
        auc: float = 0.75,
        examples: int = 4096,
        unit_examples: int = 1024,
        classifier_examples: int = 2048,
        examples_per_unit: int = 10,
        converged: float = 0.02,
        ceiling_margin: float = 2.0,
        material_examples: int = 64,
        absent_examples: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__("u", "fake", "location", "scale", "z", "rate", "pooled", "fake_pooled", examples=examples)
        counts = {"unit_examples": unit_examples, "classifier_examples": classifier_examples, "examples": examples}
        least = {"material_examples": material_examples, "absent_examples": absent_examples}
        check_least("detector.aggregate_posterior", 16, **counts)
        check_least("detector.aggregate_posterior", 1, examples_per_unit=examples_per_unit, **least)
        sizes = {"nats": nats, "share_of_rate": share_of_rate, "auc": auc, "converged": converged}
        check_least("detector.aggregate_posterior", 0, ceiling_margin=ceiling_margin, seed=seed, **sizes)
        self.nats, self.share_of_rate, self.auc, self.seed = nats, share_of_rate, auc, seed
        self.unit_examples, self.classifier_examples = unit_examples, classifier_examples
        self.examples_per_unit, self.converged, self.ceiling_margin = examples_per_unit, converged, ceiling_margin
        self.least = least
        self.by_unit: Tensor | None = None
        self.add_column("whole_rate")

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        self.accumulate("whole_rate", elbo.rate)
        columns: dict[str, Tensor] = {}
        u = elbo.standardised()
        if u is None:
            with torch.random.fork_rng():  # a prior that takes its own noise: the same on any rank
                torch.manual_seed(self.seed + int(batch.positions()[0]))
                shape = elbo.prior.batch_shape
                fake = elbo.prior.sample(torch.Size([] if shape else [len(batch.x)]))
            columns = seen(elbo.z, batch.positions())
            columns |= {"fake_pooled" if name == "pooled" else "fake": values
                        for name, values in seen(fake, batch.positions()).items()}  # fmt: skip
        else:
            columns = seen(u, batch.positions())
        posterior = elbo.relative_posterior()
        parameters = gaussian(posterior)
        if parameters is not None:
            same = gaussian(elbo.prior) is not None
            z = u if same and u is not None else elbo.z
            log_p = elbo.prior.log_prob(elbo.z) if not same else log_standard(z)
            rate = log_density(parameters, z) - log_p.double().reshape(len(z), -1).sum(1)
            columns |= {"location": parameters[0], "scale": parameters[1], "z": z, "rate": rate}
        self.collect(batch.positions(), **columns)

    def light(self) -> None:
        """Too dear while training, and few examples say nothing of it."""
        return

    def reset(self) -> None:
        super().reset()
        self.by_unit = None

    def reading(self) -> Tensor:
        """KL(g‖p), NaN where not defined."""
        rows = self.collected()
        found = matched_gaussian_kl(rows["u"]) if "u" in rows and "fake" not in rows else None
        return torch.tensor(torch.nan if found is None else found[0], dtype=torch.float64)

    def size(self) -> float:
        """The KL(q(z)‖p) that matters, in nats."""
        return max(self.nats, self.share_of_rate * float(self.mean("whole_rate")))

    def findings(self) -> list[Finding]:
        rows = self.collected()
        if not rows:
            return [undefined(name, "no example was read") for name in NAMES]
        if not all(torch.isfinite(values).all() for values in rows.values()):
            return [undefined(name, "z or its posterior is not finite") for name in NAMES]
        sides = sides_of(rows)
        lower, units = strongest([self.moments(side) for side in sides]), self.units(rows)
        upper, auc = self.upper(rows), strongest([self.classifier(side) for side in sides])
        return [self.hole(lower, units, upper, auc), lower, units, upper, auc]

    def moments(self, rows: dict[str, Tensor]) -> Finding:
        """The lower bound from moments."""
        name, u = "marginal_kl_lower", rows["u"]
        if "fake" in rows:
            return undefined(name, "the prior is neither a Gaussian nor a flow on one")
        u = u[:, told(rows)] if by_units(rows) else u
        found, n, needed = matched_gaussian_kl(u), len(u), self.examples_per_unit * u.shape[1]
        if found is None:
            return undefined(name, f"{n} examples give no covariance of {u.shape[1]} units (or a singular one)")
        status = judge(*found, n, absent_below=self.size(), **self.least)
        if n < needed:
            return Finding(name, *found, n, "undecided", self.size(), f"too few examples: {n} of {needed}")
        return Finding(name, *found, n, status, self.size())

    def units(self, rows: dict[str, Tensor]) -> Finding:
        """The lower bound from each unit alone; sets `by_unit`."""
        name = "marginal_kl_by_unit"
        if not by_units(rows):
            return undefined(name, "the units are not independent under the prior (or not Gaussian, or spatial)")
        mean, scale, z = (rows[key] for key in ("location", "scale", "z"))
        k = z.shape[1]
        n = min(self.unit_examples, len(z), math.isqrt(WORK // k))
        mean, scale, z = mean[:n], scale[:n], z[:n]
        rates = (0.5 * (mean.square() + scale.square() - 1) - scale.log()).mean(0)
        chosen = (rates < math.log(max(n, 2)) - self.ceiling_margin).nonzero()[:, 0].tolist() if n >= 16 else []
        if not chosen:
            return undefined(name, f"no unit has a KL below ln {n} − {self.ceiling_margin:g}")
        total, self.by_unit = torch.zeros(n, dtype=torch.float64), torch.full((k,), torch.nan, dtype=torch.float64)
        for unit in chosen:
            excess, growth = one_dimensional(mean[:, unit], scale[:, unit], z[:, unit])
            total += excess - growth
            self.by_unit[unit] = (excess - growth).mean()
        value, se = float(total.mean()), float(total.std()) / math.sqrt(n)
        left_out = f"{k - len(chosen)} units whose KL is above ln {n} − {self.ceiling_margin:g} left out"
        status = judge(value, se, n, absent_below=self.size(), **self.least)
        return Finding(name, value, se, n, status, self.size(), left_out if len(chosen) < k else "")

    def upper(self, rows: dict[str, Tensor]) -> Finding:
        """R − Î of the same draws: mean of ln q̂(z_m) − ln p(z_m)."""
        name = "marginal_kl_upper"
        if "rate" not in rows or len(rows["z"]) < 4:
            return undefined(name, "the posterior is no Gaussian (R − Î of a flow: see rate and mi)")
        posterior = Independent(Normal(rows["location"], rows["scale"], validate_args=False), 1)
        whole, halves = pointwise(posterior, rows["z"])
        excess, n = rows["rate"] - whole, len(whole)
        value, se = float(excess.mean()), float(excess.std()) / math.sqrt(n)
        growth, ceiling = float(whole.mean() - halves.mean()), math.log(n)
        status: Status = judge(value, se, n, absent_below=self.size(), **self.least)
        if growth > self.converged or float(whole.mean()) > ceiling - CEILING_MARGIN:
            status = "absent" if status == "absent" else "undecided"
            note = f"Î still grows by {growth:.2g} nats with N: no evidence of a hole"
            return Finding(name, value, se, n, status, self.size(), note)
        return Finding(name, value, se, n, status, self.size(), "Î has converged: KL(q(z)‖p) itself")

    def classifier(self, rows: dict[str, Tensor]) -> Finding:
        """The area under the curve between u and draws from the prior."""
        u = rows["u"][: self.classifier_examples]
        n, name = len(u), "hole_auc"
        if n < 16:
            return undefined(name, "fewer than 16 examples")
        if "fake" in rows:
            fake = rows["fake"][:n]
            both = torch.cat([u, fake])
            u, fake = ((side - both.mean(0)) / both.std(0).clamp(min=1e-12) for side in (u, fake))
        else:
            fake = noise(rows["position"][:n], (u.shape[1],), seed=self.seed, epoch=5)[0]
        value, se, family = told_apart(u, fake, seed=self.seed)
        status = judge(value, se, n, absent_below=self.auc, **self.least)
        return Finding(name, value, se, n, status, self.auc, f"told apart best by {family}" if value > 0.6 else "")

    def hole(self, lower: Finding, units: Finding, upper: Finding, auc: Finding) -> Finding:
        """The question whether there is a hole, from all four; its value is the larger lower bound."""
        bounds = [finding for finding in (lower, units) if finding.value is not None]
        convicting = [finding for finding in (*bounds, upper) if finding.status == "material"]
        best = max(convicting or bounds, key=limit, default=None)
        value, se, n = (None, None, auc.n) if best is None else (best.value, best.se, best.n)
        if convicting and best is not None:
            return Finding("prior_hole", value, se, n, "material", self.size(), f"by {best.name}")
        if upper.status == "absent":
            return Finding("prior_hole", value, se, n, "absent", self.size(), "R − Î leaves no room")
        if auc.status == "material":
            why = f"told apart with an area of {auc.value:.2f} ({auc.note}): decided by what prior samples decode to"
            return Finding("prior_hole", value, se, n, "undecided", self.size(), why)
        cleared = auc.status == "absent" and all(finding.status == "absent" for finding in bounds)
        return Finding("prior_hole", value, se, n, "absent" if cleared else "undecided", self.size())

    def per_unit(self) -> dict[str, Tensor]:
        """R_i − I_i of the units for which it is defined, 0 for the others."""
        return {} if self.by_unit is None else {"marginal_kl": self.by_unit.nan_to_num(0.0)}


def sides_of(rows: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The latent as it is compared with the prior: as a whole, or of a wide spatial one a patch, and its pooled map."""
    if "pooled" not in rows:
        return [rows]
    names = {"u": "pooled", "fake": "fake_pooled"}
    return [rows, rows | {name: rows[pooled] for name, pooled in names.items() if name in rows}]


def strongest(of: list[Finding]) -> Finding:
    """Of one reading of several sides the one that says most against the latent: each bounds the whole from below, and
    what one of them leaves open no other rules out."""
    if len(of) > 1:  # one AUC is the best of six then: 2.638/2.394
        of = [each._replace(se=1.102 * each.se) if each.name == "hole_auc" and each.se else each for each in of]
    order = ("absent", "undefined", "undecided", "material")
    return max(of, key=lambda finding: (order.index(finding.status), limit(finding)))


def limit(finding: Finding) -> float:
    """The lower 95 % limit."""
    return (finding.value or 0.0) - Z95 * (finding.se or 0.0)


def log_density(parameters: tuple[Tensor, Tensor], z: Tensor) -> Float[Tensor, " batch"]:
    """ln q(z|x) in float64."""
    mean, scale = (part.flatten(1).double() for part in parameters)
    white = (z.flatten(1).double() - mean) / scale
    return (-0.5 * (white.square() + math.log(2 * math.pi)) - scale.log()).sum(1)


def log_standard(z: Tensor) -> Float[Tensor, " batch"]:
    return (-0.5 * (z.flatten(1).double().square() + math.log(2 * math.pi))).sum(1)


def seen(u: Float[Tensor, "batch *unit"], position: Int[Tensor, " batch"]) -> dict[str, Float[Tensor, "batch _"]]:
    """`u` flattened; of a spatial latent (C, H, W) beyond `FEATURES` numbers a patch of it, at another place for each
    example, and `pooled`, the sums over blocks of the whole map, of unit variance where u is. Neither is ever of one
    position alone, where neighbours may be copies of one another without a trace."""
    if u.ndim != 4 or u[0].numel() <= FEATURES:
        return {"u": u.flatten(1)}
    return {"u": patch(u, position), "pooled": blocks(u).flatten(1)}


def fitting(channels: int, height: int, width: int) -> tuple[int, int]:
    """The largest patch of about equal sides that has at most `FEATURES` numbers."""
    h = w = 1
    while True:
        grown = [(h, w + 1), (h + 1, w)] if w <= h else [(h + 1, w), (h, w + 1)]
        room = [(a, b) for a, b in grown if a <= height and b <= width and channels * a * b <= FEATURES]
        if not room:
            return h, w
        h, w = room[0]


def patch(u: Float[Tensor, "batch c h w"], position: Int[Tensor, " batch"]) -> Float[Tensor, "batch _"]:
    """A patch of each example at a place of its own; of many channels only some, so that two positions fit in."""
    u = u[:, :: -(-2 * u.shape[1] // FEATURES)]
    h, w = fitting(*u.shape[1:])
    windows = u.unfold(2, h, 1).unfold(3, w, 1).flatten(2, 3)
    at = (position.to(u.device) * 2654435761 % 2**31) % windows.shape[2]
    return windows[torch.arange(len(u), device=u.device), :, at].flatten(1)


def blocks(u: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c _ _"]:
    """The map as few blocks, each the sum of its positions over the root of their number."""
    h, w = fitting(*u.shape[1:])
    rows = [part.sum(2) / math.sqrt(part.shape[2]) for part in u.tensor_split(h, 2)]
    down = torch.stack(rows, 2)
    return torch.stack([part.sum(3) / math.sqrt(part.shape[3]) for part in down.tensor_split(w, 3)], 3)
