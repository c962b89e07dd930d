"""Laws of division with gaps, and of what dependent values are worth."""

import numpy as np
import pytest

from vaecollapse.datasets.blocks import dealt, effective_size, separated
from vaecollapse.refusal import Refused

PLAN = dict(validation=0.2, test=0.1, seed=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("length", "gap"), [(36, 5), (36, 0), (80, 1), (1000, 5), (5000, 30)])
def test_no_two_splits_are_nearer_than_the_gap(length: int, gap: int, seed: int) -> None:
    split = dealt(np.ones(length), gap=gap, least=1, **{**PLAN, "seed": seed}).split
    for one, other in ((0, 1), (0, 2), (1, 2)):
        apart = np.abs(np.flatnonzero(split == one)[:, None] - np.flatnonzero(split == other))
        assert apart.min() > gap
    shares = [(split == each).mean() for each in range(3)]
    assert shares[1:] == pytest.approx([0.2, 0.1], abs=0.06)
    assert shares[0] >= 0.65 - max(2 * gap / length, 0.25)


def test_runs_hold_shares_of_what_can_be_used() -> None:
    weights = np.zeros(24)
    weights[12:22] = 100.0
    split = dealt(weights, gap=0, least=4, **PLAN).split
    assert [weights[split == each].sum() for each in range(3)] == [700, 200, 100]


@pytest.mark.parametrize("seed", range(3))
def test_years_stay_whole_but_for_the_gap(seed: int) -> None:
    years = np.repeat(np.arange(1990, 2020), 365)
    found = separated(years, gap=5, **{**PLAN, "seed": seed})
    for year in range(30):
        kept = found.split[found.block == year]
        assert len(np.unique(kept[kept >= 0])) == 1
        assert (kept >= 0).sum() >= 355
    with pytest.raises(Refused, match="2 years"):
        separated(years[:730], gap=5, **PLAN)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_a_first_order_process_is_worth_what_theory_says(rho: float) -> None:
    """n (1 − ρ)/(1 + ρ) moments (Bayley & Hammersley 1946), and as many places as are independent."""
    noise = np.random.default_rng(0).standard_normal((6000, 6))
    for step in range(1, len(noise)):
        noise[step] = rho * noise[step - 1] + np.sqrt(1 - rho**2) * noise[step]
    found = effective_size(noise)
    assert found.moments == pytest.approx(6000 * (1 - rho) / (1 + rho), rel=0.12)
    assert found.places == pytest.approx(6, rel=0.15)
    assert effective_size(noise.repeat(5, 1)).places == pytest.approx(found.places, rel=0.02)
    assert effective_size(noise.repeat(3, 0)).moments == pytest.approx(found.moments, rel=0.25)
