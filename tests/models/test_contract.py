"""What every model in conf/ owes, with every posterior and prior it can have; newcomers included."""

import functools
import itertools
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vaecollapse import config
from vaecollapse.batch import Batch
from vaecollapse.datasets.base import VAEData
from vaecollapse.elbo import gaussian
from vaecollapse.refusal import Refused
from vaecollapse.tasks.building import build_model
from vaecollapse.vae import VAE

GROUPS = config.options([config.folder()])
MODELS = [name for name in GROUPS["model"] if name not in ("custom", "latent_prior")]  # codes have no latent
# fewer and shorter examples, and narrower text, than the defaults; a newcomer's dataset may stay as it is
SMALL = {
    "DrumsData": {"clips": 60, "seconds": 0.25},
    "GaussianData": {"examples": 64},
    "ArithmeticData": {"numbers": 5},
    "RainData": {"storms": 32, "steps": 2, "size": 16},
}
NARROW = {
    "precip_cvae": ["latent_dim=4", "capacity=2"],
    "text_tokens": ["latent_dim=4", "capacity=2"],
    "text_lstm": ["latent_dim=4", "capacity=2"],
}
COUNT = 8


def combinations() -> Iterator[tuple[str, str, str]]:
    """Every model as it comes, and with all options of the groups that its yaml reads (once for models that differ in
    their defaults alone)."""
    seen = []
    for name in MODELS:
        yield name, "", ""
        node = yaml.safe_load((config.folder() / "model" / f"{name}.yaml").read_text("utf-8"))["model"]
        reads = [f"${{{group}}}" in node.values() for group in ("posterior", "prior")]
        if node not in seen and any(reads):
            seen.append(node)
            yield from itertools.product(
                [name], GROUPS["posterior"] if reads[0] else [""], GROUPS["prior"] if reads[1] else [""]
            )


walk = pytest.mark.parametrize(("name", "posterior", "prior"), list(combinations()))


@functools.cache
def parts_of(name: str, *chosen: str) -> dict[str, Any]:
    cfg = config.compose([f"model={name}", *chosen, *NARROW.get(name, [])])
    return {part: OmegaConf.to_container(cfg[part], resolve=True) for part in ("model", "dataset", "trainer")}


@functools.cache
def composed(name: str, posterior: str = "", prior: str = "") -> dict[str, Any]:
    """A model reads the two heads independently, so each is composed once and not each pair: a half second each."""
    heads = {"posterior": posterior, "prior": prior}
    each = {group: parts_of(name, f"{group}={option}")["model"][group] for group, option in heads.items() if option}
    plain = parts_of(name)
    return plain | {"model": plain["model"] | each}


@functools.cache
def data_of(name: str) -> VAEData:
    node = composed(name)["dataset"]
    data = instantiate(node | SMALL.get(node["_target_"].rpartition(".")[2], {}) | {"batch_size": COUNT})
    data.setup()
    return data


