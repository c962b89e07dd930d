"""Generated rain whose law given the coarse field can be drawn from exactly, so that a perfect ensemble is known."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.special import gammaincinv, ndtr
from torch import Tensor

from ..batch import Batch
from ..refusal import Refused
from .base import Splits, check_fractions, partition
from .fields import Facts, FieldData, HeldFields, Place, Statistics
from .grids import HOURLY, block_means, block_sums, repeated

log = logging.getLogger(__name__)

SMOOTHNESS = 1.0  # ν of the Whittle-Matérn spectra
LEAST_WET = 0.1  # of a field's coarse cells: drier fields are left out, which the condition decides
KM = 1.0  # side of a cell
TAIL = np.linspace(0, 40, 8193)  # −ln P(more), where gamma quantiles are tabled

Fields = Float[np.ndarray, "field height width"]


def amplitudes(side: int, length: float) -> Float[np.ndarray, "side half"]:
    """Of a Gaussian field of unit variance on a torus: |f̂(k)| ∝ (1 + (2πkℓ)²)^(−(ν+1)/2); white where `length` is 0."""
    k2 = np.fft.fftfreq(side)[:, None] ** 2 + np.fft.rfftfreq(side) ** 2
    spectrum = (1 + (2 * np.pi * length) ** 2 * k2) ** -(SMOOTHNESS + 1)
    return np.sqrt(spectrum / np.fft.irfft2(spectrum, (side, side))[0, 0])


def gaussian(
    shape: Sequence[int], amplitude: Float[np.ndarray, "side half"], rng: np.random.Generator
) -> Float[np.ndarray, "*field side side"]:
    """Independent stationary fields by spectral synthesis: white noise, filtered; N(0, 1) in each cell.

    >>> gaussian((3,), amplitudes(16, 2.0), np.random.default_rng(0)).shape
    (3, 16, 16)
    """
    side = len(amplitude)
    noise = np.fft.rfft2(rng.standard_normal((*shape, side, side)))
    return np.fft.irfft2(noise * amplitude, (side, side))


class Amounts:
    """Of Gaussian z, 0 with probability 1 − p (the lowest z), else gamma amounts of mean 1."""

    def __init__(self, shape: float) -> None:
        self.table = gammaincinv(shape, -np.expm1(-TAIL)) / shape
        self.table[-1] = self.table[-2] + (TAIL[1] - TAIL[0]) / shape  # P(more) is 0 in double precision there

    def __call__(
        self, z: Float[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"] | float
    ) -> Float[np.ndarray, "*cell"]:
        more = ndtr(-z) / np.maximum(p, 1e-300)  # P(a larger z), of the wet
        return np.where(more < 1, np.interp(-np.log(np.maximum(more, 1e-17)), TAIL, self.table), 0.0)


class RainData(FieldData):
    """Storms of `steps` hourly fields of `size` × `size` cells, independent of each other; splits are of whole storms.

    A coarse field C (Gaussian field of correlation length `coarse_length` cells, thresholded so that a share `wet` of
    its cells has rain, gamma amounts of mean `mean` mm/h) and a fine Gaussian field g (`fine_length`) are independent;
    each moves by `velocity` cells an hour and keeps `memory` of itself. Within a coarse cell B, with gamma amounts e of
    `shape` where g is above a threshold (a share S/(S + half_rate) of the cells, S the coarse rain interpolated),

        x_j = C_B · a_j e_j / mean_B(a e),  a_j = S_j where `smooth`, else 1,

    a microcanonical cascade of one step (Gupta & Waymire 1993): block means of x *are* C. As g knows nothing of C, and
    x is a function of both, p(x | C) is drawn from exactly by a fresh g (`members`): truth and such members are
    exchangeable, their scores are those of the perfect forecast. With fine_length=0, half_rate=0 and smooth=False the
    weights of a block of n cells are Dirichlet, and Var(x_j | C) = C_B² (n − 1)/(n·shape + 1) in closed form.

    >>> data = RainData(storms=12, steps=2, size=16)
    >>> truth = data.examples("validation", 3)
    >>> data.members(truth.context, 5).shape
    torch.Size([5, 3, 1, 16, 16])
    """

    def __init__(
        self,
        *,
        storms: int = 250,
        steps: int = 8,
        size: int = 32,
        factor: int = 8,
        wet: float = 0.6,
        mean: float = 2.0,
        shape: float = 0.8,
        coarse_length: float = 6.0,
        fine_length: float = 1.5,
        half_rate: float = 1.0,
        smooth: bool = True,
        velocity: Sequence[int] = (1, 2),
        memory: float = 0.8,
        val_fraction: float = 0.3,
        test_fraction: float = 0.2,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        check_fractions(val_fraction, test_fraction)
        if storms < 4 or steps < 1:
            raise Refused(f"storms={storms}, steps={steps} are too few to split; type dataset.storms=4 or more")
        if factor < 2 or size < 2 * factor or size % factor:
            raise Refused(
                f"dataset.size={size} is no multiple of dataset.factor={factor}, twice or more; type dataset.size="
                f"{max(2, round(size / max(2, factor))) * max(2, factor)} dataset.factor={max(2, factor)}"
            )
        if not (0 < wet <= 1 and 0 <= memory < 1 and mean > 0 and shape > 0):
            raise Refused(
                f"wet={wet:g}, memory={memory:g}, mean={mean:g}, shape={shape:g} are no rain; type dataset.wet in "
                "(0, 1], dataset.memory in [0, 1), dataset.mean and dataset.shape above 0"
            )
        if min(coarse_length, fine_length, half_rate) < 0 or len(velocity) != 2:
            raise Refused(
                f"coarse_length={coarse_length:g}, fine_length={fine_length:g}, half_rate={half_rate:g}, "
                f"velocity={list(velocity)}: type lengths and a half_rate of 0 or more, and dataset.velocity=[1,2]"
            )
        self.storms, self.steps, self.size, self.factor = storms, steps, size, factor
        self.wet, self.mean, self.memory, self.velocity = wet, mean, memory, tuple(velocity)
        self.half_rate, self.smooth, self.shape = half_rate, smooth, shape
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self._amounts = Amounts(shape)
        self._coarse, self._fine = (amplitudes(2 * size, length) for length in (coarse_length, fine_length))
        self._examples: tuple[np.ndarray, ...] = ()

    @property
    def axes(self) -> dict[str, dict[str, Any]]:
        time = {"name": "time", "units": "hours since 2000-01-01 00:00:00", "calendar": "standard"}
        return {"time": time, "y": {"name": "y", "units": "km"}, "x": {"name": "x", "units": "km"}}

    def place(self, split: str, position: int) -> Place:
        centres = (np.arange(self.size) + 0.5) * KM
        return Place(float(self._example(split, position)), centres, centres, 0)

    def block(self, split: str, position: int) -> int:
        """The storm."""
        return self._example(split, position) // self.steps

    def _example(self, split: str, position: int) -> int:
        self.setup()
        return int(self._examples[("train", "validation", "test").index(split)][position])

    def members(
        self, context: Float32[Tensor, "batch channel height width"], count: int, seed: int = 0
    ) -> Float32[Tensor, "member batch 1 height width"]:
        """`count` independent draws from p(x | C) for each condition, exact. The truth is one more of them."""
        rng = np.random.default_rng([self.seed, 2, seed])
        coarse = context[:, 0, :: self.factor, :: self.factor].double().numpy()
        fields = [self.fine(coarse, self._cut(gaussian((len(coarse),), self._fine, rng))) for _ in range(count)]
        return torch.from_numpy(np.stack(fields).astype(np.float32)).unsqueeze(2)

    def conditional_variance(
        self, context: Float32[Tensor, "batch channel height width"], draws: int = 256
    ) -> Float32[Tensor, "batch 1 height width"]:
        """Var(x | C) of each cell: in closed form where there is one (see the class), else of `draws` members."""
        cells = self.factor**2
        if self.half_rate == 0 and not self.smooth and np.ptp(self._fine) < 1e-9:
            return context[:, :1] ** 2 * (cells - 1) / (cells * self.shape + 1)
        return self.members(context, draws).var(0)

    def fine(self, coarse: Float[np.ndarray, "time h w"], g: Fields) -> Fields:
        """x of the coarse rain in mm and a Gaussian field; a block in which nothing is above the threshold rains in the
        cell that comes nearest to it."""
        smoothed = interpolated(coarse, self.factor)
        share = smoothed / (smoothed + self.half_rate) if self.half_rate else 1.0
        amount = self._amounts(g, share) * (smoothed if self.smooth else 1.0)
        total = block_sums(amount, self.factor)
        count, rows, columns = coarse.shape
        highest = g.reshape(count, rows, self.factor, columns, self.factor).max((2, 4))
        alone = repeated((total == 0) & (coarse > 0), self.factor) & (g == repeated(highest, self.factor))
        amount = np.where(alone, 1.0, amount)
        means = block_sums(amount, self.factor) / self.factor**2
        return amount * repeated(coarse / np.where(means > 0, means, 1), self.factor)

    def make_splits(self) -> Splits:
        coarse, x = self._drawn()
        kept = (coarse >= HOURLY[1]).mean((1, 2)) >= LEAST_WET
        storm, rng = np.arange(len(x)) // self.steps, np.random.default_rng([self.seed, 1])
        parts = partition(self.storms, validation=self.val_fraction, test=self.test_fraction, seed=self.seed)
        self._examples = tuple(rng.permutation(np.flatnonzero(kept & np.isin(storm, part))) for part in parts)
        log.info("%d fields of %d independent storms, in mm/h", kept.sum(), self.storms)
        area, stores = np.ones((self.size, self.size)), []
        for rows in self._examples:
            context = repeated(block_means(x[rows], area, self.factor), self.factor)[:, None]
            stores.append(HeldFields(torch.from_numpy(x[rows][:, None]), torch.from_numpy(context)))
        statistics = Statistics(log=True, context_log=[True], per_cell=False, wet=HOURLY[1])
        statistics.update(Batch(stores[0].x, stores[0].context))
        sides = (self.size, self.size)
        self._known = Facts(
            sides, self.factor, ("pr coarse",), *HOURLY, statistics.transform(0.05), statistics.quantile(0.99)
        )
        return Splits(*stores)

    def _drawn(self) -> tuple[Float[np.ndarray, "field h w"], Float32[np.ndarray, "field height width"]]:
        """Coarse and fine fields of all storms, hour by hour."""
        of_coarse, of_fine = (np.random.default_rng([self.seed, 0, number]) for number in (0, 1))
        coarse = np.empty((self.storms, self.steps, *[self.size // self.factor] * 2))
        x = np.empty((self.storms, self.steps, self.size, self.size), np.float32)
        broad, g = None, None
        spread = np.sqrt(self._block_variance())
        heavy = Amounts(self.shape)
        for step in range(self.steps):
            broad, g = self._next(broad, self._coarse, of_coarse), self._next(g, self._fine, of_fine)
            blocks = block_sums(self._cut(broad), self.factor) / self.factor**2
            coarse[:, step] = self.mean * heavy(blocks / spread, self.wet)
            x[:, step] = self.fine(coarse[:, step], self._cut(g))
        return coarse.reshape(-1, *coarse.shape[2:]), x.reshape(-1, self.size, self.size)

    def _next(self, field: np.ndarray | None, amplitude: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        fresh = gaussian((self.storms,), amplitude, rng)
        if field is None:
            return fresh
        return self.memory * np.roll(field, self.velocity, (-2, -1)) + np.sqrt(1 - self.memory**2) * fresh

    def _block_variance(self) -> float:
        """Of the mean of a block's cells: the mean of the covariance over pairs of them."""
        covariance = np.fft.irfft2(self._coarse**2, (2 * self.size, 2 * self.size))
        lags = np.arange(self.factor)[:, None] - np.arange(self.factor)
        return float(covariance[lags[:, :, None, None], lags].mean())

    def _cut(self, field: Float[np.ndarray, "*field side side"]) -> Float[np.ndarray, "*field height width"]:
        """What is seen of the torus: a quarter, so that its borders do not meet."""
        return field[..., : self.size, : self.size]


def interpolated(coarse: Float[np.ndarray, "time h w"], factor: int) -> Float[np.ndarray, "time height width"]:
    """Linear between the centres of coarse cells, constant beyond them; at the centres' mean what the cell has.

    >>> interpolated(np.array([[[0.0, 4.0]]]), 2)[0, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    for axis in (1, 2):
        count = coarse.shape[axis]
        place = np.clip((np.arange(count * factor) + 0.5) / factor - 0.5, 0, count - 1)
        low = place.astype(int)
        share = (place - low).reshape([-1 if each == axis else 1 for each in range(3)])
        low_values, high_values = (np.take(coarse, each, axis) for each in (low, np.minimum(low + 1, count - 1)))
        coarse = (1 - share) * low_values + share * high_values
    return coarse
