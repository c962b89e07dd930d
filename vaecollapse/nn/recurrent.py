"""Recurrent bricks (Bowman 2016): a sequence into one vector, and a decoder told one vector at every step.

The interfaces are those of nn/transformer.py.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from .transformer import chosen


class RecurrentReader(nn.Module):
    """The output of an LSTM at a sequence's last element, as (batch, 1, width)."""

    def __init__(self, *, kinds: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(kinds, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(
        self, ids: Int[Tensor, "batch time"], valid: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch 1 width"]:
        h, _ = self.lstm(self.embedding(ids))
        return chosen(h, valid.sum(1, keepdim=True) - 1)


class RecurrentDecoder(nn.Module):
    """An LSTM whose first state is made of z, and which reads z beside each element."""

    def __init__(self, *, kinds: int, written: int, width: int, told: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(kinds, width)
        self.start = nn.Linear(told, 2 * width)
        self.lstm = nn.LSTM(width + told, width, batch_first=True)
        self.last = nn.Linear(width, written)

    def fed(
        self, ids: Int[Tensor, "batch time"], z: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch time inputs"]:
        return torch.cat([self.embedding(ids), z[:, None].expand(-1, ids.shape[1], -1)], -1)

    def first(self, z: Float[Tensor, "batch latent"]) -> tuple[Tensor, Tensor]:
        h, c = self.start(z)[None].chunk(2, -1)
        return h.tanh().contiguous(), c.contiguous()

    def forward(
        self, ids: Int[Tensor, "batch time"], z: Float[Tensor, "batch latent"], at: Int[Tensor, "batch places"]
    ) -> Float[Tensor, "batch places written"]:
        """Of the places `at` alone."""
        h, _ = self.lstm(self.fed(ids, z), self.first(z))
        return self.last(chosen(h, at))

    def begin(
        self, ids: Int[Tensor, "batch time"], valid: Bool[Tensor, "batch time"], z: Float[Tensor, "batch latent"]
    ) -> tuple[Float[Tensor, "batch written"], Callable[[Int[Tensor, " batch"]], Float[Tensor, "batch written"]]]:
        """Logits after the last valid element, and a function from the next to those after it."""
        packed = pack_padded_sequence(self.fed(ids, z), valid.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        _, state = self.lstm(packed, self.first(z))

        def following(token: Int[Tensor, " batch"]) -> Float[Tensor, "batch written"]:
            nonlocal state
            h, state = self.lstm(self.fed(token[:, None], z), state)
            return self.last(h[:, 0])

        return self.last(state[0][0]), following
