"""A second-stage prior: what it reaches on planted codes, what it saves, whose codes they are, and what is refused."""

import csv
import json
import math
import shutil
from functools import partial
from pathlib import Path

import hydra
import pytest
import torch
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from vaecollapse import config, tasks
from vaecollapse.batch import collate
from vaecollapse.callbacks.second_stage import BesideTheNLL
from vaecollapse.datasets.latents import Codes, LatentsData
from vaecollapse.distributions.priors import FlowPrior
from vaecollapse.elbo import closed_form_kl, draw, gaussian, noise
from vaecollapse.evidence.recorded import recorded
from vaecollapse.loading import load_weights
from vaecollapse.models.latent_prior import LatentPrior
from vaecollapse.refusal import Refused
from vaecollapse.run import Run
from vaecollapse.sampling import MODES
from vaecollapse.tasks import fitting, second_stage
from vaecollapse.tasks.measuring import opened
from vaecollapse.tasks.prior_fitting import Beside, compared, saved, unseen
from vaecollapse.tasks.sampling import held_of

LINEAR = [
    *("model=linear", "max_epochs=8", "batch_size=128", "dataset.examples=512", "dataset.val_examples=128"),
    *("dataset.test_examples=64", "detector=[rate]", "report=false", "trainer.check_val_every_n_epoch=8"),
]
STAGE = ["model=latent_prior", "max_epochs=12", "batch_size=64", "lr=0.01", "report=false"]


# ---- planted codes


def planted(codes: Codes, **kind) -> tuple[LatentPrior, LatentsData]:
    """A prior fitted to planted codes by a few hundred steps."""
    data = LatentsData(run="planted", batch_size=256).take({"train": codes, "validation": codes, "test": codes}, {})
    torch.manual_seed(0)
    prior = LatentPrior(prior=partial(FlowPrior, **kind), **data.facts)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.01)
    loader = data.train_dataloader()
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            prior.elbo(batch).distortion.mean().backward()
            optimizer.step()
    return prior.eval(), data


def nll(prior: LatentPrior, codes: Codes) -> float:
    z, _ = codes.drawn(torch.arange(len(codes.mean)), seed=7, epoch=99)
    with torch.no_grad():
        return float(-prior.prior().log_prob(z[0]).mean())


@pytest.mark.parametrize("kind", ["maf", "mixture"])
def test_a_gaussian_aggregate_costs_its_entropy(kind):
    """H = ½ ln det(2πe C): far from the origin, of unlike scales, correlated."""
    root = torch.tensor([[3.0, 0.0, 0.0], [0.2, 0.1, 0.0], [20.0, 3.0, 5.0]])
    torch.manual_seed(1)
    means = torch.randn(4000, 3) @ root.T + torch.tensor([50.0, 0.0, -3.0])
    codes = Codes(means[:2000], torch.full((2000, 3), 0.3))
    covariance = (root @ root.T + 0.09 * torch.eye(3)).double()
    entropy = 0.5 * float(torch.logdet(2 * math.pi * math.e * covariance))
    prior, _ = planted(codes, kind=kind, transforms=1)
    assert nll(prior, Codes(means[2000:], codes.scale)) == pytest.approx(entropy, abs=0.12)


def test_a_hole_in_the_aggregate_is_left_empty_by_the_second_stage():
    """Two clumps: N(0, I) puts a third of its samples between them, and ln 2 + H(clump) is what codes cost."""
    torch.manual_seed(0)
    means = torch.zeros(2000, 2)
    means[:, 1] = 2.0 * torch.randint(0, 2, (2000,)) - 1
    codes = Codes(means, torch.full((2000, 2), 0.2))
    prior, data = planted(codes, kind="mixture", transforms=1)
    assert data.facts["order"] == [1, 0]
    with torch.no_grad():
        between = (draw(prior.prior(), noise(torch.arange(1000), (2,)).float()[0])[:, 1].abs() < 0.4).float().mean()
    assert float(between) < 0.03
    assert nll(prior, codes) == pytest.approx(math.log(2) + math.log(2 * math.pi * math.e * 0.04), abs=0.1)


