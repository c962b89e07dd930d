"""The practitioners' dynamic plan for floor, weight and the decoder's rate, audited: every decision is a line."""

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from ..batch import Batch
from ..evaluation import quiet
from ..refusal import Refused, check_least
from ..regularizers.base import Weighted
from ..regularizers.coefficients import Staged
from ..training import Training
from .acting import Acting, others, parts_of, scale, split, unscale
from .epoch_means import LEAST, EpochMeans
from .monitor import CollapseMonitor, held_out_loader
from .probes import own_probe

log = logging.getLogger(__name__)
MODES = ("advise", "as_written", "corrected")
MANY_FREE, FEW_FREE = 50.0, 10.0  # fb%: R1 above the one, R2 below the other
STILL = 0.001, 0.05  # nats per unit, and share of the last KLr: a KLr that rose by no more has not grown
RAISE, LOWER = 1.25, 0.8  # of the weight: R3 as written, corrected
OVERFIT, SUSPECT, LEAST_RATE, LEAST_D = 2.5, 2.0, 0.05, 1e-2  # R4: held out over training distortion


class State(NamedTuple):
    """What the plan has moved and remembers. `step` is what the floor moves by next, `sign` which way it moved last,
    `last` the checkpoint before: completed epochs, stage, KLr."""

    floor: float
    weight: float
    decoder_lr: float = 1.0
    step: float = 0.002
    sign: int = 0
    last: tuple[int, int, float] | None = None


class Seen(NamedTuple):
    """A checkpoint: completed epochs, the stage of the last of them and whether the weight was at its end throughout
    it, its means in nats per unit, and D of held-out over training examples (None: not defined)."""

    epoch: int
    stage: int
    settled: bool
    klr: float
    kla: float
    fb_percent: float
    pinned: bool = False
    ratio: float | None = None


class Decision(NamedTuple):
    """What a rule moves from `old` to `new` (equal: it only says something), and what it rests on."""

    rule: str
    what: str
    old: float
    new: float
    evidence: dict[str, Any]
    says: str = ""


def decide(state: State, seen: Seen, *, written: bool, floor_step: float, cap: float) -> tuple[State, list[Decision]]:
    """The plan's rules R1 to R5 at one checkpoint; `written` is the practitioners' own, else the corrected one.

    >>> at = Seen(5, 2, False, klr=0.005, kla=0.0005, fb_percent=90.0)
    >>> [decide(State(0.005, 1.0), at, written=w, floor_step=0.002, cap=4.0)[0].floor for w in (True, False)]
    [0.003, 0.003]
    """
    held = seen.pinned and not written
    made: list[Decision] = []
    if not written and not math.isfinite(seen.klr):
        return state, [Decision("abort", "floor", state.floor, state.floor, {"klr": seen.klr}, "the KL is not finite")]
    if not written and seen.klr < LEAST:
        made.append(
            Decision("collapse", "floor", state.floor, state.floor, {"klr": seen.klr}, "collapse alarm: no KL is left")
        )
    elif (sign := wanted(seen)) and not (held and sign < 0):
        state, decision = move_floor(state, seen, sign, written=written, floor_step=floor_step)
        made += [decision] if decision.old != decision.new else []
    if held:
        evidence = {"kl_over_floor": seen.klr / state.floor, "fb_percent": seen.fb_percent}
        made.append(
            Decision(
                "R5", "floor", state.floor, state.floor, evidence, "pinned at the floor: lower or sweep the weight"
            )
        )
    elif (decision := move_weight(state, seen, written=written, cap=cap)) and decision.old != decision.new:
        made.append(decision)
        state = state._replace(weight=decision.new)
    if (decision := slow_decoder(state, seen)) is not None:
        made.append(decision)
        state = state._replace(decoder_lr=decision.new)
    return state._replace(last=(seen.epoch, seen.stage, seen.klr)), made


def wanted(seen: Seen) -> int:
    """−1: R1 would lower the floor, +1: R2 would raise it."""
    return -1 if seen.fb_percent > MANY_FREE else 1 if seen.fb_percent < FEW_FREE else 0


def move_floor(state: State, seen: Seen, sign: int, *, written: bool, floor_step: float) -> tuple[State, Decision]:
    """R1 and R2. Corrected: a flip of the sign halves the step, and a floor within a step of 0 is halved."""
    step = floor_step if written else state.step / 2 if sign == -state.sign else state.step
    new = max(round(state.floor + sign * step, 12), 0.0)
    if not written and sign < 0 and state.floor <= step:
        new = state.floor / 2
    evidence = {"klr": seen.klr, "kla": seen.kla, "fb_percent": seen.fb_percent, "step": step}
    decision = Decision("R1" if sign < 0 else "R2", "floor", state.floor, new, evidence)
    return state._replace(floor=new, sign=sign, step=step), decision


