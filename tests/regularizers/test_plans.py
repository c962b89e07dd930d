"""A plan whose price is found while training: what the pre-flight, the selection and the watch for divergence make of
it."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from planted import gaussian_data, optimum, probe

from vaecollapse import config
from vaecollapse.audit import audit
from vaecollapse.batch import Batch
from vaecollapse.detectors.decoder_reliance import DecoderReliance
from vaecollapse.detectors.decoder_variance import DecoderVariance
from vaecollapse.detectors.floor_saturation import FloorSaturation
from vaecollapse.detectors.price_of_a_nat import PriceOfANat
from vaecollapse.elbo import Progress
from vaecollapse.evaluation import read
from vaecollapse.probing import priced
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import PID, Constant
from vaecollapse.regularizers.geco import Geco
from vaecollapse.regularizers.mmd import MMD
from vaecollapse.regularizers.target_rate import TargetRate
from vaecollapse.run import Run
from vaecollapse.tasks.fitting import train

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*returned `None`")
FOUND = {
    "geco": ["regularizer=geco", "regularizer.kappa=10.0"],
    "target_rate": ["regularizer=target_rate", "regularizer.target=2.0"],
    "kl_capacity": ["regularizer=kl_capacity", "regularizer.target=2.0"],
    "pid": ["coefficient@regularizer.weight=pid"],
    "pid with free bits": ["regularizer=free_bits", "coefficient@regularizer.weight=pid"],
}


def trained(directory: Path, *overrides: str) -> Run:
    lines = ["model=linear", "callback=[checkpoints,collapse_monitor]", "dataset.examples=256", *overrides]
    cfg = config.compose(lines)
    cfg.logger.csv.directory = str(directory)  # which is the job's own
    train(cfg, directory, lines)
    return Run(directory)


@pytest.mark.parametrize("name", FOUND)
def test_a_price_that_is_found_is_neither_forecast_nor_audited(name: str, tmp_path: Path) -> None:
    plan = trained(tmp_path, "preflight=only", *FOUND[name]).read("preflight.json")
    assert [plan[key] for key in ("beta", "forecast", "directions", "audit", "beta_effective")] == [None] * 5


def test_of_mmd_the_forecast_is_at_what_is_left_of_the_price(tmp_path: Path) -> None:
    half, plain = (
        trained(tmp_path / str(beta), "preflight=only", f"beta={beta}", *lines).read("preflight.json")
        for beta, lines in ((4.0, ["regularizer=mmd", "regularizer.alpha=0.75"]), (1.0, []))
    )
    assert half["beta"] == plain["beta"] == 1.0
    assert half["directions"] == plain["directions"] > 0
    assert half["audit"]["weight"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["regularizer=target_rate", "regularizer.target=500.0"], ["regularizer.target=500", "5 latent units"]),
        (["regularizer=kl_capacity", "regularizer.target=500.0"], ["regularizer.target=500", "latent_dim"]),
        (["coefficient@regularizer.weight=pid", "regularizer.weight.target=500.0"], ["regularizer.weight.target=500"]),
    ],
)
def test_what_the_units_cannot_hold_is_refused_before_step_one(overrides, words, tmp_path: Path) -> None:
    with pytest.raises(Refused) as sentence:
        trained(tmp_path, *overrides)
    assert all(word in str(sentence.value) for word in words), sentence.value
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["geco", "target_rate", "pid"])
def test_a_training_reaches_a_verdict_and_logs_what_acted(name: str, tmp_path: Path) -> None:
    run = trained(
        tmp_path,
        "max_epochs=4",
        "batch_size=64",
        "trainer.log_every_n_steps=1",
        "detector=[rate,floor_saturation]",
        *FOUND[name],
    )
    steps = [row for row in run.lines("metrics.jsonl") if "train/lr" in row]
    applied = [row["train/objective/weight_applied"] for row in steps]
    if name == "geco":
        assert applied == pytest.approx([1 / row["train/objective/multiplier"] for row in steps])
    assert len(set(applied)) > 1
    assert ("train/objective/weight_declared" in steps[0]) == (name != "target_rate")
    verdict = run.read("verdict.json")
    assert verdict["verdict"] != "diverged"
    assert not any("declared for the end of training" in said for said in verdict["findings"])


def test_a_multiplier_that_grows_without_end_is_no_divergence(tmp_path: Path) -> None:
    """κ beyond what any decoder reaches: m goes to its bound, the objective and D do not rise."""
    run = trained(
        tmp_path, "regularizer=geco", "regularizer.kappa=-50.0", "regularizer.speed=0.02", "regularizer.limit=inf",
        "max_epochs=8", "batch_size=64", "trainer.log_every_n_steps=1", "detector=[rate]",
    )  # fmt: skip
    steps = [row for row in run.lines("metrics.jsonl") if "train/lr" in row]
    assert steps[-1]["train/objective/multiplier"] > 1000 * steps[0]["train/objective/multiplier"]
    assert steps[-1]["train/objective/total"] < steps[0]["train/objective/total"]
    assert run.read("verdict.json")["verdict"] != "diverged"


def test_the_weight_of_a_controller_is_audited_where_it_stands() -> None:
    price = Geco(kappa=9.0, start=4.0).double()
    found = audit(optimum(3, e=1.0), price, Batch(gaussian_data(16)))
    assert found.weight == pytest.approx(0.25)
    assert found.declared == pytest.approx(0.25)
    held = audit(optimum(3, e=1.0), TargetRate(weight=Constant(value=3.0), target=1.0), Batch(gaussian_data(16)))
    assert (held.weight, held.declared) == (pytest.approx(3.0), None)


@pytest.mark.parametrize("declares", [True, False])
def test_a_form_that_declares_no_price_is_read_without_one(declares: bool) -> None:
    """γ = 1000 is no price of a nat: by it a likelihood's scale would be gone, and every unit at a floor."""
    weight = Constant(value=1000.0)
    price = Beta(weight=weight) if declares else TargetRate(weight=weight, target=1.0)
    detectors = [DecoderReliance(), DecoderVariance(), FloorSaturation(), PriceOfANat()]
    named = {type(each).__name__: each for each in detectors}
    found, _ = read(optimum(3, e=1.0), probe(gaussian_data(500)), named, partial(price.eval(), progress=Progress(1, 1)))
    assert ("weight_declared" in found) == ("units_at_a_floor" in found) == declares
    assert found["weight_applied"].value == pytest.approx(1000.0)


