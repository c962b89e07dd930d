"""Data streamed through detectors: one function that reads a latent, and the probes it reads it on."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import exp, log, log10, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .batch import Batch
from .detectors.base import Detector, Finding
from .elbo import ELBO, Objective, gaussian, importance_weighted_nll, unit_moments
from .nulls import Null
from .sampling import decode
from .vae import VAE

ENTROPIES = ("answer_entropy", "answer_entropy_given_prompt")  # facts of data that know them, in nats


def spread(total: int, wanted: int) -> list[int]:
    """`wanted` positions evenly over `total`, all of them where there are no more.

    >>> spread(10, 3), spread(2, 5)
    ([0, 3, 6], [0, 1])
    """
    return list(range(total)) if total <= wanted else [position * total // wanted for position in range(wanted)]


def distinct(examples: Iterable[Tensor | tuple[Tensor, ...]]) -> list[int]:
    """Positions of the first copy of each example: duplicates buy no evidence. An example may be several tensors, since
    the same x under another condition is another example."""
    seen: dict[bytes, int] = {}
    for position, parts in enumerate(examples):
        digest = hashlib.sha256()
        for row in parts if isinstance(parts, tuple) else (parts,):
            row = row.detach().cpu().contiguous()
            digest.update((row.view(torch.uint8) if row.ndim else row).numpy().tobytes())
        seen.setdefault(digest.digest(), position)
    return list(seen.values())


def blocks_of(total: int, block: int) -> list[slice]:
    """Slices of `block` rows; a remainder goes to the last one, since a reading permutes within a block.

    >>> blocks_of(10, 4)
    [slice(0, 4, None), slice(4, 10, None)]
    """
    starts = list(range(0, max(1, total - block + 1), block))
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], total], strict=True)]


@contextmanager
def quiet(module: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, no gradients, and a random state of its own: reading moves nothing in the training."""
    training = {name: part.training for name, part in module.named_modules()}
    module.eval()
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            for name, part in module.named_modules():
                part.training = training[name]


def read(
    vae: VAE,
    probe: Sequence[Batch],
    detectors: Mapping[str, Detector],
    price: Callable[[ELBO], Objective] | None = None,
    *,
    seed: int = 0,
) -> tuple[dict[str, Finding], dict[str, np.ndarray]]:
    """Every detector's findings on a probe, and its per-unit series. `price` is the regularizer at this point.

    Blocks are shared out whole over ranks, so a reading is the same on one process and on many.
    """
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed() else (0, 1)
    shared = world > 1 and len(probe) >= world
    if not shared:  # fewer blocks than ranks: each rank reads them all, and nothing is added up
        rank, world = 0, 1
    for detector in detectors.values():
        detector.reset()
    with quiet(vae, seed):
        for batch in probe[rank::world]:
            elbo = vae.elbo(batch, seed=seed)
            objective = price(elbo) if price else None
            for detector in detectors.values():
                detector.update(vae, batch, elbo, objective)
        found = {
            finding.name: finding
            for detector in detectors.values()
            for finding in (detector.read() if shared else detector.findings())
        }
        series: dict[str, Any] = {}
        for detector in detectors.values():
            series |= {name: values.cpu().numpy() for name, values in detector.per_unit().items()}
    return found, series


def distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


# ---- the bound and the reconstruction over a whole split


def mean_of(name: str, values: Tensor, note: str = "") -> Finding:
    """The mean over examples of one number each, with its standard error."""
    values, n = values.double(), len(values)
    return Finding(name, float(values.mean()), float(values.std()) / n**0.5 if n > 1 else None, n, note=note)


def bound(
    vae: VAE, batches: Sequence[Batch], *, samples: int = 64, chunk: int = 8, seed: int = 0, epoch: int = 0
) -> dict[str, Finding]:
    """`distortion` and `rate` at one draw of z, as validation has them with the same seed and epoch; where p(x|z) is a
    density also `elbo`, `iw_nll` (K = `samples`) in nats and `bits_per_dim` of it.

    A dimension is an element of what the density is of and the mask leaves in (features, where it is of features).
    """
    columns: dict[str, list[Tensor]] = {"distortion": [], "rate": [], "iw_nll": []}
    dimensions, of = 0, ""
    with quiet(vae, seed):
        for batch in batches:
            elbo = vae.elbo(batch, seed=seed, epoch=epoch)
            columns["distortion"].append(elbo.distortion)
            columns["rate"].append(elbo.rate)
            if vae.normalised:
                columns["iw_nll"].append(
                    importance_weighted_nll(
                        elbo.posterior, elbo.prior, likelihood_of(vae, batch), batch.positions(),
                        samples=samples, chunk=chunk, seed=seed, epoch=epoch,
                    )
                )  # fmt: skip
                decoded = vae.decode(elbo.z, batch.context, batch.mask)
                dimensions += elements(decoded)
                of = ", of features of x" if hasattr(decoded, "density") else ""
    joined = {name: torch.cat(parts).double().cpu() for name, parts in columns.items() if parts}
    found = {name: mean_of(name, joined[name]) for name in ("distortion", "rate")}
    if not vae.normalised:
        return found
    nll = mean_of("iw_nll", joined["iw_nll"], f"K = {samples}{of}")
    nats_to_bits = nll.n / (dimensions * log(2))
    return {
        **found,
        "elbo": mean_of("elbo", -(joined["distortion"] + joined["rate"])),
        "iw_nll": nll,
        "bits_per_dim": Finding(
            "bits_per_dim",
            (nll.value or 0.0) * nats_to_bits,
            None if nll.se is None else nll.se * nats_to_bits,
            nll.n,
            note=nll.note,
        ),
    }