def move_weight(state: State, seen: Seen, *, written: bool, cap: float) -> Decision | None:
    """R3: KLr that has not grown within a stage at a weight that no longer moves."""
    if state.last is None or state.last[1] != seen.stage or not seen.settled:
        return None
    before = state.last[2]
    if not seen.klr - before <= max(STILL[0], STILL[1] * before):
        return None
    new = max(state.weight, min(cap, state.weight * RAISE)) if written else state.weight * LOWER
    return Decision("R3", "weight", state.weight, new, {"klr": seen.klr, "before": before, "since": state.last[0]})


def slow_decoder(state: State, seen: Seen) -> Decision | None:
    """R4: D of held-out examples far above that of training examples."""
    if seen.ratio is None or not seen.ratio > SUSPECT:
        return None
    new, says = state.decoder_lr, "held-out examples cost more than twice as much as training examples"
    if seen.ratio > OVERFIT:
        new, says = max(LEAST_RATE, state.decoder_lr / 2), "overfit"
    return Decision("R4", "decoder_lr", state.decoder_lr, new, {"held_out_over_training": seen.ratio}, says)


def overfit_ratio(held_out: float, training: float, size: float) -> float | None:
    """D held out over D of training, both in evaluation; None below `LEAST_D` nats for each of the `size` numbers (or
    tokens) of an example, where a ratio says nothing (a density's D may even be negative).

    >>> overfit_ratio(30.0, 10.0, 100.0), overfit_ratio(3.0, 0.5, 100.0)
    (3.0, None)
    """
    return held_out / training if training / size >= LEAST_D else None


