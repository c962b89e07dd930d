"""Repeated clips are called collapsed and spoilt ones bad, on real recordings; real ones are neither."""

from pathlib import Path

import numpy as np
import pytest
from conftest import DATA
from planted_sounds import SICK, read, sounds, tones

from vaecollapse.datasets.cache import Cache
from vaecollapse.listening.embedding import Embedding
from vaecollapse.listening.scoring import Compared, compared, judged, pair
from vaecollapse.metrics.base import Score
from vaecollapse.metrics.frechet import Frechet
from vaecollapse.metrics.precision_recall import PrecisionRecall
from vaecollapse.metrics.vendi import Vendi


def heard(real: list, generated: list, rate: int = 8000) -> Compared:
    metrics = {"fad": Frechet(), "precision_recall": PrecisionRecall(), "vendi": Vendi()}
    return compared(sounds(real, rate, "real"), sounds(generated, rate, "made"), Embedding(), metrics, rate=rate,
                    cache=Cache())  # fmt: skip


@pytest.fixture(scope="module")
def speech(fsdd: Path) -> list:
    """300 digits of six speakers, shuffled: the first half is one set, the second another of the same law."""
    paths = sorted(path for n in range(5) for path in fsdd.glob(f"*_{n}.wav"))
    return read([paths[place] for place in np.random.default_rng(0).permutation(len(paths))], 8000)


@pytest.fixture(scope="module")
def drums() -> list:
    folder = DATA / "drum_machines"
    if not folder.is_dir():
        pytest.skip(f"the drum machines are not at {folder}")
    return read(sorted(folder.glob("*/*.wav")), 16000)


@pytest.mark.parametrize("name", SICK)
def test_of_speech(speech: list, name: str) -> None:
    word, spoil = SICK[name]
    found = heard(speech[:150], spoil(speech[150:]))
    assert found.judged is not None and found.judged.word == word, found.judged


@pytest.mark.parametrize("name", ["very quiet", "in noise", "under noise", "one very quiet clip"])
def test_of_tones(name: str) -> None:
    word, spoil = SICK[name]
    made = tones(200)
    found = heard(made[:100], spoil(made[100:]))
    assert found.judged is not None and found.judged.word == word, found.judged


@pytest.mark.parametrize("name", SICK)
def test_of_one_shots_of_which_there_are_72(drums: list, name: str) -> None:
    word, spoil = SICK[name]
    found = heard(drums, spoil(drums), 16000)
    assert found.judged is not None and found.judged.word == word, found.judged


def test_real_against_real_at_equal_n_lies_inside_its_own_interval(speech: list, drums: list) -> None:
    shots = [drums[place] for place in np.random.default_rng(0).permutation(len(drums))]
    for real, other, rate in ((speech[:150], speech[150:], 8000), (shots[:36], shots[36:], 16000)):
        found = heard(real, other, rate)
        assert found.judged is not None and found.judged.word in ("alike", "undecided"), found.judged
        for score in found.scores:
            assert score.value is not None and score.truth is not None and score.se is not None
            assert abs(score.value - score.truth) <= 2.093 * score.se, score


def test_the_state_of_generated_tones_is_told_whatever_their_level() -> None:
    real, other = tones(100), tones(100, 1)
    quiet = [0.01 * each for each in real], [0.01 * each for each in other]
    for first, second in ((real, other), quiet):
        assert heard(first, second).judged.word in ("alike", "undecided")
        assert heard(first, second[:5] * 20).judged.word == "collapsed"
    covered = heard(real, quiet[1]).judged
    assert covered is not None and covered.word == "bad"
    assert "the level and the steady noise of these clips leave no more of real ones" in covered.why[0]


def scores(**values: tuple[float, float, float]) -> list[Score]:
    return [Score(name, value, se, 50, 20, truth) for name, (value, se, truth) in values.items()]


@pytest.mark.parametrize(
    ("word", "vendi", "fad", "precision"),
    [
        ("collapsed", (0.05, 0.01, 1.0), (9.0, 0.1, 0.2), (0.0, 0.01, 0.9)),
        ("collapsed", (0.3, 0.05, 1.0), (9.0, 0.1, 0.2), (0.8, 0.01, 0.9)),
        ("bad", (0.3, 0.05, 1.0), (9.0, 0.1, 0.2), (0.1, 0.01, 0.9)),
        ("bad", (0.3, 0.2, 1.0), (9.0, 0.1, 0.2), (0.9, 0.01, 0.9)),
        ("bad", (0.08, 0.1, 1.0), (9.0, 0.1, 0.2), (0.0, 0.01, 0.9)),
        ("bad", (0.9, 0.1, 1.0), (9.0, 0.1, 0.2), (0.0, 0.01, 0.9)),
        ("alike", (1.0, 0.1, 1.0), (0.21, 0.01, 0.2), (0.9, 0.01, 0.9)),
        ("undecided", (1.0, 0.1, 1.0), (0.5, 0.2, 0.2), (0.9, 0.01, 0.9)),
    ],
)
def test_the_word_follows_limits_and_not_significance(word, vendi, fad, precision) -> None:
    found = judged(scores(vendi_ratio=vendi, vendi=(5.0, 0.1, 40.0), fad_share=fad, precision=precision,
                          recall=(0.0, 0.01, 0.9)))  # fmt: skip
    assert found is not None and found.word == word
    assert found.why[0].startswith("it is varied") is (word == "bad" and vendi[0] >= 0.5)


@pytest.mark.parametrize(("word", "value", "se"), [("collapsed", 0.05, 0.01), ("bad", 0.05, 0.1), ("bad", 0.9, 0.01)])
def test_few_sounds_are_a_collapse_where_they_are_surely_few_beside_real_ones_as_noisy_too(word, value, se) -> None:
    alone = scores(vendi_ratio=(0.05, 0.01, 1.0), vendi=(5.0, 0.1, 40.0), fad_share=(9.0, 0.1, 0.2))
    assert judged(alone).word == "collapsed"
    assert judged(alone, Score("vendi_ratio", value, se, 50, 20, 1.0)).word == word


def test_without_its_scores_there_is_no_word_and_without_precision_only_the_sure_one() -> None:
    assert judged(scores(fad_share=(9.0, 0.1, 0.2))) is None
    assert judged([Score("vendi_ratio", None), Score("fad_share", None)]) is None
    half = scores(vendi_ratio=(0.3, 0.05, 1.0), vendi=(5.0, 0.1, 40.0), fad_share=(9.0, 0.1, 0.2))
    assert judged(half).word == "bad"
    assert pair(Score("recall", None)) == "recall 0.00 (real 0.00)"
