"""Laws of p(x|z): densities against torch's own, and what a masked spectral distance must and must not see."""

import math

import pytest
import torch
from torch.distributions import Laplace, Normal
from torch.nn import functional as F

from vaecollapse.batch import Batch
from vaecollapse.distributions.likelihoods import (
    BernoulliLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
    SpectralLikelihood,
)
from vaecollapse.elbo import pieces
from vaecollapse.models.linear import LinearVAE
from vaecollapse.nn.spectral import LogMel, Loudness, frame_mask, magnitudes
from vaecollapse.refusal import Refused

TIME = 2048
FAMILIES = [(NormalLikelihood, Normal), (LaplaceLikelihood, Laplace)]
MOMENTS = [(NormalLikelihood, 2), (LaplaceLikelihood, 1)]
ADAPTING = ["learned", "optimal"]
EIGENVALUES = torch.tensor([6, 3, 1.5, 0.8, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
LEARNED = [(1.0, 0.2, 5), (1.3, 0.35714286, 4), (1.5, 0.5, 4)]  # beta, s², active units (definitions, section 4)


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
    likelihood.for_audio(sample_rate=8000)
    likelihood.calibrate(*one_shots())
    return likelihood


TERMS = [
    {},
    {"log_mel": 1.0},
    {"waveform": 1.0},
    {"waveform": 1.0, "waveform_norm": "l2"},
    {"loudness": 2.0},
]


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


@pytest.mark.parametrize(("ours", "moment"), MOMENTS)
def test_the_learned_scale_starts_where_asked_and_rests_at_the_optimum(ours, moment):
    """s² = mean r² for the Gaussian, b = mean |r| for Laplace (Rybkin 2021): there the gradient vanishes."""
    residual = torch.randn(64, 9, dtype=torch.float64)
    best = residual.abs().pow(moment).mean().pow(1 / moment).item()
    likelihood = ours(scale=best, scale_mode="learned").double()
    torch.testing.assert_close(likelihood.scale.item(), best, rtol=1e-5, atol=0)
    loss = -likelihood(torch.zeros_like(residual)).log_prob(residual).mean()
    (gradient,) = torch.autograd.grad(loss, likelihood.raw_log_scale)
    assert abs(gradient) < 1e-4
    assert not list(ours(scale=best).parameters())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("event", [(5,), (3, 8, 8)])
@pytest.mark.parametrize(("ours", "moment"), MOMENTS)
def test_the_optimal_scale_is_the_most_likely_one_for_the_batch(ours, moment, event, masked):
    """And the gradient is that of ln p with the best scale written into it: n/2·ln(mean r²), n·ln(mean |r|)."""
    torch.manual_seed(0)
    x, mean = 3 * torch.randn(2, 6, *event, dtype=torch.float64)
    mean.requires_grad_()
    mask = torch.rand(6, *event) > 0.4 if masked else torch.ones(6, *event, dtype=torch.bool)
    likelihood = ours(scale_mode="optimal").double()
    log_prob = likelihood(mean, mask if masked else None).log_prob(x).sum()
    (gradient,) = torch.autograd.grad(log_prob, mean)
    best = (x - mean)[mask].abs().pow(moment).mean()
    torch.testing.assert_close(likelihood.scale, best.pow(1 / moment).detach(), rtol=1e-6, atol=0)
    written = -mask.sum() / moment * best.log()
    torch.testing.assert_close(gradient, torch.autograd.grad(written, mean)[0], rtol=1e-5, atol=1e-9)
    constant = math.log(2 * math.pi * math.e) / 2 if moment == 2 else 1 + math.log(2)
    torch.testing.assert_close(log_prob, written - mask.sum() * constant, rtol=1e-6, atol=0)
    for factor in (0.9, 1.1):
        fixed = ours(scale=factor * likelihood.scale.item())(mean, mask if masked else None)
        assert fixed.log_prob(x).sum() < log_prob


def test_the_optimal_scale_moves_by_training_steps_alone_and_is_checkpointed():
    torch.manual_seed(0)
    likelihood, mean = NormalLikelihood(scale=2.0, scale_mode="optimal"), torch.zeros(64, 9)
    torch.testing.assert_close(likelihood.scale.item(), 2.0, rtol=1e-6, atol=0)
    with torch.no_grad():
        likelihood(mean).log_prob(torch.randn(64, 9))
    likelihood.eval()(mean).log_prob(torch.randn(64, 9))
    torch.testing.assert_close(likelihood.scale.item(), 2.0, rtol=1e-6, atol=0)
    likelihood.train()
    first, second = torch.randn(64, 9), 3 * torch.randn(64, 9)
    likelihood(mean).log_prob(first)
    torch.testing.assert_close(likelihood.scale, first.square().mean().sqrt())
    likelihood(mean).log_prob(second)
    running = (first.square().mean() + second.square().mean()) / 2
    torch.testing.assert_close(likelihood.scale, running.sqrt())
    for _ in range(200):  # it forgets where it came from
        likelihood(mean).log_prob(5 * torch.randn(64, 9))
    torch.testing.assert_close(likelihood.scale.item(), 5.0, rtol=0.02, atol=0)
    restored = NormalLikelihood(scale_mode="optimal").eval()
    restored.load_state_dict(likelihood.state_dict())
    torch.testing.assert_close(restored.scale, likelihood.scale)
    expected = NormalLikelihood(scale=likelihood.scale.item())(mean).log_prob(first)
    torch.testing.assert_close(restored(mean).log_prob(first), expected)
    likelihood.train()(mean).log_prob(torch.full_like(first, torch.nan))
    torch.testing.assert_close(restored.scale, likelihood.scale, msg="a step that is not taken moves nothing")


@pytest.mark.parametrize("ours", [NormalLikelihood, LaplaceLikelihood])
def test_only_a_fixed_scale_is_declared(ours):
    assert ours().fixed
    assert not any(ours(scale_mode=mode).fixed for mode in ADAPTING)


@pytest.mark.parametrize(("ours", "reference"), FAMILIES)
def test_an_exact_decoder_cannot_drive_the_density_to_infinity(ours, reference):
    likelihood, x = ours(scale_mode="learned"), torch.randn(2, 5)
    with torch.no_grad():
        likelihood.raw_log_scale.fill_(-1e4)
    assert likelihood(x).log_prob(x).isfinite().all()
    torch.testing.assert_close(likelihood.scale, torch.tensor(math.exp(-8.0)))
    likelihood, mean = ours(scale_mode="optimal"), x.clone().requires_grad_()
    log_prob = likelihood(mean).log_prob(x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and mean.grad.isfinite().all()
    torch.testing.assert_close(likelihood.scale, torch.tensor(math.exp(-8.0)))


@pytest.mark.parametrize("ours", [NormalLikelihood, LaplaceLikelihood])
def test_a_learned_scale_comes_back_from_its_floor(ours):
    """The floor is soft: however long a decoder was exact, the scale still feels what it leaves over (a clamp would
    not: its gradient is 0 there)."""
    likelihood, x = ours(scale_mode="learned"), torch.full((8, 16), 0.5)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.1)
    for decoded, steps in ((x, 700), (torch.zeros_like(x), 400)):
        lowest = math.inf
        for _ in range(steps):
            optimizer.zero_grad()
            (-likelihood(decoded).log_prob(x).mean()).backward()
            optimizer.step()
            lowest = min(lowest, likelihood.scale.item())
        if decoded is x:
            assert lowest < 1.01 * math.exp(-8), "as near as counts as at the floor"
    assert likelihood.scale.item() > 100 * math.exp(-8)


@pytest.mark.parametrize("ours", [NormalLikelihood, LaplaceLikelihood])
@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": 1e-3, "scale_mode": "learned"},
        {"scale": 1e-3, "scale_mode": "optimal"},
        {"scale_mode": "free"},
    ],
)
def test_impossible_scales_are_refused(ours, options):
    with pytest.raises(Refused, match="scale"):
        ours(**options)


