"""Text as a dataset: prompts and answers as tokens, divided so that no question is in two splits."""

import hashlib
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Sized
from itertools import chain
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.utils.data import Dataset

from ..batch import Batch
from ..nulls import Null, Pair, null_losses
from ..refusal import Refused
from ..tokens import EOS, spoken
from ..writers.base import Writer
from ..writers.text import TextWriter
from .base import Splits, VAEData, check_fractions, partition_groups
from .buckets import Lengths
from .text_examples import Sequences, TextExamples
from .tokenizers import BPE, KINDS, LARGEST, VOCABULARY, Bytes, Tokenizer, loaded

log = logging.getLogger(__name__)

NAMED = 3  # rows that are named, of many
SPLITS = ("train", "val", "test")
SAVED = "tokenizer.json"
FEWEST = 4 + 256  # ids of a BPE: the special ones and the bytes


class Row(NamedTuple):
    """An answer, what asks for it (None: nothing does), where it stands; rows that share one of `groups`, of which the
    first is the question, share a split."""

    answer: str
    prompt: str | None
    place: str
    groups: tuple[str, ...]
    split: str = ""


class TextData(VAEData):
    """What all datasets of text have.

    tokenizer: bytes (each a token) | bpe (byte pairs learned from the training split, `vocab` tokens, 2048 if None).
    longest_prompt, longest_answer: tokens, EOS included. too_long: what exceeds them is refused, or cut (truncate: a
    prompt loses its start, an answer its end and with it EOS, for it does not end there). empty: rows without an answer
    are refused, or left out (skip). buckets: examples of like length share a batch, in training and evaluation.

    A subclass writes `rows`.
    """

    def __init__(
        self,
        *,
        tokenizer: str,
        vocab: int | None,
        longest_prompt: int | None,
        longest_answer: int,
        too_long: str,
        empty: str,
        buckets: bool,
        val_fraction: float,
        test_fraction: float,
        batch_size: int,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        check_fractions(val_fraction, test_fraction)
        choices = {"tokenizer": KINDS, "too_long": ("refuse", "truncate"), "empty": ("refuse", "skip")}
        for name, value in (("tokenizer", tokenizer), ("too_long", too_long), ("empty", empty)):
            if value not in choices[name]:
                raise Refused(
                    f"dataset.{name}={value} is not known: type dataset.{name}= one of {', '.join(choices[name])}"
                )
        if vocab is not None and tokenizer != "bpe":
            raise Refused(
                f"dataset.vocab={vocab} has no effect with dataset.tokenizer={tokenizer}: type dataset.tokenizer=bpe"
            )
        if vocab is not None and not FEWEST <= vocab < LARGEST:
            raise Refused(
                f"dataset.vocab={vocab} must be at least {FEWEST} (special ids and bytes) and below {LARGEST}: type "
                f"dataset.vocab={VOCABULARY}"
            )
        for name, value in (("longest_prompt", longest_prompt), ("longest_answer", longest_answer)):
            if value is not None and value < 2:
                raise Refused(f"dataset.{name}={value} tokens are too few: type dataset.{name}=512")
        self.tokenizer_kind, self.vocab = tokenizer, vocab or VOCABULARY
        self.longest = {"prompt": longest_prompt, "answer": longest_answer}
        self.too_long, self.empty, self.buckets = too_long, empty, buckets
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self._tokenizer: Tokenizer | None = None
        self._left_out: list[tuple[str, str]] = []
        self._facts: dict[str, object] = {}
        self._hash = ""

    @abstractmethod
    def rows(self) -> list[Row]:
        """Every example, in an order that is always the same."""

    def source(self) -> tuple[int, int]:
        """How many files were read, and their bytes."""
        return 0, 0

    @property
    def facts(self) -> dict[str, object]:
        self.setup()
        return self._facts

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Every row that is not used, by its place, with the reason."""
        return self._left_out

    def fingerprint(self) -> dict[str, object]:
        """Files, their bytes, and a hash of all prompts and answers with their given splits."""
        self.setup()
        files, size = self.source()
        return {"files": files, "bytes": size, "hash": self._hash}

    @property
    def tokenizer(self) -> Tokenizer:
        """What the splits were encoded with."""
        self.setup()
        assert self._tokenizer is not None
        return self._tokenizer

    def keep(self) -> dict[str, str]:
        return {SAVED: self.tokenizer.saved()}

    def recall(self, read: Callable[[str], str | None]) -> None:
        """The tokenizer a run was trained with; it is not learned again. Refused where another kind is asked for."""
        text = read(SAVED)
        if text is None:
            return
        tokenizer = loaded(text)
        kind = "bytes" if isinstance(tokenizer, Bytes) else "bpe"
        if kind != self.tokenizer_kind or (kind == "bpe" and tokenizer.vocab_size > self.vocab):
            raise Refused(
                f"the run's {SAVED} is {kind} of {tokenizer.vocab_size} tokens, but asked for are dataset.tokenizer="
                f"{self.tokenizer_kind} dataset.vocab={self.vocab}: type those of the run"
            )
        self._tokenizer = tokenizer

    def lengths(self, dataset: Dataset[Batch]) -> Lengths | None:
        assert isinstance(dataset, TextExamples)
        return dataset.lengths if self.buckets else None

    def text(self, tokens: Int[Tensor, "batch time"]) -> list[str]:
        """Each row up to its EOS as text, padding left out."""
        return [self.tokenizer.decode(spoken(row)) for row in tokens.tolist()]

    def prompt_text(self, context: Int[Tensor, "batch prompt_time"]) -> list[str]:
        """Each prompt as text."""
        return self.text(context)

    def nulls(self, split: str, positions: Sequence[int]) -> dict[str, Null]:
        """Those of `null_losses`."""
        train, held_out = (_pairs(part, numbers) for part, numbers in (
            (self.splits.train, range(len(cast(Sized, self.splits.train)))), (getattr(self.splits, split), positions)
        ))  # fmt: skip
        return null_losses(train, held_out, kinds=self._vocab_size - EOS)

    def writer(self, folder: Path, form: str | None = None) -> Writer:
        """Text with its prompt."""
        return TextWriter(folder, form, text=self.text, prompt_text=self.prompt_text)

    def make_splits(self) -> Splits:
        rows = self._answered(self.rows())
        self._hash = _hash(rows)
        parts = self._parts(rows)
        if self._tokenizer is None:
            self._tokenizer = self._trained([rows[number] for number in parts[0]])
        answers = self._fitting("answer", self._encoded([row.answer for row in rows], last=[EOS]), rows)
        asked = [row.prompt or "" for row in rows]
        prompts = None
        if any(row.prompt is not None for row in rows):
            prompts = self._fitting("prompt", self._encoded(asked, last=[]), rows)
        self._facts = self._shapes(answers, prompts)
        return Splits(*(_examples(answers, prompts, part) for part in parts))

    def _shapes(self, answers: list[list[int]], prompts: list[list[int]] | None) -> dict[str, object]:
        longest = max(map(len, answers))
        facts: dict[str, object] = {"vocab_size": self._vocab_size, "event_shape": (longest,)}
        if prompts is not None:
            asked = max(map(len, prompts))
            facts["context_shape"] = (asked,)
            longest += asked
        return {**facts, "context_length": longest + 2}  # BOS prompt SEP answer EOS

    @property
    def _vocab_size(self) -> int:
        assert self._tokenizer is not None
        return self._tokenizer.vocab_size

    def _answered(self, rows: list[Row]) -> list[Row]:
        """The rows that have an answer; the others are refused, or left out with their place."""
        empty = [row for row in rows if not row.answer.strip()]
        if not empty:
            return rows
        if self.empty == "refuse" or len(empty) == len(rows):
            raise Refused(
                f"{len(empty)} of {len(rows)} rows have no answer ({_places(empty)}): fill them, or type "
                "dataset.empty=skip to leave them out"
            )
        self._left_out = [(row.place, "no answer") for row in empty]
        log.warning("%d of %d rows have no answer and are left out (%s)", len(empty), len(rows), _places(empty))
        return [row for row in rows if row.answer.strip()]

    def _parts(self, rows: Sequence[Row]) -> tuple[list[int], list[int], list[int]]:
        """Which rows go where, in an order keyed by the seed; what shares a group stays together."""
        if not any(row.split for row in rows):
            return self._drawn(rows, range(len(rows)), self.test_fraction)
        order = np.random.default_rng(self.seed).permutation(len(rows)).tolist()
        train, validation, test = ([number for number in order if rows[number].split == name] for name in SPLITS)
        if len(train) < 2:
            counts = Counter(row.split for row in rows)
            given = ", ".join(f"{counts[name]} {name}" for name in SPLITS)
            raise Refused(f"the given splits have {given} rows: give 2 or more of train, or no split column")
        if not validation:
            train, validation, _ = self._drawn(rows, sorted(train), 0.0)
        _warn_of_shared(rows, (train, validation, test))
        return train, validation, test

    def _drawn(
        self, rows: Sequence[Row], numbers: Sequence[int], test: float
    ) -> tuple[list[int], list[int], list[int]]:
        groups = bound_together([rows[number].groups for number in numbers])
        wanted = 2 + (test > 0)
        if len(set(groups)) < wanted:
            raise Refused(
                f"the {len(groups)} rows are {len(set(groups))} group(s) of rows with the same question, too few for "
                f"{wanted} splits: give more questions, or name the split of each row"
            )
        parts = partition_groups(groups, validation=self.val_fraction, test=test, seed=self.seed)
        train, validation, tested = ([numbers[place] for place in part] for part in parts)
        return train, validation, tested

    def _trained(self, rows: Sequence[Row]) -> Tokenizer:
        if self.tokenizer_kind == "bytes":
            return Bytes()
        return BPE.trained([text for row in rows for text in (row.prompt, row.answer) if text], self.vocab)

    def _encoded(self, texts: Sequence[str], last: list[int]) -> list[list[int]]:
        assert self._tokenizer is not None
        return [tokens + last for tokens in self._tokenizer.encode(texts)]

    def _fitting(self, what: str, sequences: list[list[int]], rows: Sequence[Row]) -> list[list[int]]:
        """The sequences, none longer than asked for: what is too long is refused, or cut."""
        most = self.longest[what]
        long = [number for number, tokens in enumerate(sequences) if most is not None and len(tokens) > most]
        if most is None or not long:
            return sequences
        found = (
            f"{len(long)} of {len(rows)} {what}s are longer than dataset.longest_{what}={most} tokens (the longest "
            f"{max(len(sequences[number]) for number in long)}; {_places([rows[number] for number in long])})"
        )
        if self.too_long == "refuse":
            raise Refused(f"{found}: type dataset.too_long=truncate, or a larger dataset.longest_{what}")
        log.warning("%s: %s", found, "they lose their start" if what == "prompt" else "they lose their end")
        cut = slice(-most, None) if what == "prompt" else slice(most)
        return [tokens[cut] for tokens in sequences]


def bound_together(groups: Sequence[tuple[str, ...]]) -> list[str]:
    """One name for all rows that share a group in the same place, over any number of steps.

    >>> bound_together([("a", "x"), ("b", "x"), ("b",), ("x",)])
    ['0', '0', '0', '1']
    """
    placed = [list(enumerate(each)) for each in groups]
    names = {name: number for number, name in enumerate(dict.fromkeys(chain.from_iterable(placed)))}
    links = [(row, len(groups) + names[name]) for row, each in enumerate(placed) for name in each]
    size = len(groups) + len(names)
    left, right = np.array(links).T
    _, found = connected_components(coo_array((np.ones(len(links)), (left, right)), shape=(size, size)), directed=False)
    return [str(number) for number in found[: len(groups)]]


def _examples(answers: list[list[int]], prompts: list[list[int]] | None, part: Sequence[int]) -> TextExamples:
    asked = None if prompts is None else Sequences([prompts[number] for number in part])
    return TextExamples(Sequences([answers[number] for number in part]), asked)


def _pairs(dataset: Dataset[Batch], positions: Iterable[int]) -> list[Pair]:
    """Answers with their EOS, and their prompts."""
    rows = (dataset[position] for position in positions)
    return [Pair(row.x.tolist(), [] if row.context is None else row.context.tolist()) for row in rows]


def _places(rows: Sequence[Row]) -> str:
    return ", ".join(row.place for row in rows[:NAMED]) + (" …" if len(rows) > NAMED else "")


def _hash(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.prompt, row.answer, row.split)).encode())
    return digest.hexdigest()


def _warn_of_shared(rows: Sequence[Row], parts: Sequence[Sequence[int]]) -> None:
    """Says how many questions, and groups, are in more than one of the given splits."""
    for place, what in enumerate(("questions", "groups")):
        sets = [{name for number in part for name in rows[number].groups[place : place + 1]} for part in parts]
        if shared := (sets[0] & (sets[1] | sets[2])) | (sets[1] & sets[2]):
            log.warning(
                "%d %s are in more than one of the given splits (such as %.60s): held-out readings tell of what was "
                "trained on",
                len(shared), what, min(shared),
            )  # fmt: skip
