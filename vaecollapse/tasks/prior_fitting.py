"""`vaecollapse-train model=latent_prior`: a prior fitted to the codes of a trained run, and what that saves."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from .. import loading
from ..callbacks.second_stage import BesideTheNLL
from ..datasets.latents import Codes, LatentsData
from ..detectors.base import Z95, Finding
from ..diagnosis import Verdict, diagnose
from ..evaluation import mean_of, quiet, read, spread
from ..models.latent_prior import LatentPrior
from ..refusal import Refused
from ..regularizers.base import Regularizer
from ..regularizers.beta import Beta
from ..resuming import has_begun, key
from ..run import Run, first_process
from . import fitting
from .building import build_callbacks, build_model, build_module, build_trainer, logged, made, prepared, quiet_lightning
from .fitting import Outcome
from .measuring import (
    EVALUATION_BLOCK,
    TRAINING_EXAMPLES,
    Examples,
    detectors_of,
    facts_of,
    opened,
    place_of,
    price_at,
)
from .opening import Opened
from .recording import record_start
from .rewinding import of_the_run_itself, refuse_planted, rewound
from .second_stage import codes_of, identity, is_second_stage, joined, opened_first

log = logging.getLogger(__name__)
DRAWS, DRAWN = 16, 12  # draws of each held-out code, and their noise's epoch
BLOCK = 4096
NO_PRICE = "-ln p(z) has no KL whose weight could move"
MOVES_NOTHING = {
    "detector": "readings are those of dataset.run's own detectors",
    "warmup": NO_PRICE,
    "coefficient": NO_PRICE,
}
CALLED = {
    "standard_normal": "of N(0, I)",
    "gaussian": "of a Gaussian with the training codes' covariance",
    "run_prior": "of the run's own prior",
}


def train(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Outcome:
    """Trains a model to a verdict, or a second-stage prior to one on the model of both stages."""
    return (fit_prior if is_second_stage(cfg) else fitting.train)(cfg, directory, overrides)


def fit_prior(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Outcome:
    """Fits a prior to the codes of a run. Raises Refused where the run has none, before step 1."""
    refuse_what_has_no_place(cfg, overrides)
    pl.seed_everything(cfg.seed, verbose=False)
    quiet_lightning()
    if cfg.resume:
        refuse_planted(cfg, directory)
    begun = bool(cfg.resume) and has_begun(directory)
    watch = BesideTheNLL()
    trainer = build_trainer(cfg, directory, [*build_callbacks(cfg).values(), watch])
    data: LatentsData = made("dataset", lambda: instantiate(cfg.dataset), LatentsData)
    device = device_of(trainer.strategy.root_device)
    asked = OmegaConf.create({"device": device, "seed": None, "trust": list(cfg.trust), "overrides": []})
    first = opened_first(data.run, data.checkpoint, asked, opened)
    made("dataset", lambda: prepared(data.take(codes_of(first, data.draws), identity(first))))
    weights = fitting.weights_of(cfg.init_from) if cfg.init_from and not begun else None
    module = build_module(cfg, build_model(cfg, data, weights))
    if not list(module.vae.parameters()):
        raise Refused("prior=normal has nothing to be fitted: type prior=maf, nsf, realnvp or autoregressive")
    held = data.codes["validation"]
    beside = compared(first, held, data.codes["train"], draws=1, seed=data.seed, epoch=0)
    others = {name: float(nll.mean()) for name, nll in beside.nll.items()}
    watch.others, watch.log_posterior = others, float(beside.log_posterior.mean())
    describe(module.vae, data, first, others)
    source = fitting.take_weights(module.vae, weights) if weights else None
    run = Run(directory)
    if not begun and first_process():
        record_start(run, *(of_the_run_itself(cfg, overrides) if cfg.resume else (cfg, overrides)), data, source)
        stages = {"second_stage": str(first.source.resolve()), "codes": identity(first)}
        run.write("provenance.json", run.read("provenance.json") | stages)
        units = int(held.mean.shape[1])
        run.write("preflight.json", {"units": units, "steps": fitting.planned_steps(data, trainer), "null": others})
    if cfg.preflight == "only":
        return Outcome("too_early", None, directory)
    with logged(trainer, cfg):
        with run.alone():
            began = time.monotonic()
            going_on = rewound(run, cfg, overrides, data) if cfg.resume else None
            if first_process():
                (directory / "verdict.json").unlink(missing_ok=True)  # of the shorter training
            fitting.fit(trainer, module, data, going_on)
            verdict = concluded(first, data, cast(LatentPrior, module.vae), directory, module.fault)
            if first_process():
                run.write("verdict.json", verdict.as_dict())
                run.write("trained.json", fitting.ended(trainer, module, time.monotonic() - began))
        if cfg.get("report", True) and first_process():
            fitting.leave_page(directory)
    return Outcome(verdict.verdict, verdict, directory)


def refuse_what_has_no_place(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refused where the command asks for what acts on a latent: codes are data here, and have none."""
    if typed := next((line for line in overrides if key(line) in MOVES_NOTHING), None):
        raise Refused(f"{typed} moves nothing of a second-stage prior: {MOVES_NOTHING[key(typed)]}: leave it out")
    callbacks = [str(name) for name in cfg.get("callback") or {}]
    known = {"learning_rate", "checkpoints", "progress", "ema", "wandb"}
    if other := [name for name in callbacks if name not in known]:
        raise Refused(
            f"callback.{other[0]} is of a model with a latent, and a second-stage prior has none: take of "
            f"{', '.join(sorted(known))}"
        )
    regularizer = made("regularizer", lambda: instantiate(cfg.regularizer), Regularizer)
    if not isinstance(regularizer, Beta) or regularizer.end_weight() != 1:
        raise Refused(
            "a second-stage prior is fitted by -ln p(z), with no KL to be priced: leave out regularizer and beta"
        )
    if cfg.probe:
        raise Refused("probe=true forks a model with a latent, and a second-stage prior has none: leave it out")
    target = str(cfg.dataset._target_)
    if target.rpartition(".")[2] != LatentsData.__name__:
        raise Refused(
            "model=latent_prior is fitted to the codes of a run: leave out dataset=, and type dataset.run=DIR"
        )


