"""What an error or a signal leaves: the last exact place, from which the run goes on to the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from vaecollapse import config
from vaecollapse.resuming import replayed
from vaecollapse.tasks import fitting, train

LINE = ["model=linear", "dataset.examples=400", "max_epochs=3", "batch_size=64", "trainer.accelerator=cpu",
        "callback.checkpoints.every_seconds=1000.0", "callback.collapse_monitor.every_n_steps=4",
        "trainer.log_every_n_steps=1", "likelihood.scale_mode=optimal"]  # fmt: skip


def trained(folder: Path, *more: str) -> Path:
    line = [*LINE, f"logger.csv.directory={folder}", *more]
    train(config.compose(line), folder, line)
    return folder


def resumed(folder: Path) -> Path:
    (folder / "overrides.txt").write_text("".join(f"{line}\n" for line in [*LINE, f"logger.csv.directory={folder}"]))
    line = [each for each in replayed([f"resume={folder}"]) if not each.startswith("hydra.")]
    train(config.compose(line), folder, line)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("whole"))


def weights_of(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same(a: Path, b: Path) -> None:
    ours, theirs = weights_of(a)["state_dict"], weights_of(b)["state_dict"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    assert (a / "units.csv").read_text() == (b / "units.csv").read_text()


class Fails(Callback):
    """Raises once, in the `hook` of the step after `step`."""

    def __init__(self, hook: str, step: int) -> None:
        def fail(trainer, *_):
            if trainer.global_step == step:
                raise RuntimeError("a planted failure")

        setattr(self, hook, fail)


@pytest.mark.parametrize(
    ("hook", "saved"), [("on_train_batch_start", 10), ("on_before_zero_grad", 1), ("on_before_optimizer_step", 1)]
)
def test_an_error_leaves_the_last_exact_place(whole, tmp_path, monkeypatch, hook: str, saved: int) -> None:
    """After ten steps, a checkpoint only after the first: between two steps the tenth is saved too; within a step
    nothing exact can be. Either way nothing is lost or said twice."""
    build = fitting.build_trainer
    monkeypatch.setattr(fitting, "build_trainer", lambda cfg, at, them: build(cfg, at, [*them, Fails(hook, 10)]))
    with pytest.raises(RuntimeError, match="planted"):
        trained(tmp_path)
    monkeypatch.undo()
    assert weights_of(tmp_path)["global_step"] == saved
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"]
    same(resumed(tmp_path), whole)


ENDINGS = [
    (signal.SIGTERM, 143, "terminated", ["batch_size=64"]),
    (signal.SIGINT, 130, "interrupted", ["batch_size=200", "dataset.examples=400"]),
]


@pytest.mark.parametrize(("number", "code", "word", "more"), ENDINGS)
def test_a_signal_to_one_process_stops_all_of_them_with_a_checkpoint(tmp_path, number, code, word, more) -> None:
    """Two gloo processes, whose periodic checkpoints are far apart; with one step an epoch the end of an epoch is the
    only place there is."""
    line = ["model=linear", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "max_epochs=4000",
            "callback.checkpoints.every_seconds=1000000", "trainer.check_val_every_n_epoch=1000000",
            f"hydra.run.dir={tmp_path / 'run'}", *more]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [Path(sys.executable).with_name("vaecollapse-train"), *line]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, env=environment, stderr=said, stdout=said, start_new_session=True)
        try:
            metrics = tmp_path / "run" / "metrics.jsonl"
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and (not metrics.exists() or len(metrics.read_text()) < 1000):
                assert process.poll() is None, (tmp_path / "said").read_text()
                time.sleep(0.2)
            process.send_signal(number)
            assert process.wait(timeout=60) == code, (tmp_path / "said").read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    lines = (tmp_path / "said").read_text().splitlines()
    assert weights_of(tmp_path / "run")["global_step"] > 0
    assert (tmp_path / "run" / "verdict.json").exists()
    assert sum("go on with: vaecollapse-train resume=" in each for each in lines) == 1
    assert sum(each.startswith(f"vaecollapse-train: {word}") for each in lines) == 1
