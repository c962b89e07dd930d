"""Truth: the linear VAE, trained by the command line's own path, against its closed form (Lucas 2019)."""

import math
import shlex

import pytest
import torch
from hydra.utils import instantiate
from planted import EIGENVALUES, probe
from settled import exact_data, settle

from vaecollapse import config
from vaecollapse.detectors.active_units import ActiveUnits
from vaecollapse.detectors.rate import Rate
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.evaluation import read
from vaecollapse.models.linear import LinearVAE
from vaecollapse.run import Run
from vaecollapse.tasks import train

CASES = [(1.0, 1.0, 3, 1.64792), (0.35, 1.0, 5, 3.70276), (0.35, 2.0, 4, 2.2497), (0.1, 3.0, 5, 4.08813)]


def expected_distortion(cfg, directory, s2: float) -> float:
    """D of the checkpoint over all noise: E‖x − x̂‖² = E‖x − W·μ(x) − m‖² + Σ σ_i²‖w_i‖²."""
    state = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    weights, bias = state["vae.decoder.weight"], state["vae.decoder.bias"]
    data = instantiate(cfg.dataset)
    data.setup()
    x = data.examples("train", 2048).x
    mean = x @ state["vae.encoder.weight"].T + state["vae.encoder.bias"]
    error = (x - mean @ weights.T - bias).square().sum(1).mean()
    error = error + (state["vae.log_variance"].exp() * weights.square().sum(0)).sum()
    return float(error) / (2 * s2) + 4 * math.log(2 * math.pi * s2)


@pytest.mark.parametrize(("s2", "beta", "active", "rate"), CASES)
def test_the_trained_linear_vae_meets_its_closed_form(s2, beta, active, rate, tmp_path) -> None:
    """Active units exact, R and D within 0.5 %, on the data whose eigenvalues were used."""
    overrides = [
        "model=linear",
        f"likelihood.scale={math.sqrt(s2)}",
        f"beta={beta}",
        "dataset.examples=2048",
        "dataset.val_examples=512",
        f"logger.csv.directory={tmp_path}",
        "callback.collapse_monitor.final_examples=2048",
        "batch_size=1024",
        "max_epochs=300",
        "trainer.check_val_every_n_epoch=300",
        "trainer.accelerator=cpu",
    ]
    cfg = config.compose(overrides)
    verdict = train(cfg, tmp_path, overrides).diagnosis
    assert verdict is not None and verdict.verdict == "healthy"
    e = beta * s2
    kept = [value for value in EIGENVALUES[:5] if value > e]
    assert rate == pytest.approx(sum(0.5 * math.log(value / e) for value in kept), abs=1e-5)
    distortion = (active * e + sum(EIGENVALUES) - sum(kept)) / (2 * s2) + 4 * math.log(2 * math.pi * s2)
    readings = verdict.readings
    assert readings["train/active_units"].value == active == len(kept)
    assert readings["train/rate"].value == pytest.approx(rate, rel=5e-3)
    assert expected_distortion(cfg, tmp_path, s2) == pytest.approx(distortion, rel=5e-3)
    assert abs(readings["train/distortion"].value - distortion) < 4 * readings["train/distortion"].se
    assert abs(readings["train/price_of_a_nat"].value - beta) < 4 * readings["train/price_of_a_nat"].se


@pytest.mark.parametrize(("beta", "variance", "active"), [(1.0, 0.2, 5), (1.3, 0.35714, 4), (1.5, 0.5, 4)])
def test_a_learned_scale_meets_its_closed_form(beta: float, variance: float, active: int) -> None:
    """s² = Σ_inactive λ/(d − aβ), self-consistent, and the living units at e = βs²: the exact minimum of D + βR."""
    torch.manual_seed(0)
    likelihood = NormalLikelihood(scale_mode="learned")
    vae, x = LinearVAE(event_shape=(8,), latent_dim=5, likelihood=likelihood).double(), exact_data(256)

    def loss(x: torch.Tensor, y: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
        rate = 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(1).mean()
        return beta * rate - likelihood(y).log_prob(x).mean()

    settle(vae, loss, x)
    kept = [value for value in EIGENVALUES[:5] if value > beta * variance]
    assert len(kept) == active
    assert variance == pytest.approx((sum(EIGENVALUES) - sum(kept)) / (8 - active * beta), rel=1e-4)
    assert float(likelihood.scale.detach()) ** 2 == pytest.approx(variance, rel=0.01)
    readings, units = read(vae, probe(x), {"active_units": ActiveUnits(), "rate": Rate()})
    assert readings["active_units"].value == active == int((units["kl"] > 0.01).sum())
    rate = sum(0.5 * math.log(value / (beta * variance)) for value in kept)
    assert readings["rate"].value == pytest.approx(rate, rel=0.01)


def test_beyond_the_largest_eigenvalue_training_ends_collapsed_and_says_what_to_type(tmp_path) -> None:
    overrides = [
        "model=linear",
        "beta=8",
        f"logger.csv.directory={tmp_path}",
        "max_epochs=60",
        "trainer.accelerator=cpu",
    ]
    verdict = train(config.compose(overrides), tmp_path, overrides).diagnosis
    assert verdict is not None and verdict.verdict == "posterior_collapse"
    assert verdict.prescriptions[0].command.endswith("beta=1.54"), "the ELBO's own: e is the mean eigenvalue"
    alarms = [event for event in Run(tmp_path).lines("events.jsonl") if event["event"] == "alarm"]
    assert (alarms[0]["alarm"], alarms[0]["step"]) == ("forecast_collapse", 0), "the forecast knew before step 1"
    for prescription in verdict.prescriptions:
        config.compose(shlex.split(prescription.command)[1:])
