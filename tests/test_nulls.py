"""Null models of text are distributions, and lose what can be counted by hand."""

import itertools
import math

import numpy as np
import pytest

from vaecollapse.nulls import Pair, PromptNGram, Unigram, null_losses

EOS, A, B, C = 3, 4, 5, 6
KINDS = (EOS, A, B, C)


def pairs(count: int, seed: int = 0, copies: float = 0.0) -> list[Pair]:
    """Letters in a row of which each mostly follows the one before; a share of them is the prompt's."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        prompt = [int(token) for token in rng.choice([A, B, C], 2)]
        token, answer = int(rng.integers(A, C + 1)), []
        for _ in range(rng.integers(1, 6)):
            token = prompt[0] if rng.random() < copies else (A + (token - A + 1) % 3 if rng.random() < 0.9 else token)
            answer.append(token)
        found.append(Pair([*answer, EOS], prompt))
    return found


@pytest.mark.parametrize("copies", [0.0, 0.5])
def test_after_any_history_the_probabilities_add_up_to_one(copies):
    model = PromptNGram(pairs(50, copies=copies), kinds=len(KINDS))
    for history in itertools.product((-1, *KINDS), repeat=2):
        assert sum(model.p(token, history) for token in KINDS) == pytest.approx(1.0, abs=1e-12)
    assert 0 <= model.weight <= 1


def test_the_unigram_loses_the_entropy_of_what_it_has_counted_where_that_is_much():
    given = pairs(5000)
    tokens = np.concatenate([pair.answer for pair in given])
    p = np.bincount(tokens, minlength=7)[3:] / len(tokens)
    entropy = -float((p * np.log(p)).sum())
    assert null_losses(given, given, kinds=4)["unigram"].per_token() == pytest.approx(entropy, abs=1e-3)
    assert null_losses(given, given, kinds=4)["unigram"].per_token() >= entropy


def test_the_n_gram_learns_what_follows_what_and_the_unigram_does_not():
    found = null_losses(pairs(2000), pairs(300, seed=1), kinds=4)
    assert found["prompt"].per_token() < found["unigram"].per_token() - 0.2
    assert found["prompt"].nll.shape == found["prompt"].tokens.shape == (300,)


def test_the_weight_of_the_prompt_is_the_share_that_is_copied():
    """Letters that are uniform, but for a share that is the prompt's: the mixture that the model is at order 1."""
    rng = np.random.default_rng(0)
    given = []
    for _ in range(3000):
        prompt = [int(rng.integers(A, C + 1))]
        given.append(Pair([prompt[0] if rng.random() < 0.4 else int(rng.integers(A, C + 1)) for _ in range(5)], prompt))
    assert PromptNGram(given, kinds=4, order=1).weight == pytest.approx(0.4, abs=0.04)
    unprompted = [pair._replace(prompt=[]) for pair in given]
    assert PromptNGram(unprompted, kinds=4).weight == 0.0
    both = [null_losses(each, each[:300], kinds=4)["prompt"].per_token() for each in (given, unprompted)]
    assert both[0] < both[1]


def test_witten_bells_rule_by_hand():
    """After A come B twice and EOS once: n = 3, T = 2."""
    model = PromptNGram([Pair([A, B], []), Pair([A, B], []), Pair([A, EOS], [])], kinds=4, order=2)
    unigram = Unigram([Pair([A, B], []), Pair([A, B], []), Pair([A, EOS], [])], kinds=4)
    assert unigram.p(B) == pytest.approx(3 / 10)
    assert model.p(B, (A,)) == pytest.approx((2 + 2 * 3 / 10) / 5)
    assert model.p(C, (A,)) == pytest.approx(2 * (1 / 10) / 5)
    assert model.loss(Pair([C], [])) == pytest.approx(-math.log(model.p(C, (-1,))))
