"""Forecast and refusals before step 1."""

import pytest
import torch
from planted import EIGENVALUES, gaussian_data, optimum, probe

from vaecollapse.batch import Batch
from vaecollapse.datasets.audio import AudioFolderData
from vaecollapse.detectors.conditions import labels
from vaecollapse.distributions.likelihoods import (
    BernoulliLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
    SpectralLikelihood,
)
from vaecollapse.models.linear import LinearVAE
from vaecollapse.nn.spectral import LogMel
from vaecollapse.preflight import (
    crossed,
    expected,
    floor_table,
    forecast,
    forecast_binary,
    forecast_cells,
    forecast_distance,
    likelihood_cells,
    price_of,
    rehearse,
    survey,
    unexplained,
)
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.free_bits import FreeBits


@pytest.mark.parametrize("e", [0.05, 0.15, 0.35, 0.5, 1.0, 2.0, 5.0, 7.0])
@pytest.mark.parametrize("units", [1, 5, 8, 20])
def test_the_forecast_counts_what_the_closed_form_keeps_alive(e: float, units: int) -> None:
    clear = sum(value > 1.15 * e for value in EIGENVALUES)
    most = sum(value > e for value in EIGENVALUES)
    found = forecast(gaussian_data(20_000), price=lambda _: e, units=units)
    assert min(units, clear) <= found.directions <= min(units, most)
    assert found.e == e


@pytest.mark.parametrize(("beta", "alive", "variance"), [(1.0, 5, 0.2), (1.3, 4, 0.35714), (1.45, 4, 0.45455)])
@pytest.mark.parametrize("likelihood", [NormalLikelihood, LaplaceLikelihood])
def test_a_learned_scale_is_forecast_as_its_closed_form(likelihood, beta: float, alive: int, variance: float) -> None:
    """s² = Σ_inactive λ / (d − aβ), self-consistent, at most five units."""
    price = price_of(likelihood(scale_mode="learned"), beta)
    found = forecast(gaussian_data(200_000), price=price, units=5)
    assert found.directions == alive
    assert found.residual == pytest.approx(variance, rel=0.03)
    assert found.e == pytest.approx(beta * variance, rel=0.03)


def test_a_learned_scale_collapses_where_beta_exceeds_its_critical_value() -> None:
    """β ≥ d·λ_max/tr(Cov): 8·6/12.3 here."""
    critical = len(EIGENVALUES) * max(EIGENVALUES) / sum(EIGENVALUES)
    alive = [
        forecast(
            gaussian_data(50_000), price=price_of(NormalLikelihood(scale_mode="optimal"), beta), units=5
        ).directions
        for beta in (0.8 * critical, 1.05 * critical)
    ]
    assert alive[0] >= 1 and alive[1] == 0


def test_log_mel_densities_of_speech_are_forecast_on_held_out_clips(fsdd) -> None:
    data = AudioFolderData(root=str(fsdd), batch_size=16, seed=0)
    data.setup()
    features = LogMel(sample_rate=8000)
    parts = [likelihood_cells(features, data.examples(split, 300)) for split in ("train", "validation")]
    found = [
        forecast_cells(*parts, price=price_of(NormalLikelihood(scale_mode="learned"), beta), units=512).directions
        for beta in (1.0, 30.0, 1e4)
    ]
    assert found[0] > 10 * found[1] > found[2] == 0
    assert found[0] <= 300, "no more directions than clips"


@pytest.mark.parametrize(("n", "cells"), [(60, 40), (4096, 256), (200, 300)])
def test_noise_at_the_price_is_forecast_dead(n: int, cells: int) -> None:
    """Though half of the sample's own eigenvalues exceed it."""
    noise = torch.randn(n, cells, generator=torch.Generator().manual_seed(0)).double()
    seen = int((torch.linalg.eigvalsh(torch.cov(noise.T)) > 1.1).sum())
    assert forecast(noise, price=lambda _: 1.0, units=cells).directions <= 0.02 * cells < 0.15 * cells < seen


