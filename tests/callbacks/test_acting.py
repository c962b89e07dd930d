"""Callbacks that move the training: ended anywhere and resumed they decide the same, to the same bits."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import killing  # noqa: F401  (finds benchmarks/kill.py)
import pytest
import torch
from kill import differing, tensors
from lightning.pytorch import Callback
from planted import gaussian_data

from vaecollapse import config
from vaecollapse.batch import Batch
from vaecollapse.callbacks.acting import drop_gradients, parts_of, split
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.models.linear import LinearVAE
from vaecollapse.refusal import Refused
from vaecollapse.resuming import replayed
from vaecollapse.run import Run
from vaecollapse.tasks import fitting, train

SHORT = ["model=linear", "dataset.examples=300", "dataset.val_examples=64", "max_epochs=6", "batch_size=64", "lr=0.01",
         "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "trainer.check_val_every_n_epoch=2",
         "detector=[rate]", "callback.checkpoints.every_seconds=0.0"]  # fmt: skip
FLOOR = ["regularizer=free_bits", "regularizer.form=hinge", "free_bits=0.005", "beta=2"]
TUNER = [*FLOOR, "callback.tuner.after=[1,2,4,5]", "callback.tuner.examples=32"]
PLANS = {
    "stages": [*FLOOR, "callback.stages.stages=[{epochs: 1, weight: [0, 0], trains: [encoder]}, {share: 0.35, weight: "
               "[0, 1], lr: {decoder: 0.5, log_variance: 2}, reset: [decoder]}, {weight: [1, 1], trains: [decoder]}]"],
    "pretrain_reset": FLOOR,
    "aggressive": ["callback.aggressive.most=4", "callback.aggressive.window=2", "callback.aggressive.every=2",
                   "callback.aggressive.examples=32"],
    "tuner": [*TUNER, "callback.tuner.mode=corrected"],
    "expected_consistent": FLOOR,
}  # fmt: skip


class Ended(Exception):
    pass


class Ends(Callback):
    """Raises once, at the start of the step after `step`."""

    def __init__(self, step: int) -> None:
        self.step, self.armed = step, True

    def on_train_batch_start(self, trainer, *_) -> None:
        if self.armed and trainer.global_step == self.step:
            self.armed = False
            raise Ended


def line_of(name: str, folder: Path, *more: str) -> list[str]:
    return [*SHORT, f"callback=[learning_rate,collapse_monitor,checkpoints,{name}]", *PLANS[name], *more,
            f"logger.csv.directory={folder}"]  # fmt: skip


def trained(line: list[str], folder: Path) -> Path:
    train(config.compose(line), folder, line)
    return folder


def left(folder: Path) -> tuple[dict, list[dict], str]:
    """The last checkpoint, the events and the metrics."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    events = [row for row in Run(folder).lines("events.jsonl") if row["event"] not in ("resumed", "verdict", "alarm")]
    return state, events, (folder / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str], tuple]:
    """What a run of this plan leaves that was never ended; each is trained once."""

    @functools.cache
    def of(name: str) -> tuple:
        folder = tmp_path_factory.mktemp(name)
        return left(trained(line_of(name, folder), folder))

    return of


# within the second epoch of five steps, and between the fourth and the fifth
@pytest.mark.parametrize(("name", "step"), [*((name, 7) for name in PLANS), ("tuner", 20), ("stages", 20)])
def test_a_run_that_was_ended_and_resumed_decides_the_same_to_the_same_bits(whole, name, step, tmp_path, monkeypatch):
    build, ends = fitting.build_trainer, Ends(step)
    monkeypatch.setattr(fitting, "build_trainer", lambda cfg, folder, calls: build(cfg, folder, [*calls, ends]))
    line = line_of(name, tmp_path)
    with pytest.raises(Ended):
        trained(line, tmp_path)
    (tmp_path / "overrides.txt").write_text("".join(f"{each}\n" for each in line))
    trained([each for each in replayed([f"resume={tmp_path}"]) if not each.startswith("hydra.")], tmp_path)
    (state, events, metrics), (ours, told, logged) = whole(name), left(tmp_path)
    assert told == events and [row for row in events if row["event"] != "steps"]
    assert logged == metrics
    for part in (state, ours):
        part["callbacks"].pop("CollapseMonitor", None)  # its prescriptions name the folder
    parts = ("state_dict", "optimizer_states", "callbacks", "training")
    assert differing(*(tensors({part: each[part] for part in parts}) for each in (state, ours))) == []