# Learned and optimal scales of the linear VAE: s² = Σ_inactive λ/(d − aβ)


def points() -> torch.Tensor:
    """16 points whose covariance has exactly these eigenvalues."""
    half = torch.diag((len(EIGENVALUES) * EIGENVALUES).sqrt())
    return torch.cat([half, -half])


def rehearsed(vae: LinearVAE) -> tuple[torch.Tensor, torch.Tensor]:
    """(D, R), exact: D is quadratic in z, so the 2k points ±√k e_i stand for the whole of N(0, I)."""
    half = torch.eye(5, dtype=torch.float64) * math.sqrt(5)
    eps, rows = torch.cat([half, -half]).repeat_interleave(16, 0), points().repeat(10, 1)
    z, kl = pieces(vae.encode(rows), vae.prior(), eps)
    return vae.distortion(Batch(rows), z).mean(), kl.sum(1).mean()


def linear_vae(likelihood: NormalLikelihood) -> LinearVAE:
    torch.manual_seed(0)
    return LinearVAE(event_shape=(8,), latent_dim=5, likelihood=likelihood).double()


@pytest.mark.parametrize("mode", ADAPTING)
@pytest.mark.parametrize(("beta", "s2", "active"), LEARNED)
def test_the_closed_form_with_its_own_scale_is_stationary(beta, s2, active, mode):
    vae = LinearVAE.closed_form(
        covariance=torch.diag(EIGENVALUES), mean=torch.zeros(8), latent_dim=5, scale=math.sqrt(s2), beta=beta
    )
    vae.likelihood = NormalLikelihood(scale=math.sqrt(s2), scale_mode=mode).double()
    distortion, rate = rehearsed(vae)
    (distortion + beta * rate).backward()
    assert max(p.grad.abs().max() for p in vae.parameters()) < 1e-5
    torch.testing.assert_close(vae.likelihood.scale.square().item(), s2, rtol=1e-5, atol=0)
    assert (EIGENVALUES[:5] > beta * s2).sum() == active


