"""Ends trainings at chosen moments, resumes them, and prints what differs from one that was never ended.

Run as a process of its own (test_resume.py): it forks, which one with torch's threads must not.
"""

import json
import os
import signal
import sys
from pathlib import Path

from lightning.pytorch import Callback

from vaecollapse.callbacks.checkpoints import AtomicCheckpointIO
from vaecollapse.callbacks.monitor import CollapseMonitor
from vaecollapse.run import Run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from kill import content, differing, start

LINE = ["model=linear", "dataset=gaussian", "batch_size=64", "max_epochs=3", "trainer.log_every_n_steps=1", "seed=4",
        "dataset.examples=600", "trainer.check_val_every_n_epoch=1", "callback.collapse_monitor.every_n_steps=4",
        "callback=[learning_rate,collapse_monitor,checkpoints,ema]", "callback.checkpoints.every_seconds=0",
        "+callback.bomb._target_=killing.Bomb"]  # fmt: skip
SAVES = 12  # the checkpoint that is being written when the process ends


class Bomb(Callback):
    """Ends the process at the moment that BOMB names, as SIGKILL would: nothing is flushed, nothing runs."""

    def go(self, moment: str) -> None:
        if os.environ.get("BOMB") == moment:
            os._exit(9)

    def on_train_batch_start(self, trainer, *_) -> None:
        self.go(f"step {trainer.global_step}")
        for name, number in (("ctrl-c", signal.SIGINT), ("sigterm", signal.SIGTERM), ("sigkill", signal.SIGKILL)):
            if os.environ.get("BOMB") == f"{name} {trainer.global_step}":
                os.environ["BOMB"] = ""
                os.kill(os.getpid(), number)

    def on_validation_start(self, trainer, *_) -> None:
        self.go(f"validation {trainer.current_epoch}")

    def on_validation_end(self, trainer, *_) -> None:
        self.go(f"validated {trainer.current_epoch}")

    def on_train_epoch_end(self, trainer, *_) -> None:
        self.go(f"epoch {trainer.current_epoch}")

    def on_train_epoch_start(self, trainer, *_) -> None:
        self.go(f"epoch start {trainer.current_epoch}")

    def setup(self, trainer, *_, **__) -> None:
        look = CollapseMonitor.look

        def last_look(*given, **named):
            if named.get("finished"):
                self.go("last reading")
            return look(*given, **named)

        CollapseMonitor.look = last_look


class Torn(AtomicCheckpointIO):
    """Stops in the middle of writing a checkpoint, or between its two renames."""

    saves = 0

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        type(self).saves += 1
        if self.saves == SAVES and os.environ.get("BOMB") == "half a checkpoint":
            Path(path).with_name(f".{Path(path).name}.part").write_bytes(b"PK\x03\x04 half")
            os._exit(9)
        if self.saves == SAVES and os.environ.get("BOMB") == "between renames":
            Path(path).replace(Path(path).with_name("previous.ckpt"))
            os._exit(9)
        super().save_checkpoint(checkpoint, path, storage_options)


def written(write=Run.write):
    """Run.write that may be the last thing a process does."""

    def wrapped(run: Run, name: str, content) -> None:
        write(run, name, content)
        if os.environ.get("BOMB") == f"written {name}":
            os._exit(9)

    return wrapped


MOMENTS = ["step 0", "step 1", "step 5", "step 8", "validation 0", "validated 0", "epoch 1", "epoch start 1", "step 17",
           "validation 2", "epoch 2", "last reading", "half a checkpoint", "between renames", "torn line", "ctrl-c 5",
           "sigterm 12", "sparse step 17", "written overrides.txt", "written provenance.json"]  # fmt: skip

SWEPT = "a sweep's job"


def ended(line: list[str], moment: str) -> int:
    """Runs until the moment; the exit status."""
    os.environ["BOMB"] = "step 6" if moment == "torn line" else moment.removeprefix("sparse ")
    status = os.waitpid(start(line), 0)[1]
    os.environ["BOMB"] = ""
    return os.waitstatus_to_exitcode(status)


def swept(sweep: Path) -> tuple[int, int]:
    """The exit codes of a sweep whose job is killed, and of the sweep that goes on with it."""
    code = ended(["-m", *LINE, f"hydra.sweep.dir={sweep}"], "sigkill 8")
    assert json.loads((sweep / "0" / "job.json").read_text())["outcome"] == "killed"
    again = os.waitstatus_to_exitcode(os.waitpid(start(["trust=[killing]", f"sweep.resume={sweep}"]), 0)[1])
    assert json.loads((sweep / "0" / "job.json").read_text())["outcome"] == "healthy"
    (sweep / "0" / "job.json").unlink()  # which no single run has
    return code, again


def in_any_order(found: dict) -> dict:
    """With the words of prescribed commands sorted: a sweep types what may change after the run's own."""
    return {name: sorted(leaf.split()) if name.endswith(".command") else leaf for name, leaf in found.items()}


def main(folder: Path) -> None:
    import vaecollapse.tasks.building

    vaecollapse.tasks.building.AtomicCheckpointIO = Torn
    Run.write = written()
    truth = folder / "whole"
    assert os.waitstatus_to_exitcode(os.waitpid(start([*LINE, f"hydra.run.dir={truth}"]), 0)[1]) == 0
    expected, found = content(truth), {}
    for number, moment in enumerate(MOMENTS):
        directory = folder / str(number)
        line = [*LINE, f"hydra.run.dir={directory}"]
        if moment.startswith("sparse"):  # only the first checkpoint is left
            line = [word.replace("every_seconds=0", "every_seconds=1000") for word in line]
        code = ended(line, moment)
        if moment == "torn line":
            with (directory / "metrics.jsonl").open("a") as file:
                file.write('{"step": 7, "train/dis')
        again = os.waitstatus_to_exitcode(os.waitpid(start(["trust=[killing]", f"resume={directory}"]), 0)[1])
        told = (directory / "verdict.json").exists()
        differ = differing(expected, content(directory)) if told else ["no verdict"]
        found[moment] = {"ended": code, "resumed": again, "differ": differ}
    code, again = swept(folder / "sweep")
    differ = differing(*map(in_any_order, (expected, content(folder / "sweep" / "0"))))
    found[SWEPT] = {"ended": code, "resumed": again, "differ": differ}
    print(json.dumps(found))


if __name__ == "__main__":
    import killing  # the Bomb that a configuration names is this module's by its name

    killing.main(Path(sys.argv[1]))
