"""What every regularizer and coefficient in conf/ owes, newcomers included."""

import functools
import inspect
from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.distributions import Independent, Normal

from vaecollapse import config
from vaecollapse.distributions.posteriors import FlowPosterior
from vaecollapse.distributions.priors import FlowPrior
from vaecollapse.elbo import ELBO, Progress, closed_form_kl, pieces
from vaecollapse.regularizers import coefficients
from vaecollapse.regularizers.base import Regularizer, Weighted
from vaecollapse.regularizers.coefficients import Coefficient

CONF = config.folder()
REGULARIZERS = sorted(path.stem for path in (CONF / "regularizer").glob("*.yaml"))
COEFFICIENTS = sorted(path.stem for path in (CONF / "coefficient").glob("*.yaml"))
NEEDS = {"geco": ["regularizer.kappa=3.0"]}
# GECO finds its price by itself, and two targets are one too many
ALONE = [("geco", None), ("target_rate", "pid"), ("kl_capacity", "pid")]
PAIRS = [
    (regularizer, coefficient)
    for regularizer in REGULARIZERS
    for coefficient in COEFFICIENTS
    if not {(regularizer, None), (regularizer, coefficient)} & {*ALONE}
] + [("geco", None)]


@functools.cache
def chosen(*overrides: str) -> dict:
    return OmegaConf.to_container(config.compose(["model=linear", *overrides]).regularizer, resolve=True)


def composed(regularizer: str, coefficient: str | None = None) -> DictConfig:
    """One regularizer of conf/ and one coefficient; put together here, since each composition takes half a second."""
    node = deepcopy(chosen(f"regularizer={regularizer}", *NEEDS.get(regularizer, [])))
    if coefficient:
        plans = "callback=[stages,pretrain_reset]"  # which the coefficients of their names follow
        node["weight"] = chosen("regularizer=beta", plans, f"coefficient@regularizer.weight={coefficient}")["weight"]
    return OmegaConf.create(node)


def build(regularizer: str, coefficient: str | None = None) -> Regularizer:
    return instantiate(composed(regularizer, coefficient))


def vectors(parameters: torch.Tensor) -> ELBO:
    mean, log_scale = parameters.chunk(2, 1)
    return priced(mean.square().sum(1), mean, log_scale.exp(), torch.zeros(4))


def maps(parameters: torch.Tensor) -> ELBO:
    """Four units as a (2, 2) latent under a prior of each example's own."""
    mean, log_scale = parameters.unflatten(1, (2, 2, 2)).unbind(1)
    return priced(mean.square().sum((1, 2)), mean, log_scale.exp(), 0.1 * torch.ones_like(mean))


def priced(distortion: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, centre: torch.Tensor) -> ELBO:
    event = mean.ndim - 1
    q, p = Independent(Normal(mean, scale), event), Independent(Normal(centre, torch.ones_like(centre)), event)
    kl = closed_form_kl(q, p)
    assert kl is not None
    return ELBO(distortion, kl, mean + scale, q, p)


@functools.cache
def flow_heads() -> tuple[FlowPosterior, FlowPrior]:
    return FlowPosterior(features=8, units=4, hidden=(8,)), FlowPrior(units=4, hidden=(8,), kind="realnvp")


def flows(parameters: torch.Tensor) -> ELBO:
    """A flow posterior and a flow prior: one noisy KL per example."""
    q, p = (part(*given) for part, given in zip(flow_heads(), ((parameters,), ()), strict=True))
    z, kl = pieces(q, p)
    return ELBO(z.square().sum(1), kl, z, q, p)


PRICED = [(*pair, vectors) for pair in PAIRS] + [
    (name, None, latent) for name in REGULARIZERS for latent in (maps, flows)
]


@pytest.mark.parametrize(("regularizer", "coefficient", "latent"), PRICED)
def test_finite_with_gradients_at_every_point_of_training(
    regularizer: str, coefficient: str | None, latent: Callable
) -> None:
    built = build(regularizer, coefficient)
    for step in (0, 1, 50, 100):
        parameters = torch.randn(16, 8, requires_grad=True)
        elbo, progress = latent(parameters), Progress(step, 100, step // 10)
        objective = built(elbo, progress)
        objective.loss.backward()
        built.observe(elbo.distortion.mean().detach(), elbo.rate.mean().detach(), progress)
        assert torch.isfinite(objective.loss) and torch.isfinite(parameters.grad).all()
        declared = [] if objective.declared is None else [objective.declared]
        assert all(part.shape == () for part in (objective.loss, objective.penalty, *declared))


@pytest.mark.parametrize(("regularizer", "coefficient", "latent"), PRICED)
def test_evaluation_moves_nothing_and_repeats_itself(
    regularizer: str, coefficient: str | None, latent: Callable
) -> None:
    built, elbo = build(regularizer, coefficient).eval(), latent(torch.randn(16, 8))
    before = {name: value.clone() for name, value in built.state_dict().items()}
    random = torch.get_rng_state()
    first, second = (built(elbo, Progress(7, 10)).loss for _ in range(2))
    assert torch.equal(first, second) and torch.equal(random, torch.get_rng_state())
    after = built.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("regularizer", "coefficient"), PAIRS)
