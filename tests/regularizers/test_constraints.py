"""What is asked for is what a training ends at, on the linear VAE, where the answer is known."""

import math
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from planted import EIGENVALUES

from vaecollapse.batch import Batch
from vaecollapse.callbacks.learning_rate import CosineDecay
from vaecollapse.datasets.gaussian import GaussianData
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.models.linear import LinearVAE
from vaecollapse.regularizers.base import Regularizer
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import PID, Constant, Linear
from vaecollapse.regularizers.free_bits import FreeBits
from vaecollapse.regularizers.geco import Geco
from vaecollapse.regularizers.kl_capacity import KLCapacity
from vaecollapse.regularizers.mmd import MMD
from vaecollapse.regularizers.target_rate import TargetRate
from vaecollapse.training import Training

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*is not empty")


def closed_form(e: float) -> tuple[float, float]:
    """R and D of the optimum at e = β s², s = 1: reverse water-filling."""
    values = torch.tensor(EIGENVALUES).double()
    living = values > e
    residual = float(living.sum()) * e + float(values[~living].sum())
    return 0.5 * float((values[living] / e).log().sum()), 0.5 * (residual + len(values) * math.log(2 * math.pi))


def fit(
    regularizer: Regularizer,
    *,
    epochs: int,
    examples: int,
    folder: Path | None = None,
    resume: Path | None = None,
    cold: bool = False,
):
    """From near the optimum at β = 1 (`cold`: untrained), four steps an epoch in float64, to lr = 0."""
    torch.manual_seed(0)
    data = GaussianData(examples=examples, val_examples=16, batch_size=examples // 4)
    x = data.splits.train.x
    vae = LinearVAE.closed_form(covariance=x.T @ x / len(x), mean=x.mean(0), latent_dim=5, scale=1.0)
    if cold:
        vae = LinearVAE(event_shape=(8,), latent_dim=5, likelihood=NormalLikelihood(scale=1.0))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    module = Training(vae=vae, regularizer=regularizer, optimizer=partial(torch.optim.Adam, lr=0.03)).double()
    saved = [ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1)] if folder else []
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", precision="64-true", logger=False, enable_progress_bar=False,
        callbacks=[CosineDecay(end=0.0), *saved] if not folder else saved, enable_checkpointing=bool(folder),
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=resume is not None)
    return module, x


METHODS = {
    "target_rate": lambda rate, _: TargetRate(weight=Constant(value=2.5), target=rate),
    "kl_capacity": lambda rate, _: KLCapacity(weight=Constant(value=2.5), target=rate, ramp=0.5),
    "geco": lambda _, distortion: Geco(kappa=distortion, speed=0.02, smoothing=0.9),
    "pid": lambda rate, _: Beta(weight=PID(value=1.0, target=rate, ki=0.015)),
}


@pytest.mark.parametrize("e", [0.5, 1.4])
@pytest.mark.parametrize("method", METHODS)
def test_a_constraint_is_met_and_at_the_distortion_of_the_closed_form(method: str, e: float) -> None:
    """One target above and one below R of β = 1; a weight that is found is the one that gives the target."""
    rate, distortion = closed_form(e)
    module, x = fit(METHODS[method](rate, distortion), epochs=45, examples=1024)
    with torch.no_grad():
        bounds = [module.vae.elbo(Batch(x)) for _ in range(20)]
        priced = module.regularizer.eval()(bounds[0], module.progress)
    assert sum(float(bound.rate.mean()) for bound in bounds) / 20 == pytest.approx(rate, rel=0.05)
    assert sum(float(bound.distortion.mean()) for bound in bounds) / 20 == pytest.approx(distortion, rel=0.05)
    if module.regularizer.listens:
        assert float(priced.weight) == pytest.approx(e, rel=0.05)


def test_geco_at_its_defaults_reaches_kappa_from_an_untrained_model_without_overshooting() -> None:
    """400 steps, as in the bench: with the paper's smoothing D ends .8 nats below κ."""
    _, kappa = closed_form(0.7)
    module, x = fit(Geco(kappa=kappa), epochs=100, examples=1024, cold=True)
    with torch.no_grad():
        ends = sum(float(module.vae.elbo(Batch(x)).distortion.mean()) for _ in range(20)) / 20
    assert ends == pytest.approx(kappa, rel=0.02)
    assert 1 / module.regularizer.multiplier.item() == pytest.approx(0.7, rel=0.05), "the price that gives κ"


RESUMED = {
    **METHODS,
    "free_bits": lambda rate, _: FreeBits(weight=PID(value=1.0, target=rate, ki=0.015), floor=0.1),
    "mmd": lambda *_: MMD(weight=Linear(value=1.0, warmup=0.9)),
}


@pytest.mark.parametrize("method", RESUMED)
def test_a_resumed_run_ends_at_the_same_weight_and_state(method: str, tmp_path: Path) -> None:
    asked = closed_form(0.5)
    whole, _ = fit(RESUMED[method](*asked), epochs=4, examples=64, folder=tmp_path)
    resumed, _ = fit(RESUMED[method](*asked), epochs=4, examples=64, folder=tmp_path, resume=tmp_path / "epoch=1.ckpt")
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    fresh = RESUMED[method](*asked).double().state_dict()
    moved = any(not torch.equal(value, ours[f"regularizer.{name}"]) for name, value in fresh.items())
    assert moved == whole.regularizer.listens, "a controller that was never told would pass"