def beside(nulls: Mapping[str, Null], facts: Mapping[str, object]) -> dict[str, Finding]:
    """What stands beside the losses of these examples: null models, nats per token, and the entropy of an answer, where
    it is known."""
    found = {
        f"null_{name}": Finding(
            f"null_{name}", null.per_token(), None, len(null.nll), note=f"{float(null.nll.mean()):.4g} nats per answer"
        )
        for name, null in nulls.items()
    }
    entropies = {name: facts[name] for name in ENTROPIES if isinstance(facts.get(name), float)}
    return found | {
        name: Finding(name, float(str(value)), note="of the whole set") for name, value in entropies.items()
    }


def per_token(
    figures: Mapping[str, Finding], nulls: Mapping[str, Null], given: Mapping[str, Finding]
) -> dict[str, Finding]:
    """Of answers: the importance-weighted NLL per token and its perplexity, each null model's per answer and per token,
    and R over the entropy of an answer."""
    tokens = next(iter(nulls.values())).tokens if nulls else np.zeros(0)
    found: dict[str, Finding] = {}
    if len(tokens) and (nll := figures.get("iw_nll")) is not None and nll.value is not None:
        each = nll.value / float(tokens.mean())
        found["iw_nll_per_token"] = Finding("iw_nll_per_token", each, None, nll.n, note=nll.note)
        found["iw_perplexity"] = Finding("iw_perplexity", exp(each), None, nll.n, note=nll.note)
    for name, null in nulls.items():
        found[f"null_{name}"] = mean_of(f"null_{name}", torch.from_numpy(null.nll))
        found[f"null_{name}_per_token"] = Finding(f"null_{name}_per_token", null.per_token(), None, len(tokens))
    return found | over_entropies(figures["rate"], given)


def over_entropies(rate: Finding | None, given: Mapping[str, Finding]) -> dict[str, Finding]:
    """R over each entropy of an answer that is known: above 1 it is more than there is to tell."""
    known = {name: float(given[name].value or 0) for name in ENTROPIES if name in given}
    return {
        f"rate_over_{name}": Finding(
            f"rate_over_{name}", rate.value / nats, None if rate.se is None else rate.se / nats, rate.n
        )
        for name, nats in known.items()
        if nats and rate is not None and rate.value is not None
    }


def likelihood_of(vae: VAE, batch: Batch) -> Callable[[Tensor], Tensor]:
    """ln p(x | z) of several draws of z for each example: (draws, batch, *unit) to (draws, batch)."""

    def log_likelihood(z: Tensor) -> Tensor:
        draws, count = z.shape[:2]
        repeated = batch.part(torch.arange(count, device=batch.x.device).repeat(draws))
        return -vae.distortion(repeated, z.flatten(0, 1)).reshape(draws, count)

    return log_likelihood


def elements(decoded: Distribution) -> int:
    """How many numbers p(x | z) is a density of, in all the examples of a batch; padding is none."""
    density: Any = getattr(decoded, "density", decoded)  # of features
    mask = getattr(density, "mask", None)
    return prod([*density.batch_shape, *density.event_shape]) if mask is None else int(mask.sum())


def reconstruction(vae: VAE, batches: Sequence[Batch], *, audio: bool = False, seed: int = 0) -> dict[str, Finding]:
    """What the decoder makes of the posterior's mean: `mse` over all elements, `explained`, the share
    1 − Σ(x − x̂)²/Σ(x − x̄)² with x̄ the mean of each element over the split, and for `audio` `snr`,
    10 log₁₀ Σx²/Σ(x − x̂)² in dB. Padding counts nowhere. Empty where the decoder's mean is not of the shape of x.
    """
    errors, sizes, powers = [], [], []
    total: Any = 0.0
    square: Any = 0.0
    count: Any = 0.0
    with quiet(vae, seed):
        for batch in batches:
            if not batch.x.is_floating_point():  # tokens have no mean
                return {}
            seen = decode(vae, posterior_mean(vae, batch), batch)
            if seen.shape != batch.x.shape:
                return {}
            x = batch.x.double()
            mask = torch.ones_like(x) if batch.mask is None else batch.mask.double().expand_as(x)
            residual = (x - seen.double()) * mask
            errors.append(residual.square().flatten(1).sum(1))
            sizes.append(mask.flatten(1).sum(1))
            powers.append((x * mask).square().flatten(1).sum(1))
            total, square, count = total + (x * mask).sum(0), square + (x.square() * mask).sum(0), count + mask.sum(0)
    error, size, power = (torch.cat(parts) for parts in (errors, sizes, powers))
    spread_ = float((square - total.square() / count.clamp(min=1)).sum())
    lost, n = float(error.sum()), len(error)
    mse = lost / float(size.sum())
    se = float((error - mse * size).std()) / n**0.5 / float(size.mean()) if n > 1 else None  # of a ratio of sums
    found = {"mse": Finding("mse", mse, se, n)}
    if spread_ > 0:
        found["explained"] = Finding("explained", 1 - lost / spread_, None, n)
    if audio and lost > 0 and power.sum() > 0:
        found["snr"] = Finding("snr", 10 * log10(float(power.sum()) / lost), None, n)
    return found


def posterior_mean(vae: VAE, batch: Batch) -> Tensor:
    """E[z | x] of each example, (batch, *unit); for a flow the mean of keyed draws."""
    posterior = vae.encode(batch.x, batch.context, batch.mask)
    own = gaussian(posterior)
    if own is not None:
        return own[0]
    mean = unit_moments(posterior, batch.positions()).mean
    return mean.reshape(-1, *posterior.event_shape).to(batch.x.dtype)
