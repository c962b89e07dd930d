"""torch.compile of the networks (here through its tracer alone): the same training, checkpoints with the same names."""

import pytest
import torch

from vaecollapse import config, loading
from vaecollapse.refusal import Refused
from vaecollapse.tasks import train

SHORT = ["model=linear", "dataset.examples=400", "max_epochs=1", "batch_size=64", "trainer.accelerator=cpu"]
LIST = "callback=[learning_rate,collapse_monitor,checkpoints,progress,compile]"


def weights(folder, *more: str) -> dict:
    line = [*SHORT, f"logger.csv.directory={folder}", *more]
    train(config.compose(line), folder, line)
    return loading.load_weights(folder / "checkpoints" / "last.ckpt").state


def test_a_compiled_model_trains_to_the_same_weights_under_the_same_names(tmp_path) -> None:
    compiled = weights(tmp_path / "a", LIST, "callback.compile.backend=eager")
    plain = weights(tmp_path / "b")
    assert compiled.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name])


def test_a_part_the_model_does_not_have_is_refused(tmp_path) -> None:
    with pytest.raises(Refused, match="encoder"):
        weights(tmp_path, LIST, "callback.compile.parts=[nothing]")