@pytest.mark.parametrize("make", [lambda: Geco(kappa=3.0), lambda: Beta(weight=PID(value=1.0, target=2.0))])
def test_a_fork_prices_as_the_run_ended_and_moves_no_controller(make) -> None:
    own = make()
    for _ in range(5):
        own.observe(torch.tensor(9.0), torch.tensor(9.0), Progress())
    fork = priced("encoder", own)
    elbo = optimum(3, e=1.0).float().elbo(Batch(gaussian_data(64).float()))
    assert fork is not None and fork is not own
    assert torch.equal(fork(elbo, Progress()).weight, own(elbo, Progress()).weight)
    fork.observe(torch.tensor(90.0), torch.tensor(90.0), Progress())
    assert not torch.equal(fork(elbo, Progress()).weight, own(elbo, Progress()).weight)
    lifted = priced("price", own)
    assert lifted is not None and float(lifted(elbo, Progress()).weight) == 0 and priced("floor", own) is None


def test_mmd_beside_a_distance_is_compared_at_what_r_costs() -> None:
    assert MMD(weight=Constant(value=2.0), alpha=0.25).compared(1.0, 4.0) == pytest.approx(1 + 1.5 * 4)
    assert math.isclose(MMD(weight=Constant(value=2.0)).compared(1.0, 4.0), 1.0)