@pytest.mark.parametrize("mode", ADAPTING)
@pytest.mark.parametrize(("beta", "s2", "active"), [LEARNED[0], LEARNED[2]])
def test_training_from_scale_one_finds_it(beta, s2, active, mode):
    vae = linear_vae(NormalLikelihood(scale_mode=mode))
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for _ in range(500):
        distortion, rate = rehearsed(vae)
        optimizer.zero_grad()
        (distortion + beta * rate).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(vae.likelihood.scale.square().item(), s2, rtol=0.01, atol=0)
    assert (vae.encode(points()).mean.var(0) > 0.01).sum() == active


# Bernoulli


@pytest.mark.parametrize("event", [(5,), (1, 3, 4)])
def test_bernoulli_is_the_sum_over_unmasked_bits_and_finite_at_certainty(event):
    logits, x = torch.randn(4, *event, dtype=torch.float64), (torch.rand(4, *event) < 0.4).double()
    mask = torch.rand(4, *event) > 0.3
    p = logits.sigmoid()
    elements = x * p.log() + (1 - x) * (1 - p).log()
    likelihood = BernoulliLikelihood()
    torch.testing.assert_close(likelihood(logits).log_prob(x), elements.flatten(1).sum(1))
    torch.testing.assert_close(likelihood(logits, mask).log_prob(x), (elements * mask).flatten(1).sum(1))
    torch.testing.assert_close(likelihood(logits).mean, p)
    extreme = torch.full_like(logits, 1e4).requires_grad_()
    log_prob = likelihood(extreme).log_prob(x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and extreme.grad.isfinite().all()
    assert likelihood.normalised and likelihood(logits).normalised


def test_bernoulli_is_a_density_of_bits_and_of_nothing_between():
    """It sums to one over all vectors of bits; over [0, 1] the same formula integrates to another number."""
    logits = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    likelihood = BernoulliLikelihood()
    total = likelihood(logits.expand(8, 3)).log_prob(bits).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total))
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    between = likelihood(logits[:, :1].expand(len(grid), 1)).log_prob(grid).exp().mean()
    assert abs(between - 1) > 0.4


