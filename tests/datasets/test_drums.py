"""Each class has its two factors and no third: every factor is heard, every class is told apart, padding is nothing."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from vaecollapse.datasets.drums import DRUMS, PEAK, Drum, DrumsData, play
from vaecollapse.refusal import Refused

RATE, SAMPLES = 8000, 4096


@pytest.fixture(scope="module")
def drums() -> DrumsData:
    data = DrumsData()
    data.setup()
    return data


def brightness(sound: np.ndarray) -> np.ndarray:
    """Spectral centroid of the power spectrum, Hz."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    return power @ np.fft.rfftfreq(sound.shape[1], 1 / RATE) / power.sum(1)


def duration(sound: np.ndarray) -> np.ndarray:
    """Centre of gravity of the energy in time, seconds."""
    energy = sound**2
    return energy @ (np.arange(sound.shape[1]) / RATE) / energy.sum(1)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("drum", DRUMS, ids=lambda drum: drum.name)
def test_every_factor_changes_the_sound_in_its_own_way(drum: Drum, which: int) -> None:
    steps = np.linspace(0, 1, 9)
    factors = np.full((9, 2), 0.5)
    factors[:, which] = steps
    sound, _ = play(drum, factors, SAMPLES, RATE, np.random.default_rng(0))
    heard = duration(sound) if drum.factors[which] == "decay" else brightness(sound)
    assert np.corrcoef(steps, np.argsort(np.argsort(heard)))[0, 1] > 0.95
    assert heard[-1] > 1.25 * heard[0]


def bands(x: torch.Tensor) -> np.ndarray:
    """Share of the energy in octave bands, dB."""
    power = np.abs(np.fft.rfft(x.numpy())) ** 2
    edges = np.searchsorted(np.fft.rfftfreq(x.shape[1], 1 / RATE), [0, 75, 150, 300, 600, 1200, 2400, 4001])
    share = np.stack([power[:, a:b].sum(1) for a, b in pairwise(edges)], 1)
    return 10 * np.log10(share / share.sum(1, keepdims=True) + 1e-6)


def test_classes_are_told_apart_by_octave_energies(drums: DrumsData) -> None:
    train, validation, _ = drums.splits
    features = bands(train.x)
    centres = np.stack([features[train.labels.numpy() == label].mean(0) for label in range(4)])
    found = np.square(bands(validation.x)[:, None] - centres).sum(2).argmin(1)
    assert (found == validation.labels.numpy()).mean() > 0.97


def test_padding_is_masked_and_zero_and_peaks_agree(drums: DrumsData) -> None:
    batch = drums.examples("train", 500)
    assert batch.x.dtype == torch.float32
    assert batch.context is None
    assert not batch.x[~batch.mask].any()
    lengths = batch.mask.sum(1)
    assert torch.equal(batch.mask, torch.arange(SAMPLES) < lengths[:, None])
    assert len(lengths.unique()) > 100
    assert lengths.min() >= 320  # 40 ms
    assert (lengths == SAMPLES).float().mean() < 0.05
    torch.testing.assert_close(batch.x.abs().amax(1), torch.full((500,), PEAK))


def test_factors_are_uniform_and_classes_equal(drums: DrumsData) -> None:
    labels = torch.cat([split.labels for split in drums.splits])
    factors = torch.cat([split.factors for split in drums.splits])
    assert labels.bincount().tolist() == [1024] * 4
    deciles = torch.quantile(factors, torch.linspace(0, 1, 11), dim=0)
    torch.testing.assert_close(deciles[:, 0], torch.linspace(0, 1, 11), atol=0.04, rtol=0)
    torch.testing.assert_close(deciles[:, 1], torch.linspace(0, 1, 11), atol=0.04, rtol=0)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"seconds": 0.3}, 3072),
        ({"sample_rate": 16000}, 8192),
        ({"multiple_of": 3000}, 6000),
        ({"seconds": 0.512}, 4096),
    ],
)
def test_length_is_the_seconds_rounded_up(settings: dict, shape: int) -> None:
    data = DrumsData(clips=40, **settings)
    assert data.facts["event_shape"] == (shape,) == tuple(data.examples("train", 1).x.shape[1:])


@pytest.mark.parametrize("settings", [{"clips": 3}, {"seconds": 0.0}, {"sample_rate": 4000}, {"multiple_of": 0}])
def test_no_drum_is_refused(settings: dict) -> None:
    with pytest.raises(Refused, match="type"):
        DrumsData(**settings)