def test_codes_are_drawn_anew_each_epoch_and_stand_still_otherwise():
    codes = Codes(torch.zeros(40, 2), torch.ones(40, 2))
    data = LatentsData(run="planted", batch_size=40).take({"train": codes, "validation": codes, "test": codes}, {})
    epochs = []
    for epoch in (0, 1, 0):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        (batch,) = loader
        epochs.append(batch.x[batch.index.argsort()])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(data.examples("validation", 40).x, data.examples("validation", 40).x)


def test_of_a_flow_the_kept_draws_are_gone_through_and_keep_their_own_density():
    kept, own = torch.randn(5, 4, 2), torch.randn(5, 4)
    codes = Codes(kept.mean(1), kept.std(1), kept, own)
    z, log_prob = codes.drawn(torch.arange(5), draws=4, epoch=3)
    assert sorted(map(tuple, z[:, 2].tolist())) == sorted(map(tuple, kept[2].tolist()))
    for place in range(4):
        (found,) = (kept[2] == z[place, 2]).all(1).nonzero()
        assert log_prob[place, 2] == own[2, int(found)]


# ---- a run and the prior of its codes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short linear run, and a second stage on it."""
    root = tmp_path_factory.mktemp("stages")
    line = [*LINEAR, f"logger.csv.directory='{root / 'first'}'"]
    tasks.train(config.compose(line), root / "first", line)
    fit(root / "second", root / "first")
    return root


def fit(place: Path, first: Path, *more: str) -> tasks.Outcome:
    line = [*STAGE, f"dataset.run='{first}'", f"logger.csv.directory='{place}'", *more]
    return tasks.train(config.compose(line), place, line)


def asked(primary: str, run: Path, **more) -> DictConfig:
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), version_base="1.3"):
        cfg = hydra.compose(primary, [f"run='{run}'"])
    return OmegaConf.merge(cfg, more)  # type: ignore[return-value]


def test_what_is_saved_is_the_fall_of_r(root):
    """R₂ = R₁ − (NLL₁ − NLL₂): R₁ in closed form, R₂ as the model of both stages has it, the saving from the codes."""
    both = opened(asked("evaluate", root / "second"))
    first, dataset = opened(asked("evaluate", root / "first")), both.split("validation")
    batch = collate([dataset[i] for i in range(len(dataset))]).like(both.module)
    codes = second_stage.codes_of(first, 16)
    held, train = codes["validation"], codes["train"]
    with torch.no_grad():
        prior = both.module.vae.second
        found = saved(compared(first, held, train, prior, draws=64, seed=0, epoch=3), 64, "validation")
        test = saved(compared(first, codes["test"], train, prior, draws=16, seed=0, epoch=12), 16, "test")
        closed = closed_form_kl(first.module.vae.encode(batch.x), first.module.vae.prior()).sum(1)
        rates = torch.stack([both.module.vae.elbo(batch, seed=5, epoch=e).rate for e in range(64)]).mean(0)
    assert found.saved.value > 3 * found.saved.se > 0, "an untrained prior leaves something to be saved"
    assert float(closed.mean()) - found.saved.value == pytest.approx(float(rates.mean()), abs=0.06)
    told = json.loads((root / "second" / "verdict.json").read_text())
    assert told["readings"]["kl_saved"]["value"] == pytest.approx(test.saved.value, abs=1e-5)
    assert told["readings"]["kl_saved"]["n"] == 64, "of the split that did not choose the checkpoint"
    assert "64 examples, test split" in told["findings"][0]
    assert told["findings"][1].startswith("KL(q(z)‖p) falls by")


@pytest.mark.parametrize(("count", "split"), [(0, "validation"), (1, "validation"), (2, "test")])
def test_what_is_saved_is_of_the_test_split_where_there_is_one(count, split):
    few, many = (Codes(torch.zeros(n, 2), torch.ones(n, 2)) for n in (count, 5))
    assert unseen({"train": many, "validation": many, "test": few}) == split


