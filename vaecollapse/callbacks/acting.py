"""What a callback that moves the training owes: refusals before step 1, and a line for all it does."""

import zlib
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import Optimizer

from ..batch import Batch
from ..evaluation import quiet
from ..probing import decoding, reached
from ..refusal import Refused
from ..run import Run
from ..training import Training
from ..vae import VAE

PARTS = ("encoder", "decoder", "prior")


class Acting(Callback):
    """Told its `run`; `check` comes before anything is made of data, `prepare` before step 1."""

    run: Run | None = None

    def check(self, trainer: Trainer, module: Training) -> None:
        """Raises Refused where this cannot work with the rest of the plan."""

    def prepare(self, module: Training, sample: Batch) -> None:
        """What it needs of the untrained model; `sample` are two training examples."""

    def circumstances(self) -> dict[str, Any]:
        """What trained.json is to say of a training that was not like others."""
        return {}

    def tell(self, trainer: Trainer, event: str, **content: Any) -> None:
        """One line in events.jsonl."""
        if self.run and trainer.is_global_zero:
            where = {"step": trainer.global_step, "epoch": trainer.current_epoch, "event": event}
            self.run.append("events.jsonl", where | content)


def key_of(callback: Callback, content: object) -> str:
    """A state's name in checkpoints by what the callback was given, so that two of a class go side by side."""
    return f"{type(callback).__qualname__} {zlib.crc32(repr(content).encode()):08x}"


def others(trainer: Trainer, kind: type, than: Callback) -> list[Any]:
    """The trainer's other callbacks of a kind."""
    callbacks: Iterable[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return [each for each in callbacks if isinstance(each, kind) and each is not than]


def parts_of(vae: VAE, sample: Batch) -> dict[str, str]:
    """Parameter → the part it belongs to, found by gradient: `decoder` is what p(x|z) depends on, `prior` what p(z)
    does, `encoder` all the rest."""
    with quiet(vae, 0):
        decoder = decoding(vae, sample)
        prior = reached(vae, sample, lambda elbo: elbo.prior.log_prob(elbo.z.detach()))
    by_identity = dict.fromkeys(prior, "prior") | dict.fromkeys(decoder, "decoder")
    return {name: by_identity.get(id(parameter), "encoder") for name, parameter in vae.named_parameters()}


def split(optimizer: Optimizer, label: dict[int, str], key: str) -> None:
    """Divides parameter groups by label, which each new group keeps under `key`; nothing else of them changes."""
    groups = []
    for group in optimizer.param_groups:
        labels = dict.fromkeys(label.get(id(parameter), "") for parameter in group["params"])
        for name in labels:
            own = [parameter for parameter in group["params"] if label.get(id(parameter), "") == name]
            groups.append({**group, "params": own, key: name})
    optimizer.param_groups[:] = groups


def drop_gradients(parameters: Iterable[Tensor]) -> None:
    """An optimizer leaves what has no gradient as it is, its moments too (and no process waits for it)."""
    for parameter in parameters:
        parameter.grad = None


def scale(group: dict[str, Any], factor: float) -> None:
    """Multiplies the rate of the step that is about to be taken, whatever schedule has set it."""
    group.setdefault("asked", group["lr"])
    group["lr"] *= factor


def unscale(trainer: Trainer) -> None:
    """The schedule's own rates, once the step is taken."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            if "asked" in group:
                group["lr"] = group.pop("asked")


def matching(parts: dict[str, str], word: str, where: str) -> list[str]:
    """The parameters a word means: all, a part, or those whose names begin with it. Refused where there is none."""
    found = [name for name, part in parts.items() if word == "all" or part == word or name.startswith(word)]
    if not found:
        own = ", ".join(dict.fromkeys(name.partition(".")[0] for name in parts))
        raise Refused(
            f"{where} names {word}, which no parameter belongs to: take all, encoder, decoder, or one of {own}"
        )
    return found
