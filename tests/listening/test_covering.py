"""Steady noise is read off a set's clips, and put under another's."""

import numpy as np
import pytest
from planted_sounds import in_noise, quieter, sounds, tones

from vaecollapse.listening.covering import covered, powers, steady
from vaecollapse.nn.spectral import frame_size

RATE = 8000
DYING = [np.pad(each, (0, 3000)) for each in tones(12)]  # into silence


def white(count: int, level: float) -> list[np.ndarray]:
    return list(level * np.random.default_rng(0).standard_normal((count, 3000)).astype(np.float32))


def test_the_power_of_white_noise_is_its_variance_in_every_bin() -> None:
    found = powers(0.3 * np.random.default_rng(0).standard_normal(80_000).astype(np.float32), frame_size(RATE))
    assert found.mean(0)[2:-2] == pytest.approx(np.full(found.shape[1] - 4, 0.09), rel=0.25)


def test_noise_is_read_whether_or_not_there_are_sounds_in_it() -> None:
    assert steady(sounds(white(60, 0.1)), RATE)[2:-2].mean() == pytest.approx(0.01, rel=0.1)
    peak = np.median([abs(each).max() for each in DYING])
    found = steady(sounds(in_noise(DYING, 20)), RATE)[2:-2]
    assert found.mean() == pytest.approx((0.1 * peak) ** 2, rel=0.1)
    assert not steady(sounds(DYING), RATE).any()


def test_a_steady_sound_that_all_clips_share_is_no_noise_and_others_are_no_more_than_themselves() -> None:
    drones = [(0.2 * np.sin(pitch * np.arange(3000))).astype(np.float32) for pitch in (0.3, 0.6) * 4]
    assert not steady(sounds(drones[::2]), RATE).any()
    both = sum(powers(each, frame_size(RATE)).mean(0) for each in drones[:2]) / 2
    assert steady(sounds(drones), RATE) == pytest.approx(both, rel=1e-2, abs=1e-4)


def test_real_clips_are_made_as_quiet_and_as_noisy_and_no_louder() -> None:
    real = sounds(DYING)
    for made, level in ((quieter(DYING, 40), 0.01), (quieter(DYING, -20), 1.0)):
        for before, after in zip(real.clips, covered(real, sounds(made), RATE).clips, strict=True):
            assert after.read() == pytest.approx(level * before.read(), rel=1e-4, abs=1e-9)
    under = covered(real, sounds(white(12, 0.1)), RATE)
    rest = [after.read() - before.read() for before, after in zip(real.clips, under.clips, strict=True)]
    assert np.concatenate(rest).std() == pytest.approx(0.1, rel=0.1)
    assert np.abs(np.corrcoef(rest[0][:800], rest[1][:800])[0, 1]) < 0.2  # each clip its own
