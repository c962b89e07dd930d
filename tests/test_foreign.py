"""What is not ours: what the data offer it, what it hides, and what would buy evidence for nothing."""

import functools
import math
from typing import Any

import numpy as np
import planted_zoo as zoo
import pytest
import torch
from planted import gaussian_data
from test_diagnosis import ALIVE, said
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Laplace, Normal
from torch.utils.data import TensorDataset

from vaecollapse import diagnose
from vaecollapse.advice import in_words
from vaecollapse.batch import Batch
from vaecollapse.callbacks.probes import into_blocks
from vaecollapse.detectors.information_rank import InformationRank
from vaecollapse.diagnosis import Facts
from vaecollapse.diagnosis import diagnose as decide
from vaecollapse.elbo import ELBO
from vaecollapse.evidence import judged
from vaecollapse.evidence.models import from_model
from vaecollapse.prescriptions import STATES, Plan, Prescription, prescribe
from vaecollapse.refusal import Refused

VALUES = (4.0, *[2.0] * 7, *[0.1] * 8)


class Linear:
    """The closed-form optimum at price e = βs² for data of these variances, as somebody else's model."""

    def __init__(self, units: int, s2: float, beta: float = 1.0, alive: int = 99, values=VALUES) -> None:
        lam, e = torch.tensor(values).double(), beta * s2
        live = min(units, int((lam > e).sum()), alive)
        self.s, self.gain = math.sqrt(s2), torch.zeros(len(lam), units).double()
        self.back, self.sigma = torch.zeros(units, len(lam)).double(), torch.ones(units).double()
        for i in range(live):
            self.gain[i, i] = (lam[i] - e).sqrt()
            self.back[i, i], self.sigma[i] = self.gain[i, i] / lam[i], (e / lam[i]).sqrt()

    def encode(self, x: Tensor):
        return Normal(x @ self.back.T, self.sigma.expand(len(x), -1))

    def decode(self, z: Tensor) -> Any:
        return Independent(Normal(z @ self.gain.T, self.s), 1)


class Other:
    """A model of the zoo behind the functions that a stranger would write."""

    def __init__(self, vae) -> None:
        self.encode, self.prior = vae.encode, vae.prior
        self.decode = lambda z: Independent(vae.decode(z).elements, 1)


def both(n: int = 600, values=VALUES) -> tuple[Tensor, Tensor]:
    return gaussian_data(1000, values, 1), gaussian_data(n, values)


# ---- what the data offer


@pytest.mark.parametrize(
    ("condition", "make"),
    [(name, make) for name in ("partial_collapse", "over_compressed") for make in zoo.ZOO[name]]
    + [("healthy", make) for make in (zoo.the_optimum, zoo.a_hundred_surplus_units, zoo.scaled, zoo.warped_data)],
)
def test_a_model_of_others_is_judged_as_a_run_of_ours(condition: str, make) -> None:
    one = make(0)
    found = from_model(Other(one.vae), (one.training.x, one.held_out.x), examples=600)
    assert judged(found).verdict == condition
    assert found.facts.forecast <= one.facts.forecast + 1, "the price is read from its upper limit"
    assert found.facts.beta_effective == pytest.approx(one.facts.beta_effective, rel=0.3)


@pytest.mark.parametrize("share", [1e-4, 1e-2, 0.1, 0.5])
@pytest.mark.parametrize("units", [1, 6, 12])
def test_the_closed_form_optimum_is_healthy_by_whoever_it_was_trained(units: int, share: float) -> None:
    verdict = diagnose(module=Linear(units, share * VALUES[0]), data=both(500), examples=1000)
    assert verdict.verdict == "healthy", verdict
    surplus = max(0, units - sum(value > share * VALUES[0] for value in VALUES))
    assert ("unused_units" in verdict.mechanisms) == (surplus > 0)


