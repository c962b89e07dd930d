"""The words of token sequences: ids with a meaning of their own, and text as its bytes.

A model reads `[BOS] prompt [SEP] answer [EOS]`; what a dataset hands over are the prompt and the answer with its EOS.
"""

from collections.abc import Iterable

PAD, BOS, SEP, EOS = 0, 1, 2, 3
SPECIALS = 4  # ids below this stand for no text
BYTES = SPECIALS + 256  # size of the vocabulary in which each byte is a token


def byte_tokens(text: str) -> list[int]:
    """The bytes of `text` in UTF-8, each as one id from `SPECIALS` on.

    >>> byte_tokens("aé")
    [101, 199, 173]
    """
    return [SPECIALS + byte for byte in text.encode("utf-8")]


def byte_text(tokens: Iterable[int]) -> str:
    """The text of these bytes; what is no UTF-8, as a model may write, becomes U+FFFD.

    >>> byte_text(byte_tokens("aé")), byte_text([101, 199])
    ('aé', 'a\ufffd')
    """
    return bytes(token - SPECIALS for token in tokens).decode("utf-8", errors="replace")


def spoken(tokens: Iterable[int]) -> list[int]:
    """What stands before the first EOS, without the other special ids.

    >>> spoken([PAD, BOS, 101, PAD, 102, EOS, 103])
    [101, 102]
    """
    said = []
    for token in tokens:
        if token == EOS:
            break
        if token >= SPECIALS:
            said.append(token)
    return said
