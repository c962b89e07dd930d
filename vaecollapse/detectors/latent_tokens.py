"""A latent of several tokens: which of them carry KL, and whether they are alike or stand still."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..batch import Batch
from ..elbo import ELBO, Objective, gaussian
from ..refusal import check_least
from ..vae import VAE
from .base import Detector, Finding


def cosines(means: Float[Tensor, "batch tokens units"]) -> Float[Tensor, "batch tokens tokens"]:
    """Of every two tokens of each example; 0 where a token is 0.

    >>> cosines(torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]]))[0].tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    unit = means / means.norm(dim=2, keepdim=True).clamp(min=1e-12)
    return unit @ unit.mT


class LatentTokens(Detector):
    """Of a latent (tokens, units): `token_kl_min` and `token_kl_max`, the KL of the idlest and the busiest token in
    nats; `klr`, the KL of a unit in the mean.

    `token_cosine`: of the two tokens that are most alike, the mean over examples of the cosine of their posterior
    means; above `alike` they say the same, and one of them would do. `token_std`: of the stillest token, the root mean
    square over units of the standard deviation of its posterior mean over examples; below `still` it tells examples
    apart no more than a constant. In u = (z − μ_p)/σ_p. Other latents are passed over.
    """

    of: ClassVar[str] = "tokens"

    def __init__(self, *, alike: float = 0.95, still: float = 0.01) -> None:
        super().__init__()
        check_least("detector.latent_tokens", 0, alike=alike, still=still)
        self.alike, self.still = alike, still
        self.add_column("kl", "cosine", "mean")
        self.add_state("tokens", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max", persistent=True)

    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        own = gaussian(elbo.relative_posterior())
        if own is None or own[0].ndim != 3 or own[0].shape[1] < 2:
            return
        self.tokens = self.tokens.clamp(min=own[0].shape[1])
        if elbo.kl.ndim == 3:
            self.accumulate("kl", elbo.kl.double().sum(2))
        self.accumulate("cosine", cosines(own[0].double()).flatten(1))
        self.accumulate("mean", own[0].flatten(1))

    def most_alike(self) -> tuple[float, tuple[int, int]]:
        """The largest mean cosine of two tokens, and which they are."""
        k = int(self.tokens)
        values = self.mean("cosine").reshape(k, k).masked_fill(torch.eye(k, dtype=torch.bool), -torch.inf)
        place = int(values.argmax())
        return float(values.flatten()[place]), (place // k, place % k)

    def stillness(self) -> Float[Tensor, " tokens"]:
        """How far each token's mean moves."""
        n = self.count("mean")
        variance = (self.mean_square / n - self.mean("mean").square()).clamp(min=0) * n / max(1, n - 1)
        return variance.reshape(int(self.tokens), -1).mean(1).sqrt()

    def reading(self) -> Tensor:
        if not self.count("mean"):
            return torch.tensor(torch.nan).double()
        return torch.tensor(self.most_alike()[0]).double()

    def findings(self) -> list[Finding]:
        n = self.count("mean")
        if not n:
            return []
        (cosine, pair), std = self.most_alike(), self.stillness()
        slowest = int(std.argmin())
        found = [
            Finding("token_cosine", cosine, None, n, "material" if cosine > self.alike else "absent", self.alike,
                    f"tokens {pair[0]} and {pair[1]}"),
            Finding("token_std", float(std[slowest]), None, n, "material" if std[slowest] < self.still else "absent",
                    self.still, f"token {slowest}"),
        ]  # fmt: skip
        if self.count("kl"):
            kl = self.mean("kl")
            each = "nats of each: " + ", ".join(f"{value:.3g}" for value in kl.tolist())
            found.append(Finding("token_kl_min", float(kl.min()), None, n, note=each))
            found.append(Finding("token_kl_max", float(kl.max()), None, n))
            units = self.mean("mean").numel()
            found.append(Finding("klr", float(kl.sum()) / units, None, n, note=f"nats per unit, of {units}"))
        return found
