"""The value of z: how much worse the decoder does with somebody else's z. It decides reliance and needs no density."""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..batch import Batch, are_tokens, counted
from ..distributions.flows import can_rescale
from ..elbo import ELBO, Objective, gaussian, noise
from ..refusal import Refused, check_least
from ..vae import VAE
from .base import Z95, Detector, Finding, Status, judge, undefined
from .conditions import are_groups, derangements, from_neighbours, have_near, labels, nearest, within_groups

NEIGHBOURS = (25, 5, 100)  # of a continuous condition; the first is the reading, the others whether it can be trusted
CARRIED = 0.9
INTERVENTIONS = {"prior": "z from the prior", "zero": "z at the prior's centre", "mean": "the mean z"}
BY_TOKEN = {"gap": ("delta_shuffled", "another's z")} | {
    name: (f"delta_{name}", what) for name, what in INTERVENTIONS.items()
}


class Exchange(NamedTuple):
    """Whose z each example is given: `orders` for the reading, `others` for the same among 5 and 100 neighbours;
    `paired` are the examples that have a partner, `circle` the weights of the mean z among those who may exchange."""

    orders: Int[Tensor, "count batch"]
    paired: Bool[Tensor, " batch"]
    circle: Float[Tensor, "batch batch"] | None = None
    others: tuple[Int[Tensor, "count batch"], ...] = ()


def exchange(n: int, condition: Tensor | None, count: int, key: tuple[int, int]) -> Exchange:
    """Derangements of a block of n; under a condition within equal ones, or among the nearest where few are equal."""
    everyone = torch.ones(n, dtype=torch.bool)
    if condition is None:
        return Exchange(derangements(n, count, key), everyone)
    label = labels(condition)
    if are_groups(condition):
        orders, paired = within_groups(label, count, key)
        same = (label[:, None] == label).double()
        return Exchange(orders, paired, same / same.sum(1, keepdim=True))
    near = [nearest(condition, among) for among in NEIGHBOURS]
    orders = [from_neighbours(each, count, (*key, among)) for each, among in zip(near, NEIGHBOURS, strict=True)]
    circle = torch.eye(n, dtype=torch.float64).scatter(1, near[0], 1.0)
    paired = have_near(condition, min(NEIGHBOURS), max(NEIGHBOURS))
    return Exchange(orders[0], paired, circle / circle.sum(1, keepdim=True), tuple(orders[1:]))


def carriers(gaps: Float[Tensor, " n"], share: float = CARRIED) -> float:
    """The smallest share of examples that together carry `share` of the whole gap.

    >>> carriers(torch.tensor([0.0, 0.0, 0.0, 8.0, 0.0])), carriers(torch.ones(10))
    (0.2, 0.9)
    """
    reached = gaps.double().sort(descending=True).values.cumsum(0) >= share * gaps.double().sum() - 1e-9
    return float((int(reached.double().argmax()) + 1) / len(gaps))


def judge_gap(
    value: float, se: float, n: int, size: float, least: float, examples: Mapping[str, int]
) -> tuple[Status, str]:
    """Absent below `least`, material above `size`; clearly below −`size` neither: no other's z can serve better."""
    if value + Z95 * se < -size and n >= examples["material_examples"]:
        return (
            "undecided",
            "another's z costs clearly less than one's own: is a sign turned, or are two columns swapped?",
        )
    return judge(value, se, n, absent_below=least, present_above=size, **examples), ""


