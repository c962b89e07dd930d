"""The encoder trains ahead of the decoder while that raises I (He 2019)."""

import logging
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from ..batch import Batch
from ..detectors.mutual_information import MutualInformation
from ..evaluation import read
from ..refusal import Refused, check_least
from ..regularizers.step_mean import over_ranks
from ..training import Training
from .acting import Acting, drop_gradients, others, parts_of
from .monitor import held_out_loader
from .probes import own_probe
from .stages import Stages

log = logging.getLogger(__name__)


class Burst(NamedTuple):
    """Encoder steps since the last of the decoder, and the mean loss of the last whole window of them."""

    steps: int = 0
    mean: float | None = None

    def after(self, losses: float | None, *, most: int) -> tuple["Burst", bool]:
        """One encoder step on: is the decoder's turn now? `losses` is the mean of a window that this step fills.

        The turn comes where the mean has risen over that of the window before, or after `most` steps.

        >>> Burst(14).after(2.0, most=100), Burst(29, 2.0).after(2.1, most=100)[1], Burst(99).after(None, most=100)[1]
        ((Burst(steps=15, mean=2.0), False), True, True)
        """
        steps = self.steps + 1
        risen = losses is not None and self.mean is not None and losses > self.mean
        return Burst(steps, self.mean if losses is None else losses), risen or steps >= most


class AggressiveEncoder(Acting):
    """While aggressive, a step moves the encoder alone, up to `most` times, until the mean objective of `window` steps
    is above that of the window before; then one step moves all but the encoder. Once I(x; z) of held-out examples, read
    after every `every` such steps (an epoch of them in the paper), is no higher than it was, every step moves both, for
    good.

    What a step does not move keeps its weights and moments. Each step is one of the plan's steps: at equal epochs the
    decoder takes fewer of them, and train/aggressive/encoder_steps and decoder_steps say how many. The first reading is
    compared with 0, as in the authors' code.
    """

    def __init__(
        self, *, most: int = 100, window: int = 15, every: int = 10, examples: int = 512, seed: int = 0
    ) -> None:
        super().__init__()
        check_least("callback.aggressive", 1, most=most, window=window, every=every)
        check_least("callback.aggressive", 4, examples=examples)
        if most > 100:
            raise Refused(f"callback.aggressive.most={most} is beyond the 100 of He 2019: type at most 100")
        self.most, self.window, self.every, self.examples, self.seed = most, window, every, examples, seed
        self.aggressive, self.burst, self.decoders_turn = True, Burst(), False
        self.information = 0.0
        self.losses: Tensor | None = None
        self.steps = {"encoder": 0, "decoder": 0}
        self.encoder: set[str] = set()

    # --- before step 1

    def check(self, trainer: Trainer, module: Training) -> None:
        if trainer.accumulate_grad_batches > 1:
            raise Refused(
                "the aggressive encoder takes a step a batch, but trainer.accumulate_grad_batches="
                f"{trainer.accumulate_grad_batches}: leave one of the two out"
            )
        for plan in others(trainer, Stages, self):
            if any(acts.trains != ("all",) for acts in plan.acts):
                raise Refused("the aggressive encoder and a stage both say what trains: let every stage train all, or "
                              "leave callback=aggressive out")  # fmt: skip

    def prepare(self, module: Training, sample: Batch) -> None:
        self.encoder = {name for name, part in parts_of(module.vae, sample).items() if part == "encoder"}
        if not self.encoder:
            raise Refused("p(x|z) depends on every parameter of this model, so no encoder can train ahead: leave "
                          "callback=aggressive out")  # fmt: skip

    # --- what a checkpoint keeps

    def state_dict(self) -> dict[str, Any]:
        losses = None if self.losses is None else over_ranks(self.losses.reshape(1, 1)).item()
        return {"aggressive": self.aggressive, "burst": list(self.burst), "decoders_turn": self.decoders_turn,
                "information": self.information, "losses": losses, "steps": dict(self.steps)}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.aggressive, self.decoders_turn = state_dict["aggressive"], state_dict["decoders_turn"]
        self.burst, self.information = Burst(*state_dict["burst"]), state_dict["information"]
        losses, self.steps = state_dict["losses"], dict(state_dict["steps"])
        self.losses = None if losses is None else torch.tensor(losses, dtype=torch.float64)

    # --- while training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (loader := held_out_loader(trainer)) is None:
            raise Refused("the aggressive encoder reads I on held-out examples: give the dataset a validation split")
        self.probe = own_probe(pl_module, loader, self.examples, self.examples, {})

    def moves(self) -> tuple[str, ...]:
        """What this step moves."""
        if not self.aggressive:
            return ("encoder", "decoder")
        return ("decoder",) if self.decoders_turn else ("encoder",)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, Training)
        moved = self.moves()
        if trainer.global_step % pl_module.log_every == 0:
            taken = {f"train/aggressive/{name}_steps": float(count) for name, count in self.steps.items()}
            for logger in trainer.loggers:
                logger.log_metrics(taken, trainer.global_step)
        drop_gradients(
            parameter
            for name, parameter in pl_module.vae.named_parameters()
            if ("encoder" if name in self.encoder else "decoder") not in moved
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)
        if outputs is None or outputs.get("loss") is None:  # no step was taken
            return
        moved = self.moves()
        for name in moved:
            self.steps[name] += 1
        if moved == ("encoder",):
            self.note(outputs["loss"].detach().double())
        else:
            self.burst, self.decoders_turn, self.losses = Burst(), False, None
            if self.aggressive and self.steps["decoder"] % self.every == 0:
                self.look(trainer, pl_module)

    def note(self, loss: Tensor) -> None:
        """One encoder step more."""
        self.losses = loss if self.losses is None else self.losses.to(loss) + loss
        mean = None
        if (self.burst.steps + 1) % self.window == 0:
            mean, self.losses = over_ranks(self.losses.reshape(1, 1)).item() / self.window, None
        self.burst, self.decoders_turn = self.burst.after(mean, most=self.most)

    def look(self, trainer: Trainer, module: Training) -> None:
        """Has I risen since the last look?"""
        blocks = [block.like(module) for block in self.probe.blocks]
        found, _ = read(self.probe.vae, blocks, {"mi": MutualInformation()}, seed=self.seed)
        finding = found["mi"]
        before, now = self.information, finding.value
        self.aggressive = now is not None and now > before
        self.information = before if now is None else now
        self.tell(trainer, "aggressive", aggressive=self.aggressive, mi=now, before=before, note=finding.note,
                  encoder_steps=self.steps["encoder"], decoder_steps=self.steps["decoder"])  # fmt: skip
        if not self.aggressive:
            log.info("the encoder no longer trains ahead: I is %.3g nats, after %.3g", now or 0.0, before)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tell(trainer, "steps", **self.steps)

    def circumstances(self) -> dict[str, Any]:
        return {f"{part}_steps": count for part, count in self.steps.items()}
