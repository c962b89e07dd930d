"""What training logs and selects by: the price that acts, raw rates, the bound and never the objective."""

import math
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from planted import Planted, gaussian_data
from torch import nn
from torch.distributions import Distribution
from torch.utils.data import DataLoader

from vaecollapse.batch import Batch, collate
from vaecollapse.callbacks.learning_rate import CosineDecay
from vaecollapse.callbacks.run_logger import RunLogger
from vaecollapse.datasets.gaussian import GaussianData
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.models.linear import LinearVAE
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.base import Regularizer
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant, Cosine, Linear
from vaecollapse.regularizers.free_bits import FreeBits
from vaecollapse.training import Training
from vaecollapse.vae import VAE

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*returned `None`")


class MeanSquare(Distribution):
    """A distance, mean-reduced over the event: no density."""

    arg_constraints = {}
    normalised = False

    def __init__(self, mean: torch.Tensor) -> None:
        self.decoded = mean
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return -(value - self.decoded).square().mean(1)


class Distance(nn.Module):
    normalised = False

    def forward(self, mean, mask=None) -> Distribution:
        return MeanSquare(mean)


def linear(likelihood: nn.Module, seed: int = 0) -> LinearVAE:
    torch.manual_seed(seed)
    return LinearVAE(event_shape=(8,), latent_dim=4, likelihood=likelihood)


def fit(
    vae: VAE,
    regularizer: Regularizer,
    folder: Path,
    *,
    epochs: int = 10,
    lr: float = 0.05,
    every: int = 1,
    callbacks=(),
) -> tuple[Training, list[dict]]:
    """Four steps an epoch in float64; the module and the lines of metrics.jsonl."""
    torch.manual_seed(0)
    module = Training(vae=vae, regularizer=regularizer, optimizer=partial(torch.optim.Adam, lr=lr))
    logger = RunLogger(directory=folder)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", precision="64-true", logger=logger, log_every_n_steps=1,
        callbacks=list(callbacks), enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        check_val_every_n_epoch=every,
    )  # fmt: skip
    trainer.fit(module, datamodule=GaussianData(examples=256, val_examples=96, batch_size=64))
    return module, logger.run.lines("metrics.jsonl")


def logged(rows: list[dict], name: str) -> dict[int, float]:
    return {row["step"]: row[name] for row in rows if name in row}


# ---- selection


def test_a_distance_is_selected_by_the_schedules_last_weight_and_only_after_its_end(tmp_path) -> None:
    """The objective of the moment is smallest in the first epoch, where the KL costs next to nothing."""
    weight = Linear(value=1.0, warmup=0.6)
    best = ModelCheckpoint(dirpath=tmp_path, filename="best", monitor="val/selection")
    _, rows = fit(linear(Distance()), Beta(weight=weight), tmp_path, callbacks=[best])
    seen = [row for row in rows if "val/selection" in row]
    moment = [row["val/distortion"] + min(1.0, (i + 1) / 6) * row["val/latent/rate"] for i, row in enumerate(seen)]
    assert moment.index(min(moment)) == 0, "what naive selection would take"
    assert [row["val/selection"] is None for row in seen] == [True] * 5 + [False] * 5, "infinite until the ramp's end"
    bound = [row["val/distortion"] + row["val/latent/rate"] for row in seen]
    for row, expected in zip(seen[5:], bound[5:], strict=True):
        assert row["val/selection"] == pytest.approx(expected, rel=1e-6)
    chosen = torch.load(best.best_model_path, weights_only=True)["epoch"]
    assert chosen == 5 + bound[5:].index(min(bound[5:]))
    assert all("val/elbo" not in row for row in rows), "no bound is claimed for a distance"


def test_a_distance_pays_for_the_rate_at_its_own_price(tmp_path) -> None:
    _, rows = fit(linear(Distance()), Beta(weight=Constant(value=0.25)), tmp_path, epochs=2)
    for row in (row for row in rows if "val/selection" in row):
        assert row["val/selection"] == pytest.approx(row["val/distortion"] + 0.25 * row["val/latent/rate"], rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.25, 4.0])
def test_a_density_is_selected_by_the_bound_whatever_beta_is(beta: float, tmp_path) -> None:
    _, rows = fit(linear(NormalLikelihood()), Beta(weight=Constant(value=beta)), tmp_path, epochs=2)
    for row in (row for row in rows if "val/selection" in row):
        bound = row["val/distortion"] + row["val/latent/rate"]
        assert (row["val/selection"], -row["val/elbo"]) == pytest.approx((bound, bound), rel=1e-6)


# ---- what is logged where it acts


