"""Pictures of an ensemble: what is drawn is what was measured."""

import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from planted_rain import rain

from vaecollapse.ensembles import charts, pictures
from vaecollapse.metrics.fields import Fields
from vaecollapse.metrics.rank_histogram import RankHistogram
from vaecollapse.metrics.spectrum import SpectrumDistance
from vaecollapse.pictures import SIDE

HEIGHT, BASE = charts.HEIGHT - charts.TOP - charts.BOTTOM, charts.HEIGHT - charts.BOTTOM


class Planted:
    """An ensemble whose members are their mean and `spread` times what is their own."""

    def __init__(self, count: int = 8, times: int = 12, spread: float = 1.0) -> None:
        fields = rain(count + 1, times, size=8, seed=1)
        self.truth, mean = fields[0], fields[1:].mean(0)
        self.members, self.count = mean + spread * (fields[1:] - mean), count

    def parts(self, times: int = 64) -> Any:
        yield Fields(self.truth[:times], block=torch.arange(len(self.truth))[:times] // 3), self.members[:, :times]


def bar_heights(svg: str) -> list[float]:
    return [float(each) for each in re.findall(r'<rect [^>]*height="([\d.]+)"', svg)]


def lines_of(svg: str) -> list[np.ndarray]:
    """The points of each line, y upward."""
    found = re.findall(r'<polyline points="([^"]*)"', svg)
    return [np.array([[float(x), BASE - float(y)] for x, y in (p.split(",") for p in each.split())]) for each in found]


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    found = {"ranks": RankHistogram(), "spectrum": SpectrumDistance()}
    for real, members in Planted().parts():
        for metric in found.values():
            metric.update(real, members)
    return found


def test_bars_are_as_high_as_their_shares_and_nothing_is_drawn_of_what_was_not_asked(metrics) -> None:
    histogram, spectra = pictures.of_metrics(metrics)
    heights = np.array(bar_heights(histogram.content.decode()))
    assert heights / heights.sum() == pytest.approx(metrics["ranks"].histogram().numpy(), abs=2e-3)
    made, true = lines_of(spectra.content.decode())
    decibels = metrics["spectrum"].decibels(metrics["spectrum"].by_block()[1].sum(0)).numpy()
    apart = made[:, 1] - true[:, 1]
    assert np.corrcoef(apart, decibels)[0, 1] > 0.999
    assert pictures.of_metrics({}) == [] == pictures.of_metrics({"ranks": RankHistogram()})


def test_a_map_has_a_column_for_each_thing_and_is_dark_where_it_is_dry() -> None:
    source = Planted()
    source.truth[:, :, :4] = 0
    (found,) = pictures.maps(source, coarse=lambda index: source.truth[index])
    picture = np.asarray(Image.open(io.BytesIO(found.content)))
    side = 8 * -(-SIDE // 8)
    assert picture.shape == (
        pictures.STRIP + 3 * (side + 4) - 4,
        10 * (side + 4) - 4,
        3,
    )  # coarse, truth, 6, mean, spread
    truth = picture[pictures.STRIP :, side + 4 : 2 * side + 4]
    assert truth[:side, : side // 2].max() <= 4 < truth[:side, side // 2 :].max()


def test_the_line_of_squares_is_met_by_members_that_spread_as_z_does() -> None:
    (found,) = pictures.of_temperatures(lambda mode, t: Planted(spread=0.002 * t * (2 if mode == "prior" else 1)))
    prior, posterior, squares = lines_of(found.content.decode())
    assert prior == pytest.approx(squares, abs=2)  # pixels
    assert (prior[:, 1] > posterior[:, 1]).all()
    (none,) = pictures.of_temperatures(lambda mode, t: Planted(spread=0.0))
    assert b"nan" not in none.content


def test_the_folder_lists_what_it_holds_in_order(tmp_path: Path, metrics) -> None:
    found = [*pictures.maps(Planted()), *pictures.of_metrics(metrics)]
    pictures.write(tmp_path / "pictures", found)
    listed = json.loads((tmp_path / "pictures" / "pictures.json").read_text("utf-8"))
    assert [each["file"] for each in listed] == ["maps.png", "rank_histogram.svg", "spectra.svg"]
    assert all(set(each) == {"file", "title", "caption"} and all(each.values()) for each in listed)
    assert {each.name for each in (tmp_path / "pictures").iterdir()} == {"pictures.json", *(e["file"] for e in listed)}
    for name in ("rank_histogram.svg", "spectra.svg"):
        text = (tmp_path / "pictures" / name).read_text("utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg") and "currentColor" in text
    pictures.write(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()
