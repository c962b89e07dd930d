"""The interval of a score holds what it claims to: of two sets of one law 0, of other laws the mean over many draws."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from conftest import DATA
from planted_sounds import low_passed, read

from vaecollapse.listening.embedding import Embedding
from vaecollapse.listening.log_mel import LogMelStatistics
from vaecollapse.listening.scoring import T
from vaecollapse.metrics.frechet import Frechet
from vaecollapse.metrics.precision_recall import PrecisionRecall
from vaecollapse.metrics.sets import SetMetric

DRAWS = 30


def heard(clips: list[np.ndarray], rate: int) -> torch.Tensor:
    """Means of every second band: enough to be fitted too closely, and quick."""
    hear = LogMelStatistics(sample_rate=rate, peak=0.5)
    return torch.stack([hear(torch.from_numpy(np.ascontiguousarray(each)))[:40:2] for each in clips])


def recordings(pattern: str, rate: int, step: int) -> list[np.ndarray]:
    paths = sorted(DATA.glob(pattern))[::step]
    return read(paths, rate) if paths else pytest.skip(f"{pattern} is not in {DATA}")


@cache
def gaussians(other: bool = False) -> torch.Tensor:
    """20 variances, most of them small; the other law is wider where the first is narrow, and moved."""
    drawn = torch.randn(2, 2000, 20, generator=torch.Generator().manual_seed(0))
    scale = torch.logspace(0, -2, 20)
    return (drawn[1] + 0.5) * scale.clamp_min(0.2) if other else drawn[0] * scale


@cache
def speech(other: bool = False) -> torch.Tensor:
    clips = recordings("fsdd/recordings/*.wav", 8000, 5)
    return heard(low_passed(clips, 0.6) if other else clips, 8000)


def drums() -> torch.Tensor:
    return heard(recordings("drum_machines/*/*.wav", 16000, 1), 16000)


SOURCES: dict[str, tuple[int, Callable[[], torch.Tensor]]] = {
    "gaussian": (80, gaussians),
    "speech": (80, speech),
    "drums": (36, drums),  # 18 against 18
}


def found(real: torch.Tensor, other: torch.Tensor, count: int, *metrics: type[SetMetric]) -> dict[str, np.ndarray]:
    """By score, of each draw of `count` real clips and `count` others: value − floor, and the interval's half-width."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in range(DRAWS):
        places = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))[: 2 * count]
        for kind in metrics:
            metric = kind(seed=seed)  # type: ignore[call-arg]
            metric.update(real[places[:count]], other[places[count:]])
            for score in metric.scores(Embedding().view(count)):
                assert score.value is not None and score.truth is not None and score.se is not None
                rows.setdefault(score.name, []).append((score.value - score.truth, T * score.se))
    return {name: np.array(each) for name, each in rows.items()}


@pytest.mark.parametrize("source", SOURCES)
def test_real_against_real_is_0_in_the_mean_and_inside_its_own_interval(source: str) -> None:
    """Also 18 against 18 drums of 36, whose file names in turn are no draw: kick and kick-accent would be parted."""
    count, make = SOURCES[source]
    real = make()
    for name, each in found(real, real, count, Frechet, PrecisionRecall).items():
        apart, wide = each.T
        assert abs(apart.mean()) < 3.5 * apart.std(ddof=1) / DRAWS**0.5, (name, apart.mean())
        assert (abs(apart) <= wide).mean() >= 0.94, name
        assert wide.mean() < 8 * apart.std(ddof=1), name  # nor is it as wide as to say nothing


@pytest.mark.parametrize("make", [gaussians, speech])  # 72 drums are no two draws of 36
def test_of_two_laws_the_interval_holds_the_mean_over_draws(make: Callable[[bool], torch.Tensor]) -> None:
    for name, each in found(make(False), make(True), 80, Frechet).items():
        apart, wide = each.T
        assert apart.mean() > 2 * apart.std(ddof=1), (name, "the laws are told apart")
        assert (abs(apart - apart.mean()) < wide).mean() >= 0.94, name
