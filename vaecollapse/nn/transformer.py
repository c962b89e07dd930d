"""Transformer bricks (Vaswani 2017; layer norm first, Xiong 2020): a reader of sequences into a few vectors, and a
causal decoder that is told a few vectors and can go on from what it has seen.

Sequences are right-padded. What stands before an element and the element itself decide what is made of it, so that in a
causal pass no padding has to be hidden.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[Tensor, Tensor]  # keys and values, (batch, heads, length, width per head) each
Rows = Float[Tensor, "batch time width"]


def waves(place: Int[Tensor, "*batch time"], width: int) -> Float[Tensor, "*batch time width"]:
    """Sines and cosines of each place at width/2 wavelengths from 2π to 20000π: positions of any length."""
    rates = torch.exp(torch.arange(0, width, 2, device=place.device) * (-math.log(10_000.0) / width))
    angles = place.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[..., :width]


class Attention(nn.Module):
    """Multi-head attention. It has no biases: that of a key changes nothing."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.pair = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def split(self, x: Rows) -> Float[Tensor, "batch heads time part"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def of(self, source: Rows) -> Pair:
        """Keys and values of what is attended to."""
        keys, values = self.pair(source).chunk(2, -1)
        return self.split(keys), self.split(values)

    def forward(
        self, x: Rows, pair: Pair, mask: Bool[Tensor, "batch 1 _ seen"] | None = None, causal: bool = False
    ) -> Rows:
        seen = F.scaled_dot_product_attention(self.split(self.query(x)), *pair, attn_mask=mask, is_causal=causal)
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention to its own sequence, + attention to a memory, + a two-layer net, each of a layer-normed x."""

    def __init__(self, *, width: int, heads: int, own: bool = True, told: bool = False) -> None:
        super().__init__()
        self.own = Attention(width=width, heads=heads) if own else None
        self.own_norm = nn.LayerNorm(width) if own else None
        self.told = Attention(width=width, heads=heads) if told else None
        self.told_norm = nn.LayerNorm(width) if told else None
        self.net = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self,
        x: Rows,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        told: Pair | None = None,
        told_mask: Tensor | None = None,
        past: Pair | None = None,
    ) -> tuple[Rows, Pair | None]:
        """With the keys and values of the sequence so far, those of `past` first."""
        pair = None
        if self.own is not None and self.own_norm is not None:
            h = self.own_norm(x)
            pair = self.own.of(h)
            if past is not None:
                pair = torch.cat([past[0], pair[0]], 2), torch.cat([past[1], pair[1]], 2)
            x = x + self.own(h, pair, mask, causal)
        if self.told is not None and self.told_norm is not None:
            x = x + self.told(self.told_norm(x), told, told_mask)
        return x + self.net(x), pair


class SequenceReader(nn.Module):
    """A sequence of ids into `tokens` vectors: `layers` blocks over it, then two in which learned queries attend to it
    (Jaegle 2021), then a layer norm."""

    def __init__(self, *, kinds: int, width: int, heads: int, layers: int, tokens: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(kinds, width)
        self.blocks = nn.ModuleList(Block(width=width, heads=heads) for _ in range(layers))
        self.queries = nn.Parameter(0.02 * torch.randn(tokens, width))  # what is read outweighs who reads it
        self.readers = nn.ModuleList(Block(width=width, heads=heads, own=False, told=True) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, ids: Int[Tensor, "batch time"], valid: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch tokens width"]:
        h = self.embedding(ids)
        h = h + waves(torch.arange(ids.shape[1], device=ids.device), h.shape[-1]).to(h)
        mask = valid[:, None, None]
        for block in self.blocks:
            h, _ = block(h, mask=mask)
        q = self.queries.expand(len(ids), -1, -1)
        for block in self.readers:
            q, _ = block(q, told=block.told.of(h), told_mask=mask)  # pyright: ignore
        return self.norm(q)


class Past(NamedTuple):
    """What a decoder has seen: keys and values of each block, which of them count, and how long each sequence is."""

    pairs: list[Pair]
    valid: Bool[Tensor, "batch seen"]
    length: Int[Tensor, " batch"]


class CausalDecoder(nn.Module):
    """Logits of what follows each element of a sequence, given those up to it and a few vectors `told`.

    `conditioning`: each block attends to the vectors (`cross_attention`), or they stand before the sequence (`prefix`),
    or `both`.
    """

    def __init__(
        self,
        *,
        kinds: int,
        written: int,
        width: int,
        heads: int,
        layers: int,
        told: int,
        tokens: int,
        conditioning: str,
    ) -> None:
        super().__init__()
        self.crosses, self.prefixes = conditioning != "prefix", conditioning != "cross_attention"
        self.embedding = nn.Embedding(kinds, width)
        self.told = nn.Linear(told, width, bias=False)
        self.place = nn.Parameter(torch.randn(tokens, width))
        self.blocks = nn.ModuleList(Block(width=width, heads=heads, told=self.crosses) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, written)

    def memory(self, z: Float[Tensor, "batch tokens latent"]) -> Float[Tensor, "batch tokens width"]:
        return self.told(z) + self.place

    def pairs(self, memory: Rows) -> list[Pair | None]:
        """What each block attends to of the vectors."""
        return [block.told.of(memory) if self.crosses else None for block in self.blocks]  # pyright: ignore

    def embedded(self, ids: Int[Tensor, "batch time"], place: Int[Tensor, "*batch time"]) -> Rows:
        h = self.embedding(ids)
        return h + waves(place, h.shape[-1]).to(h)

    def run(
        self, ids: Int[Tensor, "batch time"], memory: Float[Tensor, "batch tokens width"]
    ) -> tuple[Float[Tensor, "batch _ width"], list[Pair]]:
        """All places at once, those of the vectors first where they stand before."""
        h = self.embedded(ids, torch.arange(ids.shape[1], device=ids.device))
        if self.prefixes:
            h = torch.cat([memory, h], 1)
        seen = []
        for block, told in zip(self.blocks, self.pairs(memory), strict=True):
            h, pair = block(h, causal=True, told=told)
            seen.append(pair)
        return h, seen

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        z: Float[Tensor, "batch tokens latent"],
        at: Int[Tensor, "batch places"],
    ) -> Float[Tensor, "batch places written"]:
        """Of the places `at` alone."""
        h, _ = self.run(ids, self.memory(z))
        return self.last(self.norm(chosen(h, at + (z.shape[1] if self.prefixes else 0))))

    def begin(
        self, ids: Int[Tensor, "batch time"], valid: Bool[Tensor, "batch time"], z: Float[Tensor, "batch tokens latent"]
    ) -> tuple[Float[Tensor, "batch written"], Callable[[Int[Tensor, " batch"]], Float[Tensor, "batch written"]]]:
        """Logits after the last valid element, and a function from the next to those after it."""
        memory = self.memory(z)
        h, seen = self.run(ids, memory)
        ahead = z.shape[1] if self.prefixes else 0
        length = valid.sum(1)
        past = Past(seen, F.pad(valid, (ahead, 0), value=True), length)
        told = self.pairs(memory)

        def following(token: Int[Tensor, " batch"]) -> Float[Tensor, "batch written"]:
            nonlocal past
            h = self.embedded(token[:, None], past.length[:, None])
            valid = F.pad(past.valid, (0, 1), value=True)
            pairs = []
            for block, pair, other in zip(self.blocks, past.pairs, told, strict=True):
                h, pair = block(h, mask=valid[:, None, None], told=other, past=pair)
                pairs.append(pair)
            past = Past(pairs, valid, past.length + 1)
            return self.last(self.norm(h[:, 0]))

        return self.last(self.norm(chosen(h, (length - 1 + ahead)[:, None])[:, 0])), following


def chosen(h: Rows, at: Int[Tensor, "batch places"]) -> Float[Tensor, "batch places width"]:
    """The rows of each sequence at its own places."""
    return h.gather(1, at.unsqueeze(-1).expand(-1, -1, h.shape[-1]))
