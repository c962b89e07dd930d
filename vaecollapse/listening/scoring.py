"""A set of sounds against a real one: the scores, what they are of, and the words."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..datasets.cache import Cache
from ..metrics.base import Score
from ..metrics.sets import SetMetric
from ..metrics.vendi import Vendi
from ..nn.spectral import frame_size
from .covering import covered
from .embedding import Embedding
from .hearing import both, embedded
from .sounds import Sounds

T = 2.093  # the 97.5 % point of Student's t over 20 splits
FEW, HALF = 0.2, 0.5  # of the real set's number of different sounds
SHARE = 0.05  # of the real set's variance: a Fréchet distance that matters


class Judged(NamedTuple):
    """collapsed, bad, alike or undecided, and why."""

    word: str
    why: list[str]


class Compared(NamedTuple):
    """The scores, of what they are, what is to be known of the sets, and the word."""

    scores: list[Score]
    what: str
    said: list[str]
    judged: Judged | None


def compared(
    real: Sounds,
    generated: Sounds,
    embedding: Embedding,
    metrics: Mapping[str, SetMetric],
    *,
    rate: int,
    cache: Cache,
    silent: bool = False,
) -> Compared:
    """Every metric's scores of generated clips against real ones; copies among the real ones are left out. `silent`:
    z is worth nothing to the decoder of the generated ones, so that what differs between them may be noise."""
    real = real.distinct()
    rows = both(embedding, real, generated, rate=rate, cache=cache)
    view = embedding.view(len(real.clips))
    scores: list[Score] = []
    for metric in metrics.values():
        metric.update(*rows)
        scores += metric.scores(view)
    n, d = max((score.n for score in scores), default=0), embedding.width(len(real.clips))
    what = (
        f"{len(generated.clips)} clips of {generated.where} against {len(real.clips)} of {real.where}, by "
        f"{embedding.named(rate)}, {d} dimensions, {n} of each at once"
    )
    said = [*real.said, *generated.said, *odd(real, generated, rate)]
    if 0 < n < 2 * d:
        said.append(f"{n} clips at once are fewer than twice the {d} dimensions: intervals are wide, FAD is biased up")
    word = judged(scores)
    if word is not None and word.word == "collapsed" and silent:
        word.why.append("their z is worth nothing to the decoder, so that only noise can tell them apart")
    elif word is not None and word.word == "collapsed":
        word = judged(scores, beside_covered(real, generated, rows[1], embedding, metrics, rate=rate))
    return Compared(scores, what, said, word)


def beside_covered(
    real: Sounds, generated: Sounds, rows: Float[Tensor, "m size"], embedding: Embedding,
    metrics: Mapping[str, SetMetric], *, rate: int,
) -> Score | None:  # fmt: skip
    """The Vendi ratio to real clips at the generated ones' level and under their steady noise."""
    hear, found = embedding.hearing(rate, real.peak), next(each for each in metrics.values() if isinstance(each, Vendi))
    under = covered(real, generated, rate)
    beside = Vendi(most=found.most or len(rows), splits=found.splits, seed=found.seed)
    heard = embedded(under, hear, identity=[], cache=Cache(), doing="hearing the real set at that level and noise")
    beside.update(heard, rows)
    return next((score for score in beside.scores() if score.name == "vendi_ratio"), None)


def odd(real: Sounds, generated: Sounds, rate: int) -> list[str]:
    """What else is to be known of two sets: copies, and clips shorter than a window."""
    said, digests = [], [clip.digest for clip in generated.clips]
    if copies := len(digests) - len(set(digests)):
        said.append(f"{copies} of {len(digests)} generated clips are copies of other generated ones")
    if stolen := len(set(digests) & {clip.digest for clip in real.clips}):
        said.append(f"{stolen} generated clips are copies of real ones")
    window = frame_size(rate)
    for name, sounds in (("real", real), ("generated", generated)):
        if short := sum(clip.samples < window for clip in sounds.clips):
            said.append(f"{short} {name} clips are shorter than a window of {1000 * window / rate:.0f} ms, and padded")
    return said


def judged(scores: Sequence[Score], under: Score | None = None) -> Judged | None:
    """What a set of sounds is, from its scores; None where they have no Vendi ratio or no Fréchet distance.

    *collapsed*: the upper limit of the Vendi ratio is below 0.2; or below 0.5, and precision is at least half of what
    real clips have; and so is that of the ratio to real clips as quiet and as noisy (`under`), where it was measured.
    *bad*: not collapsed, and the Fréchet distance exceeds its floor by more than 5 % of the real set's variance, at its
    lower limit. *alike*: by less, at its upper limit. Else *undecided*.
    """
    of = {score.name: score for score in scores}
    ratio, share = of.get("vendi_ratio"), of.get("fad_share")
    if ratio is None or share is None or ratio.value is None or share.value is None:
        return None
    varied = f"{of['vendi'].value:.3g} different sounds in {ratio.n} where the real set has {of['vendi'].truth:.3g}"
    lies = within(of.get("precision"))
    most, beside = limit(ratio), 0.0 if under is None else limit(under)
    excess, wide = share.value - (share.truth or 0.0), T * (share.se or 0.0)
    bound = HALF if lies is not None and lies >= 0.5 else FEW
    if max(most, beside) < bound:
        why = [f"it holds as good as {varied}"]
        if lies is not None:
            among_ = "among" if lies >= 0.5 else "not even among"
            why.append(f"they lie {among_} the real ones ({pair(of['precision'])}), which are not among them "
                       f"({pair(of['recall'])})")  # fmt: skip
        return Judged("collapsed", why)
    apart = f"Fréchet distance {100 * share.value:.3g} % of the real set's variance, real against real"
    apart += f" {100 * (share.truth or 0.0):.3g} %"
    if excess - wide > SHARE:
        near = "" if lies is None else f", {pair(of['precision'])}, {pair(of['recall'])}"
        how = f"it is varied ({varied}) but" if (ratio.value or 0.0) >= HALF else f"{varied}:"
        if most < bound:
            how = f"{varied}, but the level and the steady noise of these clips leave no more of real ones, so that a "
            how += "collapse is neither heard nor ruled out: it is"
        return Judged("bad", [f"{how} unlike the real set: {apart}{near}"])
    if excess + wide < SHARE:
        return Judged("alike", [f"at n = {share.n} it is as near to the real set as real clips are: {apart}"])
    return Judged("undecided", [f"{share.n} clips at once are too few to tell: {apart}, ± {100 * wide:.2g}"])


def limit(score: Score) -> float:
    """The upper one."""
    return (score.value or 0.0) + T * (score.se or 0.0)


def within(precision: Score | None) -> float | None:
    """Precision over that of real clips."""
    if precision is None or precision.value is None or not precision.truth:
        return None
    return precision.value / precision.truth


def pair(score: Score) -> str:
    """A share, and that of real clips.

    >>> pair(Score("recall", 0.25, truth=0.9))
    'recall 0.25 (real 0.90)'
    """
    return f"{score.name} {score.value or 0.0:.2f} (real {score.truth or 0.0:.2f})"
