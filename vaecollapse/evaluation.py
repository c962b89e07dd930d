"""Data streamed through detectors: one function that reads a latent, and the probes it reads it on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .batch import Batch
from .detectors.base import Detector, Finding
from .elbo import ELBO, Objective
from .vae import VAE


def spread(total: int, wanted: int) -> list[int]:
    """`wanted` positions evenly over `total`, all of them where there are no more.

    >>> spread(10, 3), spread(2, 5)
    ([0, 3, 6], [0, 1])
    """
    return list(range(total)) if total <= wanted else [position * total // wanted for position in range(wanted)]


def distinct(x: Tensor) -> list[int]:
    """Positions of the first copy of each example: duplicates buy no evidence."""
    seen: dict[bytes, int] = {}
    for position, row in enumerate(x.detach().cpu()):
        seen.setdefault(
            row.contiguous().view(torch.uint8).numpy().tobytes() if row.ndim else row.numpy().tobytes(), position
        )
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
