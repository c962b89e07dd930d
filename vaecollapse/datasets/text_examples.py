"""Token sequences held in memory, as examples whose length is their own."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from ..batch import Batch


class Sequences:
    """Token sequences of different length, held side by side."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)
        self.ends = np.cumsum(self.lengths)
        self.tokens = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(self.lengths.sum()))

    def __getitem__(self, position: int) -> Int[Tensor, " time"]:
        end = self.ends[position]
        return torch.from_numpy(self.tokens[end - self.lengths[position] : end].astype(np.int64))


class TextExamples(Dataset[Batch]):
    """x: an answer's tokens with EOS, context: its prompt's, each as long as it is; `collate` pads them."""

    def __init__(self, answers: Sequences, prompts: Sequences | None) -> None:
        self.answers, self.prompts = answers, prompts

    def __len__(self) -> int:
        return len(self.answers.lengths)

    @property
    def lengths(self) -> Int[np.ndarray, "count part"]:
        """Tokens of each answer, and of each prompt where there are prompts."""
        parts = [self.answers] if self.prompts is None else [self.answers, self.prompts]
        return np.stack([part.lengths for part in parts], axis=1)

    def __getitem__(self, position: int) -> Batch:
        x = self.answers[position]
        context = None if self.prompts is None else self.prompts[position]
        return Batch(x, context, torch.ones(len(x), dtype=torch.bool), torch.tensor(int(position)))
