"""Questions of arithmetic whose answers can be put in several ways: the entropy of an answer is known."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import product
from math import log

from ..refusal import Refused
from .text import Row, TextData

OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
PARTS = ("left", "operation", "right", "kind")
MOST = 63  # operands below this: their products have a Roman numeral

SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ROMAN = ((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"),
         (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))  # fmt: skip


def in_words(number: int) -> str:
    """A number below 10 000 in English.

    >>> in_words(-361), in_words(2019)
    ('minus three hundred sixty-one', 'two thousand nineteen')
    """
    if number < 0:
        return f"minus {in_words(-number)}"
    if number < 20:
        return SMALL[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{SMALL[number % 10]}" if number % 10 else "")
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    head = f"{in_words(number // unit)} {name}"
    return f"{head} {in_words(number % unit)}" if number % unit else head


def in_roman(number: int) -> str:
    """A number below 4000 in Roman numerals; zero is N, as computists wrote it.

    >>> in_roman(1994), in_roman(-7), in_roman(0)
    ('MCMXCIV', '-VII', 'N')
    """
    if number <= 0:
        return f"-{in_roman(-number)}" if number else "N"
    written = ""
    for value, letters in ROMAN:
        written, number = written + letters * (number // value), number % value
    return written


KINDS = {"digits": str, "words": in_words, "roman": in_roman}


def entropies(pairs: Iterable[tuple[str, str]]) -> tuple[float, float]:
    """H(answer) and H(answer given prompt) in nats, of equally probable (prompt, answer) pairs.

    >>> entropies([("a", "1"), ("a", "2"), ("b", "3"), ("b", "3")])
    (1.0397207708399179, 0.34657359027997264)
    """
    answers: Counter[str] = Counter()
    of: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for prompt, answer in pairs:
        answers[answer] += 1
        of[prompt][answer] += 1
    total = answers.total()
    return _entropy(answers), sum(each.total() / total * _entropy(each) for each in of.values())


def _entropy(counts: Counter[str]) -> float:
    total = counts.total()
    return -sum(n / total * log(n / total) for n in counts.values())


class ArithmeticData(TextData):
    """Every question `a ∘ b` of operands 0 … `numbers` − 1, each answered once in each of `kinds`.

    `given` are the parts that the prompt tells (left, operation, right, kind; a question mark stands for the others):
    what it leaves open is what z is there to carry, H(answer given prompt) nats. The default leaves the kind open,
    ln 3; all four determine the answer, 0; none leaves no prompt, H(answer). Both entropies are of the whole set, in
    which every example comes once. Splits are by prompt.

    >>> data = ArithmeticData(numbers=4)
    >>> batch = data.examples("train", 1)
    >>> data.prompt_text(batch.context), data.text(batch.x)
    (['2 + 3'], ['five'])
    """

    def __init__(
        self,
        *,
        numbers: int = 20,
        operations: Sequence[str] = ("+", "-", "*"),
        kinds: Sequence[str] = ("digits", "words", "roman"),
        given: Sequence[str] = ("left", "operation", "right"),
        tokenizer: str = "bytes",
        vocab: int | None = None,
        buckets: bool = True,
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            vocab=vocab,
            longest_prompt=None,
            longest_answer=64,
            too_long="refuse",
            empty="refuse",
            buckets=buckets,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        if not 2 <= numbers <= MOST:
            raise Refused(f"dataset.numbers={numbers} must be from 2 to {MOST}: type dataset.numbers=20")
        for name, chosen, known in (
            ("operations", operations, OPERATIONS),
            ("kinds", kinds, KINDS),
            ("given", given, PARTS),
        ):
            unknown = [each for each in chosen if each not in known]
            if unknown or len(set(chosen)) < len(chosen) or not (chosen or name == "given"):
                raise Refused(
                    f"dataset.{name}={list(chosen)} must be some of {', '.join(known)}, each once: type "
                    f"dataset.{name}=[{','.join(known)}]"
                )
        self.numbers, self.operations, self.kinds, self.given = numbers, operations, kinds, set(given)

    def rows(self) -> list[Row]:
        operands = range(self.numbers)
        every = list(product(operands, self.operations, operands, self.kinds))
        return [self._row(number, *parts) for number, parts in enumerate(every)]

    def _row(self, number: int, left: int, operation: str, right: int, kind: str) -> Row:
        answer = KINDS[kind](OPERATIONS[operation](left, right))
        if not self.given:
            return Row(answer, None, str(number), (str(number),))
        told = zip(PARTS, (left, operation, right, kind), strict=True)
        shown = [str(part) if name in self.given else "?" for name, part in told]
        prompt = " ".join(shown[:3]) + (f" in {kind}" if "kind" in self.given else "")
        return Row(answer, prompt, str(number), (prompt,))

    @property
    def facts(self) -> dict[str, object]:
        return {**super().facts, **self._entropies}

    def fingerprint(self) -> dict[str, object]:
        """No files; a hash of all examples, and what their answers hold in nats."""
        return {**super().fingerprint(), **self._entropies}

    @cached_property
    def _entropies(self) -> dict[str, float]:
        answer, given_prompt = entropies((row.prompt or "", row.answer) for row in self.rows())
        return {"answer_entropy": answer, "answer_entropy_given_prompt": given_prompt}
