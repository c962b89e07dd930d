"""The scores of ensembles of fields against references, closed forms and planted truths."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from planted_rain import gaussian_fields, rain
from sklearn.metrics.pairwise import cosine_similarity

from vaecollapse.metrics import distribution
from vaecollapse.metrics.base import Score, jackknife
from vaecollapse.metrics.crps import CRPS, crps
from vaecollapse.metrics.distribution import Distribution, amounts, distances, raw_p, steps
from vaecollapse.metrics.diversity import EnsembleDiversity, analog_members, analogs, diversity
from vaecollapse.metrics.fields import FieldMetric, Fields, permutation_p, sign_flips
from vaecollapse.metrics.fractions_skill import FractionsSkill, box_sums
from vaecollapse.metrics.mass_bias import MassBias
from vaecollapse.metrics.rank_histogram import RankHistogram, ranks
from vaecollapse.metrics.rx1day import Rx1Day
from vaecollapse.metrics.spatial_correlation import SpatialCorrelation, spatial_correlation
from vaecollapse.metrics.spectrum import SpectrumDistance, radial_spectrum
from vaecollapse.metrics.spread_skill import SpreadSkill
from vaecollapse.metrics.wetness import Wetness
from vaecollapse.refusal import Refused


def scored(metric: FieldMetric, real: Fields, members: torch.Tensor) -> dict[str, Score]:
    metric.update(real, members)
    return {each.name: each for each in metric.scores()}


def value(metric: FieldMetric, real: Fields, members: torch.Tensor, name: str | None = None) -> float | None:
    found = scored(metric, real, members)
    return found[name or next(iter(found))].value


def one(*rows: list[list[float]]) -> torch.Tensor:
    """Fields written down: (…, height, width)."""
    return torch.tensor(rows)


# ---- diversity


def test_diversity_is_scikit_learns_cosine() -> None:
    members = rain(6, 4, size=12, seed=3)
    members[2, 1] = 0  # dry: left out
    members[:, 2] = 0
    members[1:, 3] = 0
    found = diversity(members)
    for time, wet in enumerate([6, 5]):
        flat = members[:, time].flatten(1)
        cosines = cosine_similarity(flat[flat.any(1)].numpy())
        assert found.value[time] == pytest.approx(1 - cosines[np.triu_indices(wet, 1)].mean(), rel=1e-5)
    assert found.wet.tolist() == [6, 5, 0, 1]
    assert found.value[2:].isnan().all()
    score = scored(EnsembleDiversity(), Fields(members[0]), members)["diversity"]
    assert score.value == pytest.approx(float(found.value[:2].mean()))
    assert score.note == "12 dry members dropped, 1 times with all members dry, 1 times with one wet member"


def test_diversity_is_blind_to_scale_and_0_for_copies() -> None:
    members = rain(4, 3, seed=5)
    scale = torch.tensor([1.0, 7.0, 0.1, 30.0])[:, None, None, None]
    assert torch.allclose(diversity(members * scale).value, diversity(members).value, rtol=1e-5)
    assert diversity(members[:1] * scale).value.abs().max() < 1e-12


def test_a_tiny_diversity_is_not_lost_in_rounding() -> None:
    """1 − cos² of a field and the same with ε orthogonal to it is ε²/2, far below float32's own 6e-8."""
    base, other = one([[1.0, 0.0]])[None], one([[0.0, 1.0]])[None]
    assert diversity(torch.cat([base, base + 1e-4 * other])).value.item() == pytest.approx(5e-9, rel=1e-3)


def test_drizzle_lowers_the_diversity() -> None:
    members = rain(5, 10, seed=6)
    found = torch.stack([diversity(members + drizzle).value for drizzle in (0.0, 0.5, 1.0, 2.0)])
    assert (found.diff(dim=0) < 0).all()


def test_analogs_are_the_nearest_and_members_like_them_have_ratio_1() -> None:
    coarse, library = torch.rand(5, 2, 3, 3), torch.rand(40, 2, 3, 3)
    library[7] = coarse[2] + 1e-3
    brute = (coarse[:, None] - library).square().flatten(2).sum(2).argsort(1)[:, :4]
    assert torch.equal(analogs(coarse, library, 4), brute)
    stretched = torch.tensor([1.0, 1e4])[:, None, None]
    assert torch.equal(
        analogs(coarse * stretched, library * stretched, 4, channel=1), analogs(coarse, library, 4, channel=1)
    )
    with pytest.raises(Refused, match="41 analogs of 40"):
        analogs(coarse, library, 41)
    fine = rain(1, 40, size=16, seed=2)[0]
    reference = analog_members(coarse, library, fine, 4)
    assert torch.equal(reference[0, 2], fine[7])
    found = scored(EnsembleDiversity(), Fields(rain(1, 5, size=16)[0], reference=reference), 3 * reference.flip(0))
    assert found["diversity_ratio"].value == pytest.approx(1.0)
    assert "within" in found["diversity_ratio"].note
    alone = scored(EnsembleDiversity(), Fields(rain(1, 5, size=16)[0]), reference)["diversity_ratio"]
    assert alone.value is None and "no training data" in alone.note


