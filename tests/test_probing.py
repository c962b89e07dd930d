"""A probe names the planted cause, moves nothing of the model it forks from, and measures against a linear truth."""

import pytest
import torch
from causes import CAUSES, named, priced_out, probed
from planted import EIGENVALUES, gaussian_data, optimum, probe

from vaecollapse.batch import Batch
from vaecollapse.probing import decoding, linear_distortion


@pytest.mark.parametrize("cause", CAUSES)
def test_the_planted_cause_is_named(cause: str) -> None:
    """More seeds: benchmarks/probe.py."""
    assert named(cause, 0)


def test_the_forks_leave_the_model_as_it_was_and_say_what_moved(monkeypatch) -> None:
    vae, regularizer = priced_out(0)
    kept = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    monkeypatch.setitem(CAUSES, "price", lambda seed: (vae, regularizer))
    found, verdict = probed("price", 0)
    assert all(torch.equal(kept[name], tensor) for name, tensor in vae.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in vae.parameters())
    assert set(found.forks) == {"price", "encoder"}, "no floor to lift, nothing to weaken"
    assert found.forks["price"].better.value > 1
    assert any("without the KL's price" in said for said in verdict.findings)


def test_what_the_decoder_uses_is_found_by_its_gradient() -> None:
    vae = optimum(3, e=1.0)
    reached = decoding(vae, probe(gaussian_data(64))[0])
    names = {name for name, parameter in vae.named_parameters() if id(parameter) in reached}
    assert names == {"decoder.weight", "decoder.bias"}
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_the_linear_reference_is_what_principal_components_leave() -> None:
    """Exact-moment data: half the eigenvalues left out, beside the constant of a unit Gaussian."""
    x = gaussian_data(4000)
    each = linear_distortion(optimum(3, e=1.0), Batch(x), probe(x), 3)
    constant = len(EIGENVALUES) * 0.5 * float(torch.log(torch.tensor(2 * torch.pi)))
    assert float(each.mean()) - constant == pytest.approx(sum(EIGENVALUES[3:]) / 2, rel=0.1)