@pytest.mark.parametrize(("apart", "said"), [(0.5, True), (0.1, False), (-0.5, False)])
def test_a_prior_worse_than_a_gaussian_is_told_beyond_its_interval(apart, said):
    """The interval is of the paired difference: 1.96 · 1/√100 about `apart`, however far the examples lie apart."""
    noise_ = torch.linspace(-1, 1, 100, dtype=torch.float64)
    noise_ = (noise_ - noise_.mean()) / noise_.std()
    base = 100 * torch.linspace(0, 1, 100, dtype=torch.float64)
    nll = dict.fromkeys(("standard_normal", "run_prior", "gaussian"), base) | {"second_stage": base + apart + noise_}
    found = saved(Beside(nll, -base), 1, "test")
    lines = found.lines()
    assert (found.before.value, found.after.value) == pytest.approx((0, apart), abs=1e-9), "R = E ln q(z|x) + NLL"
    assert any("worse than a Gaussian: more epochs, or a simpler prior" in line for line in lines) is said


def test_codes_are_of_the_runs_own_splits_and_encoded_once(root, monkeypatch):
    run = opened(asked("evaluate", root / "first"))
    codes = second_stage.codes_of(run, 16)
    for split, count in (("train", 512), ("validation", 128), ("test", 64)):
        dataset = run.split(split)
        batch = collate([dataset[i] for i in range(count)]).like(run.module)
        with torch.no_grad():
            mean, scale = gaussian(run.module.vae.encode(batch.x))
        assert len(codes[split].mean) == count
        torch.testing.assert_close(codes[split].mean, mean.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(codes[split].scale, scale.float(), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(second_stage, "encoded", None)
    again = second_stage.codes_of(run, 16)
    assert torch.equal(again["test"].mean, codes["test"].mean)


def test_a_damaged_file_of_codes_is_none(tmp_path):
    (tmp_path / "codes.npz").write_bytes(b"PK\x03\x04 and no more")
    assert second_stage.read_codes(tmp_path / "codes.npz") == {}
    assert second_stage.read_codes(None) == {}


def test_the_metrics_have_the_nll_and_what_other_priors_give(root):
    with (root / "second" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["null/run_prior"]]
        assert rows
        file.seek(0)
        validated = [row for row in csv.DictReader(file) if row["val/nll"]]
    assert len(validated) == len(rows)
    last, beside = validated[-1], rows[-1]
    assert float(last["val/nll"]) < float(beside["null/run_prior"])
    assert float(beside["null/gaussian"]) < float(beside["null/standard_normal"])
    assert float(beside["null/run_prior"]) == pytest.approx(float(beside["null/standard_normal"]), abs=1e-5)


def test_every_validation_may_be_the_best_and_the_plan_is_kept(root):
    """There is no warm-up before which nothing is chosen; 12 epochs of 512 codes in batches of 64."""
    with (root / "second" / "metrics.csv").open() as file:
        chosen = [(row["val/selection"], row["val/nll"]) for row in csv.DictReader(file) if row["val/nll"]]
    assert chosen and all(float(selection) == pytest.approx(float(nll)) for selection, nll in chosen)
    plan = json.loads((root / "second" / "preflight.json").read_text())
    assert plan["steps"] == 96 == json.loads((root / "second" / "trained.json").read_text())["steps"]
    assert plan["units"] == 5 and set(plan["null"]) == {"standard_normal", "gaussian", "run_prior"}


def test_of_a_run_with_a_posterior_flow_what_is_saved_is_the_fall_of_r_as_well(tmp_path):
    """Its codes are kept draws, and R₁, R₂ of both models are Monte Carlo at one noise."""
    line = ["model=audio_nf", "posterior=realnvp", "prior=normal", "capacity=1", "latent_dim=3", "dataset.clips=60",
            "dataset.seconds=0.05", "max_epochs=1", "callback=[checkpoints]", "detector=[rate]", "report=false",
            f"logger.csv.directory='{tmp_path / 'first'}'"]  # fmt: skip
    tasks.train(config.compose(line), tmp_path / "first", line)
    fit(tmp_path / "second", tmp_path / "first", "max_epochs=2")
    first, both = (opened(asked("evaluate", tmp_path / name)) for name in ("first", "second"))
    codes, dataset = second_stage.codes_of(first, 16), both.split("test")
    assert codes["train"].draws is not None and codes["train"].draws.shape[1:] == (16, 3)
    batch = collate([dataset[i] for i in range(len(dataset))]).like(both.module)
    with torch.no_grad():
        held = compared(first, codes["test"], codes["train"], both.module.vae.second, draws=16, seed=0, epoch=12)
        rates = [torch.stack([vae.elbo(batch, seed=5, epoch=e).rate for e in range(24)]).mean()
                 for vae in (first.module.vae, both.module.vae)]  # fmt: skip
    found = saved(held, 16, "test")
    assert float(rates[0] - rates[1]) == pytest.approx(found.saved.value, abs=0.1)
    assert float(rates[1]) == pytest.approx(found.after.value, abs=0.3)


def test_samples_are_the_second_stages_through_the_first_runs_decoder(root, tmp_path):
    both, first = (opened(asked("sample", root / name)) for name in ("second", "first"))
    assert both.told("test", 5)["run"] == str(root / "second")
    vae, held = both.module.vae, held_of(both, "test")
    with torch.no_grad():
        made, plain = (next(MODES["prior"](each, held, 4)).columns["sample"] for each in (vae, first.module.vae))
        z = draw(vae.second.prior(), noise(torch.arange(32), (5,), seed=0, epoch=2)[0])
        expected = first.module.vae.decode(z).mean[:4]
    torch.testing.assert_close(torch.from_numpy(made), expected)
    assert not torch.allclose(torch.from_numpy(plain), expected)
    found = tasks.sample(asked("sample", root / "second", n=3), tmp_path, [])
    assert "best.ckpt" in found.what
    assert list((tmp_path / "samples").iterdir())


def test_an_evaluation_is_of_both_stages(root, tmp_path):
    """Same distortion as the run's, another rate; the codes' encoder and decoder have not moved."""
    once = {name: tasks.evaluate(asked("evaluate", root / name, samples=2), tmp_path / name, []) for name in
            ("first", "second")}  # fmt: skip
    first, second = (once[name].figures for name in ("first", "second"))
    assert second["distortion"].value == pytest.approx(first["distortion"].value, abs=1e-9)
    assert second["rate"].value != first["rate"].value
    written = json.loads((tmp_path / "second" / "evaluation.json").read_text())
    assert written["first_stage"] == str((root / "first").resolve())


# ---- going on, and what does not start


@pytest.fixture
def copied(root, tmp_path) -> Path:
    return Path(shutil.copytree(root / "second", tmp_path / "copied"))


def goes_on(place: Path, root: Path, *more: str) -> tasks.Outcome:
    return fit(place, root / "first", "max_epochs=15", f"resume='{place}'", *more)


def test_a_second_stage_that_is_stopped_while_it_goes_on_has_no_final_verdict(root, copied, monkeypatch):
    assert recorded(copied).final

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        goes_on(copied, root)
    assert not recorded(copied).final


def test_a_second_stage_that_was_ended_goes_on_to_the_same_bits(root, tmp_path, monkeypatch):
    def ended(_, trainer, *__):
        if trainer.current_epoch == 6:
            raise RuntimeError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(BesideTheNLL, "on_train_epoch_start", ended, raising=False)
        with pytest.raises(RuntimeError, match="the power went"):
            fit(tmp_path, root / "first")
    assert not (tmp_path / "verdict.json").exists()
    fit(tmp_path, root / "first", f"resume='{tmp_path}'")
    assert any(row["event"] == "resumed" for row in Run(tmp_path).lines("events.jsonl"))
    for name in ("last", "best"):
        whole, parts = (load_weights(place / "checkpoints" / f"{name}.ckpt") for place in (root / "second", tmp_path))
        assert whole.step == parts.step
        assert all(torch.equal(each, parts.state[key]) for key, each in whole.state.items())
    assert (tmp_path / "verdict.json").read_text() == (root / "second" / "verdict.json").read_text()


class Unwilling(Logger):
    """A logger that does not start, as W&B without a key; whoever closes it asks it for its experiment."""

    name = version = "unwilling"

    @property
    def experiment(self):
        raise RuntimeError("closed before it started")

    def log_metrics(self, metrics, step=None):
        raise NotImplementedError

    def log_hyperparams(self, params, *args, **kwargs):
        raise RuntimeError("no API key\nat all")


@pytest.mark.parametrize("line", [[], STAGE])
def test_a_logger_that_does_not_start_is_one_sentence(root, tmp_path, line):
    more = f"+logger.unwilling._target_={Unwilling.__module__}.Unwilling"
    line = [*line, f"dataset.run='{root / 'first'}'"] if line else LINEAR
    with pytest.raises(Refused, match=r"logger cannot be built from its configuration: RuntimeError: no API key$"):
        tasks.train(config.compose([*line, "logger=[]", more]), tmp_path / "run", line)


def test_a_callback_that_is_none_is_refused(root, tmp_path):
    more = ("callback=[learning_rate]", "+callback.wandb._target_=collections.Counter")
    with pytest.raises(Refused, match=r"callback.wandb._target_ gives a Counter, where a Callback is needed"):
        fit(tmp_path / "run", root / "first", *more)


# ---- refusals


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["beta=2"], "no KL to be priced"),
        (["regularizer=free_bits"], "no KL to be priced"),
        (["detector=[rate]"], "those of dataset.run's own detectors: leave it out"),
        (["warmup=0.5"], "no KL whose weight could move: leave it out"),
        (["coefficient@regularizer.weight=cyclical"], "no KL whose weight could move: leave it out"),
        (["callback=[collapse_monitor]"], "collapse_monitor is of a model with a latent"),
        (["dataset=gaussian"], "dataset.run=DIR"),
        (["probe=true"], "probe=true"),
        (["prior=normal"], "nothing to be fitted"),
        (["dataset.run=nowhere"], "dataset.run=nowhere is no folder"),
        (["dataset.checkpoint=ema"], "has no ema checkpoint"),
    ],
)
def test_what_has_no_place_is_refused_in_a_sentence(root, tmp_path, more, words):
    line = [*STAGE, "logger=[]", *([] if "dataset=gaussian" in more else [f"dataset.run='{root / 'first'}'"]), *more]
    with pytest.raises(Refused, match=words) as refusal:
        tasks.train(config.compose(line), tmp_path / "refused", line)
    assert "\n" not in str(refusal.value)