def test_each_step_logs_every_groups_rate_and_the_one_weight_that_acted(whole) -> None:
    """stages: encoder alone for an epoch at no weight; then a ramp, the decoder at half the rate; then the decoder."""
    rows: dict[int, dict] = {}
    for row in map(json.loads, whole("stages")[2].splitlines()):
        rows.setdefault(row["step"], {}).update(row)
    names = ("train/objective/weight_declared", "train/lr/encoder", "train/lr/decoder", "train/lr/encoder+log_variance")
    first, ramp, last = ([rows[step][name] for name in names] for step in (4, 10, 20))
    assert first == [0.0, rows[4]["train/lr"], 0.0, rows[4]["train/lr"]]
    assert ramp[0] == pytest.approx(2 * (10 / 30 - 1 / 6) / 0.35)
    assert ramp[1:] == pytest.approx([rows[10]["train/lr"] * factor for factor in (1, 0.5, 2)])
    assert last == [2.0, 0.0, rows[20]["train/lr"], 0.0]


def test_parts_are_found_by_gradient_and_what_has_none_keeps_weights_and_moments() -> None:
    vae = LinearVAE(event_shape=(8,), latent_dim=3, likelihood=NormalLikelihood()).double()
    sample = Batch(gaussian_data(2), index=torch.arange(2))
    parts = parts_of(vae, sample)
    assert {name for name, part in parts.items() if part == "decoder"} == {"decoder.weight", "decoder.bias"}
    assert {name for name, part in parts.items() if part == "encoder"} == {
        "encoder.weight",
        "encoder.bias",
        "log_variance",
    }
    optimizer = torch.optim.AdamW(vae.parameters(), lr=0.1, weight_decay=0.1)
    split(optimizer, {id(own): parts[name] for name, own in vae.named_parameters()}, "part")
    assert [(group["part"], len(group["params"])) for group in optimizer.param_groups] == [
        ("encoder", 3),
        ("decoder", 2),
    ]
    for still in (False, True):
        before = [own.detach().clone() for own in (vae.decoder.weight, vae.encoder.weight)]
        moments = [optimizer.state[vae.decoder.weight][key].clone() for key in ("exp_avg", "step")] if still else []
        vae.elbo(sample, seed=0).distortion.mean().backward()
        if still:
            drop_gradients(vae.decoder.parameters())
        optimizer.step()
        moved = [not torch.equal(*pair) for pair in zip(before, (vae.decoder.weight, vae.encoder.weight), strict=True)]
        assert moved == [not still, True]
        for key, moment in zip(("exp_avg", "step"), moments, strict=False):
            assert torch.equal(optimizer.state[vae.decoder.weight][key], moment)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("tuner", ["regularizer=beta"], ["floor", "regularizer=free_bits"]),
        ("tuner", ["callback.tuner.after=[7]"], ["callback.tuner.after=[1,2]"]),
        ("stages", ["coefficient@regularizer.weight=linear"], ["KL weight", "coefficient@regularizer.weight away"]),
        ("stages,pretrain_reset", [], ["KL weight", "one of"]),
        ("stages", ["callback.stages.stages=[{epochs: 9, weight: [0, 1]}]"], ["9 of 6 epochs", "max_epochs=10"]),
        ("stages", ["callback.stages.stages=[{weight: [0, 1], trains: [decodr]}]"], ["decodr", "encoder"]),
        ("stages", ["+trainer.max_steps=9"], ["max_epochs"]),
        ("aggressive", ["trainer.accumulate_grad_batches=2"], ["accumulate_grad_batches=2"]),
        ("aggressive,stages", ["callback.stages.stages=[{weight: [0, 1], trains: [encoder]}]"], ["every stage"]),
        ("expected_consistent", ["regularizer=beta"], ["floor", "regularizer=free_bits"]),
        ("expected_consistent", ["free_bits=0.001"], ["never be met", "fb% is at most 5"]),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_plan_that_contradicts_itself_is_refused_before_the_run_begins(name, more, words, tmp_path) -> None:
    key = name.partition(",")[0]
    kept = [each for each in PLANS[key] if each.partition("=")[0] not in {one.partition("=")[0] for one in more}]
    if "regularizer=beta" in more:
        kept = [each for each in kept if not each.startswith(("regularizer.form", "free_bits"))]
    line = [*SHORT, f"callback=[learning_rate,collapse_monitor,checkpoints,{name}]", *kept, *more,
            f"logger.csv.directory={tmp_path / 'run'}"]  # fmt: skip
    with pytest.raises(Refused) as sentence:
        trained(line, tmp_path / "run")
    assert all(word in str(sentence.value) for word in words), sentence.value
    assert not (tmp_path / "run" / "provenance.json").exists()