def build(parts: dict[str, Any], data: VAEData, seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    vae = build_model(OmegaConf.create({"model": parts["model"]}), data)
    return vae.double() if str(parts["trainer"]["precision"]).startswith("64") else vae


def made(name: str, posterior: str = "", prior: str = "", seed: int = 0) -> tuple[VAE, Batch]:
    """The model as training would start it, and validation examples."""
    vae, data = build(composed(name, posterior, prior), data_of(name), seed), data_of(name)
    first, batch = (data.examples(split, COUNT).like(vae) for split in ("train", "validation"))
    vae.calibrate(first)
    return vae, batch


@walk
def test_the_bound_is_finite_and_its_gradient_reaches_every_parameter(name, posterior, prior) -> None:
    vae, batch = made(name, posterior, prior)
    elbo = vae.elbo(batch)
    (elbo.distortion + elbo.rate).mean().backward()
    assert elbo.distortion.isfinite().all()
    assert elbo.kl.isfinite().all()
    silent = [key for key, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


@walk
def test_the_kl_is_per_unit_exactly_where_both_are_gaussian(name, posterior, prior) -> None:
    vae, batch = made(name, posterior, prior)
    elbo = vae.elbo(batch, seed=0)
    unit = tuple(elbo.posterior.event_shape)
    assert tuple(elbo.prior.event_shape) == unit
    assert tuple(elbo.z.shape) == (COUNT, *unit)
    factorised = gaussian(elbo.posterior) is not None and gaussian(elbo.prior) is not None
    assert tuple(elbo.kl.shape) == ((COUNT, *unit) if factorised else (COUNT,))
    heads = [composed(name, posterior, prior)["model"].get(part, {}) for part in ("posterior", "prior")]
    assert factorised == ("kind" not in heads[0] and "kind" not in heads[1]), "a flow has a kind"
    if factorised:
        assert (elbo.kl >= 0).all()


@walk
def test_a_checkpoint_carries_the_whole_model(name, posterior, prior) -> None:
    """Calibrated constants included: another start, loaded, gives the same bound to the last bit."""
    vae, batch = made(name, posterior, prior)
    other = build(composed(name, posterior, prior), data_of(name), seed=1)
    before = other.eval().elbo(batch, seed=3)
    other.load_state_dict(vae.state_dict())
    after, expected = other.elbo(batch, seed=3), vae.eval().elbo(batch, seed=3)
    assert torch.equal(after.distortion, expected.distortion)
    assert torch.equal(after.kl, expected.kl)
    assert not torch.equal(before.distortion, expected.distortion)


@walk
def test_a_keyed_bound_depends_on_the_example_and_nothing_else(name, posterior, prior) -> None:
    """Not on the other examples, their order, the random state, or how often it was read."""
    vae, batch = made(name, posterior, prior)
    vae.eval()
    state, weights = torch.get_rng_state(), deepcopy(vae.state_dict())
    with torch.no_grad():
        whole, again = vae.elbo(batch, seed=1), vae.elbo(batch, seed=1)
        back = vae.elbo(batch.part(torch.arange(COUNT).flip(0)), seed=1)
        halves = [vae.elbo(batch.part(rows), seed=1) for rows in (slice(0, 3), slice(3, COUNT))]
        later, other = vae.elbo(batch, seed=1, epoch=1), vae.elbo(batch, seed=2)
    for part in ("distortion", "kl", "z"):
        expected = getattr(whole, part)
        assert torch.equal(getattr(again, part), expected)
        joined = torch.cat([getattr(half, part) for half in halves])
        torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(getattr(back, part).flip(0), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(later.z, whole.z)
    assert not torch.equal(other.z, whole.z)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in vae.state_dict().items())


# ---- no knob of a model is dead


@functools.cache
def words() -> dict[str, set[str]]:
    """The words each knob can be, as the comments of the yaml files list them: `pool: …  # flatten | mean`."""
    found: dict[str, set[str]] = {"kind": {"maf", "nsf", "realnvp", "iaf", "mixture"}}  # one yaml each
    for group in ("model", "posterior", "prior", "likelihood"):
        for file in (config.folder() / group).glob("*.yaml"):
            for key, comment in re.findall(r"^ *(\w+): [^#\n]+#(.*)$", file.read_text("utf-8"), re.M):
                listed = re.search(r"\w+(?: \| \w+)+", re.sub(r" \([^)]*\)", "", comment))
                found.setdefault(key, set()).update(listed[0].split(" | ") if listed else ())
    return found


def leaves(node: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        elif not key.startswith("_"):
            yield (*path, key)


def at(model: dict, path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda part, key: part[key], path, model)


def alternatives(key: str, value: Any) -> list[Any]:
    """Other values a knob could have."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(1, value // 2), max(1, value // 16)]
    if isinstance(value, float):
        return [value / 2 if value else 1.0, value * 2 if value else 0.5]
    if isinstance(value, list):
        return [value[:-1], [each * 2 for each in value]]
    return sorted(words().get(key, set()) - {value})


def reading(name: str, model: dict) -> tuple[list, list[torch.Tensor]]:
    """Shapes of all parameters, and the bound in evaluation and while training; a knob that moves neither does
    nothing."""
    vae = build(composed(name) | {"model": model}, data_of(name))
    batch = data_of(name).examples("train", COUNT).like(vae)
    vae.calibrate(batch)
    torch.manual_seed(0)
    trained, evaluated = vae.elbo(batch, seed=0), vae.eval().elbo(batch, seed=0)
    bounds = [part.detach() for elbo in (trained, evaluated) for part in (elbo.distortion, elbo.kl)]
    return [(key, p.shape) for key, p in vae.named_parameters()], bounds


def set_to(model: dict, path: tuple[str, ...], value: Any) -> dict:
    changed = deepcopy(model)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def acts(name: str, model: dict, path: tuple[str, ...]) -> bool:
    """Does some other value of the knob give another model?"""
    try:
        shapes, bound = reading(name, model)
    except (Refused, InstantiationException):
        return False
    for value in alternatives(path[-1], at(model, path)):
        try:
            new_shapes, new_bound = reading(name, set_to(model, path, value))
        except (Refused, InstantiationException):
            continue
        if shapes != new_shapes or not all(torch.equal(a, b) for a, b in zip(bound, new_bound, strict=True)):
            return True
    return False


def beside(model: dict, path: tuple[str, ...]) -> Iterator[dict]:
    """The model as it is, then with a neighbour of the knob changed: some knobs are read with one value of another."""
    yield model
    for other in leaves(at(model, path[:-1]), path[:-1]):
        if other != path:
            yield from (set_to(model, other, value) for value in alternatives(other[-1], at(model, other)))


@pytest.mark.parametrize("name", MODELS)
def test_every_knob_of_the_yaml_changes_the_model_or_its_bound(name) -> None:
    model = composed(name)["model"]
    for path in leaves(model):
        knob = f"model.{'.'.join(path)}={at(model, path)}"
        assert alternatives(path[-1], at(model, path)), f"{knob}: what else can it be? (a | b in the yaml's comment)"
        assert any(acts(name, each, path) for each in beside(model, path)), f"{knob} changes nothing"
