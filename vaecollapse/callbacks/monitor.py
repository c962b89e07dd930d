"""Watches the latent while training, on a training and a held-out probe, and says at the end what it is."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.distributions import Distribution

from ..advice import in_words
from ..detectors.active_units import ActiveUnits
from ..detectors.aggregate_posterior import AggregatePosterior
from ..detectors.answers import Answers
from ..detectors.base import Detector, Finding, undefined
from ..detectors.decoder_reliance import DecoderReliance
from ..detectors.decoder_variance import DecoderVariance
from ..detectors.epsilon_delta import EpsilonDelta
from ..detectors.floor_saturation import FloorSaturation
from ..detectors.flow_faithfulness import FlowFaithfulness
from ..detectors.information_rank import InformationRank
from ..detectors.latent_tokens import LatentTokens
from ..detectors.mutual_information import MutualInformation
from ..detectors.posterior_variance import PosteriorVariance
from ..detectors.price_of_a_nat import PriceOfANat
from ..detectors.prior_samples import PriorSamples
from ..detectors.rate import Rate
from ..detectors.temperature import Temperature
from ..diagnosis import MISSING, Facts, Fork, Verdict, bars_of, diagnose, status, value
from ..evaluation import over_entropies, read
from ..preflight import Survey
from ..prescriptions import STATES, Prescription
from ..refusal import Refused
from ..run import STOPPED, Run
from ..training import Training
from .checkpoints import Checkpoints
from .foreign import Decode, Distance, Latents, foreseen
from .intervention import MOST, intervene
from .offers import offer_histogram, offer_text
from .probes import Probe, foreign_probe, own_probe
from .trend import Row, fading, has_fallen, unsettled

log = logging.getLogger(__name__)
Split = Literal["held_out", "training"]
ALARMED = ("warn", "stop", "intervene")
GRAVE = ("forecast_collapse", "fading", "variance_collapse")  # the others may be what was asked for
AGAIN = 4  # a value of z that has fallen is read again after such a part of the steps between readings
SHOWN = {
    "rate": "latent/rate",
    "kl_per_unit_residual": "latent/kl_per_unit_residual",
    "beyond_spline": "latent/beyond_spline",
    "gap": "latent/gap",
    "information_rank": "latent/information_rank",
    "mi": "latent/mi",
    "price_of_a_nat": "latent/price_of_a_nat",
    "active_units": "latent/active_units",
    "sigma_min": "latent/sigma_min",
    "mi_ceiling": "latent/mi_ceiling",
    "dead_units": "latent/dead_units",
    "sigma_median": "latent/sigma_median",
    "floor_saturation": "latent/floor_saturation",
    "information_rank_nats": "latent/information_rank_nats",
    "prior_hole": "latent/prior_hole",
    "marginal_kl_lower": "latent/marginal_kl_lower",
    "marginal_kl_upper": "latent/marginal_kl_upper",
    "hole_auc": "latent/hole_auc",
    "prior_samples": "latent/prior_samples",
    "collapsed_units": "latent/collapsed_units",
    "decoder_scale": "latent/decoder_scale",
    "diversity_prior": "latent/diversity_prior",
    "diversity_posterior": "latent/diversity_posterior",
    "null_unigram": "null/unigram",
    "null_prompt": "null/prompt",
    "exact_match": "exact_match",
    "rate_over_answer_entropy": "latent/rate_over_answer_entropy",
    "delta_shuffled": "latent/delta_shuffled",
    "token_cosine": "latent/token_cosine",
    "token_std": "latent/token_std",
}


def all_detectors() -> dict[str, Detector]:
    """Every detector at its default thresholds, by the names of conf/detector/."""
    return {
        "rate": Rate(),
        "active_units": ActiveUnits(),
        "posterior_variance": PosteriorVariance(),
        "floor_saturation": FloorSaturation(),
        "flow_faithfulness": FlowFaithfulness(),
        "decoder_reliance": DecoderReliance(),
        "information_rank": InformationRank(),
        "price_of_a_nat": PriceOfANat(),
        "mutual_information": MutualInformation(),
        "aggregate_posterior": AggregatePosterior(),
        "epsilon_delta": EpsilonDelta(),
        "decoder_variance": DecoderVariance(),
        "temperature": Temperature(),
        "prior_samples": PriorSamples(),
        "answers": Answers(),
        "latent_tokens": LatentTokens(),
    }


class Look(NamedTuple):
    """What one reading brought: the alarms that were not sounding before, the per-unit series of the held-out probe
    (none between full readings), and whether its verdict is the one that verdict.json has."""

    step: int
    verdict: Verdict | None  # None before training, when only the forecast can sound
    changed: bool
    alarms: set[str]
    series: Mapping[str, np.ndarray]
    kept: bool = False


class CollapseMonitor(Callback):
    """Reads the latent every `every_n_steps` steps on `examples` held-out examples (one draw), at the first validation
    after `full_every_n_steps` more steps and at the end on `final_examples` of both splits, and turns the readings into
    a verdict.

    In somebody else's project: `CollapseMonitor(latents=f(module, batch) → Distribution, decode=f(module, z),
    distance=f(x, decoded))`; with `latents` alone it can convict or be inconclusive, never acquit. `directory` is where
    verdict.json, units.csv and events.jsonl go (nowhere, if None).

    Alarms are lines in the log, in events.jsonl and in the loggers. With `on_alarm` stop, one of `GRAVE` ends training;
    with intervene, the first prescription that can be carried out on a training that runs is, a checkpoint of the last
    healthy reading is kept as healthy.ckpt, and the command of a fork is printed where none can.
    """

    def __init__(
        self,
        *,
        detectors: Mapping[str, Detector] | None = None,
        latents: Latents | None = None,
        decode: Decode | None = None,
        distance: Distance | None = None,
        prior: Callable[[nn.Module], Distribution] | None = None,
        examples: int = 64,
        final_examples: int = 512,
        block: int = 256,
        every_n_steps: int = 200,
        full_every_n_steps: int = 10_000,
        seed: int = 0,
        on_alarm: str = "warn",
        bars: Mapping[str, Any] | None = None,
        directory: str | None = None,
    ) -> None:
        super().__init__()
        if on_alarm not in ALARMED:
            raise Refused(f"on_alarm={on_alarm} is none of {', '.join(ALARMED)}: leave it out to be warned")
        self.on_alarm, self.bars = on_alarm, bars_of(bars or {})
        counts = {"examples": examples, "final_examples": final_examples, "block": block,
                  "every_n_steps": every_n_steps, "full_every_n_steps": full_every_n_steps}  # fmt: skip
        if small := [f"{name}={count}" for name, count in counts.items() if count < 1]:
            raise Refused(f"the collapse monitor needs {small[0].split('=')[0]} of at least 1, but got {small[0]}")
        self.detectors = dict(detectors) if detectors else all_detectors()
        self.light = {name: light for name, detector in self.detectors.items() if (light := detector.light())}
        self.functions = {"latents": latents, "decode": decode, "distance": distance, "prior": prior}
        self.examples, self.final_examples, self.block = examples, final_examples, block
        self.every_n_steps, self.full_every_n_steps, self.seed = every_n_steps, full_every_n_steps, seed
        self.run = Run(directory) if directory else None
        self.survey: Survey | None = None
        self.beside: dict[str, Finding] = {}  # what the readings are held against: null models, entropies
        self.foresee: Callable[[], Survey] | None = None  # the survey once more, at the price that is charged now
        self.knobs: dict[str, float] = {}
        self.held: tuple[str, ...] = ()
        self.command: Callable[[Prescription], Prescription] | None = None
        self.verdict: Verdict | None = None
        self.evidence: tuple[dict[str, Finding], dict[str, Finding] | None, Facts] | None = None
        self.latest: dict[str, Finding] = {}
        self.trend: list[Row] = []
        self.settled_at: float | None = None  # the share of training at which the KL weight reached its end
        self.alarms: set[str] = set()
        self.interventions = 0
        self.probes: dict[Split, Probe] = {}
        self.last_look = self.last_full = 0
        self.again_at: int | None = None  # the step of a second reading, where the last one has fallen
        self.reading = False
        self.listeners: list[Callable[[Look], None]] = []

    # --- what a checkpoint keeps

    def state_dict(self) -> dict[str, Any]:
        return {
            "trend": [list(row) for row in self.trend],
            "alarms": sorted(self.alarms),
            "interventions": self.interventions,
            "settled_at": self.settled_at,
            "looks": [self.last_look, self.last_full],
            "again_at": self.again_at,
            "verdict": self.verdict.as_dict() if self.verdict else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.trend = [Row(*row) for row in state_dict["trend"]]
        self.alarms, self.settled_at = set(state_dict["alarms"]), state_dict["settled_at"]
        self.last_look, self.last_full = state_dict["looks"]
        self.again_at = state_dict.get("again_at")
        self.interventions = state_dict["interventions"]
        self.verdict = Verdict.from_dict(state_dict["verdict"]) if state_dict["verdict"] else None

    # --- when to read

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        build = foreign_probe if self.functions["latents"] else own_probe
        loaders: dict[Split, Any] = {"held_out": held_out_loader(trainer), "training": trainer.train_dataloader}
        for split, loader in loaders.items():
            if loader is not None:
                self.probes[split] = build(pl_module, loader, self.final_examples, self.block, self.functions)

        if self.interventions:  # a resumed run's plan is not the one it began with
            self.look_ahead(trainer)
        if self.survey and self.survey.directions == 0 and not trainer.global_step:
            self.sound(trainer, pl_module, {"forecast_collapse"})
            self.tell(Look(0, None, False, {"forecast_collapse"}, {}))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if isinstance(pl_module, Training) and pl_module.spikes:
            self.note_spikes(trainer, pl_module)
        if step > self.last_look and (step % self.every_n_steps == 0 or step == self.again_at):
            self.last_look = step
            self.look(trainer, pl_module, full=False)
            low = has_fallen(self.trend, self.settled_at) and not fading(self.trend, self.settled_at)
            due = low and step % self.every_n_steps == 0  # one that stays low is not read more often for ever
            self.again_at = step + max(1, self.every_n_steps // AGAIN) if due else None

    def note_spikes(self, trainer: Trainer, module: Training) -> None:
        for spike in module.spikes:
            if self.run and trainer.is_global_zero:
                self.run.append("events.jsonl", {**spike, "epoch": trainer.current_epoch, "event": "spike"})
        module.spikes.clear()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = trainer.global_step - self.last_full >= self.full_every_n_steps
        if self.probes and due and not trainer.sanity_checking and share_done(trainer) < 1:
            self.last_full = trainer.global_step
            self.look(trainer, pl_module, full=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look(trainer, pl_module, full=True, finished=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A run that ends early leaves the verdict of where it stopped."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.keep(trainer)  # before the reading leaves its lines, which a resumed run does not have
        if self.probes and not self.reading:
            log.info("training ended early: one quick reading of the latent")
            self.look(trainer, pl_module, full=False, write=True)

    # --- what to read

    def look(
        self, trainer: Trainer, module: LightningModule, *, full: bool, finished: bool = False, write: bool = False
    ) -> Verdict:
        """One reading of both probes, its verdict, and its traces in loggers and run directory."""
        price = own_price(module)
        self.reading = True  # stays so if a reading raises: it would raise again
        found: dict[Split, dict[str, Finding]] = {}
        series: dict[str, Any] = {}
        watched = dict(
            list(self.probes.items())[: None if full or write else 1]
        )  # between full readings the first alone
        for split, probe in watched.items():
            detectors = self.detectors if full else self.light
            blocks = probe.blocks if full else probe.first(self.examples)
            try:
                found[split], units = read(
                    probe.vae, [block.like(module) for block in blocks], detectors, price, seed=self.seed
                )
            except (ValueError, RuntimeError):  # distributions and eigenvalues refuse what is not finite
                if not isinstance(module, Training) or module.fault is None:
                    raise
                found[split], units = {"rate": undefined("rate", "the model cannot be read any more")}, {}
            series = units if split == "held_out" else series
        held_out = (found.get("held_out") or found["training"]) | self.beside
        held_out |= over_entropies(held_out.get("rate"), self.beside)
        if not isinstance(module, Training):
            probe = self.probes.get("training") or self.probes["held_out"]
            self.survey = foreseen(probe.vae, [block.like(module) for block in probe.blocks], held_out)
        if self.survey and self.survey.directions is not None:
            held_out["forecast_directions"] = Finding("forecast_directions", float(self.survey.directions))
        training = found.get("training") if "held_out" in found else None
        self.note_trend(trainer, held_out)
        if self.settled_at is None and (not isinstance(module, Training) or module.settled):
            self.settled_at = share_done(trainer)
        self.evidence = held_out, training, self.facts(trainer, module, held_out, finished)
        verdict = diagnose(*self.evidence)
        if not isinstance(module, Training):
            moves = in_words(verdict.prescriptions, None, value(held_out, "price_of_a_nat", 0.0))
            verdict = verdict._replace(prescriptions=moves)
        elif full or write:
            verdict = self.with_commands(verdict)
        self.record(trainer, module, verdict, held_out, series, full=full or write)
        self.verdict, self.latest, self.reading = verdict, held_out, False
        if self.on_alarm == "intervene" and verdict.verdict == "healthy" and not self.alarms and not finished:
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, Checkpoints):
                    callback.marked = True
        return verdict

    def with_commands(self, verdict: Verdict) -> Verdict:
        """Prescriptions as whole command lines, three at the most; one that would be refused is left out."""
        if not self.command:
            return verdict._replace(prescriptions=verdict.prescriptions[:3])
        written = (self.command(prescription) for prescription in verdict.prescriptions)
        return verdict._replace(prescriptions=list(islice((p for p in written if p.command), 3)))

    def conclude(self, forks: Mapping[str, Fork], over_reference: Finding | None, *, step: int) -> Verdict | None:
        """The verdict once more, with what a probe's forks moved after this step, the last."""
        if self.evidence is None:
            return self.verdict
        held_out, training, facts = self.evidence
        verdict = diagnose(held_out, training, facts._replace(forks=forks, over_reference=over_reference))
        changed = self.verdict is None or self.verdict.verdict != verdict.verdict
        self.verdict = self.with_commands(verdict)
        self.tell(Look(step, self.verdict, changed, set(), {}, True))
        if self.run:
            content = {name: fork_record(fork) for name, fork in forks.items()}
            self.run.write("verdict.json", {**self.verdict.as_dict(), "probe": content})
        return self.verdict

    def note_trend(self, trainer: Trainer, held_out: Mapping[str, Finding]) -> None:
        gap, rate = (value(held_out, name, 0.0) for name in ("gap", "rate"))
        finding = held_out.get("gap", MISSING)
        self.trend.append(Row(share_done(trainer), gap, rate, finding.se or 0.0, finding.threshold or 0.0))

    def facts(
        self, trainer: Trainer, module: LightningModule, held_out: Mapping[str, Finding], finished: bool
    ) -> Facts:
        own = module if isinstance(module, Training) else None
        share = share_done(trainer)
        plan = self.survey if self.survey and self.survey.decides else None
        return Facts(
            units=int(value(held_out, "units", 0.0)),
            weight=own.regularizer.end_weight() if own else None,
            forecast=plan.directions if plan else None,
            beta_effective=plan.beta_effective if plan else None,
            forecast_at_one=plan.at_one if plan else None,
            unsettled=unsettled(self.trend),
            share=share,
            epochs=trainer.current_epoch,
            fault=own.fault if own else None,
            finished=finished,
            schedule_done=finished and share >= 1,
            knobs=self.knobs,
            held_out="held_out" in self.probes,
            ours=own is not None,
            bottleneck=own is not None and own.vae.bottleneck,
            floor=value(held_out, "floor", 0.0),
            held=self.held,
            bars=self.bars,
        )

    # --- where it goes

    def sound(self, trainer: Trainer, module: LightningModule, alarms: set[str]) -> None:
        """A line in the log and in events.jsonl for each alarm; the forecast's is the only one at step 0."""
        where = {"step": trainer.global_step, "epoch": trainer.current_epoch}
        for alarm in sorted(alarms):
            log.warning("step %d: alarm %s", trainer.global_step, alarm)
            for logger in trainer.loggers:
                offer_text(logger, "collapse/alarms", alarm, trainer.global_step)
            if self.run and trainer.is_global_zero:
                self.run.append("events.jsonl", {**where, "event": "alarm", "alarm": alarm})
        grave = sorted(alarm for alarm in alarms.intersection(GRAVE) if alarm != "forecast_collapse" or self.certain)
        if self.on_alarm == "stop" and grave:
            log.warning("step %d: training stops, as on_alarm=stop says", trainer.global_step)
            trainer.should_stop = True
            if self.run and trainer.is_global_zero:
                self.run.append("events.jsonl", {**where, "event": STOPPED, "alarm": grave[0]})
        if self.on_alarm == "intervene" and grave:
            self.intervene(trainer, module, grave[0])

    @property
    def certain(self) -> bool:
        """Is a forecast of no direction at all more than an order of magnitude?"""
        return self.survey is not None and self.survey.certain

    def look_ahead(self, trainer: Trainer) -> None:
        """The forecast at the price that is charged now, in the place of the one before."""
        if self.foresee:
            self.survey = self.foresee()
            if self.run and trainer.is_global_zero:
                self.run.write("preflight.json", self.survey.as_dict())

    def intervene(self, trainer: Trainer, module: LightningModule, alarm: str) -> None:
        """Does what can be done at once, says so, and prints the commands of what cannot."""
        if not isinstance(module, Training) or self.interventions >= MOST:
            log.warning("step %d: nothing is done about %s: %s", trainer.global_step, alarm,
                        f"there were {MOST} interventions" if self.interventions else "no module of ours")  # fmt: skip
            return
        weight = module.regularizer.end_weight()
        moves, others = intervene(
            alarm, module.regularizer, weight, floored=getattr(module.regularizer, "floor", 0) > 0
        )
        if moves:
            self.interventions += 1
            self.settled_at = share_done(trainer)  # the value of z is watched anew from here
            self.look_ahead(trainer)
            log.warning("step %d: on %s, %s", trainer.global_step, alarm, " and ".join(map(str, moves)))
        forks = [self.forked(prescription) for prescription in others]
        commands = [fork.command for fork in forks if fork.command]
        for command in commands:
            log.warning("  or, as a run of its own: %s", command)
        if self.run and trainer.is_global_zero:
            where = {"step": trainer.global_step, "epoch": trainer.current_epoch, "event": "intervention"}
            self.run.append("events.jsonl", {**where, "alarm": alarm, "moves": [m._asdict() for m in moves],
                                             "commands": commands})  # fmt: skip
        if moves and alarm == "forecast_collapse" and self.survey and self.survey.directions == 0:
            self.intervene(trainer, module, alarm)

    def forked(self, prescription: Prescription) -> Prescription:
        """The prescription as a command that starts from this run's weights."""
        if not self.command or not self.run:
            return prescription
        start = f"init_from={self.run.directory}"
        return self.command(prescription._replace(overrides=(*prescription.overrides, start)))

    def tell(self, look: Look) -> None:
        for listen in self.listeners:
            listen(look)

    def record(
        self,
        trainer: Trainer,
        module: LightningModule,
        verdict: Verdict,
        held_out: Mapping[str, Finding],
        series: Mapping[str, Any],
        *,
        full: bool,
    ) -> None:
        numbers = {f"val/{shown}": held_out[name].value for name, shown in SHOWN.items() if name in held_out}
        gap = verdict.readings.get("train/gap")
        numbers["train/latent/gap"] = gap.value if gap else None
        alarms = alarms_of(held_out) if verdict.verdict != "too_early" else set()
        if fading(self.trend, self.settled_at) and not full:
            alarms.add("fading")
        logged = {name: float(value) for name, value in numbers.items() if value is not None}
        logged |= {"collapse/verdict": float(STATES.index(verdict.verdict)), "collapse/alarm": float(bool(alarms))}
        for logger in trainer.loggers:
            logger.log_metrics(logged, trainer.global_step)
            for name, values in series.items():
                offer_histogram(logger, f"val/units/{name}", values, trainer.global_step)
        changed = self.verdict is None or self.verdict.verdict != verdict.verdict
        fresh, self.alarms = alarms - self.alarms, alarms
        self.sound(trainer, module, fresh)
        self.tell(Look(trainer.global_step, verdict, changed, fresh, series, full))
        if self.run is None or not trainer.is_global_zero:
            return
        where = {"step": trainer.global_step, "epoch": trainer.current_epoch}
        if changed:
            before = self.verdict.verdict if self.verdict else None
            self.run.append(
                "events.jsonl",
                {**where, "event": "verdict", "from": before, "to": verdict.verdict, "findings": verdict.findings},
            )
        if series:
            names = list(series)
            rows = (
                [trainer.current_epoch, trainer.global_step, unit, name, float(series[name][unit])]
                for name in names
                for unit in range(len(series[name]))
            )
            self.run.append_csv("units.csv", ["epoch", "step", "unit", "reading", "value"], rows)
        if full:
            self.run.write("verdict.json", verdict.as_dict())


def fork_record(fork: Fork) -> dict[str, Any]:
    """A fork as verdict.json has it."""
    moved = {
        name: [part[name].value if name in part else None for part in (fork.before, fork.after)]
        for name in ("gap", "rate", "information_rank", "distortion")
    }
    return {"steps": fork.steps, "better": [fork.better.value, fork.better.se], "before_after": moved}


def held_out_loader(trainer: Trainer) -> Any:
    """The first validation loader; Lightning sets it up late where the first validation is far away."""
    if trainer.val_dataloaders is None and trainer.enable_validation:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    loader = trainer.val_dataloaders
    return (loader[0] if loader else None) if isinstance(loader, Sequence) else loader


def own_price(module: LightningModule) -> Callable | None:
    """The regularizer at this point of training, in evaluation: it moves nothing."""
    if not isinstance(module, Training):
        return None

    def price(elbo):
        regularizer, training = module.regularizer, module.regularizer.training
        objective = regularizer.eval()(elbo, module.progress)
        regularizer.train(training)
        return objective

    return price


def share_done(trainer: Trainer) -> float:
    total = trainer.estimated_stepping_batches
    return trainer.global_step / total if 0 < total < float("inf") else 1.0


def unsure(finding: Finding | None) -> bool:
    return finding is not None and finding.status == "undecided"


def alarms_of(found: Mapping[str, Finding]) -> set[str]:
    """Flags worth a line while training; none of them is a verdict."""
    alarms = set()
    if value(found, "kl_is_low") == 1:
        alarms.add("kl_is_low")
    if status(found, "sigma_median") == "material" and status(found, "beta_effective") == "absent":
        alarms.add("variance_collapse")
    if status(found, "floor_saturation") == "material":
        alarms.add("rate_pinned")
    return alarms
