"""From text to tokens and back without loss: each byte a token, or byte-level pairs learned from the training split."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..refusal import Refused
from ..tokens import BYTES, SPECIALS, byte_text, byte_tokens

KINDS = ("bytes", "bpe")
VOCABULARY = 2048  # tokens that are learned where no number is given
LARGEST = 2**20


class Tokenizer(ABC):
    """Ids from `SPECIALS` on stand for text, those below never come from it: no text can write an EOS."""

    vocab_size: int

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that are none of the special ids."""

    @abstractmethod
    def saved(self) -> str:
        """As `loaded` reads it."""


class Bytes(Tokenizer):
    """Each byte of UTF-8 is a token.

    >>> tokenizer = Bytes()
    >>> tokenizer.decode(tokenizer.encode(["naïve\\r\\n"])[0])
    'naïve\\r\\n'
    """

    vocab_size = BYTES

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [byte_tokens(text) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        return byte_text(tokens)

    def saved(self) -> str:
        return json.dumps({"model": {"type": "bytes"}})


class BPE(Tokenizer):
    """Byte pairs merged in the order of `merges` (Sennrich et al. 2016; on bytes, Radford et al. 2019).

    The library's ids are moved up by `SPECIALS`; it is told of no special token, so that "[EOS]" in a text is five
    letters like any other.
    """

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
        self._library = _byte_level(vocab, merges)
        self.vocab_size = SPECIALS + len(vocab)

    @classmethod
    def trained(cls, texts: Sequence[str], vocabulary: int) -> "BPE":
        """Learned from `texts`: at most `vocabulary` ids, the special ones and the 256 bytes among them."""
        library = _byte_level({}, [])
        from tokenizers import pre_tokenizers, trainers

        library.train_from_iterator(
            texts,
            trainers.BpeTrainer(  # pyright: ignore[reportCallIssue]
                vocab_size=vocabulary - SPECIALS,
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                special_tokens=[],
                show_progress=False,
            ),
        )
        return _of(json.loads(library.to_str()))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[SPECIALS + token for token in each.ids] for each in self._library.encode_batch(list(texts))]

    def decode(self, tokens: Sequence[int]) -> str:
        return self._library.decode([token - SPECIALS for token in tokens])

    def saved(self) -> str:
        return self._library.to_str()


def _byte_level(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """A tokenizer of the library; Refused where that is missing."""
    try:
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers
    except ImportError as error:
        raise Refused(
            "tokenizer=bpe needs the library tokenizers, which is not installed: type pip install 'vaecollapse[text]', "
            "or dataset.tokenizer=bytes"
        ) from error
    library = Library(models.BPE(vocab=vocab, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def loaded(text: str) -> Tokenizer:
    """The tokenizer that `saved` wrote. Refused where this is none: it may come with a stranger's run."""
    try:
        content = json.loads(text)
        if content["model"]["type"] == "bytes":
            return Bytes()
        return _of(content)
    except Refused:
        raise
    except Exception as error:  # the library raises plain ones
        raise Refused(
            f"tokenizer.json holds no tokenizer of ours ({type(error).__name__}): copy the run directory again"
        ) from error


def _of(content: dict[str, Any]) -> BPE:
    """Vocabulary and merges alone are taken from a file: how text is cut and joined again is ours."""
    vocab = {str(token): number for token, number in content["model"]["vocab"].items()}
    if sorted(vocab.values()) != list(range(len(vocab))) or not 256 <= len(vocab) < LARGEST:
        raise ValueError("ids with holes")
    return BPE(vocab, [(str(left), str(right)) for left, right in content["model"]["merges"]])
