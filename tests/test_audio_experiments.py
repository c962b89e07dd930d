"""Three sweeps on recordings and what is drawn of them; benchmarks/audio_experiments.py runs them."""

import re
import sys
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import pytest

from vaecollapse import config
from vaecollapse.comparison import Trial
from vaecollapse.nn.audio import POOLS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import audio_experiments as bench
import audio_pictures as pictures

RECORDINGS = ["dataset=audio_folder", "dataset.root=recordings"]


def planted(seed: int = 0, verdict: str = "healthy", **readings: float) -> Trial:
    return Trial("planted", seed, verdict, readings, {})


@pytest.mark.parametrize("name", bench.EXPERIMENTS)
def test_every_run_of_a_sweep_composes_on_recordings_at_one_budget(name: str) -> None:
    jobs = bench.jobs_of(name, [0], "recordings", Path("x"))
    assert len({job.directory for job in jobs}) == len(jobs)
    found = [config.compose(list(job.overrides)) for job in jobs]
    assert all(cfg.dataset._target_.endswith("AudioFolderData") for cfg in found)
    assert len({(cfg.max_epochs, cfg.batch_size, cfg.lr, cfg.dataset.seconds, cfg.beta) for cfg in found}) == 1


def test_the_sweeps_have_the_rows_that_are_asked_for() -> None:
    assert [bench.named(row) for row in bench.rows("flows")] == ["none", "posterior", "prior", "both"]
    assert {bench.named(row) for row in bench.rows("pooling")} == set(POOLS)
    assert bench.named(bench.rows("pooling")[0]) == "mean", "the baseline"
    sizes = {key: len(values) for key, values in bench.sweep("capacity").items() if key != "seed"}
    assert sizes == {"capacity": 3, "latent_dim": 3, "warmup": 2}
    assert "rate" not in bench.READINGS, "flows are never compared by their KL"


def dots(svg: str, size: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(rf'<circle cx="(\S+)" cy="(\S+)" r="{size}" fill="#', svg)]


def straight(values: list[float], places: list[float]) -> bool:
    """Are distances drawn in proportion?"""
    steps = [(b - a) / (d - c) for (a, b), (c, d) in zip(pairwise(places), pairwise(values), strict=True)]
    return max(steps) - min(steps) < 0.02 * abs(steps[0])


def test_a_plane_is_drawn_to_scale_and_a_ring_lies_at_the_mean_of_its_seeds() -> None:
    values = [(10.0, 1.0), (30.0, 0.5), (80.0, 0.1)]
    svg = pictures.plane("", {"a": [planted(i, x=x, y=y) for i, (x, y) in enumerate(values)]}, ("x", "x"), ("y", "y"))
    found = dots(svg, "4")
    assert straight([x for x, _ in values], [x for x, _ in found])
    assert straight([y for _, y in values], [y for _, y in found])
    assert found[0][0] < found[2][0] and found[0][1] < found[2][1], "right is more, up is more"
    ((x, y),) = [(float(x), float(y)) for x, y in re.findall(r'cx="(\S+)" cy="(\S+)" r="9"', svg)]
    assert (x, y) == pytest.approx([sum(each) / 3 for each in zip(*found, strict=True)], abs=0.1)


def test_a_panel_starts_at_zero_and_its_bar_lies_at_the_mean() -> None:
    runs = {"mean": [planted(i, gap=g) for i, g in enumerate((1.0, 2.0, 6.0))], "flatten": [planted(0, gap=0.0)]}
    svg = pictures.panels("", runs, {"gap": "value of z"})
    found = [y for _, y in dots(svg, "5")]
    bars = [float(y) for y in re.findall(r"M\S+ (\S+)h36", svg)]
    assert bars == pytest.approx([sum(found[:3]) / 3, found[3]], abs=0.1)
    assert straight([0.0, 1.0, 2.0, 6.0], [found[3], *found[:3]])


def test_a_cell_of_a_map_has_its_own_verdict_and_numbers() -> None:
    plan = list(product((1, 2), (4, 16), (0.0, 0.5)))
    words = ["healthy", "posterior_collapse"]
    of = {(c, k, w): planted(verdict=words[(c + k + int(2 * w)) % 3 > 0], gap=c * k + w) for c, k, w in plan}
    runs = {f"capacity={c} latent_dim={k} warmup={w}": [of[c, k, w]] for c, k, w in plan}
    svg = pictures.maps("", runs, "capacity", "latent_dim", "warmup", {"gap": "z"})
    assert {each.verdict for each in of.values()} == set(words)
    cells = re.findall(r'<rect x="(\S+)" y="(\S+)" [^>]*><title>(\w+)</title></rect>\n.*\n<text[^>]*>z (\S+)<', svg)
    across, down = (sorted({float(cell[axis]) for cell in cells}) for axis in (0, 1))
    assert (len(across), len(down)) == (4, 2), "two maps of two columns and two rows"
    for (c, k, w), trial in of.items():
        at = (across[2 * int(2 * w) + (c == 2)], down[k == 16])
        ((verdict, gap),) = [(v, g) for x, y, v, g in cells if (float(x), float(y)) == at]
        assert (verdict, gap) == (trial.verdict, f"{trial.readings['gap']:.2g}")


@pytest.mark.parametrize("effect", [lambda c, k, w: 3.0 * (c == 4), lambda c, k, w: -2.0 * w + k], ids=["c", "w and k"])
def test_a_knob_s_contrast_is_its_own_effect_whatever_the_others_do(effect: Callable[..., float]) -> None:
    plan = list(product((1, 2, 4), (2, 8), (0.0, 0.5)))
    runs = {f"capacity={c} latent_dim={k} warmup={w}": [planted(gap=effect(c, k, w))] for c, k, w in plan}
    lines = bench.contrasts(runs, {"gap": "value of z"})[2:]
    found = {line.split("|")[1].split("=")[0].strip(): line.split("|")[3].strip(" *") for line in lines}
    assert {key: float(said.split()[0]) for key, said in found.items()} == {
        "capacity": effect(4, 2, 0) - effect(1, 2, 0),
        "latent_dim": effect(1, 8, 0) - effect(1, 2, 0),
        "warmup": effect(1, 2, 0.5) - effect(1, 2, 0),
    }
    assert all(said.endswith("± 0") for said in found.values())