# ---- agreement


def test_spatial_correlation_is_numpys() -> None:
    fields = rain(4, 3, size=10, seed=8)
    mask = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(0)) < 0.8
    fields[3, 1] = 2.0  # constant
    found = spatial_correlation(fields[1:], fields[0], mask)
    for member in range(3):
        for time in range(3):
            if (member, time) != (2, 1):
                own = (fields[member + 1, time][mask[time]], fields[0, time][mask[time]])
                assert found[member, time] == pytest.approx(np.corrcoef(*own)[0, 1], abs=1e-5)
    assert found[2, 1].isnan()
    scores = scored(SpatialCorrelation(), Fields(fields[0], mask), 5 * fields[1:] + 2)["spatial_correlation"]
    assert scores.value == pytest.approx(float(found.nanmean()), rel=1e-5)
    assert scores.note.startswith("1 pairs")


def test_mass_bias_is_area_weighted_and_its_error_a_ratio_of_block_sums() -> None:
    truth, area = one([[1.0], [1.0]]), one([[3.0], [1.0]])
    members = one([[2.0], [1.0]], [[2.0], [1.0]])[:, None]
    assert value(MassBias(), Fields(truth, area=area), members) == pytest.approx(75)
    assert value(MassBias(), Fields(truth), members) == pytest.approx(50)
    assert value(MassBias(), Fields(0 * truth), members) is None
    fields = rain(2, 60, size=16, seed=9)
    blocks = torch.arange(60) // 6
    score = scored(MassBias(), Fields(fields[0], block=blocks), fields[1:])["mass_bias"]
    sums = fields.sum((-2, -1)).reshape(2, 10, 6).sum(2).double()
    ratio = sums[1].sum() / sums[0].sum()
    residual = sums[1] - ratio * sums[0]
    delta = (residual.square().sum() * 10 / 9).sqrt() / sums[0].sum()
    assert score.se == pytest.approx(100 * float(delta), rel=0.1)
    assert score.blocks == 10


@pytest.mark.parametrize("size", [1, 3, 7])
def test_fss_is_the_direct_computation(size: int) -> None:
    fields, mask = rain(3, 2, size=9, seed=11), torch.rand(2, 9, 9) < 0.8
    half, apart, both = size // 2, 0.0, 0.0
    for time in range(2):
        for row, column in mask[time].nonzero().tolist():
            box = (time, slice(max(0, row - half), row + half + 1), slice(max(0, column - half), column + half + 1))
            true, *made = (float((field[box] >= 1.0)[mask[box]].double().mean()) for field in fields)
            apart += sum((each - true) ** 2 for each in made)
            both += sum(each**2 + true**2 for each in made)
    metric = FractionsSkill(thresholds=[1.0, 1e6], sizes=[size])
    found = scored(metric, Fields(fields[0], mask), fields[1:])
    assert found[f"fss_1_{size}"].value == pytest.approx(1 - apart / both, rel=1e-5)
    assert found[f"fss_1e+06_{size}"].value is None
    assert value(FractionsSkill(thresholds=[1.0], sizes=[size]), Fields(fields[0], mask), fields[:1]) == 1


def test_fss_forgives_a_shift_within_its_neighbourhood() -> None:
    field = torch.zeros(1, 32, 32)
    field[0, 14:17, 14:17] = 20
    skill = scored(FractionsSkill(), Fields(field), field.roll(3, -1)[None])
    assert skill["fss_1_1"].value == 0
    assert (skill["fss_1_17"].value or 0) > 0.8 > (skill["fss_1_5"].value or 1)


def test_box_sums_are_sums() -> None:
    assert torch.equal(box_sums(torch.ones(5, 7), 99), torch.full((5, 7), 35.0))


# ---- the ensemble


@pytest.mark.parametrize("fair", [True, False])
def test_crps_is_scoringrules(fair: bool) -> None:
    scoringrules = pytest.importorskip("scoringrules")
    members, truth = torch.rand(7, 50).double() * 9, torch.rand(50).double() * 9
    estimator = "fair" if fair else "nrg"
    theirs = scoringrules.crps_ensemble(truth.numpy(), members.numpy(), m_axis=0, estimator=estimator)
    assert torch.allclose(crps(members, truth, fair=fair), torch.from_numpy(np.asarray(theirs)))


