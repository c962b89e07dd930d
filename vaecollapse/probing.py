"""Short trainings forked from a trained model, one per suspect: the cause is named by what moves.

β = 0 tells a price from a model that does not learn; a frozen decoder, an encoder that lags; a lifted floor, whose nats
they are; a weaker decoder, one that does without z. Nothing of the model they start from is changed.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from .batch import Batch
from .detectors.base import Detector, Finding
from .diagnosis import Fork, value
from .distributions.likelihoods import BernoulliLikelihood, ElementwiseLikelihood, SpectralLikelihood
from .elbo import ELBO, Progress
from .evaluation import mean_of, quiet, read
from .regularizers.base import Regularizer
from .regularizers.beta import Beta
from .regularizers.coefficients import Constant
from .vae import VAE

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What forks train with: the run's optimizer, batches and place in its schedule, and for how many steps."""

    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    loader: DataLoader[Batch]
    progress: Progress
    steps: int
    seed: int


class Probed(NamedTuple):
    """The forks by cause, and how much larger D of the autoencoder among them is than that of a linear model."""

    forks: dict[str, Fork]
    over_reference: Finding | None


def probe(
    vae: VAE,
    regularizer: Regularizer,
    plan: Plan,
    blocks: Sequence[Batch],
    training: Batch,
    detectors: Mapping[str, Detector],
) -> Probed:
    """Trains and reads every fork that says something of this model, on held-out `blocks`; `training` are examples that
    the linear reference is fitted to."""
    forks: dict[str, Fork] = {}
    over = None
    before, before_each = look(vae, blocks, detectors, plan.seed)
    for cause in WHAT:
        if (price := priced(cause, regularizer)) is None:
            continue
        own = deepcopy(vae)
        if not (kept := kept_parameters(cause, own, blocks[0])):
            continue
        log.info("probe: %s, %d steps", WHAT[cause], plan.steps)
        if fault := trained(own, price, kept, plan):
            log.warning("warning: this probe ended early: %s", fault)
            continue
        after, after_each = look(own, blocks, detectors, plan.seed)
        forks[cause] = Fork(cause, before, after, mean_of("better", before_each - after_each), plan.steps)
        if cause == "price":
            reference = linear_distortion(own, training, blocks, int(value(before, "units", 0.0)))
            size = before["gap"].threshold if "gap" in before else None
            if reference is not None:
                over = mean_of("over_reference", after_each.cpu() - reference)._replace(threshold=size)
    return Probed(forks, over)


def priced(cause: str, regularizer: Regularizer) -> Regularizer | None:
    """The fork's price of the KL; None where the fork would change nothing."""
    if cause == "price":
        return Beta(weight=Constant(value=0.0))
    own: Any = deepcopy(regularizer)
    if cause == "floor":
        if not getattr(own, "floor", 0.0):
            return None
        own.floor = 0.0
    return own


def kept_parameters(cause: str, vae: VAE, batch: Batch) -> list[nn.Parameter]:
    """The parameters that this fork trains; none where it does not apply."""
    if cause == "decoder":
        weaken: Any = getattr(vae, "weaken", None)
        if weaken is None:  # nothing goes round z
            return []
        weaken()
    frozen = decoding(vae, batch) if cause == "encoder" else set()
    return [parameter for parameter in vae.parameters() if id(parameter) not in frozen]


WHAT = {
    "price": "the KL costs nothing (β = 0)",
    "encoder": "the decoder is frozen",
    "decoder": "the decoder is weakened",
    "floor": "the floor is lifted",
}


def decoding(vae: VAE, batch: Batch) -> set[int]:
    """The identities of the parameters that p(x|z) depends on."""
    return reached(vae, batch, lambda elbo: vae.distortion(batch, elbo.z.detach()))


def reached(vae: VAE, batch: Batch, term: Callable[[ELBO], Tensor]) -> set[int]:
    """The identities of the parameters that a term depends on, found by its gradient whatever they are called."""
    with torch.enable_grad():
        elbo = vae.elbo(batch, seed=0)
        vae.zero_grad(set_to_none=True)
        total = term(elbo).mean()
        if total.requires_grad:
            total.backward()
    found = {id(parameter) for parameter in vae.parameters() if parameter.grad is not None}
    vae.zero_grad(set_to_none=True)
    return found


def trained(vae: VAE, regularizer: Regularizer, parameters: list[nn.Parameter], plan: Plan) -> str | None:
    """Takes the steps; what went wrong, if anything did."""
    wanted = set(map(id, parameters))
    for parameter in vae.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    optimizer = plan.optimizer(parameters)
    vae.train()
    regularizer.train()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(plan.seed)
        for step, batch in enumerate(endless(plan.loader)):
            if step == plan.steps:
                return None
            objective = regularizer(vae.elbo(batch.like(vae)), plan.progress)
            if not torch.isfinite(objective.loss):
                return f"the objective is not finite at step {step}"
            optimizer.zero_grad()
            objective.loss.backward()
            nn.utils.clip_grad_norm_(parameters, 100.0)
            optimizer.step()
    return None


def endless(loader: DataLoader[Batch]) -> Iterator[Batch]:
    while True:
        yield from loader


def look(
    vae: VAE, blocks: Sequence[Batch], detectors: Mapping[str, Detector], seed: int
) -> tuple[dict[str, Finding], Float[Tensor, " examples"]]:
    """The readings, and D of each example with keyed noise."""
    found, _ = read(vae, blocks, detectors, seed=seed)
    with quiet(vae, seed):
        each = torch.cat([vae.elbo(block, seed=seed).distortion.double() for block in blocks])
    return found, each


@torch.no_grad()
def linear_distortion(
    vae: VAE, training: Batch, blocks: Sequence[Batch], units: int
) -> Float[Tensor, " examples"] | None:
    """D of the held-out examples' projection on the training examples' first principal components, in the model's own
    likelihood (a scale that fits its own residual where the model's does); None where none is known for it."""
    likelihood: Any = getattr(vae, "likelihood", None)
    if getattr(vae, "features", None) is not None:
        return None
    flat = training.x.flatten(1).double()
    mean = flat.mean(0)
    ways = torch.linalg.svd(flat - mean, full_matrices=False).Vh[: min(units, len(flat) - 1)]
    out = []
    for block in blocks:
        x = block.x.flatten(1).double()
        seen = (mean + (x - mean) @ ways.T @ ways).reshape(block.x.shape)
        if isinstance(likelihood, SpectralLikelihood):
            out.append(likelihood.distance(block.x, seen.to(block.x), block.mask).double())
        elif isinstance(likelihood, ElementwiseLikelihood):
            residual = (block.x.double() - seen) * (1 if block.mask is None else block.mask)
            scale = likelihood.scale.double()
            if not likelihood.fixed:
                count = residual.numel() if block.mask is None else int(block.mask.sum())
                scale = likelihood.best(residual.abs().pow(likelihood.power).sum() / count)
            out.append(-likelihood.density(seen, scale, block.mask).log_prob(block.x.double()))
        elif isinstance(likelihood, BernoulliLikelihood):
            odds = seen.clamp(0.01, 0.99).logit()
            out.append(-likelihood(odds, block.mask).log_prob(block.x.double()))
        else:
            return None
    return torch.cat([part.flatten(1).sum(1) if part.ndim > 1 else part for part in out]).cpu()