@pytest.mark.parametrize(("n", "cells"), [(2000, 8), (2000, 600), (300, 600)])
def test_crossed_variances_are_those_of_the_planted_directions(n: int, cells: int) -> None:
    """Within their own errors, whether cells or examples are more."""
    generator = torch.Generator().manual_seed(1)
    ways = torch.linalg.qr(torch.randn(cells, 3, generator=generator, dtype=torch.float64)).Q.T
    codes = torch.randn(n, 3, generator=generator).double() * torch.tensor([40.0, 20.0, 10.0])
    values, errors = crossed(codes @ ways + 0.1 * torch.randn(n, cells, generator=generator).double())
    expected = codes.var(0)
    assert ((values[:3] - expected).abs() < 3 * errors[:3]).all()
    torch.testing.assert_close(errors[:3], expected * (2 / n) ** 0.5, rtol=0.5, atol=0)
    assert values[3:].max() < 0.02


@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("copies", [4, 12])
def test_bernoulli_collapse_is_stable_exactly_beyond_the_largest_correlation(copies: int, p: float) -> None:
    """Two independent bits, each on `copies` cells, and one cell that never changes: β* = copies, whatever p."""
    generator = torch.Generator().manual_seed(0)
    bits = (torch.rand(8192, 2, generator=generator) < p).float().repeat_interleave(copies, 1)
    x = torch.cat([bits, torch.ones(8192, 1)], 1)
    found = {beta: forecast_binary(x, beta=beta, units=5) for beta in (0.5, 0.8 * copies, 1.1 * copies)}
    assert [each.directions for each in found.values()] == [2, 2, 0]
    assert found[0.5].largest[0] == pytest.approx(copies, rel=0.05)
    assert forecast_binary(torch.ones(50, 6), beta=0.1, units=3).directions == 0


def test_the_bernoulli_threshold_is_where_the_collapsed_bound_loses_its_curvature() -> None:
    """D + βR of z's first step out of collapse, by autograd: x̂ = intercept + w z, E[z|x] = v x. The Hessian in (w, v)
    of one direction has a negative eigenvalue iff β is below the largest eigenvalue of F^−½ Cov F^−½."""
    x = (torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)).double() < 0.3).double()
    x[:, 1] = torch.where(torch.arange(4000) % 4 > 0, x[:, 0], x[:, 1])
    odds = x.mean(0)
    spread = (odds * (1 - odds)).sqrt()
    centred = (x - odds) / spread
    critical = float(torch.linalg.eigvalsh(centred.T @ centred / len(x))[-1])
    logits = (odds / (1 - odds)).log()

    def bound(flat: torch.Tensor, beta: float) -> torch.Tensor:
        w, v = flat.reshape(2, 3)
        mean = (x - odds) @ v
        eps = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None]  # exact to second order in w
        z = mean + eps
        ln_p = -torch.nn.functional.softplus(-(2 * x - 1) * (logits + z[..., None] * w)).sum(-1)
        return (-ln_p.mean(0) + beta * mean.square() / 2).mean()

    for factor, stable in ((0.97, False), (1.03, True)):
        hessian = torch.autograd.functional.hessian(
            lambda flat, beta=factor * critical: bound(flat, beta), torch.zeros(6, dtype=torch.float64)
        )
        assert (torch.linalg.eigvalsh(hessian)[0] > -1e-9) == stable
    found = forecast_binary(x, beta=1.0, units=3)
    assert found.largest[0] == pytest.approx(critical, rel=0.03)


def test_a_bernoulli_plan_on_greys_is_refused_and_shown_on_bits() -> None:
    torch.manual_seed(0)
    vae = LinearVAE(event_shape=(1, 2, 4), latent_dim=3, likelihood=BernoulliLikelihood()).double()
    bits = (torch.rand(512, 1, 2, 1) < 0.4).double().repeat(1, 1, 1, 4)
    plan = survey(vae, Batch(bits), Batch(bits), beta=1.0, units=3, steps=10, warmup_ends=1)
    assert plan.directions == 2 and plan.beta_effective == 1.0 and not plan.decides
    grey = Batch(bits * 0.3)
    for held, sentence in ((grey, "binarize=stochastic"), (Batch(bits * 3), "outside")):
        with pytest.raises(Refused, match=sentence):
            survey(vae, Batch(bits), held, beta=1.0, units=3, steps=10, warmup_ends=1)
    with pytest.raises(Refused, match="binarize=stochastic"):
        rehearse(vae, Beta(weight=Constant(value=1.0)), grey)


