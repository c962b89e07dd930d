"""Training in stages: which parts train, at what rate, and what starts anew; the KL weight is the coefficient's."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from ..batch import Batch
from ..refusal import Refused
from ..regularizers.coefficients import Staged
from ..training import Training
from .acting import Acting, drop_gradients, key_of, matching, parts_of, scale, split, unscale

log = logging.getLogger(__name__)
KEYS = ("epochs", "share", "weight", "trains", "lr", "reset")


class Acts(NamedTuple):
    """What a stage does besides the KL weight: parts that train, multiples of the learning rate, parts that start
    anew."""

    trains: tuple[str, ...]
    lr: dict[str, float]
    reset: tuple[str, ...]

    @classmethod
    def parsed(cls, number: int, given: Mapping[str, Any]) -> "Acts":
        """Refused where it is none."""
        if unknown := [key for key in given if key not in KEYS]:
            raise Refused(f"stage {number} has no {unknown[0]}: a stage takes {', '.join(KEYS)}")
        trains, lr = tuple(given.get("trains") or ("all",)), dict(given.get("lr") or {})
        if wrong := [f"{word}: {rate}" for word, rate in lr.items() if not 0 < rate < math.inf]:
            raise Refused(f"a rate of stage {number} is a multiple of lr above 0, but got {wrong[0]}: leave out of "
                          "trains what is to stand still")  # fmt: skip
        return cls(trains, {word: float(rate) for word, rate in lr.items()}, tuple(given.get("reset") or ()))


class Stages(Acting):
    """Stage after stage, on the plan of its coefficient `Staged`, which owns the KL weight.

    What does not train keeps its weights and its moments: its gradient is dropped before the step. A rate is a multiple
    of what the schedule says at that step (of several words for a parameter the last one listed counts). What is reset
    gets the weights back that this run drew for it from its seed, before any step and any `init_from`, without
    moments. With {weight: [0, 0]} first and `reset: [decoder]` after it this is Li 2019.
    """

    def __init__(self, *, stages: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.given = Staged(value=1.0, stages=stages).stages
        self.acts = [Acts.parsed(number, given) for number, given in enumerate(stages, 1)]
        self.stage = -1  # the last one that was entered
        self.parts: dict[str, str] = {}
        self.fresh: dict[str, Tensor] = {}

    # --- before step 1

    def check(self, trainer: Trainer, module: Training) -> None:
        weight = getattr(module.regularizer, "weight", None)
        if not isinstance(weight, Staged) or weight.stages != self.given:
            raise Refused(
                "stages own the KL weight, but this plan has another schedule for it besides: leave "
                "coefficient@regularizer.weight away, and take one of callback=stages and callback=pretrain_reset"
            )
        if trainer.max_steps > 0:
            raise Refused(f"stages count epochs, but trainer.max_steps={trainer.max_steps} ends training within one: "
                          "type max_epochs in its place")  # fmt: skip
        weight.plan(trainer.max_epochs or 1)

    def prepare(self, module: Training, sample: Batch) -> None:
        self.parts = parts_of(module.vae, sample)
        for number, acts in enumerate(self.acts, 1):
            for word in (*acts.trains, *acts.lr, *acts.reset):
                matching(self.parts, word, f"stage {number}")
        self.rates = [self.multiples(acts) for acts in self.acts]
        self.fresh = {name: own.detach().clone() for name, own in self.starting_anew(module, 0).items()}

    def multiples(self, acts: Acts) -> dict[str, float]:
        """Parameter → its rate as a multiple of the schedule's, 0 for one that stands still."""
        trained = self.named(acts.trains)
        listed = [(rate, self.named([word])) for word, rate in acts.lr.items()]
        own = {name: [rate for rate, names in listed if name in names] for name in self.parts}
        return {name: (rates or [1.0])[-1] * (name in trained) for name, rates in own.items()}

    def named(self, words: Sequence[str]) -> set[str]:
        return {name for word in words for name in matching(self.parts, word, "a stage")}

    def starting_anew(self, module: Training, first: int) -> dict[str, Tensor]:
        """The parameters that stages from `first` on reset, and the buffers of the layers they make up."""
        names = {name for acts in self.acts[first:] for name in self.named(acts.reset)}
        kept = {name: parameter for name, parameter in module.vae.named_parameters() if name in names}
        layers = {name.rpartition(".")[0] for name in names}
        buffers = {name: own for name, own in module.vae.named_buffers() if name.rpartition(".")[0] in layers - {""}}
        return kept | buffers

    # --- what a checkpoint keeps

    @property
    def state_key(self) -> str:
        return key_of(self, (self.given, self.acts))

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "fresh": self.fresh}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stage, self.fresh = state_dict["stage"], dict(state_dict["fresh"])

    # --- while training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Training)
        own = dict(pl_module.vae.named_parameters())
        words = dict.fromkeys(word for acts in self.acts for word in (*acts.trains, *acts.lr) if word != "all")
        means = {word: set(matching(self.parts, word, "a stage")) for word in words}
        labels = {name: "+".join([part, *(w for w in words if name in means[w] and w != part)])
                  for name, part in self.parts.items()}  # fmt: skip
        for optimizer in trainer.optimizers:
            split(optimizer, {id(own[name]): part for name, part in self.parts.items()}, "part")
            split(optimizer, {id(own[name]): label for name, label in labels.items()}, "name")
        self.names = {id(parameter): name for name, parameter in own.items()}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Training)
        weight = pl_module.regularizer.weight
        assert isinstance(weight, Staged)
        now = weight.at(pl_module.progress.share)
        for entered in range(self.stage + 1, now + 1):
            self.enter(trainer, pl_module, entered)

    def enter(self, trainer: Trainer, module: Training, number: int) -> None:
        """What begins with a stage; one of no length is entered too."""
        self.stage, acts, stage = number, self.acts[number], self.given[number]
        self.start_anew(trainer, module, self.named(acts.reset))
        log.info(
            "stage %d: KL weight %g to %g times beta, %s trains", number + 1, *stage.weight, " and ".join(acts.trains)
        )
        self.tell(trainer, "stage", stage=number + 1, weight=list(stage.weight), trains=list(acts.trains), lr=acts.lr,
                  reset=list(acts.reset))  # fmt: skip

    def circumstances(self) -> dict[str, Any]:
        return {"restarts": sum(bool(acts.reset) for acts in self.acts[: self.stage + 1])}

    @torch.no_grad()
    def start_anew(self, trainer: Trainer, module: Training, names: set[str]) -> None:
        layers = {name.rpartition(".")[0] for name in names} - {""}
        held = dict(module.vae.named_parameters()) | dict(module.vae.named_buffers())
        for name, first in self.fresh.items():
            if name in names or (name not in self.parts and name.rpartition(".")[0] in layers):
                held[name].copy_(first)
                for optimizer in trainer.optimizers:
                    optimizer.state.pop(held[name], None)
        later = self.starting_anew(module, self.stage + 1)
        self.fresh = {name: first for name, first in self.fresh.items() if name in later}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, Training)
        for group in optimizer.param_groups:
            rate = self.rates[self.stage][self.names[id(group["params"][0])]]
            scale(group, rate)
            if rate == 0:
                drop_gradients(group["params"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        unscale(trainer)