def test_fair_crps_of_a_gaussian_ensemble_has_its_closed_form_whatever_k() -> None:
    """E CRPS(N(0, 1), y) at y: y(2Φ(y) − 1) + 2φ(y) − 1/√π (Gneiting & Raftery 2007)."""
    y, normal = torch.tensor(0.7).double(), scipy.stats.norm
    closed = 0.7 * (2 * normal.cdf(0.7) - 1) + 2 * normal.pdf(0.7) - math.pi**-0.5
    draws = torch.randn(8, 200_000, generator=torch.Generator().manual_seed(0)).double()
    for count in (2, 8):
        score = crps(draws[:count], y.expand(200_000))
        assert score.mean().item() == pytest.approx(closed, abs=4 * score.std().item() / 200_000**0.5)


def test_fair_crps_is_least_for_members_of_the_truths_law() -> None:
    truth, members = gaussian_fields(6, 60, size=16, seed=12).split([1, 5])
    spread = {s: value(CRPS(), Fields(truth[0]), s * members) or 0.0 for s in (0.0, 0.5, 1.0, 1.5)}
    assert min(spread, key=lambda s: spread[s]) == 1.0
    collapsed = scored(CRPS(), Fields(truth[0]), 0 * members)
    assert collapsed["crps"].value == pytest.approx(collapsed["mae_of_mean"].value)
    assert (value(CRPS(), Fields(truth[0]), members + 0.5) or 0) > spread[1.0]