def test_rehearsal_moves_nothing_and_refuses_what_cannot_be_priced() -> None:
    vae, batch = optimum(3, e=1.0).train(), probe(gaussian_data(64))[0]
    state = torch.get_rng_state()
    objective = rehearse(vae, Beta(weight=Constant(value=1.0)), batch)
    assert torch.isfinite(objective.loss) and vae.training and torch.equal(state, torch.get_rng_state())
    with pytest.raises(Refused, match="groups=token"):
        rehearse(vae, FreeBits(weight=Constant(value=1.0), floor=0.1, groups="token"), batch)
    with torch.no_grad():
        vae.decoder.weight.fill_(torch.inf)
    with pytest.raises(Refused, match="objective of the untrained model"):
        rehearse(vae, Beta(weight=Constant(value=1.0)), batch)


@pytest.mark.parametrize(("beta", "expected"), [(0.01, 6), (0.5, 3), (50.0, 0)])
def test_the_forecast_of_a_distance_counts_planted_directions(beta: float, expected: int) -> None:
    """Six planted directions of log features in noise, three of them faint: 400 clips against 600 cells."""
    generator = torch.Generator().manual_seed(0)
    ways = torch.linalg.qr(torch.randn(600, 6, generator=generator)).Q.T * 600**0.5
    strength = torch.tensor([2.0, 2.0, 2.0, 0.3, 0.3, 0.3])

    def cells(n: int):
        codes = torch.randn(n, 6, generator=generator) * strength
        values = codes @ ways + 0.5 * torch.randn(n, 600, generator=generator)
        return [(part, torch.ones_like(part, dtype=torch.bool)) for part in values.split(300, 1)]

    assert forecast_distance(cells(400), cells(400), beta=beta, units=16).directions == expected


def test_speech_is_forecast_alive_at_a_hundredth_and_dead_at_one(fsdd) -> None:
    """What training then finds: rank 13 of 16 at β = 0.01, and 0 at β = 1 (benchmarks/README.md)."""
    data = AudioFolderData(root=str(fsdd), batch_size=16, seed=0)
    data.setup()
    likelihood = SpectralLikelihood()
    parts = [data.examples(split, 300) for split in ("train", "validation")]
    likelihood.calibrate(parts[0].x, parts[0].mask)
    cells = [list(likelihood.log_magnitudes(part.x, part.mask)) for part in parts]
    found = [forecast_distance(*cells, beta=beta, units=16).directions for beta in (0.01, 0.1, 1.0)]
    assert found[0] >= 16 and 3 <= found[1] <= 12 and found[2] == 0
    table = floor_table(likelihood, parts[0])
    assert table.wrong > 10 * table.noisy and table.warning is None


def test_a_floor_far_below_the_data_is_warned_of() -> None:
    """Zero-padded one-shots under a floor of -120 dB: silence is nearer than the clip itself with -60 dB of noise."""
    time = torch.arange(4096) / 8000
    clips = torch.stack(
        [torch.exp(-60 * time) * torch.sin(2 * torch.pi * f * time) for f in (200.0, 300.0, 500.0, 900.0)]
    )
    clips[:, 1200:] = 0
    tables = []
    for floor_db in (-120.0, -50.0):
        likelihood = SpectralLikelihood(floor_db=floor_db)
        likelihood.calibrate(clips)
        tables.append(floor_table(likelihood, Batch(clips)))
    assert tables[0].warning is not None and "floor_db" in tables[0].warning
    assert tables[1].warning is None


@pytest.mark.parametrize("beta", [0.01, 0.3])
def test_a_cell_no_training_clip_covers_tells_nothing(beta: float) -> None:
    """Held-out clips that are longer than every training clip change no forecast."""
    generator = torch.Generator().manual_seed(0)
    values = [2.0 * torch.randn(200, 4, generator=generator) @ torch.randn(4, 300, generator=generator) - 7
              for _ in range(2)]  # fmt: skip
    short = torch.ones(200, 300, dtype=torch.bool)
    short[:, 200:] = False
    longer = short.clone()
    longer[:10] = True
    price = price_of(NormalLikelihood(scale_mode="learned"), beta)
    for held in (short, longer):
        assert forecast_distance([(values[0], short)], [(values[1], short)], beta=beta, units=8).directions == (
            forecast_distance([(values[0], short)], [(values[1], held)], beta=beta, units=8).directions
        )
    one, two = (forecast_cells((values[0], short), (values[1], held), price=price, units=8) for held in (short, longer))
    assert two.e == pytest.approx(one.e, rel=0.2)


