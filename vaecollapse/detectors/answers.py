"""How well tokens are told: their loss beside that of a model that looks at nothing."""

import math
from copy import deepcopy
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..batch import Batch, are_tokens, counted
from ..elbo import ELBO, Objective, draw
from ..refusal import check_least
from ..vae import PART, VAE
from .base import Detector, Finding, judge


def unigram_entropy(counts: Float[Tensor, " kinds"]) -> float:
    """−Σ p ln p of p = counts/Σ counts: the least loss per token, in nats, of any model that gives each token one
    probability whatever comes before it.

    >>> round(unigram_entropy(torch.tensor([2.0, 0.0, 2.0])), 4)
    0.6931
    """
    p = counts.double() / counts.double().sum()
    return float(-torch.special.xlogy(p, p).sum())


class Answers(Detector):
    """Of tokens: `nll_per_token`, ΣD/Σ tokens in nats (each token counts the same, not each answer), and its
    exponential, `perplexity`; `token_entropy`, the entropy of these very answers' own token counts, below which no
    model that looks at nothing can come; `exact_match`, the share of answers that the likeliest token each time, from
    the posterior's centre, gives back whole (of at most `examples`). Other data are passed over. What another z costs a
    token is told by `DecoderReliance`.
    """

    of: ClassVar[str] = "tokens"

    def __init__(self, *, examples: int = 512, material_examples: int = 64, absent_examples: int = 500) -> None:
        super().__init__()
        check_least("detector.answers", 0, examples=examples)
        least = {"material_examples": material_examples, "absent_examples": absent_examples}
        check_least("detector.answers", 1, **least)
        self.examples, self.least, self.deep = examples, least, True
        self.add_column("nll", "tokens", "nll_tokens", "match")
        self.add_state("seen", [], dist_reduce_fx="cat", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        if not are_tokens(batch) or not vae.decodes:
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

    def write(self, vae: VAE, batch: Batch, elbo: ELBO) -> None:
        """Greedily, from z where the posterior's noise is 0."""
        z = draw(elbo.posterior, torch.zeros(elbo.z.shape))
        for rows, part in batch.alike(PART):
            decoded: Any = vae.decode(z[rows], part.context, part.mask)
            if hasattr(decoded, "writes"):
                self.accumulate("match", decoded.writes(part.x).double())

    def light(self) -> "Answers":
        one = deepcopy(self)
        one.deep = False
        return one

    def reading(self) -> Tensor:
        return self.mean("nll") / self.mean("tokens") if self.count("nll") else torch.tensor(torch.nan).double()

    def unigram(self) -> float:
        seen = torch.cat(list(self.seen)) if isinstance(self.seen, list) else self.seen
        return unigram_entropy(torch.bincount(seen).double())

    def findings(self) -> list[Finding]:
        n = self.count("nll")
        if not n:
            return []
        nll, se, null = float(self.reading()), self.ratio_error("nll", "tokens", "nll_tokens"), self.unigram()
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
        return found