@pytest.mark.parametrize("count", [2, 10])
def test_a_perfect_ensemble_is_reliable_at_any_size(count: int) -> None:
    fields = rain(count + 1, 240, size=16, seed=13)
    real = Fields(fields[0], block=torch.arange(240) // 6)
    spread = scored(SpreadSkill(), real, fields[1:])["spread_skill"]
    assert spread.se and abs((spread.value or 0) - 1) < 3 * spread.se < 0.2
    metric = RankHistogram()
    found = scored(metric, real, fields[1:])
    assert metric.histogram().sub(1 / (count + 1)).abs().max() < 0.03
    assert (found["rank_flatness_p"].value or 0) > 0.01
    assert found["rank_outliers"].value == pytest.approx(1, abs=0.1)
    sure = RankHistogram()
    too_sure = scored(sure, real, fields[1:].mean(0) + 0.3 * (fields[1:] - fields[1:].mean(0)))
    assert (too_sure["rank_outliers"].value or 0) > 1.2
    assert (too_sure["rank_flatness_p"].value or 1) < 0.01


def test_a_perfect_ensembles_histogram_is_called_uneven_as_often_as_p_says() -> None:
    """Cells and times within a block hang together; of 150 trials at 5 % 1 to 17 hold 99.9 %."""
    trials, blocks, count = 150, 8, 6
    fields = gaussian_fields(count + 1, trials * blocks, size=8, seed=21, smooth=2.0)
    found = ranks(fields[1:], fields[0]).long().reshape(trials, blocks, -1)
    counts = torch.stack([(found == rank).sum(2) for rank in range(count + 1)], 2).double()
    flips = (sign_flips(each - each.mean(1, keepdim=True)).square().sum(1) for each in counts)
    assert 1 <= sum((permutation_p(each) or 0) <= 0.05 for each in flips) <= 17


def test_spread_skill_and_its_undefined_end() -> None:
    truth, members = torch.zeros(1, 1, 2), one([[1.0, 3.0]], [[3.0, 1.0]])[:, None]
    assert value(SpreadSkill(), Fields(truth), members) == pytest.approx((3 / 2 * 2 / 4) ** 0.5)
    assert value(SpreadSkill(), Fields(2 + truth), members) is None


def test_ranks_are_counted_and_ties_fall_anywhere_alike() -> None:
    members = torch.rand(6, 20, 4, 4)
    truth = torch.rand(20, 4, 4)
    assert torch.equal(ranks(members, truth).long(), (members < truth).sum(0))
    dry = ranks(torch.zeros(4, 50, 16, 16), torch.zeros(50, 16, 16), seed=3)
    chi = scipy.stats.chisquare(torch.bincount(dry.flatten().long(), minlength=5).numpy())
    assert chi.pvalue > 0.001
    assert {ranks(torch.tensor([[0.0], [0.0], [5.0]]), torch.tensor([0.0]), seed=s).item() for s in range(40)} == {
        0,
        1,
        2,
    }


def test_ranks_of_a_time_are_the_same_wherever_it_stands() -> None:
    members, truth, index = torch.zeros(4, 6, 5, 5), torch.zeros(6, 5, 5), torch.tensor([9, 4, 7, 1, 0, 3])
    whole = ranks(members, truth, index=index)
    assert torch.equal(ranks(members[:, 2:3], truth[2:3], index=index[2:3])[0], whole[2])


# ---- spectra


@pytest.mark.parametrize("shape", [(16, 16), (12, 17), (9, 8)])
def test_the_spectrum_is_the_direct_computation(shape: tuple[int, int]) -> None:
    field = torch.rand(*shape).double()
    height, width = shape
    power = np.abs(np.fft.fft2(field.numpy())) ** 2 / (height * width)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")) * min(shape)
    direct = [power[np.round(radius) == k].mean() for k in range(1, min(shape) // 2 + 1)]
    assert radial_spectrum(field).numpy() == pytest.approx(np.array(direct))


def test_a_louder_field_is_so_many_decibels_away_and_a_blurred_one_lacks_the_fine() -> None:
    truth = rain(1, 5, seed=14)
    assert value(SpectrumDistance(), Fields(truth[0]), 2 * truth) == pytest.approx(20 * math.log10(2), rel=1e-4)
    assert value(SpectrumDistance(), Fields(truth[0]), truth.roll((3, 5), (-2, -1))) == pytest.approx(0, abs=1e-3)
    blurred = (truth + truth.roll(1, -1) + truth.roll(1, -2) + truth.roll((1, 1), (-2, -1))) / 4
    assert (value(SpectrumDistance(), Fields(truth[0]), blurred, "spectrum_fine") or 0) < -5
    assert value(SpectrumDistance(), Fields(truth[0]), 0 * truth) is None
    with pytest.raises(Refused, match="at least 4 × 4"):
        SpectrumDistance().update(Fields(torch.zeros(1, 3, 9)), torch.zeros(1, 1, 3, 9))


# ---- distributions


def test_ks_and_w1_are_scipys() -> None:
    one_, other = rain(2, 4, size=16, seed=15)
    one_, other = one_.flatten(), 1.3 * other.flatten()[:700] + 0.1
    ks, w1 = distances(one_, other)
    theirs = scipy.stats.ks_2samp(one_.numpy(), other.numpy(), method="asymp")
    assert ks == pytest.approx(theirs.statistic)
    assert w1 == pytest.approx(scipy.stats.wasserstein_distance(one_.numpy(), other.numpy()), rel=1e-5)
    independent = [scipy.stats.norm.rvs(size=n, random_state=n) for n in (4000, 5000)]
    exact = scipy.stats.ks_2samp(*independent, method="exact")
    assert raw_p(exact.statistic, 4000, 5000) == pytest.approx(exact.pvalue, abs=0.02)


def test_steps_keep_the_order_and_an_amount_to_half_a_percent() -> None:
    values = torch.logspace(-2.9, 4.2, 5000)
    assert (steps(values).diff() >= 0).all()
    assert torch.allclose(amounts()[steps(values)].float(), values, rtol=0.002)
    assert steps(torch.tensor([0.0, -3.0, 1e9])).tolist() == [0, 0, distribution.STEPS - 1]


def test_the_streamed_distribution_is_the_exact_one() -> None:
    fields = rain(4, 12, size=16, seed=16)
    real, members = Fields(fields[0]), 1.4 * fields[1:]
    found = scored(Distribution(), real, members)
    ks, w1 = distances(fields[0].flatten(), members.flatten())
    assert found["ks"].value == pytest.approx(ks, abs=1e-3)
    assert found["w1"].value == pytest.approx(w1, rel=5e-3)
    for percent in (95, 99, 99.9):
        each = [np.percentile(part[part >= 0.1].numpy(), percent) for part in (members, fields[0])]
        score = found[f"p{percent:g}"]
        assert (score.value, score.truth) == pytest.approx(each, rel=0.02)
        assert found[f"p{percent:g}_ratio"].value == pytest.approx(each[0] / each[1], rel=0.02)
    assert "not independent" in found["ks"].note
    dry = scored(Distribution(), Fields(0 * fields[0]), members)
    assert dry["p95"].truth is None and dry["p95_ratio"].value is None


def test_real_against_real_rejects_as_often_as_it_says_where_the_raw_p_nearly_always_does() -> None:
    """Blocks of fields that share their weather: 200 trials of 8 blocks; 5 % is 10, and 3 to 20 hold 99.5 %."""
    trials, blocks, times = 200, 8, 4
    generator = torch.Generator().manual_seed(17)
    weather = torch.randn(2, trials, blocks, 1, 1, generator=generator)
    fields = gaussian_fields(2, trials * blocks * times, size=8, seed=18, smooth=2.0)
    fields = fields.reshape(2, trials, blocks * times, 8, 8)
    shared = weather.expand(2, trials, blocks, times, 1).reshape(2, trials, -1)[..., None, None]
    fields = 3 * (0.7 * fields + 0.7 * shared).clamp(min=0)
    block, rejected, raw = torch.arange(blocks).repeat_interleave(times), 0, 0
    for trial in range(trials):
        metric = Distribution(permutations=128)
        metric.update(Fields(fields[0, trial], block=block), fields[1:, trial])
        found = {each.name: each for each in metric.beside()}
        rejected += (found["ks_p"].value or 0) <= 0.05
        raw += raw_p(found["ks"].value or 0, *2 * (blocks * times * 64,)) <= 0.05
    assert 3 <= rejected <= 20
    assert raw > 0.85 * trials
    biased = scored(Distribution(), Fields(fields[0].flatten(0, 1), block=torch.arange(trials * 32) // 640),
                    3 * fields[:1].flatten(1, 2).roll(640, 1) + 1)  # fmt: skip
    assert (biased["ks_p"].value or 1) < 0.01


def test_flips_are_all_there_are_or_drawn_and_below_20_give_no_p() -> None:
    few = sign_flips(torch.eye(5, dtype=torch.float64))
    assert len(few.unique(dim=0)) == len(few) == 16
    assert torch.equal(few[0], torch.ones(5).double())
    assert permutation_p(few.sum(1).abs()) is None
    more = sign_flips(torch.eye(6, dtype=torch.float64))
    assert permutation_p(more.sum(1).abs()) == pytest.approx(1 / 32)
    many = sign_flips(torch.eye(40, dtype=torch.float64), permutations=99)
    assert many.shape == (100, 40) and len(many.unique(dim=0)) == 100
    assert torch.equal(many[0], torch.ones(40).double()), "the first is the observed one"


def test_the_error_is_over_blocks_and_not_over_cells() -> None:
    """A mean of equal blocks: the error that numpy gives their means; copies of a block's times do not shrink it."""
    sums = torch.rand(12, 1).double()
    _, se = jackknife(lambda s: s[..., 0:1] / s[..., 1:], torch.cat([sums, torch.ones(12, 1)], 1))
    assert se.item() == pytest.approx(float(np.std(sums.numpy(), ddof=1)) / 12**0.5)
    fields, block = rain(4, 30, size=8, seed=19), torch.arange(30) // 3
    once = scored(CRPS(), Fields(fields[0], block=block), fields[1:])["crps"]
    again = torch.arange(30).repeat(4)
    copied = scored(CRPS(), Fields(fields[0][again], block=block[again]), fields[1:, again])["crps"]
    assert (copied.value, copied.se) == pytest.approx((once.value, once.se), rel=1e-5)


# ---- wet cells and extremes


def test_wetness_by_hand() -> None:
    truth, members = one([[0.0, 2.0, 4.0, 0.9]]), one([[1.0, 0.0, 0.0, 5.0]], [[0.0, 0.0, 0.0, 3.0]])[:, None]
    found = scored(Wetness(), Fields(truth), members)
    assert (found["wet_fraction"].value, found["wet_fraction"].truth) == pytest.approx((3 / 8, 1 / 2))
    assert (found["sdii"].value, found["sdii"].truth) == pytest.approx((3, 3))
    assert scored(Wetness(), Fields(0 * truth), members)["sdii"].truth is None


def test_rx1day_is_the_mean_of_each_members_own_maxima_by_cell_and_block() -> None:
    fields = rain(3, 24, size=6, seed=20)
    block, place = torch.arange(24) // 8, torch.arange(24) % 2
    found = scored(Rx1Day(), Fields(fields[0], block=block, place=place), fields[1:])["rx1day"]
    peaks = torch.stack([fields[:, (block == b) & (place == p)].amax(1) for b in range(3) for p in range(2)], 1)
    assert found.truth == pytest.approx(float(peaks[0].mean()), rel=1e-5)
    assert found.value == pytest.approx(float(peaks[1:].mean()), rel=1e-5)
    hourly = scored(Rx1Day(), Fields(fields[0], unit="mm/h"), fields[1:])["rx1day"]
    assert hourly.value is None and hourly.note == "a step is no day"