def device_of(root: torch.device) -> str:
    """Where the run's encoder works: on the device that this process trains on, each process its own.

    >>> device_of(torch.device("cuda:1")), device_of(torch.device("mps"))
    ('cuda:1', 'cpu')
    """
    return str(root) if root.type == "cuda" else "cpu"


def describe(prior: Any, data: LatentsData, first: Opened, others: Mapping[str, float]) -> None:
    """A few lines on what is about to be fitted to what."""
    parameters = sum(p.numel() for p in prior.parameters())
    train = data.codes["train"]
    fresh = "fresh draws each epoch" if train.draws is None else f"{data.draws} draws of each"
    log.info("model: %s, %d units, %s parameters", type(prior).__name__, train.mean.shape[1], f"{parameters:,}")
    log.info("codes: %s, %s", first.named(str(first.source)), fresh)
    order = cast(list, data.facts["order"])
    told = ", ".join(f"{unit} ({float(train.information()[unit]):.2g})" for unit in order[:8])
    log.info("units by information in nats: %s%s", told, " …" if len(order) > 8 else "")
    log.info("validation NLL %s", ", ".join(f"{CALLED[name]} {nll:.4g}" for name, nll in others.items()))


# ---- what it saves


class Beside(NamedTuple):
    """−ln p(z) of held-out codes under several priors, and ln q(z|x), each example's mean over its draws."""

    nll: dict[str, Float[Tensor, " count"]]
    log_posterior: Float[Tensor, " count"]


