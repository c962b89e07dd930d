"""What a dataset yields, and the words for its axes: batch, event (data), unit (latent)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn
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
