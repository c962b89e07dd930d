"""What every regularizer and coefficient in conf/ owes, newcomers included."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.distributions import Independent, Normal

from vaecollapse import config
from vaecollapse.elbo import ELBO, Progress, closed_form_kl
from vaecollapse.regularizers.base import Regularizer

CONF = config.folder()
REGULARIZERS = sorted(path.stem for path in (CONF / "regularizer").glob("*.yaml"))
COEFFICIENTS = sorted(path.stem for path in (CONF / "coefficient").glob("*.yaml"))


def build(regularizer: str, coefficient: str = "linear") -> Regularizer:
    cfg = config.compose(
        [
            "model=linear",
            f"regularizer={regularizer}",
            "callback=[stages,pretrain_reset]",  # whose plans the coefficients of their names follow
            f"coefficient@regularizer.weight={coefficient}",
        ]
    )
    return instantiate(cfg.regularizer)


def bound(parameters: torch.Tensor) -> ELBO:
    mean, log_scale = parameters.chunk(2, 1)
    q, p = (Independent(Normal(m, s), 1) for m, s in ((mean, log_scale.exp()), (torch.zeros(4), torch.ones(4))))
    kl = closed_form_kl(q, p)
    assert kl is not None
    return ELBO(mean.square().sum(1), kl, mean, q, p)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_finite_with_gradients_at_every_point_of_training(regularizer: str, coefficient: str) -> None:
    built = build(regularizer, coefficient)
    for step in (0, 1, 50, 100):
        parameters = torch.randn(16, 8, requires_grad=True)
        objective = built(bound(parameters), Progress(step, 100, step // 10))
        objective.loss.backward()
        assert torch.isfinite(objective.loss) and torch.isfinite(parameters.grad).all()
        assert objective.loss.shape == objective.declared.shape == objective.penalty.shape == ()


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_evaluation_moves_nothing_and_state_survives(regularizer: str) -> None:
    built = build(regularizer)
    parameters = torch.randn(16, 8)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    built.eval()(bound(parameters), Progress(7, 10))
    after = built.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    twin = build(regularizer)
    twin.load_state_dict(after)
    assert torch.equal(twin(bound(parameters), Progress(7, 10)).loss, built(bound(parameters), Progress(7, 10)).loss)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_the_applied_weight_is_the_gradient_that_acts(regularizer: str) -> None:
    """weight = d loss / d KL, mean over units and examples, whatever the form."""
    built = build(regularizer, "constant")
    elbo = bound(torch.randn(16, 8))
    kl = elbo.kl.clone().requires_grad_()
    objective = built(elbo._replace(kl=kl), Progress(1, 1))
    (gradient,) = torch.autograd.grad(objective.loss, kl)
    torch.testing.assert_close(gradient.sum(0).mean(), objective.weight.mean())


def test_each_class_has_a_yaml_and_each_yaml_a_class() -> None:
    import vaecollapse.regularizers as package

    modules = {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__", "base", "coefficients"}
    assert modules == set(REGULARIZERS)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_every_number_in_the_yaml_does_something(regularizer: str) -> None:
    cfg = config.compose(["model=linear", f"regularizer={regularizer}"]).regularizer
    elbo, progress = bound(torch.randn(16, 8)), Progress(90, 100)
    before = instantiate(cfg)(elbo, progress).loss
    for key in (key for key, value in cfg.items() if isinstance(value, int | float) and not isinstance(value, bool)):
        changed = OmegaConf.merge(cfg, {key: float(cfg[key]) + 5.0})
        assert not torch.equal(instantiate(changed)(elbo, progress).loss, before), key