@pytest.mark.parametrize(
    ("value", "sentence"), [(0.25, "binarize=stochastic"), (-1.0, "outside"), (2.0, "outside"), (math.nan, "outside")]
)
def test_other_values_than_bits_are_refused_under_the_mask_alone(value, sentence):
    x, mask = torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool)
    x[1, 2] = value
    likelihood = BernoulliLikelihood()
    with pytest.raises(Refused, match=sentence):
        likelihood.check(x, mask)
    mask[1, 2] = False
    likelihood.check(x, mask)
    likelihood.check(torch.ones(2, 2))


def test_bernoulli_draws_bits_with_the_odds_it_starts_from():
    x = (torch.rand(4000, 6) < torch.tensor([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])).float()
    intercept = BernoulliLikelihood().intercept(x)
    drawn = BernoulliLikelihood()(intercept.expand(4000, 6)).sample()
    assert intercept.isfinite().all() and ((drawn == 0) | (drawn == 1)).all()
    torch.testing.assert_close(drawn.mean(0), x.mean(0), rtol=0, atol=0.04)


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


@pytest.mark.parametrize("options", TERMS)
@pytest.mark.parametrize("gain", [1e-3, 30.0])
def test_the_distance_does_not_depend_on_the_level_of_the_whole_data_set(gain, options):
    x, mask = one_shots()
    louder = calibrated(**options)
    louder.calibrate(gain * x, mask)
    ours, theirs = (
        calibrated(**options).distance(x, x.roll(1, 0), mask),
        louder.distance(gain * x, gain * x.roll(1, 0), mask),
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", TERMS)
def test_padding_is_invisible(options):
    x, mask = one_shots()
    y = x.roll(1, 0)
    likelihood = calibrated(**options)
    expected = likelihood.distance(x, y, mask)
    noise = torch.randn_like(x) * ~mask
    torch.testing.assert_close(likelihood.distance(x + noise, y - noise, mask), expected)
    longer = [F.pad(t, (0, 1024)) for t in (x, y, mask)]
    torch.testing.assert_close(likelihood.distance(*longer), expected, rtol=1e-5, atol=1e-5)
    y = y.clone().requires_grad_()
    likelihood.distance(x, y, mask).sum().backward()
    assert y.grad[~mask].abs().max() == 0
    assert y.grad[mask].abs().max() > 0


@pytest.mark.parametrize("options", TERMS)
def test_examples_do_not_see_each_other(options):
    x, mask = one_shots()
    likelihood, y = calibrated(**options), one_shots()[0].roll(1, 0)
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


@pytest.mark.parametrize("options", TERMS)
@pytest.mark.parametrize("silent", ["x", "y", "both", "mask"])
def test_silence_is_finite_with_finite_gradients(silent, options):
    x, mask = one_shots(4)
    y = x.roll(1, 0) * (silent not in ("y", "both"))
    x = x * (silent not in ("x", "both"))
    mask = mask & (silent != "mask")
    y.requires_grad_()
    distance = calibrated(**options).distance(x, y, mask)
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


@pytest.mark.parametrize("options", [{}, {"log_mel": 1.0, "waveform": 1.0, "loudness": 1.0}])
def test_autocast_and_double_precision_change_nothing(options):
    x, mask = one_shots()
    likelihood, y = calibrated(**options), x.roll(1, 0)
    expected = likelihood.distance(x, y, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(likelihood.distance(x, y, mask), expected)
    torch.testing.assert_close(likelihood.double().distance(x.double(), y.double(), mask), expected)


@pytest.mark.parametrize(
    "options",
    [{"scales": (256,)}, {"floor_db": -40.0}, *TERMS[1:], {"waveform": 1.0, "waveform_norm": "l2"}, {"log_mel": 2.0}],
)
def test_every_option_changes_the_distance(options):
    x, mask = one_shots()
    changed = calibrated(**options).distance(x, x.roll(1, 0), mask)
    assert not torch.allclose(changed, calibrated().distance(x, x.roll(1, 0), mask), rtol=1e-2)


@pytest.mark.parametrize(
    "options",
    [
        {"scales": ()},
        {"scales": (250,)},
        {"floor_db": 0.0},
        {"floor_db": -400.0},
        {"log_mel": -1.0},
        {"loudness": math.inf},
        {"waveform": math.nan},
        {"waveform": 1.0, "waveform_norm": "l3"},
        {"waveform_norm": "l2"},
    ],
)
def test_impossible_distances_are_refused(options):
    with pytest.raises(Refused):
        SpectralLikelihood(**options)


# Its further terms


@pytest.mark.parametrize("options", TERMS[1:])
def test_terms_add_up_and_their_weight_is_a_factor(options):
    x, mask = one_shots()
    (name, weight), *_ = options.items()

    def distance(**other) -> torch.Tensor:
        return calibrated(**other).distance(x, x.roll(1, 0), mask)

    alone = distance(**options, scales=())
    torch.testing.assert_close(distance(**options), distance() + alone)
    torch.testing.assert_close(distance(**options | {name: 3 * weight}, scales=()), 3 * alone)


def test_a_weight_of_zero_costs_nothing():
    likelihood = calibrated(log_mel=0.0, waveform=0.0, loudness=0.0)
    assert list(likelihood.state_dict()) == ["floor"] and not list(likelihood.features)
    x = torch.randn(2, TIME)
    assert len(list(likelihood._terms(x, x, None))) == 3


def test_a_term_in_mels_or_milliseconds_needs_the_sample_rate():
    x, _ = one_shots()
    for name in ("log_mel", "loudness"):
        with pytest.raises(Refused, match="sample rate"):
            SpectralLikelihood(**{name: 1.0}).distance(x, x)


@pytest.mark.parametrize("gain", [0.5, 2.0])
@pytest.mark.parametrize("options", TERMS[1:])
def test_a_gain_costs_its_logarithm_or_the_error_it_makes(options, gain):
    """Of a steady signal at the data's level: |ln a| in log features, |1 − a|·mean|x|/rms or (1 − a)² in samples."""
    x = 0.1 * torch.randn(3, TIME, generator=torch.Generator().manual_seed(0))
    likelihood = SpectralLikelihood(scales=(), floor_db=-120.0, **options)
    likelihood.for_audio(sample_rate=8000)
    likelihood.calibrate(x)
    log = abs(math.log(gain))
    l1 = abs(1 - gain) * x.abs().mean() / x.square().mean().sqrt()
    expected = {"log_mel": log, "loudness": 2 * log, "waveform": l1}[next(iter(options))]
    if options.get("waveform_norm") == "l2":
        expected = (1 - gain) ** 2
    torch.testing.assert_close(likelihood.distance(x, gain * x).mean(), torch.as_tensor(expected), rtol=0.05, atol=0)


@pytest.mark.parametrize("size", [64, 256])
def test_loudness_is_the_log_rms_of_frames_above_a_floor_below_the_loudest(size):
    """A sine of amplitude a has RMS a/√2; silence reads the floor; the frames are those of the masks."""
    sample_rate = size * 1000 // 32
    loudness = Loudness(sample_rate=sample_rate, floor_db=-40.0)
    assert loudness.size == size
    x = torch.tensor([[0.2], [0.8], [0.4]]) * torch.sin(2 * math.pi * torch.arange(1024) / 16)
    loudness.calibrate(torch.cat([x, torch.zeros(1, 1024)]))
    torch.testing.assert_close(loudness.floor, torch.tensor(0.4 / math.sqrt(2) * 1e-2), rtol=1e-3, atol=0)
    read = loudness(x)
    assert read.shape[2] == frame_mask(torch.ones(1, 1024, dtype=torch.bool), size).shape[1]
    inside = read[:, 0, 4:-4]
    expected = (torch.tensor([0.2, 0.8, 0.4]) / math.sqrt(2)).log()[:, None].expand_as(inside)
    torch.testing.assert_close(inside, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(loudness(torch.zeros(1, 1024)), loudness.floor.log().expand(1, 1, read.shape[2]))


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
