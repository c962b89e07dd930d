"""Laws of p(x|z): densities against torch's own, and what a masked spectral distance must and must not see."""

import math

import pytest
import torch
from torch.distributions import Laplace, Normal
from torch.nn import functional as F

from vaecollapse.distributions.likelihoods import LaplaceLikelihood, NormalLikelihood, SpectralLikelihood
from vaecollapse.nn.spectral import LogMel, frame_mask, magnitudes
from vaecollapse.refusal import Refused

TIME = 2048
FAMILIES = [(NormalLikelihood, Normal), (LaplaceLikelihood, Laplace)]


def one_shots(count: int = 12, time: int = TIME, rate: int = 8000) -> tuple[torch.Tensor, torch.Tensor]:
    """Decaying tones over noise, of different pitch and length, zero-padded; and their masks."""
    generator = torch.Generator().manual_seed(1)
    seconds = torch.arange(time) / rate
    pitch = torch.linspace(100, 3000, count)[torch.randperm(count, generator=generator)][:, None]
    length = torch.linspace(time // 8, time // 2, count)[:, None]
    mask = torch.arange(time) < length
    tone = torch.sin(2 * math.pi * pitch * seconds) + 0.2 * torch.randn(count, time, generator=generator)
    return 0.3 * tone * torch.exp(-8 * seconds) * mask, mask


def calibrated(**options) -> SpectralLikelihood:
    likelihood = SpectralLikelihood(**options)
    likelihood.calibrate(*one_shots())
    return likelihood


# Densities


@pytest.mark.parametrize(("ours", "reference"), FAMILIES)
@pytest.mark.parametrize("event", [(5,), (3, 4)])
def test_a_density_is_the_sum_of_the_unmasked_elements(ours, reference, event):
    x, mean = torch.randn(2, 4, *event, dtype=torch.float64)
    mask = torch.rand(4, *event) > 0.3
    elements = reference(mean, torch.tensor(0.7, dtype=torch.float64)).log_prob(x)
    torch.testing.assert_close(ours(scale=0.7)(mean).log_prob(x), elements.flatten(1).sum(1))
    torch.testing.assert_close(ours(scale=0.7)(mean, mask).log_prob(x), (elements * mask).flatten(1).sum(1))
    garbage = torch.where(mask, x, torch.full_like(x, 1e6))
    torch.testing.assert_close(ours(scale=0.7)(mean, mask).log_prob(garbage), ours(scale=0.7)(mean, mask).log_prob(x))


@pytest.mark.parametrize(("ours", "moment"), [(NormalLikelihood, 2), (LaplaceLikelihood, 1)])
def test_the_learned_scale_starts_where_asked_and_rests_at_the_optimum(ours, moment):
    """s² = mean r² for the Gaussian, b = mean |r| for Laplace (Rybkin 2021): there the gradient vanishes."""
    residual = torch.randn(64, 9, dtype=torch.float64)
    best = residual.abs().pow(moment).mean().pow(1 / moment).item()
    likelihood = ours(scale=best, learn_scale=True).double()
    torch.testing.assert_close(likelihood.scale.item(), best, rtol=1e-5, atol=0)
    loss = -likelihood(torch.zeros_like(residual)).log_prob(residual).mean()
    (gradient,) = torch.autograd.grad(loss, likelihood.raw_log_scale)
    assert abs(gradient) < 1e-4
    assert not list(ours(scale=best).parameters())


@pytest.mark.parametrize(("ours", "reference"), FAMILIES)
def test_an_exact_decoder_cannot_drive_the_learned_density_to_infinity(ours, reference):
    likelihood, x = ours(learn_scale=True), torch.randn(2, 5)
    with torch.no_grad():
        likelihood.raw_log_scale.fill_(-1e4)
    assert likelihood(x).log_prob(x).isfinite().all()
    torch.testing.assert_close(likelihood.scale, torch.tensor(math.exp(-8.0)))


@pytest.mark.parametrize("ours", [NormalLikelihood, LaplaceLikelihood])
@pytest.mark.parametrize("options", [{"scale": 0.0}, {"scale": -1.0}, {"scale": 1e-3, "learn_scale": True}])
def test_impossible_scales_are_refused(ours, options):
    with pytest.raises(Refused, match="scale"):
        ours(**options)


# The spectral distance


def test_a_clip_is_at_distance_zero_from_itself_and_from_its_other_polarity():
    x, mask = one_shots()
    likelihood = calibrated()
    assert likelihood.distance(x, x, mask).abs().max() == 0
    assert likelihood.distance(x, -x, mask).abs().max() < 1e-5
    assert (likelihood.distance(x, x.roll(1, 0), mask) > 0.5).all()


@pytest.mark.parametrize("gain", [0.25, 0.8, 1.5])
def test_a_gain_costs_its_relative_error_plus_its_logarithm_at_every_scale(gain):
    """With the floor out of the way d(x, a·x) = scales·(|1 − a| + |ln a|), so the two directions differ."""
    x = torch.randn(3, TIME, generator=torch.Generator().manual_seed(0))
    likelihood = SpectralLikelihood(floor_db=-120.0)
    likelihood.calibrate(x)
    for a, b, ratio in ((x, gain * x, gain), (gain * x, x, 1 / gain)):
        expected = 3 * (abs(1 - ratio) + abs(math.log(ratio)))
        torch.testing.assert_close(likelihood.distance(a, b), torch.full((3,), expected), rtol=1e-2, atol=0)


@pytest.mark.parametrize("gain", [1e-3, 30.0])
def test_the_distance_does_not_depend_on_the_level_of_the_whole_data_set(gain):
    x, mask = one_shots()
    louder = SpectralLikelihood()
    louder.calibrate(gain * x, mask)
    ours, theirs = calibrated().distance(x, x.roll(1, 0), mask), louder.distance(gain * x, gain * x.roll(1, 0), mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_padding_is_invisible():
    x, mask = one_shots()
    y = x.roll(1, 0)
    likelihood = calibrated()
    expected = likelihood.distance(x, y, mask)
    noise = torch.randn_like(x) * ~mask
    torch.testing.assert_close(likelihood.distance(x + noise, y - noise, mask), expected)
    longer = [F.pad(t, (0, 1024)) for t in (x, y, mask)]
    torch.testing.assert_close(likelihood.distance(*longer), expected, rtol=1e-5, atol=1e-5)
    y = y.clone().requires_grad_()
    likelihood.distance(x, y, mask).sum().backward()
    assert y.grad[~mask].abs().max() == 0
    assert y.grad[mask].abs().max() > 0


def test_examples_do_not_see_each_other():
    x, mask = one_shots()
    likelihood, y = calibrated(), one_shots()[0].roll(1, 0)
    alone = torch.cat([likelihood.distance(x[i : i + 1], y[i : i + 1], mask[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(likelihood.distance(x, y, mask), alone)


@pytest.mark.parametrize("noise_db", [-60])
def test_why_the_floor_is_relative_to_the_data(noise_db):
    """Zero-padded one-shots, padding counted: the right clip with −60 dB noise must beat a wrong one and silence by 2;
    with an absolute floor of 1e-7 only the padding's logarithm counts and it loses."""
    x, _ = one_shots()
    noisy = x + 10 ** (noise_db / 20) * x.abs().amax(1, keepdim=True) * torch.randn_like(x)
    likelihood = calibrated()

    def ratio() -> float:
        own = likelihood.distance(x, noisy).mean()
        others = [likelihood.distance(x, x.roll(s, 0)).mean() for s in (1, 5)]
        return (min([*others, likelihood.distance(x, torch.zeros_like(x)).mean()]) / own).item()

    assert ratio() >= 2
    likelihood.floor.fill_(1e-7)
    assert ratio() < 1.2


@pytest.mark.parametrize("silent", ["x", "y", "both", "mask"])
def test_silence_is_finite_with_finite_gradients(silent):
    x, mask = one_shots(4)
    y = x.roll(1, 0) * (silent not in ("y", "both"))
    x = x * (silent not in ("x", "both"))
    mask = mask & (silent != "mask")
    y.requires_grad_()
    distance = calibrated().distance(x, y, mask)
    distance.sum().backward()
    assert distance.isfinite().all()
    assert y.grad.isfinite().all()
    assert (distance == 0).all() == (silent in ("both", "mask"))


def test_calibration_is_the_median_peak_and_ignores_silent_clips():
    """A sine of amplitude a on a bin reads a, whatever the window."""
    amplitude = torch.tensor([0.0, 0.1, 0.2, 0.9])[:, None]
    x = amplitude * torch.sin(2 * math.pi * torch.arange(TIME) / 16)
    likelihood = SpectralLikelihood(floor_db=-60.0)
    likelihood.calibrate(x)
    torch.testing.assert_close(likelihood.floor, torch.full((3,), 0.2e-3), rtol=0.02, atol=0)
    before = likelihood.floor.clone()
    likelihood.calibrate(torch.zeros(3, TIME))
    torch.testing.assert_close(likelihood.floor, before)
    restored = SpectralLikelihood()
    restored.load_state_dict(likelihood.state_dict())
    torch.testing.assert_close(restored.floor, before)


def test_the_distribution_says_it_is_no_density_and_measures_real_pairs_alike():
    x, mask = one_shots()
    y = x.roll(1, 0)
    distribution = calibrated()(y, mask)
    assert distribution.normalised is False
    assert NormalLikelihood()(y).normalised is True
    torch.testing.assert_close(distribution.mean, y)
    torch.testing.assert_close(-distribution.log_prob(x), distribution.between(x, y, mask))


def test_autocast_and_double_precision_change_nothing():
    x, mask = one_shots()
    likelihood, y = calibrated(), x.roll(1, 0)
    expected = likelihood.distance(x, y, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(likelihood.distance(x, y, mask), expected)
    torch.testing.assert_close(likelihood.double().distance(x.double(), y.double(), mask), expected)


@pytest.mark.parametrize("options", [{"scales": (256,)}, {"floor_db": -40.0}])
def test_every_option_changes_the_distance(options):
    x, mask = one_shots()
    changed = calibrated(**options).distance(x, x.roll(1, 0), mask)
    assert not torch.allclose(changed, calibrated().distance(x, x.roll(1, 0), mask), rtol=1e-2)


@pytest.mark.parametrize("options", [{"scales": ()}, {"scales": (250,)}, {"floor_db": 0.0}, {"floor_db": -400.0}])
def test_impossible_distances_are_refused(options):
    with pytest.raises(Refused):
        SpectralLikelihood(**options)


# Frames and mels


@pytest.mark.parametrize("size", [64, 256])
def test_a_frame_counts_when_data_lies_under_its_window(size):
    mask = torch.arange(1000)[None] < torch.tensor([[0], [1], [129], [1000]])
    frames = frame_mask(mask, size)
    assert frames.shape[1] == magnitudes(torch.zeros(1, 1000), torch.hann_window(size)).shape[2]
    for f in range(frames.shape[1]):
        start = f * size // 4 - size // 2
        assert torch.equal(frames[:, f], mask[:, max(0, start) : start + size].any(1))


@pytest.mark.parametrize(("sample_rate", "mels"), [(8000, 64), (16000, 40), (44100, 64)])
def test_mel_features_find_a_tone_at_its_pitch(sample_rate, mels):
    features = LogMel(sample_rate=sample_rate, mels=mels)
    filters = features.get_buffer("filters")
    torch.testing.assert_close(filters.sum(1), torch.ones(mels))
    pitch = torch.tensor([500.0, 1000.0, 2000.0, 3500.0])[:, None]
    x = 0.3 * torch.sin(2 * math.pi * pitch * torch.arange(8192) / sample_rate)
    loudest = features(x).mean(2).argmax(1)
    edges = 2595 * torch.log10(1 + pitch[:, 0] / 700) / (2595 * math.log10(1 + sample_rate / 1400)) * (mels + 1) - 1
    assert (loudest - edges).abs().max() <= 1.5