class Tuner(Acting):
    """Looks after completed epochs `after`, on means of KLr, KLa and fb% over that epoch's training examples, and moves
    floor, weight and the decoder's learning rate at the next epoch's start (`as_written`, `corrected`), or says what
    the corrected plan would do (`advise`). Each decision is a line `tuner` of events.jsonl.

    The stage is that of `callback=stages`, else 2 until the weight has reached its end and 3 from then on; the stage of
    a checkpoint is the one in which its last epoch began. R4 compares D of `examples` held-out and training ones; it
    is not defined where D is below 0.01 nats for each number of an example (0.01 units of a distance).
    """

    def __init__(
        self,
        *,
        mode: str = "advise",
        after: Sequence[int] = (5, 10, 15, 20, 25),
        floor_step: float = 0.002,
        weight_cap: float = 4.0,
        examples: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise Refused(f"callback.tuner.mode={mode} is none of {', '.join(MODES)}: advise moves nothing")
        after = list(after)
        if not after or min(after) < 1 or sorted(set(after)) != after:
            raise Refused(f"callback.tuner.after lists completed epochs in their order, but got {after}: try [5,10,15]")
        check_least("callback.tuner", 1, weight_cap=weight_cap, examples=examples)
        if not 0 < floor_step < math.inf:
            raise Refused(f"the floor moves by a number of nats above 0, but callback.tuner.floor_step={floor_step}")
        self.mode, self.after, self.floor_step, self.weight_cap = mode, after, floor_step, weight_cap
        self.examples, self.seed = examples, seed
        self.means = EpochMeans()
        self.plan: State | None = None
        self.began = (2, False)  # stage, and whether the weight had reached its end, when the epoch began
        self.log_kept: list[dict[str, Any]] = []
        self.parts: dict[str, str] = {}

    @property
    def acts(self) -> bool:
        return self.mode != "advise"

    # --- before step 1

    def check(self, trainer: Trainer, module: Training) -> None:
        regularizer: Any = module.regularizer
        if getattr(regularizer, "floor", None) is None:
            raise Refused(
                f"the tuner moves a floor, which {type(regularizer).__name__} does not have: type "
                "regularizer=free_bits, or leave callback=tuner out"
            )
        if regularizer.weight.listens:
            raise Refused("the tuner and a controller would both own the KL weight: leave callback=tuner out, or take "
                          "another coefficient@regularizer.weight")  # fmt: skip
        if self.acts and any(monitor.on_alarm == "intervene" for monitor in others(trainer, CollapseMonitor, self)):
            raise Refused(
                "an acting tuner and an intervention would both move floor and weight: type callback.tuner.mode=advise "
                "or leave callback.collapse_monitor.on_alarm=intervene out"
            )
        epochs = trainer.max_epochs or 0
        if min(self.after) >= epochs:
            raise Refused(f"the tuner first looks after {min(self.after)} epochs, where training of {epochs} is over: "
                          "type callback.tuner.after=[1,2] or a larger max_epochs")  # fmt: skip
        if late := [epoch for epoch in self.after if epoch >= epochs]:
            log.warning("warning: after epoch %s no epoch is left for the tuner to act in", late[0])

    def prepare(self, module: Training, sample: Batch) -> None:
        regularizer: Any = module.regularizer
        self.plan = State(regularizer.floor, regularizer.weight.value, step=self.floor_step)
        self.parts = parts_of(module.vae, sample)

    # --- what a checkpoint keeps

    def state_dict(self) -> dict[str, Any]:
        assert self.plan is not None
        return {"plan": self.plan._asdict(), "began": list(self.began), "log": self.log_kept,
                "means": self.means.state_dict()}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        last = state_dict["plan"]["last"]
        self.plan = State(**{**state_dict["plan"], "last": None if last is None else tuple(last)})
        self.began, self.log_kept = tuple(state_dict["began"]), list(state_dict["log"])
        self.means.load_state_dict(state_dict["means"])

    # --- while training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self.means.listen(pl_module.regularizer)
        if not self.acts:
            return
        own = {id(parameter): self.parts[name] for name, parameter in pl_module.vae.named_parameters()}
        for optimizer in trainer.optimizers:
            split(optimizer, own, "part")
            for group in optimizer.param_groups:
                group.setdefault("name", group["part"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loaders = held_out_loader(trainer), trainer.train_dataloader
        self.probes = [
            own_probe(pl_module, one, self.examples, self.examples, {}) for one in loaders if one is not None
        ]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Training) and self.plan is not None
        weight: Any = pl_module.regularizer.weight
        settled = pl_module.settled
        stage = weight.at(pl_module.progress.share) + 1 if isinstance(weight, Staged) else 3 if settled else 2
        self.began = stage, settled
        regularizer: Any = pl_module.regularizer
        if self.acts:
            regularizer.floor, regularizer.weight.value = self.plan.floor, self.plan.weight
        else:  # advice is on what stands now, whoever moved it
            self.plan = self.plan._replace(floor=regularizer.floor, weight=regularizer.weight.value)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, Training) and self.plan is not None
        if not self.acts:
            return
        for group in optimizer.param_groups:
            scale(group, self.plan.decoder_lr if group["part"] == "decoder" else 1.0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        unscale(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Training) and self.plan is not None
        means, epoch = self.means.take(), trainer.current_epoch + 1
        if means is None or epoch not in self.after or means.kla is None or means.fb_percent is None:
            return
        stage, settled = self.began
        seen = Seen(
            epoch, stage, settled, means.klr, means.kla, means.fb_percent, bool(means.pinned), self.ratio(pl_module)
        )
        numbers = {"klr": seen.klr, "kla": seen.kla, "fb_percent": seen.fb_percent, "floor": self.plan.floor,
                   "weight": self.plan.weight, "decoder_lr": self.plan.decoder_lr}  # fmt: skip
        for logger in trainer.loggers:
            logger.log_metrics({f"train/tuner/{name}": value for name, value in numbers.items()}, trainer.global_step)
        cap = self.weight_cap * cast(Weighted, pl_module.regularizer).weight.asked
        plan, made = decide(self.plan, seen, written=self.mode == "as_written", floor_step=self.floor_step, cap=cap)
        self.plan = plan if self.acts else self.plan._replace(last=plan.last)
        for decision in made:
            self.say(trainer, epoch, decision)
        if self.acts and any(decision.rule == "abort" for decision in made):
            pl_module.stop("the KL of an epoch is not finite")

    def ratio(self, module: Training) -> float | None:
        """D of held-out over that of training examples, both in evaluation mode and with the same noise."""
        if len(self.probes) < 2:
            return None
        found: list[float] = []
        with quiet(module.vae, self.seed):
            for probe in self.probes:
                block = probe.blocks[0].like(module)
                found.append(float(module.vae.elbo(block, seed=self.seed).distortion.double().mean()))
                numbers = (block.x.numel() if block.mask is None else int(block.mask.sum())) / len(block.x)
        return overfit_ratio(found[0], found[1], numbers if module.vae.normalised else 1.0)

    def say(self, trainer: Trainer, epoch: int, decision: Decision) -> None:
        line = {"completed": epoch, **decision._asdict(), "mode": self.mode}
        self.log_kept.append(line)
        self.tell(trainer, "tuner", **line)
        moved = "would move" if not self.acts and decision.old != decision.new else "moves"
        told = (
            f"{moved} {decision.what} from {decision.old:g} to {decision.new:g}" if decision.old != decision.new else ""
        )
        log.info("tuner after epoch %d: %s %s %s", epoch, decision.rule, told, decision.says)
