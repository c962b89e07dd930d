"""Neighbours in time and space tell of each other: blocks with gaps between splits, and what a sample really counts."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..refusal import Refused
from .base import partition

MOST, FEWEST = 50, 10  # blocks an axis is cut into; with fewer, each split is one run
SPLITS = ("training", "validation", "test")


class Dealt(NamedTuple):
    """Of each position along an axis: its split (0 training, 1 validation, 2 test, −1 in a gap) and its block."""

    split: Int[np.ndarray, "*position"]
    block: Int[np.ndarray, "*position"]


def dealt(
    weights: Float[np.ndarray, " position"], *, gap: int, least: int, validation: float, test: float, seed: int
) -> Dealt:
    """Cuts an axis into equal blocks of at least `least` positions and 8 gaps, and deals them to the splits by `seed`.

    Where it is too short for ten such blocks, each split is one run that holds its share of `weights`, training in the
    middle: so only training gives up positions to the gaps.
    """
    length = len(weights)
    if count := equal_blocks(length, gap=gap, least=least):
        blocks = np.arange(length) * count // length
        return separated(blocks, gap=gap, validation=validation, test=test, seed=seed)
    ends = (1, 2) if np.random.default_rng(seed).random() < 0.5 else (2, 1)
    shares = {1: validation, 2: test}
    middles = (np.cumsum(weights) - weights / 2) / max(float(np.sum(weights)), 1e-9)
    blocks = np.where(middles < shares[ends[0]], ends[0], np.where(middles > 1 - shares[ends[1]], ends[1], 0))
    return Dealt(_apart(blocks, gap), blocks)


def equal_blocks(length: int, *, gap: int, least: int) -> int:
    """How many equal blocks `dealt` cuts an axis into; 0 where it is too short, and shares of weights decide.

    >>> equal_blocks(1000, gap=5, least=1), equal_blocks(36, gap=5, least=1)
    (25, 0)
    """
    count = min(MOST, length // max(1, least, 8 * gap))
    return count if count >= FEWEST else 0


def separated(blocks: Int[np.ndarray, " position"], *, gap: int, validation: float, test: float, seed: int) -> Dealt:
    """Deals given blocks; positions within `gap` of another split are left out, training's first, the test's never."""
    names, number = np.unique(blocks, return_inverse=True)
    wanted = 2 + (test > 0)
    if len(names) < wanted:
        raise Refused(
            f"there are {len(names)} years or blocks for {wanted} splits; type dataset.split.by=time_block, or "
            "dataset.split.test_fraction=0"
        )
    of = np.zeros(len(names), int)
    for split, part in enumerate(partition(len(names), validation=validation, test=test, seed=seed)):
        of[part] = split
    return Dealt(_apart(of[number], gap), number)


def _apart(split: Int[np.ndarray, " position"], gap: int) -> Int[np.ndarray, " position"]:
    """Leaves out what lies within `gap` of another split, training's first, the test's never."""
    split, places = split.copy(), np.arange(len(split))
    for held in (2, 1):
        there = np.flatnonzero(split == held)
        near = np.searchsorted(there, places + gap, "right") > np.searchsorted(there, places - gap)
        split[near & (split < held)] = -1
    return split


class Effective(NamedTuple):
    """How many independent moments and places a record is worth."""

    moments: float
    places: float

    @property
    def size(self) -> float:
        return self.moments * self.places


def effective_size(series: Float[np.ndarray, "time place"]) -> Effective:
    """How many independent values have a mean as uncertain as that of `series`; NaN counts as the place's mean.

    In time n/τ, τ = 1 + 2 Σ ρ_k (Bayley & Hammersley 1946), ρ of the anomalies from each place's mean, pooled, summed
    as long as pairs of neighbouring lags are positive (Geyer 1992). In space the mean variance of the places over the
    variance of their mean, which is n²/Σ ρ_ij where variances are equal (Bretherton et al. 1999). Of a record shorter
    than its own memory this is an upper bound: its mean hides the slow part.

    >>> effective_size(np.random.default_rng(0).standard_normal((2000, 1)).repeat(4, 1)).places
    1.0
    """
    anomalies = np.nan_to_num(series - np.nanmean(series, 0))
    anomalies = anomalies[:, anomalies.std(0) > 0]
    count, places = anomalies.shape
    if places == 0:
        return Effective(1.0, 1.0)
    variance = float((anomalies**2).mean())

    def correlation(lag: int) -> float:
        return float((anomalies[: count - lag] * anomalies[lag:]).sum() / (count * places * variance))

    tau = -1.0
    for lag in range(0, count - 1, 2):
        pair = correlation(lag) + correlation(lag + 1)
        if pair <= 0:
            break
        tau += 2 * pair
    together = float(anomalies.mean(1).var())
    spread = variance / together if together > 0 else float(places)
    return Effective(min(count, count / max(tau, 1e-9)), float(np.clip(round(spread, 9), 1, places)))