class DecoderReliance(Detector):
    """gap = D(x|z′) − D(x|z) with z′ permuted within the block, paired per example, mean over derangements.

    The size that matters, δ: for a likelihood in nats max(`nats`, `share_of_rate`·min(1, β)·R); for a distance
    `share_of_distance` of D̄, the mean distance between two different examples, else `share_of_distortion` of D. Where
    no weight is declared the price that the trained model shows stands for β, and where there is none either, only a
    gap below `nats` is absent.

    Under a condition c the u = (z − μ_p(c))/σ_p(c) is exchanged (base of a flow prior), between examples of equal c;
    where c is continuous, among the 25 with the nearest c, and the reading is undecided unless 5 and 100 give the same
    within `agree`.
    `interventions`: what the prior's z, its centre and the mean z cost, which explains and decides nothing, since a
    constant encoder pays for the prior's z too; `gap_share` = gap/(2[D(mean z) − D(own z)]), 1 for the linear VAE, not
    defined unless its denominator exceeds 3 standard errors; `gap_carriers`, the share of examples that carries 90 % of
    a material gap (a unit that is on for few examples). Of tokens also `delta_shuffled` (the gap), `delta_prior`,
    `delta_zero`, `delta_mean`: the same per token.
    """

    def __init__(
        self,
        *,
        permutations: int = 4,
        nats: float = 0.1,
        share_of_rate: float = 0.1,
        share_of_distance: float = 0.01,
        share_of_distortion: float = 0.02,
        agree: float = 0.2,
        interventions: bool = True,
        material_examples: int = 64,
        absent_examples: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if permutations < 1:
            raise Refused(f"the value of z needs at least one permutation, but got permutations={permutations}: try 4")
        shares = {"share_of_rate": share_of_rate, "share_of_distance": share_of_distance, "agree": agree}
        check_least("detector.decoder_reliance", 0, nats=nats, share_of_distortion=share_of_distortion, **shares)
        examples = {"material_examples": material_examples, "absent_examples": absent_examples}
        check_least("detector.decoder_reliance", 1, **examples)
        self.permutations, self.seed, self.agree, self.interventions = permutations, seed, agree, interventions
        self.nats, self.share_of_rate = nats, share_of_rate
        self.share_of_distance, self.share_of_distortion = share_of_distance, share_of_distortion
        self.examples = examples
        self.known: dict[tuple[int, int, float], Tensor | None] = {}
        self.add_column("gap", "own", "rate", "between", "declared", "normalised", "product", *INTERVENTIONS)
        self.add_column("noise", "spared", "tokens", *(f"{name}_tokens" for name in BY_TOKEN))
        self.add_column(*(f"among_{among}" for among in NEIGHBOURS[1:]))
        self.add_state("gaps", [], dist_reduce_fx="cat", persistent=True)
        self.add_state("alone", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        n = len(batch.x)
        if not vae.decodes or n < 2:
            return
        first = int(batch.positions()[0])
        swap = exchange(n, vae.condition(batch), self.permutations, (self.seed, first))
        rows = swap.paired.nonzero()[:, 0].to(elbo.z.device)
        self.alone = self.alone + (n - len(rows))
        if not len(rows):
            return
        part, own = batch.part(rows), elbo.distortion.double()[rows]

        def cost(orders: Tensor) -> Tensor:
            wrong = [vae.distortion(part, others(batch, elbo, order.to(elbo.z.device))[rows]) for order in orders]
            return torch.stack(wrong).double().mean(0) - own

        gap = cost(swap.orders)
        self.accumulate("gap", gap)
        self.accumulate("own", own)
        self.accumulate("rate", elbo.rate[rows])
        self.accumulate("normalised", torch.full((len(rows),), float(vae.normalised)))
        between = self.between_examples(vae, batch, elbo, first)
        if between is not None:
            self.accumulate("between", between)
        if objective is not None and objective.declared is not None:
            self.accumulate("declared", objective.declared.expand(len(rows)))
        elif (centre := gaussian(elbo.posterior)) and (around := gaussian(elbo.prior)) and vae.normalised:
            self.accumulate("noise", 2 * (own - vae.distortion(part, centre[0][rows]).double()))
            spared = 1 - (centre[1] / around[1]).double().square()
            self.accumulate("spared", spared.expand_as(elbo.z)[rows].flatten(1).sum(1))
        if not self.interventions:
            return
        self.gaps.append(gap.detach())
        costs = {"gap": gap}
        for among, orders in zip(NEIGHBOURS[1:], swap.others, strict=False):
            self.accumulate(f"among_{among}", cost(orders))
        for name, z in replacements(batch, elbo, swap.circle, self.seed).items():
            costs[name] = excess = vae.distortion(part, z[rows]).double() - own
            self.accumulate(name, excess)
            if name == "mean":
                self.accumulate("product", gap * excess)
        if are_tokens(part):
            self.accumulate("tokens", tokens := counted(part).sum(1).double())
            for name, more in costs.items():
                self.accumulate(f"{name}_tokens", more * tokens)

    def between_examples(self, vae: VAE, batch: Batch, elbo: ELBO, first: int) -> Tensor | None:
        """The distance of two examples: of the data alone, so a probe's block is measured once."""
        key = (first, len(batch.x), float(batch.x.sum()))
        if key not in self.known:
            order = derangements(len(batch.x), 1, (self.seed, first))[0].to(elbo.z.device)
            self.known[key] = vae.between(batch, elbo.z, order)
        return self.known[key]

    def light(self) -> "DecoderReliance":
        one = deepcopy(self)
        one.permutations, one.interventions = 1, False
        return one

    def reading(self) -> Tensor:
        return self.mean("gap") if self.count("gap") else torch.tensor(torch.nan, dtype=torch.float64)

    def price(self) -> float | None:
        """What a nat costs: the declared weight, else what the noise of z costs at σ over what it saves, 2[D(z) − D(μ)]
        against Σ(1 − σ²), which is the weight at a stationary point; None where neither is known."""
        if self.count("declared"):
            return float(self.mean("declared"))
        known = self.count("spared") and float(self.mean("spared")) > 1e-3
        return max(0.0, float(self.mean("noise") / self.mean("spared"))) if known else None

    def size(self) -> float:
        """δ, the smallest gap that matters, in the distortion's units."""
        if float(self.mean("normalised")) == 1:
            price = self.price()
            share = self.share_of_rate * min(1.0, 1.0 if price is None else price)
            return max(self.nats, share * float(self.mean("rate")))
        if self.count("between"):
            return self.share_of_distance * float(self.mean("between"))
        return self.share_of_distortion * abs(float(self.mean("own")))

    def least(self) -> float:
        """Below this a gap is absent: δ, and where no price of a nat is known the least it could be."""
        return self.nats if float(self.mean("normalised")) == 1 and self.price() is None else self.size()

    def findings(self) -> list[Finding]:
        n = self.count("gap")
        if not n:
            alone = "no two examples of a block share their condition (or have a near one)"
            said = alone if self.alone > 0 else "the model was not decoded (or has one example a block)"
            return [undefined("gap", said)]
        value, se, size = float(self.reading()), self.se("gap"), self.size()
        judged, why = judge_gap(value, se, n, size, self.least(), self.examples)
        verdict, note = self.trusted(judged, size)
        note = "; ".join(filter(None, (note, why)))
        found = [
            Finding("gap", value, se, n, verdict, size, note),
            Finding("distortion", float(self.mean("own")), self.se("own"), n),
        ]
        if self.count("between"):
            found.append(Finding("distance_between_examples", float(self.mean("between")), self.se("between"), n))
        return [*found, *self.explanations(verdict)]

    def trusted(self, verdict: Status, size: float) -> tuple[Status, str]:
        """The status of the gap, undecided where it depends on how near the exchanged conditions are."""
        kept = f"{int(self.alone)} examples without another of their condition left out" if self.alone > 0 else ""
        if not self.count("among_5"):
            return verdict, kept
        values = {5: self.mean("among_5"), 25: self.mean("gap"), 100: self.mean("among_100")}
        numbers = [float(value) for value in values.values()]
        apart = max(numbers) - min(numbers) > max(self.agree * abs(numbers[1]), self.agree * size)
        said = "among the 5, 25 and 100 nearest conditions " + ", ".join(f"{number:.3g}" for number in numbers)
        return ("undecided" if apart else verdict), said

    def explanations(self, verdict: Status) -> list[Finding]:
        """What decides nothing: the interventions, the share of the gap, and how many examples carry it."""
        found = [
            Finding(f"gap_{among}", float(self.mean(f"among_{among}")), self.se(f"among_{among}"), self.count("gap"))
            for among in NEIGHBOURS[1:]
            if self.count(f"among_{among}")
        ]
        if not self.count("mean"):
            return found
        n = self.count("mean")
        found += [
            Finding(f"gap_{name}", float(self.mean(name)), self.se(name), n, note=f"{what}: explains, decides nothing")
            for name, what in INTERVENTIONS.items()
            if self.count(name)
        ]
        found += self.by_token()
        excess = float(self.mean("mean"))
        if excess > 3 * self.se("mean") and excess > 0:
            share = float(self.mean("gap")) / (2 * excess)
            found.append(Finding("gap_share", share, self.share_error(share, excess), n))
        else:
            found.append(undefined("gap_share", "the mean z costs no more than 3 standard errors"))
        if verdict != "material":
            return [*found, undefined("gap_carriers", "the gap is not material")]
        gaps = torch.cat(list(self.gaps)) if isinstance(self.gaps, list) else self.gaps
        note = f"the smallest share of examples that carries {CARRIED:.0%} of the gap"
        return [*found, Finding("gap_carriers", carriers(gaps), None, n, note=note)]

    def by_token(self) -> list[Finding]:
        """What a token costs more, each token counting the same; nothing where there are none."""
        tokens = self.mean("tokens")
        return [
            Finding(found, float(self.mean(name) / tokens), self.ratio_error(name, "tokens", f"{name}_tokens"),
                    self.count(name), note=f"nats per token, {what}: explains, decides nothing")
            for name, (found, what) in BY_TOKEN.items()
            if self.count(f"{name}_tokens")
        ]  # fmt: skip

    def share_error(self, share: float, excess: float) -> float:
        """Standard error of gap/(2·excess) by the delta method."""
        n = self.count("mean")
        spread = (self.gap_square - 4 * share * self.product_sum + 4 * share**2 * self.mean_square) / n
        return math.sqrt(max(0.0, float(spread)) / n) / (2 * excess)


def others(batch: Batch, elbo: ELBO, order: Int[Tensor, " batch"]) -> Float[Tensor, "batch *unit"]:
    """Example b gets the z of example order[b], moved from that one's condition to its own."""
    u = elbo.standardised() if batch.context is not None else None
    return elbo.z[order] if u is None else elbo.from_prior_units(u[order]).to(elbo.z)


def replacements(
    batch: Batch, elbo: ELBO, circle: Float[Tensor, "batch batch"] | None, seed: int
) -> dict[str, Float[Tensor, "batch *unit"]]:
    """z from the prior, at its centre, and the mean z of those who may exchange theirs."""
    z, rescales = elbo.z, can_rescale(elbo.prior)
    u = elbo.standardised() if batch.context is not None else None
    at = z if u is None else u
    weights = torch.full((len(z), len(z)), 1 / len(z), dtype=at.dtype) if circle is None else circle
    mean = (weights.to(at) @ at.flatten(1)).reshape(at.shape)
    found = {"mean": mean if u is None else elbo.from_prior_units(mean).to(z)}
    if rescales:
        eps = noise(batch.positions(), tuple(z.shape[1:]), seed=seed, epoch=6)[0].to(z)
        found["prior"] = elbo.from_prior_units(eps).to(z)
    centre = torch.zeros_like(z)
    found["zero"] = elbo.from_prior_units(centre).to(z) if rescales else centre
    return found
