"""What a dataset yields, and the words for its axes: batch, event (data), unit (latent)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


class Batch(NamedTuple):
    """Examples side by side. A single example has the same fields without the batch axis.

    `mask` is True where `x` is data and False where it is padding. Of text, `x` holds the token ids of an answer with
    its EOS and `context` those of its prompt, each padded with PAD up to the longest of the batch. `index` is the
    position in the split: readings key their noise by it, so that a number does not depend on batch size, order or
    process.
    """

    x: Shaped[Tensor, "batch *event"]
    context: Shaped[Tensor, "batch *context"] | None = None
    mask: Bool[Tensor, "batch *event"] | None = None
    index: Int[Tensor, " batch"] | None = None

    def positions(self) -> Int[Tensor, " batch"]:
        """`index`, or 0, 1, 2 … where there is none."""
        return torch.arange(len(self.x)) if self.index is None else self.index

    def part(self, rows: slice | Tensor) -> "Batch":
        """Some of the examples."""
        context, mask, index = (None if field is None else field[rows] for field in self[1:])
        return self._replace(x=self.x[rows], context=context, mask=mask, index=index)

    def alike(self, rows: int) -> "Iterator[tuple[Tensor, Batch]]":
        """Of sequences, parts of `rows` examples of like length, each with where its examples stand in this batch. What
        is padding in all of a part is cut off, of tokens that are a condition too.

        >>> batch = Batch(torch.tensor([[5, 3, 0], [5, 6, 3], [3, 0, 0]]))
        >>> [(rows.tolist(), part.x.tolist()) for rows, part in batch.alike(2)]
        [([2, 0], [[3, 0], [5, 3]]), ([1], [[5, 6, 3]])]
        """
        length = lengths(counted(self))
        for chosen in length.argsort().split(rows):
            part, end = self.part(chosen), int(length[chosen].max())
            context, mask = part.context, None if part.mask is None else part.mask[:, :end]
            if context is not None and context.ndim == 2 and not context.is_floating_point():
                context = context[:, : int(lengths(context != 0).max())]
            yield chosen, part._replace(x=part.x[:, :end], context=context, mask=mask)

    def to(self, device: torch.device) -> "Batch":
        """The same examples on another device."""
        context, mask, index = (None if field is None else field.to(device) for field in self[1:])
        return self._replace(x=self.x.to(device), context=context, mask=mask, index=index)

    def like(self, module: nn.Module) -> "Batch":
        """The same examples where the module's parameters are, and in their precision."""
        own = next((p for p in module.parameters() if p.is_floating_point()), None)
        if own is None:
            return self
        batch = self.to(own.device)
        x, context = (t.to(own.dtype) if t is not None and t.is_floating_point() else t for t in batch[:2])
        return batch._replace(x=x, context=context)


def are_tokens(batch: Batch) -> bool:
    """Are the examples sequences of ids?"""
    return not batch.x.is_floating_point() and batch.x.ndim == 2


def counted(batch: Batch) -> Bool[Tensor, "batch time"]:
    """Which tokens the loss is of; PAD is 0."""
    return batch.x != 0 if batch.mask is None else batch.mask


def lengths(counted: Bool[Tensor, "batch time"]) -> Int[Tensor, " batch"]:
    """Up to the last place that counts; at least 1.

    >>> lengths(torch.tensor([[True, True, False], [False, False, False]])).tolist()
    [2, 1]
    """
    places = torch.arange(1, counted.shape[1] + 1, device=counted.device)
    return F.pad(counted * places, (1, 0), value=1).amax(1)  # of prompts that are all empty there are no places


def collate(examples: Sequence[Batch] | Batch) -> Batch:
    """Stacks single examples field by field; a field that is None stays None (torch's own collate refuses it).

    Sequences of different length get zeros at their end, up to the longest: PAD of tokens, False of a mask.
    A dataset that fetches whole batches hands over one `Batch`, which is passed on.

    >>> collate([Batch(torch.tensor([5, 3])), Batch(torch.tensor([3]))]).x
    tensor([[5, 3],
            [3, 0]])
    """
    if isinstance(examples, Batch):
        return examples
    columns = zip(*examples, strict=True)
    x, *rest = columns
    return Batch(_stacked(x), *(None if column[0] is None else _stacked(column) for column in rest))


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    ragged = parts[0].ndim == 1 and len({len(part) for part in parts}) > 1
    return pad_sequence(list(parts), batch_first=True) if ragged else torch.stack(list(parts))
