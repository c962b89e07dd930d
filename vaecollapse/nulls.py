"""Null models of text: what an answer costs those who have no latent. Fitted to training answers by counting."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import log
from typing import NamedTuple

import numpy as np

Tokens = Sequence[int]


class Pair(NamedTuple):
    """An answer with its EOS, and the prompt before it (empty where there is none)."""

    answer: Tokens
    prompt: Tokens


class Null(NamedTuple):
    """What each of some answers costs, in nats, and how many tokens it has."""

    nll: np.ndarray
    tokens: np.ndarray

    def per_token(self) -> float:
        return float(self.nll.sum() / self.tokens.sum())


class Unigram:
    """p(x_t) = (n(x_t) + 1)/(N + V), V kinds of tokens, whatever came before (Laplace's rule).

    >>> round(Unigram([Pair([5, 3], [])], kinds=2).loss(Pair([5, 3], [])), 4)
    1.3863
    """

    def __init__(self, pairs: Iterable[Pair] = (), *, kinds: int) -> None:
        self.counts: Counter[int] = Counter()
        self.total = kinds
        for pair in pairs:
            self.count(pair)

    def count(self, pair: Pair) -> None:
        self.counts.update(pair.answer)
        self.total += len(pair.answer)

    def p(self, token: int) -> float:
        return (self.counts[token] + 1) / self.total

    def loss(self, pair: Pair) -> float:
        return -sum(log(self.p(token)) for token in pair.answer)


class PromptNGram:
    """An n-gram of answers that may also repeat its prompt:

    p(x_t) = (1 − w) p_n(x_t | the n − 1 tokens before) + w n_prompt(x_t)/|prompt|.

    p_n backs off from each order to the next by interpolation, p_k = (n(h x) + T(h) p_{k−1})/(n(h) + T(h)), T(h) the
    kinds of tokens seen after h (Witten & Bell 1991; method C), down to Laplace's unigram. The prompt is a cache (Kuhn
    & De Mori 1990); its weight w is found by EM on every tenth training answer, with counts of the others. No latent,
    and nothing is learned by gradients: what a model with z must beat before z can be said to tell anything.
    """

    def __init__(self, pairs: Sequence[Pair], *, kinds: int, order: int = 3) -> None:
        self.order, self.unigram, self.weight = order, Unigram(kinds=kinds), 0.0
        self.after: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.totals: Counter[tuple[int, ...]] = Counter()
        kept, held = [pair for i, pair in enumerate(pairs) if i % 10], pairs[::10]
        self.count(kept)
        if kept and any(pair.prompt for pair in held):
            self.weight = self.fitted_weight(held)
        self.count(held)

    def count(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            self.unigram.count(pair)
            for history, token in self.steps(pair.answer):
                for start in range(len(history)):
                    self.after[history[start:]][token] += 1
                    self.totals[history[start:]] += 1

    def steps(self, answer: Tokens) -> Iterable[tuple[tuple[int, ...], int]]:
        """Each token with those before it; −1 stands before the first."""
        padded = [-1] * (self.order - 1) + list(answer)
        for place in range(len(answer)):
            yield tuple(padded[place : place + self.order - 1]), padded[place + self.order - 1]

    def p(self, token: int, history: tuple[int, ...]) -> float:
        p = self.unigram.p(token)
        for start in range(len(history) - 1, -1, -1):
            found = self.after.get(history[start:])
            if found:
                p = (found[token] + len(found) * p) / (self.totals[history[start:]] + len(found))
        return p

    def pieces(self, pair: Pair) -> Iterable[tuple[float, float]]:
        """Of each token, its probability by the n-gram and by the prompt."""
        cache, size = Counter(pair.prompt), max(1, len(pair.prompt))
        for history, token in self.steps(pair.answer):
            yield self.p(token, history), cache[token] / size

    def fitted_weight(self, pairs: Sequence[Pair], rounds: int = 20) -> float:
        """EM for the share of tokens that the prompt gives."""
        found = np.array([piece for pair in pairs if pair.prompt for piece in self.pieces(pair)])
        weight = 0.1
        for _ in range(rounds):
            copied = weight * found[:, 1]
            weight = float((copied / (copied + (1 - weight) * found[:, 0])).mean())
        return weight

    def loss(self, pair: Pair) -> float:
        w = self.weight if pair.prompt else 0.0
        return -sum(log((1 - w) * own + w * copied) for own, copied in self.pieces(pair))


def null_losses(training: Sequence[Pair], held_out: Sequence[Pair], *, kinds: int) -> dict[str, Null]:
    """What held-out answers cost the unigram and the n-gram with the prompt, both fitted to the training answers;
    `kinds` is how many tokens an answer may be made of, EOS among them."""
    models = {"unigram": Unigram(training, kinds=kinds), "prompt": PromptNGram(training, kinds=kinds)}
    tokens = np.array([len(pair.answer) for pair in held_out])
    return {name: Null(np.array([model.loss(pair) for pair in held_out]), tokens) for name, model in models.items()}