@pytest.mark.parametrize("schedule", [Linear(value=2.0, warmup=0.5), Cosine(value=2.0, warmup=0.5)])
def test_the_weight_logged_is_the_schedules_at_that_step(schedule, tmp_path) -> None:
    _, rows = fit(linear(NormalLikelihood()), Beta(weight=schedule), tmp_path, epochs=5)
    ramp = {"Linear": lambda p: p, "Cosine": lambda p: 0.5 * (1 - math.cos(math.pi * p))}[type(schedule).__name__]
    expected = {step: 2.0 * ramp(min(1.0, step / 10)) for step in range(20)}
    assert logged(rows, "train/objective/weight_applied") == pytest.approx(expected)
    assert logged(rows, "train/objective/weight_declared") == pytest.approx(expected)
    for row in (row for row in rows if "train/lr" in row):
        assert row["train/objective/penalty"] == pytest.approx(expected[row["step"]] * row["train/latent/rate"])
        assert row["train/objective/total"] == pytest.approx(row["train/distortion"] + row["train/objective/penalty"])


def test_the_rate_is_raw_whatever_it_costs(tmp_path) -> None:
    """The same first step under two prices: the same D and R, objectives that differ by (β₁ − β₂)·R."""
    first = [
        fit(linear(NormalLikelihood()), Beta(weight=Constant(value=beta)), tmp_path / str(beta), epochs=1)[1][0]
        for beta in (1.0, 0.25)
    ]
    for name in ("train/latent/rate", "train/distortion"):
        assert first[0][name] == first[1][name]
    difference = first[0]["train/objective/total"] - first[1]["train/objective/total"]
    assert difference == pytest.approx(0.75 * first[0]["train/latent/rate"])


@pytest.mark.parametrize(
    ("floor", "form", "shown", "applied", "inert"),
    [
        (50.0, "batch_unit", 50.0, 0.0, 1.0),
        (50.0, "batch_total", 200.0, 0.0, 1.0),
        (1e-9, "batch_unit", 1e-9, 0.5, 0.0),
    ],
)
def test_a_floor_is_logged_beside_what_it_does_to_the_price(floor, form, shown, applied, inert, tmp_path) -> None:
    """Far above the KL it takes all of the price and lends its own height to the penalty, never to the rate."""
    regularizer = FreeBits(weight=Constant(value=0.5), floor=floor, form=form)
    _, rows = fit(linear(NormalLikelihood()), regularizer, tmp_path, epochs=1)
    steps = [row for row in rows if "train/lr" in row]
    for row in steps:
        assert row["train/objective/floor"] == pytest.approx(shown)
        assert row["train/objective/weight_declared"] == 0.5
        assert row["train/objective/weight_applied"] == pytest.approx(applied)
        assert row["train/objective/zero_gradient"] == inert
        paid = 0.5 * (4 * floor if inert else row["train/latent/rate"])
        assert row["train/objective/penalty"] == pytest.approx(paid)
    _, plain = fit(linear(NormalLikelihood()), Beta(weight=Constant(value=0.5)), tmp_path / "plain", epochs=1)
    assert steps[0]["train/latent/rate"] == plain[0]["train/latent/rate"]


# ---- learning rate


@pytest.mark.parametrize("end", [0.0, 0.1, 1.0])
def test_the_learning_rate_follows_half_a_cosine(end: float, tmp_path) -> None:
    _, rows = fit(linear(NormalLikelihood()), Beta(weight=Constant(value=1.0)), tmp_path, epochs=5, lr=0.02,
                  callbacks=[CosineDecay(end=end)])  # fmt: skip
    expected = {t: 0.02 * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * t / 20))) for t in range(20)}
    assert logged(rows, "train/lr") == pytest.approx(expected)
    assert expected[0] == 0.02
    assert expected[10] == pytest.approx(0.02 * (1 + end) / 2)


def test_every_group_decays_from_its_own_rate(tmp_path) -> None:
    def two_groups(parameters):
        first, *others = parameters
        return torch.optim.SGD([{"params": [first], "lr": 1e-4}, {"params": others, "lr": 1e-3}])

    module = Training(
        vae=linear(NormalLikelihood()), regularizer=Beta(weight=Constant(value=1.0)), optimizer=two_groups
    )
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[CosineDecay(end=0.5)],
                         precision="64-true", enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(module, datamodule=GaussianData(examples=256, val_examples=96, batch_size=64))
    share = 0.5 + 0.5 * 0.5 * (1 + math.cos(math.pi * 3 / 4))  # set before the last of four steps
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([1e-4 * share, 1e-3 * share])


@pytest.mark.parametrize(("end", "epochs", "told"), [(0.0, 2, True), (0.0, 1, False), (0.1, 2, False)])
def test_a_plan_that_ended_at_0_and_is_gone_on_with_is_told(end, epochs, told, tmp_path, caplog) -> None:
    """4 steps an epoch and a plan of 4: at 0 nothing moves any more, at a tenth something does."""
    kept = CosineDecay(end=end)
    kept.load_state_dict({"initial": [[0.02]], "total": 4.0})
    fit(linear(NormalLikelihood()), Beta(weight=Constant(value=1.0)), tmp_path, epochs=epochs, callbacks=[kept])
    said = [line for line in caplog.messages if "the learning rate reaches 0 at step 4" in line]
    assert bool(said) is told
    assert all("init_from=" in line for line in said)


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(Refused, match=r"lr_end=0\.1"):
        CosineDecay(end=1.5)