def test_without_a_forecast_nobody_says_what_is_surplus() -> None:
    """The same seven silent units of eight: a distance has no forecast, a Bernoulli's and a moving scale's say less."""
    model, data = Linear(8, 0.1, alive=1), both()
    assert diagnose(module=model, data=data).verdict == "partial_collapse"
    silent = {"encode": model.encode, "decode": lambda z: z @ model.gain.T}
    noisy = {**silent, "decode": lambda z: Normal(z @ model.gain.T, 0.3 + 0.01 * z[:, :1].abs())}
    for module in (silent, noisy):
        verdict = diagnose(module=module, data=data)
        assert verdict.verdict == "healthy"
        assert "unused_units" not in verdict.mechanisms and "forecast_directions" not in verdict.readings


def test_laplace_has_its_own_price_and_a_bernoulli_is_shown_only() -> None:
    model, data = Linear(8, 0.1), both()
    laplace = {"encode": model.encode, "decode": lambda z: Independent(Laplace(z @ model.gain.T, 0.25), 1)}
    found = from_model(laplace, data)
    assert found.facts.forecast == 8
    bits = tuple((x > 0).double() for x in data)
    binary = {"encode": lambda b: model.encode(4 * b - 2), "decode": lambda z: Bernoulli(logits=z @ model.gain.T)}
    shown = from_model(binary, bits)
    assert shown.facts.forecast is None and shown.held_out["forecast_directions"].value > 0


# ---- spatial latents


class Map:
    """A (channels, side, side) latent whose every number has its share of x, or repeats that of other positions."""

    def __init__(self, channels: int, side: int, kind: str, sigma: float = 0.3) -> None:
        self.shape, self.kind, self.sigma = (channels, side, side), kind, sigma
        self.sign = torch.ones(side, side).double()
        if kind == "signed":
            self.sign = zoo.randn(side, side, seed=3).sign()

    @property
    def size(self) -> int:
        return math.prod(self.shape) if self.kind == "own" else self.shape[0]

    def encode(self, x: Tensor):
        told = x.reshape(-1, *self.shape) if self.kind == "own" else x[:, :, None, None] * self.sign
        return Normal(math.sqrt(1 - self.sigma**2) * told, torch.full_like(told, self.sigma))

    def decode(self, z: Tensor):
        z = math.sqrt(1 - self.sigma**2) * z
        told = z.flatten(1) if self.kind == "own" else (z * self.sign).mean((2, 3))
        return Independent(Normal(told, self.sigma if self.kind == "own" else 0.1), 1)


@pytest.mark.parametrize(("channels", "side"), [(6, 4), (16, 4), (32, 3)])
@pytest.mark.parametrize("kind", ["own", "copied", "signed"])
def test_positions_that_repeat_one_another_are_a_hole(channels: int, side: int, kind: str) -> None:
    """Any single position fills its prior; all of them together do not."""
    model = Map(channels, side, kind)
    verdict = diagnose(module=model, data=zoo.randn(512, model.size, seed=0))
    assert verdict.verdict == ("healthy" if kind == "own" else "prior_hole"), verdict


def test_what_the_prior_draws_must_not_be_worse_where_r_minus_i_is_open() -> None:
    worse = said("prior_samples", 0.2, "material", size=0.01)
    closed = said("marginal_kl_upper", 0.1, "absent", size=1.0)
    states = [decide(ALIVE | more).verdict for more in ({}, worse, worse | closed)]
    assert states == ["healthy", "inconclusive", "healthy"]


@pytest.mark.parametrize(("forecast", "state"), [(3, "healthy"), (5, "partial_collapse")])
def test_dead_tokens_are_missed_only_where_the_data_offer_more(forecast: int, state: str) -> None:
    """Two tokens of four are silent; the others hold four directions between them."""
    dead = said("dead_groups", 2.0) | said("groups", 4.0) | said("dead_units", 4.0) | said("units", 8.0)
    found = {**ALIVE, **dead, **said("information_rank", 4.0, "undecided")}
    assert decide(found, None, Facts(units=8, forecast=forecast)).verdict == state


