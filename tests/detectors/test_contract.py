"""What every detector in conf/ owes, newcomers included."""

import inspect

import pytest
import torch
import yaml
from hydra.utils import get_class, instantiate
from planted import Planted, blind, collapsed, gaussian_data, informative, optimum, probe
from planted_text import blocks, copying, ignoring

from vaecollapse import config
from vaecollapse.batch import Batch
from vaecollapse.callbacks.monitor import all_detectors
from vaecollapse.detectors.base import Detector
from vaecollapse.elbo import Progress
from vaecollapse.evaluation import read
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.free_bits import FreeBits
from vaecollapse.vae import VAE

FILES = {path.stem: path for path in (config.folder() / "detector").glob("*.yaml") if path.stem != "all"}
NAMES = sorted(FILES)
PRICE = FreeBits(weight=Constant(value=1.0), floor=0.2)


def settings(name: str) -> dict:
    return yaml.safe_load(FILES[name].read_text())[name]


def build(name: str) -> Detector:
    return instantiate(settings(name))


def healthy(name: str, count: int = 600, block: int = 1000) -> tuple[VAE, list[Batch]]:
    """A live model, and data of the kind that the detector reads."""
    if build(name).of == "tokens":
        return copying(), blocks(count, min(block, count))
    return optimum(5, e=1.0), probe(gaussian_data(count), block=block)


def price(elbo):
    return PRICE(elbo, Progress(1, 1))


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_holds_the_classes_own_thresholds(name: str) -> None:
    """A monitor in somebody else's project, without conf/, decides by the same numbers."""
    given = {key: value for key, value in settings(name).items() if key != "_target_"}
    parameters = inspect.signature(get_class(settings(name)["_target_"]).__init__).parameters
    defaults = {key: p.default for key, p in parameters.items() if key not in ("self", "seed")}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()} == given


def test_the_monitor_uses_them_all() -> None:
    assert set(all_detectors()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_reads_what_the_whole_reads(name: str) -> None:
    """In blocks of the same examples: every state is a sum (a permutation stays within its block, so blocks agree)."""
    vae, parts = healthy(name, 600, 200)
    once, _ = read(vae, parts, {name: build(name)}, price)
    again, _ = read(vae, parts[::-1], {name: build(name)}, price)
    for key, finding in once.items():
        assert (again[key].value is None) == (finding.value is None), key
        assert finding.value is None or again[key].value == pytest.approx(finding.value, rel=1e-6), key


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_a_checkpoint(name: str) -> None:
    vae, parts = healthy(name, 200, 100)
    before, after = build(name), build(name)
    found, _ = read(vae, parts, {name: before}, price)
    assert found
    after.load_state_dict(before.state_dict())
    restored = {finding.name: finding.value for finding in after.findings()}
    assert restored == {key: finding.value for key, finding in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_reading_leaves_no_trace_in_the_model_or_the_random_state(name: str) -> None:
    vae = Planted(informative, blind).train()
    state = torch.get_rng_state()
    read(vae, probe(gaussian_data(100)), {name: build(name)}, price)
    assert vae.training and torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in vae.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_collapse_reads_otherwise_than_health(name: str) -> None:
    if build(name).of == "tokens":
        given = blocks()
        sick, well = (read(vae, given, {name: build(name)}, price)[0] for vae in (ignoring(given), copying()))
        assert [f.value for f in sick.values()] != [f.value for f in well.values()]
        return
    x = gaussian_data(600)
    sick, _ = read(Planted(collapsed, blind), probe(x), {name: build(name)}, price)
    well, _ = read(optimum(4, e=0.5), probe(x), {name: build(name)}, price)
    assert [f.value for f in sick.values()] != [f.value for f in well.values()]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_read_is_not_defined_and_raises_nothing(name: str) -> None:
    assert all(finding.value is None for finding in build(name).findings())
