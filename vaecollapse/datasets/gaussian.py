"""Gaussian data of chosen covariance eigenvalues: what the linear VAE's closed forms are about."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..refusal import Refused
from .base import Splits, StoredExamples, VAEData


def rotation(size: int, seed: int) -> Float[Tensor, "size size"]:
    """A Haar-distributed orthogonal matrix (QR of a normal matrix, signs fixed; Mezzadri 2007)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return torch.from_numpy(q * np.sign(np.diag(r)))


def recoloured(x: Float[Tensor, "count size"]) -> Float[Tensor, "count size"]:
    """`x` moved and mixed until its mean is 0 and its covariance (divided by count) is the identity."""
    centred = x - x.mean(0)
    factor = torch.linalg.cholesky(centred.T @ centred / len(x))
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T.contiguous()


class GaussianData(VAEData):
    """x ~ N(0, U diag(λ) Uᵀ) in float64, the orthonormal U drawn from `seed`; splits are independent draws.

    `exact` recolours each split, so that its mean is 0 and its covariance is the requested one to rounding: readings
    then meet the closed forms without sampling noise. The defaults are the eigenvalues of the checked cases.

    >>> x = GaussianData(eigenvalues=(2.0, 0.5), examples=100).splits.train.x
    >>> torch.linalg.eigvalsh(x.T @ x / 100)
    tensor([0.5000, 2.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        eigenvalues: Sequence[float] = (6.0, 3.0, 1.5, 0.8, 0.4, 0.3, 0.2, 0.1),
        examples: int = 4096,
        val_examples: int = 1024,
        test_examples: int = 1024,
        exact: bool = True,
        batch_size: int = 512,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        if not len(eigenvalues) or not all(0 < value < float("inf") for value in eigenvalues):
            raise Refused(
                f"eigenvalues must be positive and finite, not {list(eigenvalues)}; type eigenvalues=[2,1,.5]"
            )
        least = len(eigenvalues) + 1 if exact else 1
        for name, count in (("examples", examples), ("val_examples", val_examples), ("test_examples", test_examples)):
            if count < least:
                raise Refused(
                    f"{name}={count} is too few for {len(eigenvalues)} eigenvalues; type {name}={least} or more"
                )
        self.eigenvalues = tuple(float(value) for value in eigenvalues)
        self.counts, self.exact = (examples, val_examples, test_examples), exact

    @property
    def rotation(self) -> Float[Tensor, "size size"]:
        """U, its columns the principal directions in the order of `eigenvalues`."""
        return rotation(len(self.eigenvalues), self.seed)

    @property
    def facts(self) -> dict[str, object]:
        return {"event_shape": (len(self.eigenvalues),), "eigenvalues": self.eigenvalues}

    def make_splits(self) -> Splits:
        return Splits(*(self._draw(number, count) for number, count in enumerate(self.counts)))

    def _draw(self, number: int, count: int) -> StoredExamples:
        rng = np.random.default_rng([self.seed, number])
        white = torch.from_numpy(rng.standard_normal((count, len(self.eigenvalues))))
        white = recoloured(white) if self.exact else white
        scale = torch.tensor(self.eigenvalues, dtype=torch.float64).sqrt()
        return StoredExamples((white * scale) @ self.rotation.T)
