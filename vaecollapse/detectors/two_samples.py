"""Can two samples be told apart? Small deterministic classifiers, cross-validated, and the area under their curve."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BUMPS, WIDTH = tuple(-2.5 + 0.5 * step for step in range(11)), 0.35
CLAMP = 4.0  # standard deviations: beyond, a polynomial is a few outliers'
PAIRS = 496  # all of 32 units
UNITS = 128  # evenly over a wider latent; the neighbours see them all
ROWS = 1024  # of each sample that the neighbours are sought among
FOLDS = 4
FAMILIES = 3


def per_unit(u: Float[Tensor, "n k"]) -> Float[Tensor, "n features"]:
    """u, u² and bumps along each unit: any shape of a single unit's distribution, corners and spikes too."""
    u = u.clamp(-CLAMP, CLAMP)
    bumps = torch.exp(-0.5 * ((u[:, :, None] - torch.tensor(BUMPS, dtype=u.dtype)) / WIDTH).square())
    return torch.cat([u, u.square(), bumps.flatten(1)], 1)


def per_pair(u: Float[Tensor, "n k"]) -> Float[Tensor, "n features"]:
    """Products and products of squares of two units, squares and fourth powers: correlation, rings and shells."""
    u = u.clamp(-CLAMP, CLAMP)
    pairs = list(itertools.combinations(range(u.shape[1]), 2))
    if len(pairs) > PAIRS:
        picked = np.random.default_rng(len(pairs)).choice(len(pairs), PAIRS, replace=False)
        pairs = [pairs[i] for i in sorted(picked)]
    left, right = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    square = u.square() - 1
    return torch.cat([u, square, square.square(), u[:, left] * u[:, right], square[:, left] * square[:, right]], 1)


def ridge_scores(
    features: Callable[[Tensor], Tensor],
    real: Float[Tensor, "n k"],
    fake: Float[Tensor, "m k"],
    fold: tuple[Tensor, Tensor],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Least squares of ±1 on standardised features with a ridge of features/rows, each fold scored by the others."""
    x = torch.cat([features(real), features(fake)]).float()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    y = torch.cat([torch.full((len(real),), 1 / len(real)), torch.full((len(fake),), -1 / len(fake))])
    of = torch.cat(fold)
    grams = [(x[of == f].T @ x[of == f], x[of == f].T @ y[of == f]) for f in range(FOLDS)]
    gram, target = (torch.stack([g[i] for g in grams]).sum(0) for i in (0, 1))
    scores = torch.zeros(len(x))
    for f, (own, aimed) in enumerate(grams):
        rows = int((of != f).sum())
        ridge = rows * max(0.01, x.shape[1] / rows) * torch.eye(x.shape[1])
        weights = torch.linalg.solve(gram - own + ridge, target - aimed)
        scores[of == f] = x[of == f] @ weights
    return scores[: len(real)].double(), scores[len(real) :].double()


def neighbour_scores(
    real: Float[Tensor, "n k"], fake: Float[Tensor, "m k"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """The share of real ones among the √n nearest, the point itself left out."""
    both = torch.cat([real, fake]).double()
    distance = torch.cdist(both, both)
    distance.fill_diagonal_(torch.inf)
    near = distance.topk(min(len(both) - 1, math.isqrt(len(real)) + 1), largest=False).indices
    share = (near < len(real)).double().mean(1)
    return share[: len(real)], share[len(real) :]


def placements(one: Float[Tensor, " n"], other: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """For each of `one` the share of `other` that lies below it, ties half."""
    sorted_ = other.sort().values
    below, upto = torch.searchsorted(sorted_, one), torch.searchsorted(sorted_, one, right=True)
    return (below + upto).double() / 2 / len(other)


def area(real: Float[Tensor, " n"], fake: Float[Tensor, " m"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """The area under the curve as a mean over either sample (DeLong 1988): both have the same mean."""
    return placements(real, fake), 1 - placements(fake, real)


def told_apart(real: Float[Tensor, "n k"], fake: Float[Tensor, "m k"], *, seed: int = 0) -> tuple[float, float, str]:
    """AUC of the best of three classifiers, a standard error, and which it was.

    1/2: the same distribution; 1: no overlap. ±1.96 of the error is the 95 % interval that holds for all three at once.

    >>> x = torch.linspace(-2, 2, 200).double()[:, None]
    >>> told_apart(x + 9, x)[0]
    1.0
    """
    rng = np.random.default_rng(seed)
    fold = tuple(torch.from_numpy(rng.permutation(len(rows)) % FOLDS) for rows in (real, fake))
    families: dict[str, tuple[Tensor, Tensor]] = {}
    units = torch.arange(real.shape[1])[:: -(-real.shape[1] // UNITS)]
    for name, features in {"each unit": per_unit, "pairs of units": per_pair}.items():
        scores = ridge_scores(features, real[:, units], fake[:, units], fold)  # pyright: ignore[reportArgumentType]
        parts = [area(scores[0][fold[0] == f], scores[1][fold[1] == f]) for f in range(FOLDS)]
        families[name] = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    families["neighbours"] = area(*neighbour_scores(real[:ROWS], fake[:ROWS]))
    best = max(families, key=lambda name: float(families[name][0].mean()))
    ours, theirs = families[best]
    error = math.sqrt(float(ours.var()) / len(ours) + float(theirs.var()) / len(theirs))
    return float(ours.mean()), 1.2214 * error, best  # 2.394/1.960: 95 % for the best of three
