"""What the tests' own decorator must still catch: it stands in for jaxtyping's in every other test."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from jaxtyping import Float, TypeCheckError
from shapes import check, lean
from torch import Tensor

from vaecollapse.elbo import gaussian
from vaecollapse.tasks.building import build_model
from vaecollapse.vae import VAE

checked = lean(typechecker=check)


@checked
def added(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], cut: int = 0) -> Float[Tensor, " n"]:
    return (x + y).sum(1)[cut:]


@checked
def halved(x: float, *, times: int = 1, name: str | None = None) -> float:
    return x / 2**times if name is None else "no number"  # type: ignore[return-value]


class Stack:
    @checked
    def on(self, other: "Stack") -> "Stack":  # not there yet when it is decorated
        return other

    @property
    @checked
    def height(self) -> int:
        return 0.5  # type: ignore[return-value]


@checked
@dataclass
class Pair:
    x: Float[Tensor, " n"]
    y: Float[Tensor, " n"]


ROWS = torch.zeros(3, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: added(ROWS, torch.zeros(4, 2)), id="two arguments disagree"),
        pytest.param(lambda: added(ROWS, ROWS.long()), id="another type of number"),
        pytest.param(lambda: added(ROWS, ROWS, cut=1), id="the answer disagrees with an argument"),
        pytest.param(lambda: halved(1), id="a whole number where a float is asked for"),
        pytest.param(lambda: halved(1.0, times=2.0), id="by name"),
        pytest.param(lambda: halved(1.0, name="x"), id="the answer"),
        pytest.param(lambda: Stack().height, id="a property"),
        pytest.param(lambda: Pair(torch.zeros(2), torch.zeros(3)), id="fields of a dataclass"),
    ],
)
def test_what_the_signature_does_not_say_is_refused(wrong) -> None:
    with pytest.raises(TypeCheckError):
        wrong()


def test_what_the_signature_says_goes_through(monkeypatch) -> None:
    assert added(ROWS, ROWS).shape == (3,)
    assert (halved(1.0), halved(1.0, times=2)) == (0.5, 0.25)
    assert added(torch.zeros(5, 7), torch.zeros(5, 7)).shape == (5,), "names of axes hold for one call"
    assert Stack().on(other := Stack()) is other
    assert list(inspect.signature(halved).parameters) == ["x", "times", "name"]
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert halved(1) == 0.5


def test_a_generator_is_not_run_by_its_check() -> None:
    @checked
    def counted(count: int) -> Iterator[int]:
        yield from range(count)

    assert list(counted(3)) == [0, 1, 2]


@pytest.mark.parametrize("function", [VAE.elbo, VAE.distortion, build_model, gaussian])
def test_the_package_is_under_the_hook(function) -> None:
    assert function.__code__.co_filename.endswith("shapes.py") or "jaxtyping" in function.__code__.co_filename
