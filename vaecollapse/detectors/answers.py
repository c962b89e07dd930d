"""How well tokens are told: their loss beside that of a model that knows nothing, and what z saves of it."""

import math
from copy import deepcopy
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..batch import Batch
from ..elbo import ELBO, Objective, draw
from ..refusal import check_least
from ..tokens import PAD
from ..vae import PART, VAE
from .base import Detector, Finding, judge
from .decoder_reliance import exchange, others, replacements

INTERVENTIONS = {
    "zero": "z at the prior's centre",
    "mean": "the mean z",
    "shuffled": "another's z",
    "prior": "z from the prior",
}


def unigram_entropy(counts: Float[Tensor, " kinds"]) -> float:
    """−Σ p ln p of p = counts/Σ counts: the least loss per token, in nats, of any model that gives each token one
    probability whatever comes before it.

    >>> round(unigram_entropy(torch.tensor([2.0, 0.0, 2.0])), 4)
    0.6931
    """
    p = counts.double() / counts.double().sum()
    return float(-torch.special.xlogy(p, p).sum())


def counted(batch: Batch) -> Bool[Tensor, "batch time"]:
    """Which tokens the loss is of."""
    return batch.x != PAD if batch.mask is None else batch.mask


class Answers(Detector):
    """Of tokens: `nll_per_token`, ΣD/Σ tokens in nats (each token counts the same, not each answer), and its
    exponential, `perplexity`; `token_entropy`, the entropy of these very answers' own token counts, below which no
    model that looks at nothing can come; `exact_match`, the share of answers that the likeliest token each time, from
    the posterior's centre, gives back whole (of at most `examples`).

    `delta_zero`, `delta_mean`, `delta_shuffled`, `delta_prior`: what a token costs more with z at the prior's centre,
    with the mean z, another example's, the prior's. They explain and decide nothing; the value of z does. Other data
    are passed over.
    """

    of: ClassVar[str] = "tokens"

    def __init__(
        self, *, examples: int = 512, material_examples: int = 64, absent_examples: int = 500, seed: int = 0
    ) -> None:
        super().__init__()
        check_least("detector.answers", 0, examples=examples, seed=seed)
        least = {"material_examples": material_examples, "absent_examples": absent_examples}
        check_least("detector.answers", 1, **least)
        self.examples, self.least, self.seed, self.deep = examples, least, seed, True
        self.add_column("nll", "tokens", "nll_tokens", "match")
        self.add_column(*(f"{name}{more}" for name in INTERVENTIONS for more in ("", "_tokens", "_product")))
        self.add_state("seen", [], dist_reduce_fx="cat", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        if batch.x.is_floating_point() or not vae.decodes:
            return
        mask = counted(batch)
        tokens = mask.sum(1).double()
        self.accumulate("nll", elbo.distortion)
        self.accumulate("tokens", tokens)
        self.accumulate("nll_tokens", elbo.distortion.double() * tokens)
        self.seen.append(batch.x[mask].cpu())
        if not self.deep or self.count("match") >= self.examples or not vae.normalised:
            return
        self.write(vae, batch, elbo)
        if len(tokens) > 1:
            self.intervene(vae, batch, elbo, tokens)

    def write(self, vae: VAE, batch: Batch, elbo: ELBO) -> None:
        """Greedily, from z where the posterior's noise is 0."""
        z = draw(elbo.posterior, torch.zeros(elbo.z.shape))
        for rows, part in batch.alike(PART):
            decoded: Any = vae.decode(z[rows], part.context, part.mask)
            if hasattr(decoded, "writes"):
                self.accumulate("match", decoded.writes(part.x).double())

    def intervene(self, vae: VAE, batch: Batch, elbo: ELBO, tokens: Float[Tensor, " batch"]) -> None:
        """Others' z in place of one's own; where no other shares one's condition, that example is left out."""
        swap = exchange(len(tokens), vae.condition(batch), 1, (self.seed, int(batch.positions()[0])))
        rows = swap.paired.nonzero()[:, 0].to(elbo.z.device)
        if not len(rows):
            return
        given = replacements(batch, elbo, swap.circle, self.seed)
        given["shuffled"] = others(batch, elbo, swap.orders[0].to(elbo.z.device))
        for name in [name for name in INTERVENTIONS if name in given]:
            delta = (vae.distortion(batch.part(rows), given[name][rows]) - elbo.distortion[rows]).double()
            self.accumulate(name, delta)
            self.accumulate(f"{name}_tokens", tokens[rows])
            self.accumulate(f"{name}_product", delta * tokens[rows])

    def light(self) -> "Answers":
        one = deepcopy(self)
        one.deep = False
        return one

    def reading(self) -> Tensor:
        return self.mean("nll") / self.mean("tokens") if self.count("nll") else torch.tensor(torch.nan).double()

    def error(self, top: str, tokens: str, product: str) -> float | None:
        """Standard error of Σ top/Σ tokens over examples, by the residuals top − ratio · tokens."""
        n = self.count(top)
        if n < 2:
            return None
        ratio = float(self.mean(top) / self.mean(tokens))
        squares = getattr(self, f"{top}_square") + ratio**2 * getattr(self, f"{tokens}_square")
        variance = (squares - 2 * ratio * getattr(self, f"{product}_sum")) / (n - 1)
        return math.sqrt(max(0.0, float(variance)) / n) / float(self.mean(tokens))

    def unigram(self) -> float:
        seen = torch.cat(list(self.seen)) if isinstance(self.seen, list) else self.seen
        return unigram_entropy(torch.bincount(seen).double())

    def findings(self) -> list[Finding]:
        n = self.count("nll")
        if not n:
            return []
        nll, se, null = float(self.reading()), self.error("nll", "tokens", "nll_tokens"), self.unigram()
        saved = judge(null - nll, se or math.inf, n, absent_below=0.0, **self.least)
        found = [
            Finding("nll_per_token", nll, se, n, note=f"nats, {int(self.tokens_sum)} tokens"),
            Finding("perplexity", math.exp(nll), None if se is None else math.exp(nll) * se, n),
            Finding("token_entropy", null, None, n, note="nats per token: the entropy of the answers' own tokens"),
            Finding("saved_on_entropy", null - nll, se, n, saved, 0.0),
        ]
        if self.count("match"):
            note = "greedy, from the posterior's centre"
            found.append(
                Finding("exact_match", float(self.mean("match")), self.se("match"), self.count("match"), note=note)
            )
        for name, what in INTERVENTIONS.items():
            if self.count(name):
                value = float(self.mean(name) / self.mean(f"{name}_tokens"))
                error = self.error(name, f"{name}_tokens", f"{name}_product")
                note = f"nats per token, {what}: explains, decides nothing"
                found.append(Finding(f"delta_{name}", value, error, self.count(name), note=note))
        return found
