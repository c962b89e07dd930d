"""Laws of text as data: tokens tell it without loss, splits keep questions apart, entropies are what is counted."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from vaecollapse import loading
from vaecollapse.batch import collate
from vaecollapse.datasets.text import bound_together
from vaecollapse.datasets.text_arithmetic import PARTS, ArithmeticData, entropies, in_roman, in_words
from vaecollapse.datasets.tokenizers import BPE, Bytes, Tokenizer, loaded
from vaecollapse.refusal import Refused
from vaecollapse.run import Run
from vaecollapse.tasks.building import prepared
from vaecollapse.tasks.recording import record_start
from vaecollapse.tokens import EOS, PAD, SPECIALS

HOSTILE = [
    "", " ", "\0", "\r\n", "\n\n\r", "a\u2028b\x85c\x0bd", "\ufeffmark", "naïve Ω 漢字 e\u0301", "\U0010ffff\ue000",
    "\U0001f937\U0001f3fd\u200d\u2640\ufe0f", "".join(map(chr, range(160))), "[PAD][EOS]<s></s>[UNK] Ġ Ċ ▁", "a" * 3000,
    "   two  spaces   ", "\t=\t",
]  # fmt: skip
LEARNED = ["the cat sat on the mat", "the dog sat on the log", "1 + 1 = 2", "naïve"] * 5


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return BPE.trained(LEARNED, 300)


@pytest.fixture(params=["bytes", "bpe", "bpe loaded"])
def tokenizer(request: pytest.FixtureRequest, bpe: BPE) -> Tokenizer:
    return {"bytes": Bytes(), "bpe": bpe, "bpe loaded": loaded(bpe.saved())}[request.param]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_every_text_comes_back_and_none_writes_a_special_id(tokenizer: Tokenizer, text: str) -> None:
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.decode(tokens) == text
    assert all(SPECIALS <= token < tokenizer.vocab_size for token in tokens)
    assert loaded(tokenizer.saved()).encode([text]) == [tokens]


def test_any_ids_a_model_may_write_are_some_text(tokenizer: Tokenizer) -> None:
    every = list(range(SPECIALS, tokenizer.vocab_size))
    assert isinstance(tokenizer.decode(every[::-1]), str)


def test_pairs_are_learned_alike_each_time_and_save_tokens(bpe: BPE) -> None:
    assert BPE.trained(LEARNED, 300).saved() == bpe.saved()
    assert bpe.vocab_size <= 300
    assert len(bpe.encode(["the cat sat"])[0]) < len(Bytes().encode(["the cat sat"])[0]) / 2
    assert BPE.trained(["ab"], 260).vocab_size == 260  # the bytes alone


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}',
    '{"model": {"type": "BPE", "vocab": [], "merges": 3}}'])  # fmt: skip
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"tokenizer\.json holds no tokenizer of ours"):
        loaded(text)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_run_keeps_its_tokenizer_and_it_is_not_learned_again(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(**changes: object) -> ArithmeticData:
        return ArithmeticData(**{"numbers": 8, "tokenizer": kind, **changes})

    data = make()
    record_start(Run(tmp_path), OmegaConf.create({"seed": 0}), [], data)
    (tmp_path / "config.yaml").touch()
    monkeypatch.setattr(BPE, "trained", lambda *_: pytest.fail("learned again"))
    again = prepared(make(seed=5), tmp_path)  # another training split would have taught it otherwise
    assert again.keep() == data.keep() == {"tokenizer.json": loading.kept_text(tmp_path, "tokenizer.json")}
    assert again.fingerprint() == data.fingerprint()
    assert again.text(again.splits.train[0].x[None]) != [""]
    with pytest.raises(Refused, match="type those of the run"):
        prepared(make(tokenizer="bytes" if kind == "bpe" else "bpe"), tmp_path)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_batch_tells_its_prompts_and_answers(kind: str) -> None:
    data = ArithmeticData(numbers=5, tokenizer=kind)
    by_prompt = {}
    for row in data.rows():
        by_prompt.setdefault(row.prompt, set()).add(row.answer)
    batch = data.examples("train", 60)
    for prompt, answer in zip(data.prompt_text(batch.context), data.text(batch.x), strict=True):
        assert answer in by_prompt[prompt]
    ends = batch.mask.sum(1) - 1
    assert (batch.x[torch.arange(60), ends] == EOS).all()
    assert (batch.x[~batch.mask] == PAD).all()
    torch.testing.assert_close(collate([data.splits.train[i] for i in range(60)]).x, batch.x)
    after = torch.tensor([[batch.x[0, 0], EOS, batch.x[0, 0], PAD]])
    assert data.text(after) == data.text(after[:, :1])


@pytest.mark.parametrize("given", [(), ("operation",), ("left", "operation"), ("left", "operation", "right"), PARTS])
def test_entropies_are_those_of_a_counted_joint_distribution(given: tuple[str, ...]) -> None:
    """H(answer given prompt) = H(prompt, answer) − H(prompt), counted in another way than `entropies` does."""
    data = ArithmeticData(numbers=7, given=given)
    rows = data.rows()

    def h(things: list) -> float:
        return -sum(n / len(things) * math.log(n / len(things)) for n in Counter(things).values())

    facts = data.facts
    joint = h([(row.prompt, row.answer) for row in rows])
    assert facts["answer_entropy"] == pytest.approx(h([row.answer for row in rows]))
    assert facts["answer_entropy_given_prompt"] == pytest.approx(joint - h([row.prompt for row in rows]), abs=1e-9)
    assert data.fingerprint()["answer_entropy"] == facts["answer_entropy"]
    if len(given) == 3:
        assert facts["answer_entropy_given_prompt"] == pytest.approx(math.log(3))
    if len(given) == 4:
        assert facts["answer_entropy_given_prompt"] == 0
    if not given:
        assert facts["answer_entropy_given_prompt"] == facts["answer_entropy"]
        assert data.examples("train", 2).context is None


def test_what_a_prompt_leaves_open_is_left_open_in_every_split() -> None:
    """All answers of a prompt are in one split, so ln 3 holds exactly in each."""
    data = ArithmeticData(numbers=8)
    prompts = []
    for split in ("train", "validation", "test"):
        batch = data.examples(split, 10_000)
        prompts.append(set(asked := data.prompt_text(batch.context)))
        pairs = list(zip(asked, data.text(batch.x), strict=True))
        assert entropies(pairs)[1] == pytest.approx(math.log(3))
        assert len(set(pairs)) == len(pairs)
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 3 * 64


def test_numbers_are_written_in_one_way_each() -> None:
    every = range(-63, 63 * 63)
    written = [form(number) for form in (str, in_words, in_roman) for number in every]
    assert len(set(written)) == len(written)
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    for number in range(1, 3999):
        digits = [values[letter] for letter in in_roman(number)]
        ahead = zip(digits, [*digits[1:], 0], strict=True)
        assert sum(-now if now < after else now for now, after in ahead) == number


def test_groups_are_bound_over_any_number_of_steps() -> None:
    names = bound_together([("a", "1"), ("b", "1"), ("b", "2"), ("c", "2"), ("d", "3")])
    assert len(set(names[:4])) == 1
    assert names[4] != names[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"numbers": 1}, r"numbers=1 must be from 2 to 63"),
        ({"numbers": 64}, r"type dataset\.numbers=20"),
        ({"operations": []}, r"operations=\[\] must be some of"),
        ({"operations": ["+", "/"]}, r"dataset\.operations=\[\+,-,\*\]"),
        ({"kinds": ["digits", "digits"]}, "each once"),
        ({"given": ["answer"]}, "left, operation, right, kind"),
        ({"tokenizer": "words"}, "one of bytes, bpe"),
        ({"vocab": 500}, r"no effect with dataset\.tokenizer=bytes"),
        ({"vocab": 259, "tokenizer": "bpe"}, "at least 260"),
        ({"val_fraction": 0.0}, "val_fraction=0.2"),
        ({"numbers": 2, "operations": ["+"], "given": ["operation"]}, "1 group"),
    ],
)
def test_impossible_arithmetic_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(Refused, match=words):
        ArithmeticData(**settings).setup()


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(Refused, match=r"pip install 'vaecollapse\[text\]', or dataset\.tokenizer=bytes"):
        ArithmeticData(tokenizer="bpe").setup()
