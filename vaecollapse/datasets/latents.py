"""Codes of a trained run as data. Nothing here has seen its model: who opens the run hands over what it encoded."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from ..batch import Batch
from ..elbo import noise, unit_information
from ..refusal import Refused, check_least
from .base import Splits, VAEData

CHECKPOINTS = ("best", "last", "ema", "healthy")


class Codes(NamedTuple):
    """q(z|x) of the examples of a split: mean and σ of each unit, and, where it is no factorised Gaussian, `draws` of
    it with their `log_prob`, ln q(z|x)."""

    mean: Float[Tensor, "count k"]
    scale: Float[Tensor, "count k"]
    draws: Float[Tensor, "count S k"] | None = None
    log_prob: Float[Tensor, "count S"] | None = None

    def drawn(
        self, rows: Int[Tensor, " rows"], *, draws: int = 1, seed: int = 0, epoch: int = 0
    ) -> tuple[Float[Tensor, "draws rows k"], Float[Tensor, "draws rows"]]:
        """Draws of some of the codes and their ln q(z|x): of a Gaussian anew, keyed by (seed, epoch, row); else of
        those that are kept, from the `epoch`th on, around and around."""
        if self.draws is not None and self.log_prob is not None:
            chosen = (torch.arange(epoch, epoch + draws) + seed) % self.draws.shape[1]
            return self.draws[rows][:, chosen].transpose(0, 1), self.log_prob[rows][:, chosen].T
        eps = noise(rows, tuple(self.mean.shape[1:]), draws=draws, seed=seed, epoch=epoch).to(self.mean)
        z = self.mean[rows] + self.scale[rows] * eps
        constant = self.scale[rows].log().sum(-1) + 0.5 * self.mean.shape[1] * np.log(2 * np.pi)
        return z, -0.5 * eps.square().sum(-1) - constant

    def moments(self) -> tuple[Float[Tensor, " k"], Float[Tensor, "k k"]]:
        """Mean and covariance of the aggregate posterior, in float64."""
        if self.draws is not None:
            flat = self.draws.flatten(0, 1).double()
            return flat.mean(0), torch.cov(flat.T).reshape(flat.shape[1], -1)
        mean = self.mean.double()
        within = torch.diag(self.scale.double().square().mean(0))
        return mean.mean(0), torch.cov(mean.T).reshape(within.shape) + within

    def information(self) -> Float[Tensor, " k"]:
        """½ ln(1 + Var E[z_i|x] / E Var(z_i|x)) of each unit: its information on x, were both Gaussian."""
        draws = None if self.draws is None else self.draws.shape[1]
        return unit_information(self.mean.double(), self.scale.double().square(), draws)


class CodeExamples(Dataset[Batch]):
    """Draws of codes: at a plain position always the same one, at a `Visit` that of its epoch."""

    def __init__(self, codes: Codes, seed: int) -> None:
        self.codes, self.seed = codes, seed

    def __len__(self) -> int:
        return len(self.codes.mean)

    def __getitem__(self, position: int) -> Batch:
        batch = self.__getitems__([position])
        return Batch(x=batch.x[0], index=torch.tensor(int(position)))

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        rows = torch.tensor([int(position) for position in positions], dtype=torch.long)
        epoch = getattr(positions[0], "epoch", -1) + 1  # of a batch all visits are of one epoch
        return Batch(x=self.codes.drawn(rows, seed=self.seed, epoch=epoch)[0][0], index=rows)


class LatentsData(VAEData):
    """Draws from q(z|x) of a run's own training, validation and test examples: fresh ones each epoch where q(z|x) is a
    Gaussian, else one of `draws` that are kept. What they are of is handed over by `take`, before the splits are made.
    """

    def __init__(
        self,
        *,
        run: str,
        checkpoint: str = "best",
        draws: int = 16,
        batch_size: int = 256,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        if checkpoint not in CHECKPOINTS:
            raise Refused(f"dataset.checkpoint={checkpoint} is none of {', '.join(CHECKPOINTS)}")
        check_least("dataset", 2, draws=draws)
        self.run, self.checkpoint, self.draws = run, checkpoint, draws
        self.codes: dict[str, Codes] = {}
        self.source: dict[str, object] = {}

    def take(self, codes: Mapping[str, Codes], source: Mapping[str, object]) -> "LatentsData":
        """The codes of each split, and what they are of."""
        self.codes, self.source = dict(codes), dict(source)
        return self

    def make_splits(self) -> Splits:
        if not self.codes:
            raise Refused(f"dataset=latents is of model=latent_prior, which encodes run={self.run}: type that model")
        train, validation, test = (CodeExamples(self.codes[name], self.seed) for name in Splits._fields)
        return Splits(train, validation, test)

    @property
    def facts(self) -> dict[str, object]:
        """The codes' shape, and by the training split their mean, spread and order of information."""
        if not self.codes:
            return {}
        train = self.codes["train"]
        mean, covariance = train.moments()
        order = train.information().argsort(descending=True, stable=True)
        return {
            "event_shape": tuple(train.mean.shape[1:]),
            "location": mean.tolist(),
            "scale": covariance.diagonal().sqrt().tolist(),
            "order": order.tolist(),
        }

    def fingerprint(self) -> dict[str, object]:
        """The checkpoint and the data that were encoded, not the codes: another machine's differ in their last bits."""
        text = repr(sorted(self.source.items(), key=str))
        return {"files": 1, "bytes": 0, "hash": hashlib.sha256(text.encode()).hexdigest()}
