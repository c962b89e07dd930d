"""When a value of z that falls is an alarm, and when it is noise, a price that rises or one accident of training."""

import math

import pytest
import torch

from vaecollapse.callbacks.trend import ERROR, FADED, Row, fading, has_fallen, unsettled


@pytest.mark.parametrize(
    ("rows", "moved"),
    [
        ([(0.85, 1.0, 5.0, 0.01, 0.08), (1.0, 2.0, 5.0, 0.01, 0.08)], 0.46),  # the gap doubled
        ([(0.8, 1.0, 5.0, 0.5, 0.08), (1.0, 1.9, 5.0, 0.5, 0.08)], 0.0),  # within the noise
        ([(0.5, 1.0, 4.0, 0.0, 0.08), (0.9, 1.0, 8.0, 0.0, 0.08)], 0.244),  # twice a fifth apart: half of the movement
        ([(0.8, -0.01, 0.02, 0.0, 0.08), (1.0, 0.01, 0.01, 0.0, 0.08)], 0.0),  # too small to matter
        ([(1.0, 1.0, 1.0, 0.0, 0.08)], None),
    ],
)
def test_what_still_moves_at_the_end_is_measured_in_what_matters(rows: list, moved: float | None) -> None:
    assert unsettled([Row(*row) for row in rows]) == (None if moved is None else pytest.approx(moved, abs=0.005))


ROWS = [Row(0.1 * k, gap, 5.0, 0.2, 0.1) for k, gap in enumerate((4.0, 8.0, 7.0, 7.4, 4.0, 3.5))]


@pytest.mark.parametrize(
    ("rows", "settled_at", "sounds"),
    [
        (ROWS, 0.15, True),
        (ROWS, 0.25, False),  # while the price rose it paid, and one reading before the fall is no level
        (ROWS, None, False),
        (ROWS[:-1], 0.15, False),  # one low reading
        ([*ROWS[:-1], ROWS[3]], 0.15, False),  # it came back
        ([row._replace(se=2.0) for row in ROWS], 0.15, False),  # the fall is noise
        ([row._replace(gap=row.gap / 100, se=0.0) for row in ROWS], 0.15, False),  # it was never worth anything
        ([ROWS[0]._replace(gap=20.0), *(row._replace(gap=8.0) for row in ROWS[1:])], 0.0, True),
        ([ROWS[0]._replace(gap=13.0), *(row._replace(gap=8.0) for row in ROWS[1:])], 0.0, False),  # one high reading
    ],
)
def test_a_value_of_z_that_falls_at_a_settled_price_is_fading(rows, settled_at, sounds: bool) -> None:
    assert fading(rows, settled_at) == sounds


def test_a_low_reading_asks_for_another_and_two_are_an_alarm() -> None:
    assert [has_fallen(ROWS[:n], 0.15) for n in range(1, 7)] == [False] * 4 + [True, True]
    assert [fading(ROWS[:n], 0.15) for n in range(1, 7)] == [False] * 5 + [True]


@pytest.mark.parametrize("readings", [30, 300])
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_of_runs_whose_readings_only_scatter_at_most_one_in_twenty_sounds(share: float, readings: int) -> None:
    """However many readings there are."""
    torch.manual_seed(0)
    runs, heard = 600, 0
    for _ in range(runs):
        gaps = (5.0 * (1 + share * torch.randn(readings))).tolist()
        rows = [Row(k / readings, gap, 5.0, 5.0 * share, 0.1) for k, gap in enumerate(gaps)]
        lowest = sorted(range(5, readings + 1), key=lambda n: sum(gaps[n - 2 : n]))[:8]  # none beside these can sound
        heard += any(fading(rows[:n], 0.0) for n in lowest)
    assert heard <= 0.05 * runs
    assert heard <= ERROR * (1 + math.log(readings)) * runs


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_whatever_falls_for_good_is_told_at_the_second_reading_below_three_quarters(rate: float) -> None:
    rows = [Row(0.001 * k, 5.0 * (1 - rate) ** max(0, k - 3), 5.0, 0.01, 0.1) for k in range(60)]
    low = next(k for k, row in enumerate(rows) if row.gap < FADED * 5.0)
    assert next(n - 1 for n in range(1, 61) if fading(rows[:n], 0.0)) == low + 1