def compared(
    first: Opened, held: Codes, train: Codes, second: LatentPrior | None = None, *, draws: int, seed: int, epoch: int
) -> Beside:
    """The NLL of held-out codes: of N(0, I), of a Gaussian fitted to the training codes, of the run's prior, and of the
    second stage's, all at the same draws."""
    vae = first.module.vae
    mean, covariance = train.moments()
    jitter = 1e-9 * covariance.diagonal().mean() * torch.eye(len(mean), dtype=mean.dtype)
    unit = torch.zeros(len(mean), dtype=torch.float64)
    priors: dict[str, tuple[Callable[[], Distribution], Any]] = {
        "standard_normal": (lambda: Independent(Normal(unit, torch.ones_like(unit)), 1), unit),
        "gaussian": (lambda: MultivariateNormal(mean, covariance + jitter), unit),
        "run_prior": (vae.prior, next(vae.parameters())),
    }
    if second is not None:
        priors["second_stage"] = (second.prior, next(second.parameters()))
    columns: dict[str, list[Tensor]] = {name: [] for name in (*priors, "log_posterior")}
    with quiet(vae, first.seed), torch.no_grad():
        for rows in torch.arange(len(held.mean)).split(max(1, BLOCK // draws)):
            z, log_posterior = held.drawn(rows, draws=draws, seed=seed, epoch=epoch)
            columns["log_posterior"].append(log_posterior.double().mean(0))
            for name, (prior, like) in priors.items():
                log_prob = prior().log_prob(z.flatten(0, 1).to(like)).double().cpu()
                columns[name].append(-log_prob.unflatten(0, z.shape[:2]).mean(0))
    whole = {name: torch.cat(parts) for name, parts in columns.items()}
    return Beside({name: whole[name] for name in priors}, whole["log_posterior"])


class Saved(NamedTuple):
    """By how many nats KL(q(z)‖p) is smaller than with the run's prior, what R was and is, each prior's NLL, and by how
    much the second stage's is above a Gaussian's."""

    saved: Finding
    before: Finding
    after: Finding
    nll: dict[str, Finding]
    over_gaussian: Finding

    def lines(self) -> list[str]:
        """In words."""
        own, others = self.nll["second_stage"], (f"{CALLED[name]} {told(self.nll[name])}" for name in CALLED)
        word = "falls" if (self.saved.value or 0) >= 0 else "rises"
        size = self.saved._replace(value=abs(self.saved.value or 0))
        over = self.over_gaussian
        worse = over.se is not None and (over.value or 0) > Z95 * over.se
        return [
            f"held-out cross-entropy H(q, p) {told(own)} nats, {', '.join(others)} ({own.n} examples, {own.note})",
            f"KL(q(z)‖p) {word} by {told(size)} nats; R would be {told(self.after)} where it was {told(self.before)}",
            *([f"{told(over)} nats worse than a Gaussian: more epochs, or a simpler prior"] if worse else []),
        ]


def told(finding: Finding) -> str:
    """A mean and half its 95 % interval."""
    error = "" if finding.se is None else f" ± {Z95 * finding.se:.2g}"
    return f"{finding.value:.4g}{error}"


def saved(beside: Beside, draws: int, split: str) -> Saved:
    """Paired over the examples of `split`: R₁ − R₂ = NLL₁ − NLL₂, whatever q(z|x) is."""
    nll, log_posterior = beside.nll, beside.log_posterior
    note = f"{split} split, {draws} draws each"
    return Saved(
        mean_of("kl_saved", nll["run_prior"] - nll["second_stage"], note),
        mean_of("rate_before", log_posterior + nll["run_prior"], note),
        mean_of("rate_after", log_posterior + nll["second_stage"], note),
        {name: mean_of(name, each, note) for name, each in nll.items()},
        mean_of("over_gaussian", nll["second_stage"] - nll["gaussian"], note),
    )


def unseen(codes: Mapping[str, Codes]) -> str:
    """The split that chose nothing: the test split, or validation, which chose the checkpoint, where it has too few."""
    return "test" if len(codes["test"].mean) > 1 else "validation"


def concluded(first: Opened, data: LatentsData, second: LatentPrior, directory: Path, fault: str | None) -> Verdict:
    """The verdict on the model of both stages, on the run's own examples, and what the best checkpoint saves on those
    that did not choose it."""
    weights = loading.load_weights(loading.checkpoint_of(directory, "best"))
    loading.fill(second, weights, "vae.")
    second = cast(LatentPrior, second.eval().cpu())
    split, fitted = unseen(data.codes), data.codes["train"]
    beside = compared(first, data.codes[split], fitted, second, draws=DRAWS, seed=data.seed, epoch=DRAWN)
    found = saved(beside, DRAWS, split)
    verdict = judged(joined(first, second, directory, weights))
    if fault:
        verdict = verdict._replace(verdict="diverged", findings=[fault, *verdict.findings])
    readings = {f"nll_{name}": each._replace(name=f"nll_{name}") for name, each in found.nll.items()}
    readings["kl_saved"] = found.saved
    for line in found.lines():
        log.info("%s", line)
    return verdict._replace(findings=[*found.lines(), *verdict.findings], readings=verdict.readings | readings)


def judged(run: Opened) -> Verdict:
    """The readings of both probes on the model of both stages, and what they amount to."""
    module, source = run.module, run.source

    def probed(split: str) -> dict[str, Finding]:
        dataset = run.split(split)
        examples = Examples(dataset, spread(len(dataset), TRAINING_EXAMPLES), module)
        price = price_at(module, place_of(module, run.weights, run.data, run.cfg))
        blocks = examples.distinct().blocks(EVALUATION_BLOCK)
        return read(module.vae, blocks, detectors_of(run.cfg, module.device), price, seed=run.seed)[0]

    found = made("the readings", lambda: probed("validation"))
    training = made("the readings", lambda: probed("train"))
    facts = facts_of(module, source, found, run.weights, run.data, run.cfg, held_out=True)
    return diagnose(found, training, facts)._replace(prescriptions=[])
