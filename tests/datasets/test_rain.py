"""What is known of the generated rain: its marginals, its motion, and its law given the coarse field."""

import numpy as np
import pytest
import torch
from scipy import stats

from vaecollapse.datasets.rain import Amounts, RainData, amplitudes, gaussian
from vaecollapse.refusal import Refused


@pytest.fixture(scope="module")
def single() -> RainData:
    """Independent fields: each storm is one hour."""
    return RainData(storms=500, steps=1, size=16)


def test_gaussian_fields_have_the_covariance_of_their_spectrum() -> None:
    amplitude = amplitudes(16, 2.0)
    fields = gaussian((4000,), amplitude, np.random.default_rng(0))
    wanted = np.fft.irfft2(amplitude**2, (16, 16))
    assert wanted[0, 0] == pytest.approx(1)
    for shift in (0, 1, 3, 8):
        found = (fields * np.roll(fields, -shift, -1)).mean()
        assert found == pytest.approx(wanted[0, shift], abs=0.015)


@pytest.mark.parametrize(("shape", "p"), [(0.8, 0.3), (2.0, 1.0), (0.5, 0.7)])
def test_amounts_are_bernoulli_gamma(shape: float, p: float) -> None:
    x = Amounts(shape)(np.random.default_rng(0).standard_normal(20000), p)
    assert (x > 0).mean() == pytest.approx(p, abs=0.01)
    assert stats.kstest(x[x > 0], stats.gamma(shape, scale=1 / shape).cdf).pvalue > 0.01


def test_block_means_of_truth_and_members_are_the_condition(single: RainData) -> None:
    batch = single.examples("train", 64)
    coarse = batch.context[:, :, ::8, ::8]
    for x in (batch.x, *single.members(batch.context, 2)):
        torch.testing.assert_close(torch.nn.functional.avg_pool2d(x, 8), coarse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(batch.context, coarse.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_the_truth_is_one_more_member(single: RainData) -> None:
    """Ranks of any statistic of the truth among members are uniform; χ² over independent fields."""
    batch = single.examples("train", 300)
    members = single.members(batch.context, 9)
    for statistic in (
        lambda x: x.square().sum((-1, -2, -3)),
        lambda x: x[..., 0, 3, 4],
        lambda x: x.amax((-1, -2, -3)),
    ):
        truth, drawn = statistic(batch.x), statistic(members)
        wet = truth + drawn.sum(0) > 0
        among_equals = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) * (
            (drawn == truth).sum(0) + 1
        )
        rank = ((drawn < truth).sum(0) + among_equals.long())[wet]
        assert stats.chisquare(np.bincount(rank.numpy(), minlength=10)).pvalue > 0.01


def test_the_conditional_variance_has_its_closed_form() -> None:
    data = RainData(storms=60, steps=1, size=16, fine_length=0.0, half_rate=0.0, smooth=False)
    context = data.examples("train", 20).context
    members = data.members(context, 300)
    exact = data.conditional_variance(context)
    assert float(exact.sum()) > 0
    assert float(members.var(0).sum() / exact.sum()) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(members.mean(0).sum(), context.sum(), rtol=1e-3, atol=0)
    assert not exact[context[:, :1] == 0].any()


def test_storms_move_and_are_independent() -> None:
    """The fine field of the next hour is like this hour's, moved by the velocity; another storm's is not."""
    data = RainData(storms=60, steps=2, size=32, velocity=(3, -2), memory=0.9)
    _, x = data._drawn()
    first, second = np.log1p(x[0::2]), np.log1p(x[1::2])

    def alike(shift: tuple[int, int], other: np.ndarray) -> float:
        moved = np.roll(first, shift, (1, 2))[:, 8:-8, 8:-8]
        return float(np.corrcoef(moved.ravel(), other[:, 8:-8, 8:-8].ravel())[0, 1])

    along = alike((3, -2), second)
    assert along > 0.5
    assert along > max(alike((0, 0), second), alike((-3, 2), second)) + 0.1
    assert abs(alike((3, -2), np.roll(second, 1, 0))) < 0.1


def test_splits_are_of_whole_storms() -> None:
    data = RainData(storms=20, steps=4, size=16)
    blocks = [{data.block(name, i) for i in range(len(getattr(data.splits, name)))} for name in ("train", "validation")]
    assert not blocks[0] & blocks[1]
    place = data.place("validation", 0)
    assert place.time // 4 == data.block("validation", 0)
    assert place.y.shape == place.x.shape == (16,)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 20}, "dataset.size=16"),
        ({"storms": 2}, "dataset.storms=4"),
        ({"memory": 1.0}, "dataset.memory"),
        ({"wet": 0.0}, "dataset.wet"),
        ({"fine_length": -1.0}, "lengths"),
    ],
)
def test_no_such_rain_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(Refused, match=words):
        RainData(**settings)
