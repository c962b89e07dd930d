"""The average of the weights: its law, its file, and that nothing else moves."""

import pytest
import torch

from vaecollapse import config, loading
from vaecollapse.callbacks.ema import ExponentialMovingAverage
from vaecollapse.refusal import Refused
from vaecollapse.run import Run
from vaecollapse.tasks import train

SHORT = ["model=linear", "dataset.examples=400", "max_epochs=3", "batch_size=64", "trainer.accelerator=cpu"]
LIST = "callback=[learning_rate,collapse_monitor,checkpoints,progress,ema]"


def trained(folder, *more: str):
    line = [*SHORT, f"logger.csv.directory={folder}", *more]
    return train(config.compose(line), folder, line)


def test_the_average_follows_its_recurrence_and_moves_nothing_else(tmp_path, monkeypatch) -> None:
    seen: list[dict] = []
    step = ExponentialMovingAverage.on_train_batch_end

    def spy(self, trainer, module, *given):
        step(self, trainer, module, *given)
        seen.append({name: p.detach().clone() for name, p in module.named_parameters()})

    monkeypatch.setattr(ExponentialMovingAverage, "on_train_batch_end", spy)
    start: dict = {}
    begin = ExponentialMovingAverage.on_train_start

    def first(self, trainer, module):
        start.update({name: p.detach().clone() for name, p in module.named_parameters()})
        begin(self, trainer, module)

    monkeypatch.setattr(ExponentialMovingAverage, "on_train_start", first)
    trained(tmp_path / "with", LIST, "callback.ema.decay=0.9")
    average = dict(start)
    for number, weights in enumerate(seen, 1):
        decay = min(0.9, (1 + number) / (10 + number))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    held = loading.load_weights(tmp_path / "with" / "checkpoints" / "ema.ckpt").state
    for name, expected in average.items():
        torch.testing.assert_close(held[name], expected, rtol=1e-5, atol=1e-6)
    trained(tmp_path / "without")
    runs = [tmp_path / "with", tmp_path / "without"]
    for name in ("last", "best"):
        one, two = (loading.load_weights(run / "checkpoints" / f"{name}.ckpt").state for run in runs)
        assert all(torch.equal(one[key], two[key]) for key in two)
    one, two = (Run(run).read("verdict.json")["readings"] for run in runs)
    assert one == two


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, float("nan")])
def test_a_decay_outside_0_to_1_is_refused(decay: float) -> None:
    with pytest.raises(Refused, match="decay"):
        ExponentialMovingAverage(decay=decay)
