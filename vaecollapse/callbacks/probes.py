"""Fixed sets of examples that every reading is taken on."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader

from ..batch import Batch, collate
from ..evaluation import blocks_of, distinct, spread
from ..refusal import Refused
from ..training import Training
from ..vae import VAE
from .foreign import Foreign, first_tensor


class Probe(NamedTuple):
    """Blocks of examples, and the model seen through what reads them."""

    vae: VAE
    blocks: list[Batch]

    def first(self, examples: int) -> list[Batch]:
        """One block of at most `examples`."""
        return [self.blocks[0].part(slice(0, examples))]


def into_blocks(batch: Batch, block: int) -> list[Batch]:
    """Distinct examples, in blocks."""
    rows = torch.tensor(distinct(batch.x if batch.context is None else zip(batch.x, batch.context, strict=True)))
    kept = batch.part(rows)
    return [kept.part(rows) for rows in blocks_of(len(rows), block)]


def own_probe(
    module: LightningModule, loader: DataLoader, examples: int, block: int, functions: Mapping[str, Any]
) -> Probe:
    """Examples spread evenly over one of our datasets."""
    if not isinstance(module, Training):
        raise Refused(
            f"CollapseMonitor does not know the latent of a {type(module).__name__}: "
            "pass latents=f(module, batch) -> Distribution"
        )
    dataset: Any = loader.dataset
    with torch.random.fork_rng():
        batch = collate([dataset[i] for i in spread(len(dataset), examples)])
    return Probe(module.vae, into_blocks(batch, block))


def foreign_probe(
    module: LightningModule, loader: DataLoader, examples: int, block: int, functions: Mapping[str, Any]
) -> Probe:
    """Examples of somebody else's loader: spread evenly where its dataset has a length, else the first ones."""
    dataset: Any = loader.dataset
    with torch.random.fork_rng():
        if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and loader.collate_fn:
            raw = loader.collate_fn([dataset[i] for i in spread(len(dataset), examples)])
        else:
            raw = next(iter(loader))
    x = first_tensor(raw)
    rows = torch.tensor(distinct(x))
    raw = apply_to_collection(raw, Tensor, lambda t: t[rows])
    blocks = [Batch(x[rows], index=torch.arange(len(rows))).part(part) for part in blocks_of(len(rows), block)]
    return Probe(Foreign(module=module, raw=raw, **functions), blocks)