# ---- conditions


def leak(classes: int, kind: str, n: int = 600, noise: float = 0.3) -> tuple[Any, TensorDataset]:
    """z tells the class and nothing else of x, to a decoder that does not know it: I(x; z | c) = 0."""
    generator = torch.Generator().manual_seed(0)
    centres, c = 2 * zoo.randn(classes, 6, seed=9), torch.randint(classes, (n,), generator=generator)
    if kind == "different":
        c = torch.randperm(classes, generator=generator)[:n]
    x = centres[c] + noise * zoo.randn(n, 6, seed=1)

    def at(c: Tensor) -> Tensor:
        return 0.45 * (centres[c] if c.ndim == 1 else c @ centres)

    module = {
        "encode": lambda x, c: Normal(at(c), torch.full((len(x), 6), 0.3).double()),
        "decode": lambda z, c: Independent(Normal(z / 0.45, 0.8), 1),
    }
    given = nn.functional.one_hot(c, classes).double() if kind == "one-hot" else c
    return module, TensorDataset(x, given)


@pytest.mark.parametrize("classes", [10, 600, 3000])
@pytest.mark.parametrize("kind", ["number", "one-hot", "different"])
def test_a_leak_of_names_is_never_healthy(classes: int, kind: str) -> None:
    if kind == "different" and classes < 600:
        return
    module, data = leak(classes, kind)
    verdict = diagnose(module=module, data=(data, data), examples=600)
    gap = verdict.readings["gap"]
    assert verdict.verdict == ("fake_rate" if classes == 10 else "inconclusive"), verdict
    assert gap.status == "undefined" if kind == "different" else abs(gap.value) < 4 * gap.se


def test_the_same_condition_as_a_number_and_as_a_row_is_one() -> None:
    number, row = (
        diagnose(module=m, data=(d, d), examples=600) for m, d in (leak(300, k) for k in ("number", "one-hot"))
    )
    assert number.readings["gap"].n == pytest.approx(row.readings["gap"].n, abs=4), "a block's end may part two"
    assert number.readings["mi"].n == row.readings["mi"].n
    assert number.readings["gap"].value == pytest.approx(row.readings["gap"].value, abs=4 * number.readings["gap"].se)


@pytest.mark.parametrize(("told", "left"), [(0.0, 0), (0.6, 3)])
def test_what_z_tells_of_a_continuous_condition_is_no_direction(told: float, left: int) -> None:
    """Means that are linear in five numbers of c, and in three of x besides."""
    n, c = 800, zoo.randn(800, 5, seed=0)
    means = torch.cat([c @ zoo.randn(5, 6, seed=1)[:, :6], told * zoo.randn(n, 3, seed=2)], 1)
    turn, batch = zoo.turning(9, 3), Batch(zoo.randn(n, 2, seed=4), context=c, index=torch.arange(n))
    posterior = Independent(Normal(means @ turn, torch.full((n, 9), 0.5).double()), 1)
    prior = Independent(Normal(torch.zeros(9).double(), torch.ones(9).double()), 1)
    detector, vae = InformationRank(), zoo.channels(zoo.gaussians(0), 4, 0.5)
    for rows in (slice(0, 300), slice(300, n)):
        part = Independent(Normal(posterior.mean[rows], posterior.stddev[rows]), 1)
        zero = torch.zeros(len(part.mean)).double()
        detector.update(vae, batch.part(rows), ELBO(zero, zero[:, None].expand(-1, 9), part.mean, part, prior))
    found = {finding.name: finding for finding in detector.findings()}
    assert found["information_rank"].value == 5 + left
    assert found["information_rank_beyond_condition"].value == left


