"""The examples a model is read on: any loader, dataset, batches one by one, or a tensor; distinct, and not too many."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..batch import Batch
from ..evaluation import distinct, spread
from ..refusal import Refused

MANY = 100_000  # batches of an endless loader
X = ("x", "image", "images", "pixel_values", "input", "inputs", "data", "features")
C = ("c", "context", "condition", "y", "label", "labels")
TRAINING, HELD_OUT = ("train", "training"), ("held_out", "validation", "val", "valid", "test")


def splits_of(data: Any) -> tuple[Any, Any | None, bool]:
    """(held-out examples, training ones or None, were they told apart)."""
    if isinstance(data, Mapping) and any(name in data for name in (*TRAINING, *HELD_OUT)):
        train = next((data[name] for name in TRAINING if name in data), None)
        held = next((data[name] for name in HELD_OUT if name in data), None)
        return held, train, True
    if isinstance(data, tuple) and len(data) == 2:
        first, second = data
        if not isinstance(first, Tensor | np.ndarray):
            return second, first, True
        if isinstance(second, Tensor | np.ndarray) and first.shape[1:] == second.shape[1:] and first.ndim > 1:
            return second, first, True
        raise Refused(
            "data gives two tensors of different shapes, so which is which is not clear: give {'held_out': …, "
            "'train': …} with loaders, or TensorDataset(x, c)"
        )
    return data, None, False


def examples_of(data: Any, wanted: int, *, conditional: bool) -> Batch:
    """At most `wanted` distinct examples: spread evenly where the data have a length, else the first ones."""
    if isinstance(data, Tensor | np.ndarray):
        rows = torch.as_tensor(data)
        parts = [rows[torch.tensor(spread(len(rows), wanted))]] if rows.ndim > 1 and len(rows) else []
    elif isinstance(data, DataLoader | Dataset) and hasattr(getattr(data, "dataset", data), "__len__"):
        dataset: Any = getattr(data, "dataset", data)
        collate: Any = getattr(data, "collate_fn", None) or default_collate
        chosen = spread(len(dataset), wanted) if hasattr(dataset, "__getitem__") else []
        batches: Any = data
        parts = [collate([dataset[i] for i in chosen])] if chosen else stream(batches, wanted)
    elif isinstance(data, Iterable) and not isinstance(data, Mapping | str):
        parts = stream(data, wanted)
    else:
        raise Refused(f"data is a {type(data).__name__}: give a DataLoader, a dataset, or batches one by one")
    read_ = [parted(part, conditional=conditional) for part in parts]
    if not read_:
        raise Refused("data gives no examples: give at least 64, from 500 absence can be said")
    x = torch.cat([part.x for part in read_])[:wanted]
    context = None if read_[0].context is None else torch.cat([part.context for part in read_])[:wanted]  # pyright: ignore[reportArgumentType, reportCallIssue]
    if x.is_floating_point() and not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x.flatten(1)).all(1)).sum())
        raise Refused(f"data: {bad} of {len(x)} examples hold numbers that are not finite: leave them out")
    rows = torch.tensor(distinct(x if context is None else zip(x, context, strict=True)))
    kept = Batch(x[rows], None if context is None else context[rows])
    return kept._replace(index=torch.arange(len(rows)))


def stream(data: Iterable, wanted: int) -> list[Any]:
    """Batches until there are enough examples."""
    parts, count = [], 0
    try:
        for number, part in enumerate(data):
            parts.append(part)
            count += len(parted(part, conditional=False).x)
            if count >= wanted or number > MANY:
                break
    except Refused:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise Refused(
            f"data raised {type(error).__name__} while it was read: {said}: iterate it once in Python"
        ) from error
    return parts


def parted(raw: Any, *, conditional: bool) -> Batch:
    """x, and c where it is used, of a batch that is a tensor, a tuple (x, c) or a dictionary."""
    if isinstance(raw, Batch):
        return raw if conditional else Batch(raw.x)
    if isinstance(raw, Mapping):
        tensors = {str(name): as_tensor(part) for name, part in raw.items()}
        order = [next((tensors[name] for name in names if tensors.get(name) is not None), None) for names in (X, C)]
        first = order[0] if order[0] is not None else next((t for t in tensors.values() if t is not None), None)
        found = [first, order[1]]
    elif isinstance(raw, tuple | list):
        found = [as_tensor(part) for part in raw]
    else:
        found = [as_tensor(raw)]
    if not found or found[0] is None or found[0].ndim < 2 or not len(found[0]):
        raise Refused(
            f"data yields {type(raw).__name__}, of which no first tensor of shape (batch, …) is x: yield x, (x, c), or "
            "{'x': …, 'c': …}"
        )
    context = found[1] if conditional and len(found) > 1 else None
    if conditional and context is not None and len(context) != len(found[0]):
        raise Refused(f"data: {len(found[0])} examples come with {len(context)} conditions: yield one for each")
    return Batch(found[0], context)


def as_tensor(part: Any) -> Tensor | None:
    if isinstance(part, np.ndarray):
        return torch.from_numpy(part) if part.dtype.kind in "fiub" else None
    return part if isinstance(part, Tensor) else None