def test_what_was_observed_survives_a_checkpoint_and_goes_on_alike(regularizer: str, coefficient: str | None) -> None:
    built, twin = build(regularizer, coefficient), build(regularizer, coefficient)
    elbo = vectors(torch.randn(16, 8))

    def told(own: Regularizer, steps: range) -> list[float]:
        prices = []
        for step in steps:
            progress = Progress(step, 40, 0, step % 2, 2)
            own.observe(torch.tensor(5.0 + step % 3), torch.tensor(9.0 - step % 5), progress)
            torch.manual_seed(step)
            prices.append(float(own(elbo, progress).loss.detach()))
        return prices

    told(built, range(20))
    twin.load_state_dict(built.state_dict())
    assert told(twin, range(20, 40)) == told(built, range(20, 40))
    fresh = build(regularizer, coefficient)
    assert built.listens == (told(fresh, range(20, 40)) != told(build(regularizer, coefficient), range(40))[20:])


@pytest.mark.parametrize(("regularizer", "coefficient"), PAIRS)
def test_the_applied_weight_is_the_price_of_a_nat_in_units_of_the_distortion(
    regularizer: str, coefficient: str | None
) -> None:
    """weight = (∂loss/∂KL)/(∂loss/∂D), mean over units and examples, whatever the form."""
    built, elbo = build(regularizer, coefficient), vectors(torch.randn(16, 8))
    for _ in range(3):
        built.observe(torch.tensor(8.0), torch.tensor(40.0), Progress(1, 1))
    parts = elbo.kl.clone().requires_grad_(), elbo.distortion.clone().requires_grad_()
    objective = built(elbo._replace(kl=parts[0], distortion=parts[1]), Progress(1, 1))
    of_kl, of_distortion = torch.autograd.grad(objective.loss, parts)
    torch.testing.assert_close(of_kl.sum(0).mean() / of_distortion.sum(), objective.weight.mean())


def test_each_class_is_the_target_of_a_yaml_and_each_yaml_names_a_class_of_the_package() -> None:
    import vaecollapse.regularizers as package

    def defined(module: object, kind: type) -> set[str]:
        own = [each for _, each in inspect.getmembers(module, inspect.isclass) if issubclass(each, kind)]
        return {f"{each.__module__}.{each.__name__}" for each in own if not inspect.isabstract(each)}

    modules = [import_module(f"{package.__name__}.{path.stem}") for path in Path(package.__path__[0]).glob("*.py")]
    for group, names, classes in (
        ("regularizer", REGULARIZERS, set().union(*(defined(module, Regularizer) for module in modules))),
        ("coefficient", COEFFICIENTS, defined(coefficients, Coefficient)),
    ):
        assert {OmegaConf.load(CONF / group / f"{name}.yaml")["_target_"] for name in names} == classes


def answers(node: DictConfig, key: str, value: float | str) -> list[float]:
    """What a regularizer with this key charges over a training whose D and R end beyond all bounds."""
    node = deepcopy(node)
    OmegaConf.update(node, key, value)
    built, charged = instantiate(node), []
    told = [
        (4.0, 2.0),
        (3.5, 9.0),
        (2.0, 7.0),
        (4.0, 1.0),
        (-1e4, 4e3),
        (-1e4, 4e3),
        (-1e4, 4e3),
        (1e9, 4e3),
        (1e9, 0.0),
    ]
    for step, (distortion, rate) in zip((0, 2, 4, 7, 15, 40, 70, 90, 100), told, strict=True):
        torch.manual_seed(step)
        mean, log_scale = torch.randn(2, 16, 4) * torch.tensor([0.01, 0.1, 1.0, 1.0])  # a unit below any floor
        charged.append(float(built(vectors(torch.cat([mean, log_scale], 1)), Progress(step, 100)).loss))
        for _ in range(800 if abs(distortion) > 1e3 else 1):  # what moves a little a step, to its bounds
            built.observe(torch.tensor(distortion), torch.tensor(rate), Progress(step, 100))
    charged.append(float(built(vectors(torch.ones(16, 8)), Progress(100, 100)).loss))
    return charged


def numbers(node: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        if isinstance(value, DictConfig):
            found += numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(f"{prefix}{key}")
    return found


@pytest.mark.parametrize(("regularizer", "coefficient"), PAIRS)
def test_every_number_in_the_yaml_does_something(regularizer: str, coefficient: str | None) -> None:
    """The free-bits floor, the ramps and the bounds of controllers too: another number, another training."""
    node = composed(regularizer, coefficient)
    if "ramp" in node and coefficient in ("staged", "pretrain_reset"):
        node.ramp = 0.9  # a shorter one is over while the first stage charges nothing
    for key in numbers(node):
        value = OmegaConf.select(node, key)
        other = value + 1 if isinstance(value, int) else value * 0.7 + 0.01
        assert answers(node, key, value) != answers(node, key, other), key


@pytest.mark.parametrize(("regularizer", "coefficient"), PAIRS)
def test_a_fixed_price_is_known_before_training_and_one_that_is_found_is_not(
    regularizer: str, coefficient: str | None
) -> None:
    built = build(regularizer, coefficient)
    known = built.end_weight(asked=True)
    charged = built.eval()(vectors(torch.full((16, 8), 3.0)), Progress(1, 1)).declared
    assert (known is None) == (built.listens or charged is None)
    if known is not None:
        assert charged is not None and float(charged) == pytest.approx(known) == pytest.approx(built.end_weight())


@pytest.mark.parametrize(("regularizer", "coefficient"), PAIRS)
def test_a_moved_weight_moves_the_end_and_not_what_checkpoints_are_compared_by(
    regularizer: str, coefficient: str | None
) -> None:
    built = build(regularizer, coefficient)
    if not isinstance(built, Weighted):
        pytest.skip("it has no weight that could be moved")
    asked, compared = built.end_weight(asked=True), built.compared(3.0, 7.0)
    built.weight.value = 0.125
    assert built.end_weight(asked=True) == asked and built.compared(3.0, 7.0) == compared
    if asked:
        assert built.end_weight() == pytest.approx(asked * 0.125)