def test_copies_of_one_clip_and_a_distance_without_scales_are_no_error() -> None:
    clip = torch.sin(torch.arange(4096) / 5)[None].repeat(6, 1)
    likelihood = SpectralLikelihood()
    likelihood.calibrate(clip)
    assert "copies" in (floor_table(likelihood, Batch(clip)).warning or "")
    cells = list(likelihood.log_magnitudes(clip))
    assert forecast_distance(cells, cells, beta=0.01, units=4).directions == 0


# ---- a condition


def classes_apart(n: int, *, classes: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two directions of variance 4 within each class, classes far apart in all eight."""
    generator = torch.Generator().manual_seed(5)
    centres = spread * torch.randn(classes, 8, generator=generator, dtype=torch.float64)
    c = torch.randint(classes, (n,), generator=generator)
    own = torch.randn(n, 8, generator=generator, dtype=torch.float64) * torch.tensor([2.0, 2.0] + [0.1] * 6).double()
    return own + centres[c], c


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_what_a_condition_explains_is_not_offered_to_z(spread: float) -> None:
    x, c = classes_apart(4000, classes=6, spread=spread)
    within = unexplained(Batch(x, c))
    expected = torch.tensor([4.0, 4.0] + [0.01] * 6).double()
    torch.testing.assert_close(within.square().mean(0), expected, rtol=0.1, atol=0.0)
    found = forecast(within, price=lambda _: 1.0, units=8)
    assert found.directions == 2
    assert (forecast(x, price=lambda _: 1.0, units=8).directions > 2) == (spread > 0)


def test_of_a_continuous_condition_what_is_linear_in_it_is_taken_off() -> None:
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(3000, 2, generator=generator, dtype=torch.float64)
    own = torch.randn(3000, 4, generator=generator, dtype=torch.float64)
    x = own + c @ torch.tensor([[3.0, 0.0, 1.0, 0.0], [0.0, 3.0, 0.0, 1.0]]).double()
    torch.testing.assert_close(torch.cov(unexplained(Batch(x, c)).T), torch.eye(4).double(), rtol=0.0, atol=0.1)


def test_a_condition_of_ones_own_explains_nothing() -> None:
    x, _ = classes_apart(200, classes=2, spread=1.0)
    torch.testing.assert_close(unexplained(Batch(x, torch.arange(200))), x - x.mean(0))


@pytest.mark.parametrize("width", [1, 200, 900, 2000])
def test_a_condition_that_is_noise_takes_nothing_off(width: int) -> None:
    """As many numbers as examples would fit any x on the examples they are fitted to."""
    x, _ = classes_apart(1000, classes=1, spread=0.0)
    c = torch.randn(1000, width, generator=torch.Generator().manual_seed(3))
    ratio = unexplained(Batch(x, c)).square().mean(0) / x.var(0)
    assert bool((ratio > 0.97).all()) and bool((ratio < 1.15).all())


def test_examples_alone_in_their_condition_are_left_out_of_what_it_leaves() -> None:
    x, c = classes_apart(600, classes=3, spread=3.0)
    c[:200] = torch.arange(100, 300)
    within = unexplained(Batch(x, c))
    assert len(within) == 400
    torch.testing.assert_close(within.square().mean(0)[:2], torch.tensor([4.0, 4.0]).double(), rtol=0.2, atol=0.0)


def test_bits_that_the_class_tells_are_not_forecast() -> None:
    """Six bits that are the class's own, and three that are one and the same."""
    generator = torch.Generator().manual_seed(1)
    c = torch.randint(2, (4000,), generator=generator)
    told = torch.rand(4000, 6, generator=generator) < 0.1 + 0.8 * c[:, None]
    free = (torch.rand(4000, 1, generator=generator) < 0.5).expand(-1, 3)
    batch = Batch(torch.cat([told, free], 1).double(), c)
    assert forecast_binary(batch.x, beta=2.0, units=4).directions == 2
    given = expected(batch.x, c, labels(c))
    assert forecast_binary(batch.x, beta=2.0, units=4, odds=given).directions == 1