def test_a_rank_that_is_the_conditions_replaces_no_information() -> None:
    found = {**ALIVE, **said("mi", 0.0, "undefined")}
    beyond = [{}, *(said("information_rank_beyond_condition", rank) for rank in (2.0, 0.0))]
    assert [decide(found | more).verdict for more in beyond] == ["healthy", "healthy", "inconclusive"]


# ---- copies


def saved(n: int = 600) -> dict[str, Any]:
    """A collapsed encoder and what decoding cost."""
    cost = zoo.randn(n, seed=0)
    return {"mean": torch.zeros(n, 2), "scale": torch.ones(n, 2), "normalised": 1, "distortion": cost,
            "distortion_permuted": cost + 0.01 * zoo.randn(n, seed=1)}  # fmt: skip


def tiled(arrays: dict[str, Any], times: int) -> dict[str, Any]:
    return {name: part.repeat(times, *[1] * (part.ndim - 1)) if isinstance(part, Tensor) else part
            for name, part in arrays.items()}  # fmt: skip


def test_copies_in_arrays_buy_no_evidence() -> None:
    assert diagnose(arrays=saved()).verdict == "posterior_collapse"
    few = diagnose(arrays=saved(40))
    assert few.verdict == "inconclusive"
    many = diagnose(arrays=tiled(saved(40), 20))
    assert "760 of 800 examples are copies" in " ".join(many.findings)
    assert many.readings == few.readings
    drawn = tiled(saved(40), 20)
    drawn["distortion_permuted"] = drawn["distortion_permuted"] + 0.01 * zoo.randn(800, seed=5)
    assert diagnose(arrays=drawn).readings["gap"].n == 40, "another z's cost makes no other example"
    bare = {name: saved()[name] for name in ("mean", "scale")}
    assert diagnose(arrays=bare).verdict == "posterior_collapse", "one posterior for all is what a collapse is"


def test_the_same_x_under_another_condition_is_another_example() -> None:
    x, c = zoo.randn(100, 3, seed=0).repeat(4, 1), torch.arange(400) % 8
    module, _ = leak(8, "number")
    cut = {
        **module,
        "encode": lambda x, c: Normal(x[:, :2], 0.5),
        "decode": lambda z, c: Normal(z.repeat(1, 2)[:, :3], 1.0),
    }
    assert diagnose(module=cut, data=TensorDataset(x, c)).readings["rate"].n == 200
    assert sum(len(part.x) for part in into_blocks(Batch(x, context=c, index=torch.arange(400)), 64)) == 200
    assert sum(len(part.x) for part in into_blocks(Batch(x, index=torch.arange(400)), 64)) == 100


# ---- what a model hides


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def encode(self, x: Tensor):
        return Normal(self.drop(self.norm(x)), 0.5)

    def decode(self, z: Tensor):
        return Normal(z, 0.5)


OUTSIDE = Dropping()


def encode(x: Tensor):
    return OUTSIDE.encode(x)


def decode(z: Tensor):
    return OUTSIDE.decode(z)


class Holding:
    def __init__(self, held: Any) -> None:
        self.parts = held
        self.decode = decode

    def encode(self, x: Tensor):
        first = next(iter(self.parts.values() if isinstance(self.parts, dict) else self.parts))
        return first.encode(x)


@pytest.mark.parametrize(
    "module",
    [
        {"encode": encode, "decode": decode},
        {"encode": lambda x: encode(x), "decode": decode},
        {"encode": functools.partial(Dropping.encode, OUTSIDE), "decode": decode},
        Holding([OUTSIDE]),
        Holding({"own": OUTSIDE}),
    ],
    ids=["globals", "a function that calls one", "partial", "list", "map"],
)
def test_a_module_is_found_wherever_its_functions_reach(module) -> None:
    OUTSIDE.train()
    before = {name: part.clone() for name, part in OUTSIDE.state_dict().items()}
    verdict = diagnose(module=module, data=torch.randn(100, 4, generator=torch.Generator().manual_seed(0)))
    assert "in training mode" in " ".join(verdict.findings)
    assert OUTSIDE.training
    assert all(torch.equal(part, before[name]) for name, part in OUTSIDE.state_dict().items())