# ---- validation


def validated(vae: VAE, batch_size: int, folder: Path) -> dict[str, float]:
    examples = [Batch(x, index=torch.tensor(i)) for i, x in enumerate(gaussian_data(200))]
    trainer = pl.Trainer(accelerator="cpu", precision="64-true", logger=False, enable_progress_bar=False,
                         enable_checkpointing=False, default_root_dir=folder)  # fmt: skip
    module = Training(vae=vae, regularizer=Beta(weight=Constant(value=1.0)), optimizer=torch.optim.Adam)
    loader = DataLoader(examples, batch_size=batch_size, collate_fn=collate)
    (found,) = trainer.validate(module, loader, verbose=False)
    return found


def test_validation_does_not_depend_on_the_batch_size(tmp_path) -> None:
    """Its noise is keyed by (seed, epoch, index), and every example counts once."""
    vae = linear(NormalLikelihood())
    whole = validated(vae, 200, tmp_path)
    for batch_size in (7, 64):
        parts = validated(vae, batch_size, tmp_path)
        for name in ("val/distortion", "val/latent/rate", "val/elbo"):
            assert parts[name] == pytest.approx(whole[name], rel=1e-6), name


def test_validation_moves_nothing(tmp_path) -> None:
    """Validated after every epoch or never, the weights are the same to the last bit."""
    often, _ = fit(linear(NormalLikelihood()), Beta(weight=Constant(value=1.0)), tmp_path / "often", epochs=4)
    never, _ = fit(linear(NormalLikelihood()), Beta(weight=Constant(value=1.0)), tmp_path / "never", epochs=4, every=9)
    state = never.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in often.state_dict().items())


# ---- divergence


class Scripted(Planted):
    """Its distortion is the script's number for the step; NaN stands for a step in which `part` breaks."""

    broken = {"z": ("z", "distortion"), "the KL": ("kl",), "the distortion": ("distortion",)}

    def __init__(self, script: list[float], part: str = "the distortion") -> None:
        super().__init__(lambda x: (x[:, :4], torch.ones_like(x[:, :4])), lambda z: z.repeat(1, 2))
        self.script, self.part = script, part

    def elbo(self, batch: Batch, *, seed: int | None = None, epoch: int = 0):
        elbo = super().elbo(batch, seed=seed, epoch=epoch)
        if not torch.is_grad_enabled():
            return elbo
        number, zero = self.script.pop(0), torch.zeros_like(elbo.kl)
        if math.isnan(number):
            return elbo._replace(**{name: getattr(elbo, name) * math.nan for name in self.broken[self.part]})
        return elbo._replace(distortion=zero[:, 0] + number + self.anchor, kl=zero)


@pytest.mark.parametrize("part", ["z", "the KL", "the distortion"])
def test_the_first_part_that_is_not_finite_is_named_with_its_step_which_is_not_taken(part: str, tmp_path) -> None:
    vae = Scripted([1.0] * 6 + [math.nan] + [1.0] * 50, part)
    module, rows = fit(vae, Beta(weight=Constant(value=1.0)), tmp_path, epochs=5)
    assert module.fault == f"{part} is not finite at step 6"
    assert vae.anchor.isfinite()
    assert max(logged(rows, "train/distortion")) == 5


@pytest.mark.parametrize(
    ("later", "diverged"),
    [([25.0] * 3, True), ([25.0, 25.0, 9.0, 25.0, 25.0], False), ([19.0] * 5, False)],
)
def test_an_objective_beyond_ten_times_its_first_drop_for_three_epochs_has_diverged(later, diverged, tmp_path) -> None:
    """From 10 down to 9, so the limit is 20."""
    epochs = [10.0, 9.0, *later]
    vae = Scripted([number for number in epochs for _ in range(4)])
    module, _ = fit(vae, Beta(weight=Constant(value=1.0)), tmp_path, epochs=len(epochs), lr=1e-9)
    assert (module.fault is not None) == diverged
    if diverged:
        assert "25" in module.fault


# ---- spikes


class Jolt(Beta):
    """Beta with the objective thrown up once."""

    def forward(self, elbo, progress):
        objective = super().forward(elbo, progress)
        return objective._replace(loss=objective.loss * (30.0 if progress.step == 33 else 1.0))


@pytest.mark.parametrize(("regularizer", "expected"), [(Jolt, [33]), (Beta, [])])
def test_a_spike_of_the_objective_is_noted_with_its_step(regularizer, expected: list, tmp_path) -> None:
    module, _ = fit(linear(NormalLikelihood()), regularizer(weight=Constant(value=1.0)), tmp_path, epochs=12)
    assert [spike["step"] for spike in module.spikes] == expected
    assert all(spike["objective"] > 10 * spike["usual"] for spike in module.spikes)
