"""One LightningModule for every family: the bound, its price, and what really acted."""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from .batch import Batch
from .elbo import Objective, Progress
from .regularizers.base import Regularizer
from .tokens import PAD
from .vae import VAE


def tokens_of(batch: Batch) -> Tensor | None:
    """How many tokens of each example the loss is of; None where x is no tokens."""
    if batch.x.is_floating_point():
        return None
    return (batch.x != PAD if batch.mask is None else batch.mask).flatten(1).sum(1)


def reseed(seed: int) -> None:
    """torch.manual_seed of the generators in use, without the millisecond it spends on devices that are not."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


class Training(LightningModule):
    """Trains a VAE under a regularizer; validation is on the bound, never on the objective."""

    def __init__(
        self,
        *,
        vae: VAE,
        regularizer: Regularizer,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], Optimizer],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.vae, self.regularizer, self.optimizer, self.seed = vae, regularizer, optimizer, seed
        self.fault: str | None = None
        self.total = self.log_every = 1
        self.validation = torch.nn.ModuleDict(
            {name: MeanMetric(nan_strategy="disable") for name in ("distortion", "rate", "tokens")}
        )
        self.epoch_losses: list[float] = []
        self.register_buffer("loss_sum", torch.zeros((), dtype=torch.float64), persistent=False)
        self.register_buffer("loss_max", torch.tensor(-torch.inf), persistent=False)
        self.recent: list[float] = []
        self.spikes: list[dict[str, float]] = []
        self.losses = self.batch = 0
        self.at_one_price = False  # was the plan at its end when this epoch began?
        self.seen: list[Tensor] = []  # (D, R) of the batches of the step under way
        self.planned: int | None = None
        self.since = 0.0  # when the last step was logged, and the tokens read since then
        self.read: Tensor | None = None
        self.tokens_per_second: float | None = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["training"] = {
            "total": self.total,
            "epoch_losses": list(self.epoch_losses),
            "loss_sum": float(self.get_buffer("loss_sum")),
            "losses": self.losses,
            "at_one_price": self.at_one_price,
            "recent": list(self.recent),
            "loss_max": float(self.get_buffer("loss_max")),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["training"]
        self.planned, self.epoch_losses, self.losses = state["total"], list(state["epoch_losses"]), state["losses"]
        self.recent, self.at_one_price = list(state["recent"]), state.get("at_one_price", False)
        self.get_buffer("loss_sum").fill_(state["loss_sum"])
        self.get_buffer("loss_max").fill_(state["loss_max"])

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Each step's noise is its own, so that a resumed run draws what the uninterrupted one would have."""
        self.batch = batch_index
        place = [self.seed, self.trainer.current_epoch, batch_index, self.trainer.global_rank]
        reseed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.parameters())

    @property
    def progress(self) -> Progress:
        parts = self.trainer.accumulate_grad_batches
        return Progress(self.trainer.global_step, self.total, self.trainer.current_epoch, self.batch % parts, parts)

    @property
    def final_weight(self) -> float | None:
        """The KL weight at the end of the schedule as it was asked for; None where training finds it."""
        return self.regularizer.end_weight(asked=True)

    @property
    def settled(self) -> bool:
        """Has what the regularizer's plan moves reached its end?"""
        return self.regularizer.settled(self.progress)

    def on_fit_start(self) -> None:
        steps = self.trainer.estimated_stepping_batches
        # schedules of a resumed run keep the plan they began with, even if it is to train longer
        self.total = self.planned or (int(steps) if math.isfinite(steps) else 1)
        self.since = time.monotonic()
        self.log_every = max(1, self.trainer.log_every_n_steps)  # pyright: ignore[reportAttributeAccessIssue]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """A gradient that is not finite ends training with the parameter's name, and its step is not taken."""
        stepped = (p for group in optimizer.param_groups for p in group["params"])  # modules are slow to walk
        gradients = [p.grad for p in stepped if p.grad is not None]
        if gradients and not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            named = ((name, p.grad) for name, p in self.vae.named_parameters() if p.grad is not None)
            first = next((name for name, grad in named if not torch.isfinite(grad).all()), "the model, in total,")
            self.stop(f"the gradient of {first} is not finite at step {self.trainer.global_step}")
            optimizer.zero_grad()
        if self.seen:
            mean = self.trainer.strategy.reduce(torch.stack(self.seen).mean(0), reduce_op="mean")
            self.seen.clear()
            if torch.isfinite(mean).all():
                self.regularizer.observe(mean[0], mean[1], self.progress)
        named = {f"train/lr/{group['name']}": group["lr"] for group in optimizer.param_groups if "name" in group}
        if named and self.trainer.global_step % self.log_every == 0:  # the rates this step takes, whoever set them
            for logger in self.loggers:
                logger.log_metrics(named, self.trainer.global_step)

    def on_train_start(self) -> None:
        self.on_train_epoch_start()  # a run resumed within its last epoch does not start that

    def on_train_epoch_start(self) -> None:
        if self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1  # the last weights are selected from too

    def training_step(self, batch: Batch, batch_index: int) -> Tensor | None:
        elbo = self.vae.elbo(batch.like(self))
        objective = self.regularizer(elbo, self.progress)
        if (tokens := tokens_of(batch)) is not None:
            self.read = tokens.sum() if self.read is None else self.read + tokens.sum()
        if self.regularizer.listens:  # on every rank, also where this one's numbers are not finite: all take the mean
            self.seen.append(torch.stack([elbo.distortion.mean(), elbo.rate.mean()]).detach())
        if not torch.isfinite(objective.loss):
            parts = {"z": elbo.z, "the KL": elbo.kl, "the distortion": elbo.distortion, "the objective": objective.loss}
            first = next(name for name, part in parts.items() if not torch.isfinite(part).all())
            self.stop(f"{first} is not finite at step {self.trainer.global_step}")
            if self.trainer.world_size > 1:
                return objective.loss  # the others wait for its gradient, and all of them then take no step
            return None  # the step is not taken: the weights stay those of the last finite one
        self.loss_sum = self.get_buffer("loss_sum") + objective.loss.detach()
        if not self.losses:
            self.at_one_price = self.settled
        self.losses += 1
        torch.maximum(self.get_buffer("loss_max"), objective.loss.detach(), out=self.get_buffer("loss_max"))
        if self.trainer.global_step % self.log_every == 0:
            self.record(objective, float(elbo.distortion.detach().mean()), float(elbo.rate.detach().mean()))
        return objective.loss

    def watch_spikes(self) -> None:
        """Notes the largest objective since the last look where it stands out of those before by ten deviations."""
        largest = float(self.get_buffer("loss_max"))
        self.get_buffer("loss_max").fill_(-math.inf)
        if len(self.recent) >= 20:
            usual = statistics.median(self.recent)
            deviation = 1.4826 * statistics.median(abs(value - usual) for value in self.recent)
            if largest > usual + 10 * max(deviation, 1e-3 * abs(usual)):
                self.spikes.append({"step": self.trainer.global_step, "objective": largest, "usual": usual})
        self.recent = [*self.recent, largest][-50:]

    def record(self, objective: Objective, distortion: float, rate: float) -> None:
        """Logs the step: raw D and R, and beside them what was paid for R."""
        self.watch_spikes()
        numbers: dict[str, float] = {
            **self.named("train", distortion, rate),
            "train/objective/total": float(objective.loss.detach()),
            "train/objective/penalty": float(objective.penalty.detach()),
            "train/objective/weight_applied": float(objective.weight.mean()),
            "train/lr": self.trainer.optimizers[0].param_groups[0]["lr"],
        }
        if objective.declared is not None:
            numbers["train/objective/weight_declared"] = float(objective.declared)
        if objective.floor is not None:
            numbers["train/objective/floor"] = float(objective.floor.max())
        if self.read is not None:
            self.tokens_per_second = self.speed(float(self.read))  # no metric: a resumed run repeats those to the bit
        numbers |= {f"train/objective/{name}": float(value) for name, value in objective.scalars.items()}
        for logger in self.loggers:
            logger.log_metrics(numbers, self.trainer.global_step)

    def speed(self, tokens: float) -> float:
        """Tokens a second, of all processes, since this was last asked."""
        spent, self.since = time.monotonic() - self.since, time.monotonic()
        self.read = None
        return self.trainer.world_size * tokens / max(spent, 1e-9)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        elbo = self.vae.elbo(batch.like(self), seed=self.seed, epoch=self.trainer.current_epoch)
        self.metric("distortion").update(elbo.distortion)
        self.metric("rate").update(elbo.rate)
        if (tokens := tokens_of(batch)) is not None:
            self.metric("tokens").update(tokens)

    def metric(self, name: str) -> Any:
        return self.validation[name]

    def on_validation_epoch_end(self) -> None:
        distortion, rate = (float(self.metric(name).compute()) for name in ("distortion", "rate"))
        each = self.per_token(distortion)
        for metric in ("distortion", "rate", "tokens"):
            self.metric(metric).reset()
        chosen = self.selection(distortion, rate)
        if not math.isfinite(chosen):
            self.stop(f"the bound is not finite on the validation split at step {self.trainer.global_step}")
        self.log_dict(
            {
                **self.named("val", distortion, rate),
                # before the schedule's end a lower KL weight flatters, so nothing is selected
                "val/selection": chosen if self.settled else math.inf,
                **({"val/elbo": -(distortion + rate)} if self.vae.normalised and not self.vae.density else {}),
                **each,
            }
        )

    def named(self, split: str, distortion: float, rate: float) -> dict[str, float]:
        """D and R by the names of their columns; what has no latent has no R."""
        if self.vae.density:
            return {f"{split}/nll": distortion}
        return {f"{split}/distortion": distortion, f"{split}/latent/rate": rate}

    def selection(self, distortion: float, rate: float) -> float:
        """−ELBO in nats where the likelihood is a density; the same by a fitted scale where a distance knows one, else
        D + w·R, w the schedule's end."""
        if self.vae.normalised:
            return distortion + rate
        likelihood: Any = getattr(self.vae, "likelihood", None)
        if hasattr(likelihood, "nats"):
            return likelihood.nats(distortion) + rate
        return self.regularizer.compared(distortion, rate)

    def per_token(self, distortion: float) -> dict[str, float]:
        """The NLL of a token, each counting the same, and its exponential; empty where there are none."""
        tokens = self.metric("tokens")
        if not self.vae.normalised or not tokens.update_called:
            return {}
        nll = distortion / float(tokens.compute())
        return {"val/nll_per_token": nll, "val/perplexity": math.exp(min(nll, 700.0))}

    def on_train_epoch_end(self) -> None:
        mean = self.get_buffer("loss_sum") / max(1, self.losses)
        mean = float(self.trainer.strategy.reduce(mean, reduce_op="mean"))  # all processes must decide alike
        self.get_buffer("loss_sum").zero_()
        self.losses = 0
        if not self.at_one_price or self.regularizer.listens:
            return  # a rising price raises the objective of a sound run
        self.epoch_losses.append(mean)
        first, best = self.epoch_losses[0], min(self.epoch_losses)
        limit = first + max(10 * (first - best), abs(first))
        if len(self.epoch_losses) > 3 and min(self.epoch_losses[-3:]) > limit:
            self.stop(f"the objective rose to {mean:.3g}, far above the {first:.3g} it came from, for three epochs")

    def stop(self, fault: str) -> None:
        """Ends training with the reason; the verdict is then `diverged`."""
        self.fault = self.fault or fault
        self.trainer.should_stop = True