class Unseen:
    """Its module cannot be found, as if it ran elsewhere."""

    __slots__ = ("noisy",)

    def __init__(self, noisy: str) -> None:
        self.noisy = noisy

    def encode(self, x: Tensor):
        return Normal(nn.functional.dropout(x, 0.5, self.noisy == "encode"), 0.5)

    def decode(self, z: Tensor):
        return Normal(nn.functional.dropout(z, 0.5, self.noisy == "decode"), 0.5)


@pytest.mark.parametrize("noisy", ["encode", "decode"])
def test_what_answers_differently_each_time_and_cannot_be_stilled_is_refused(noisy: str) -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(Refused, match=rf"{noisy} gives the same examples something else.*\.eval\(\)"):
        diagnose(module=Unseen(noisy), data=x)
    assert diagnose(module=Unseen(""), data=x).readings["gap"].n == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_prior_is_of_the_posteriors_kind(dtype: torch.dtype) -> None:
    model = Linear(8, 0.1)
    for name in ("gain", "back", "sigma"):
        setattr(model, name, getattr(model, name).to(dtype))
    assert diagnose(module=model, data=both()[1].to(dtype)).readings["gap"].status == "material"


# ---- arrays and words


def test_sigma_at_its_floor_convicts_where_there_is_nothing_else() -> None:
    arrays = {"mean": zoo.randn(600, 4, seed=0), "scale": np.full((600, 4), 1e-3), "scale_floor": 1e-3}
    verdict = diagnose(arrays=arrays)
    assert (verdict.verdict, verdict.confidence) == ("variance_collapse", "low")
    half = np.where(np.arange(4) < 1, 1e-3, 0.5) * np.ones((600, 4))
    assert diagnose(arrays={**arrays, "scale": half}).verdict == "inconclusive"
    few = {name: part[:60] if name != "scale_floor" else part for name, part in arrays.items()}
    assert diagnose(arrays=few).verdict == "inconclusive"


@pytest.mark.parametrize("state", STATES)
def test_every_prescription_has_words(state: str) -> None:
    """Of a run of ours each is a command; nothing of it is asked of others."""
    moves = prescribe(state, Plan(held=("regularizer=beta",)))
    said = in_words(moves, None)
    assert len(said) == min(3, len(moves))
    assert not any(move.overrides or move.command or "=" in move.why for move in said)


def test_a_weight_is_named_where_it_is_known_and_its_share_where_not() -> None:
    cheaper = [Prescription(("beta=0.05",), "cheaper")]
    assert in_words(cheaper, 0.5)[0].why == "take 0.05 in place of 0.5 as the KL's weight: cheaper"
    assert in_words([Prescription(("beta=0.1",), "cheaper")], None)[0].why == "take 0.1 times the KL's weight: cheaper"
    verdict = diagnose(module=Linear(8, 0.1, beta=3.0, alive=1), data=both())
    assert f"a nat costs {verdict.readings['price_of_a_nat'].value:.3g} now" in verdict.prescriptions[0].why


@pytest.mark.parametrize(
    "given",
    [
        {"module": Linear(8, 9.0), "data": both()},
        {"arrays": saved()},
        {"arrays": {"mean": zoo.randn(100, 2, seed=0), "scale": np.full((100, 2), 0.5)}},
        {"values": {"rate": 0.01, "units": 8}},
    ],
    ids=["module", "arrays", "bare arrays", "values"],
)
def test_nothing_of_ours_is_asked_of_others(given: dict) -> None:
    verdict = diagnose(**given)
    assert verdict.prescriptions
    told = " ".join([*verdict.missing, *(move.why for move in verdict.prescriptions)])
    assert not any(key in told for key in ("probe=true", "callback.", "beta=", "seed=", "max_epochs="))