def test_a_prior_of_a_prior_a_run_under_way_and_no_run_are_refused(root, tmp_path):
    with pytest.raises(Refused, match="is a second-stage prior itself"):
        fit(tmp_path / "third", root / "second")
    shutil.copytree(root / "first", tmp_path / "going")
    (tmp_path / "going" / "trained.json").unlink()
    with pytest.raises(Refused, match="has not finished its training"):
        fit(tmp_path / "third", tmp_path / "going")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="is no run directory"):
        fit(tmp_path / "third", tmp_path / "empty")


def test_codes_without_their_model_and_a_run_that_went_on_are_refused(root, tmp_path):
    with pytest.raises(Refused, match="type that model"):
        LatentsData(run="somewhere").setup()
    with pytest.raises(Refused, match="none of best, last"):
        LatentsData(run="somewhere", checkpoint="first")
    for name in ("first", "second"):
        shutil.copytree(root / name, tmp_path / name)
    moved = {"overrides": [f"dataset.run={tmp_path / 'first'}"]}
    assert opened(asked("evaluate", tmp_path / "second", **moved)).source == tmp_path / "first"
    shutil.copy(tmp_path / "first" / "checkpoints" / "last.ckpt", tmp_path / "first" / "checkpoints" / "best.ckpt")
    with pytest.raises(Refused, match="train the prior again"):
        opened(asked("evaluate", tmp_path / "second", **moved))
