"""The scores of an ensemble."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor

from ..metrics.base import Metric, Score
from ..metrics.fields import FieldMetric, Fields


@runtime_checkable
class Source(Protocol):
    """An ensemble that is read part by part: from a file, or drawn as it is read."""

    @property
    def count(self) -> int:
        """How many members."""
        ...

    def parts(self, times: int = 64) -> Iterator[tuple[Fields, Tensor]]: ...


def scores(
    stored: Source,
    metrics: Mapping[str, Metric],
    *,
    analogs: Callable[[Int[Tensor, " n"]], Float[Tensor, "analogs n height width"]] | None = None,
    times: int = 64,
) -> list[Score]:
    """Every metric's scores on an ensemble. `analogs` gives, for positions in the split, fields of the training
    split under nearly the same condition. A metric that needs more members than there are is not defined."""
    able = {name: each for name, each in metrics.items() if not isinstance(each, FieldMetric) or enough(each, stored)}
    for real, members in stored.parts(times):
        if analogs is not None:
            real = real._replace(reference=analogs(real.labels("index")))
        for metric in able.values():
            metric.update(real, members)
    found: list[Score] = []
    for name, metric in metrics.items():
        why = f"needs more members than {stored.count}"
        found += metric.scores() if name in able else [Score(name, None, note=why)]
    return found


def enough(metric: FieldMetric, stored: Source) -> bool:
    return stored.count >= metric.least


def lines(found: Sequence[Score]) -> list[tuple[str, str, str, str, str]]:
    """A row for each score: name, value, ± half the 95 % interval over blocks, the truth's, what to know.

    >>> lines([Score("p99", 11.25, 0.05, 900, 10, 11.5)])
    [('p99', '11.25', '± 0.11', '11.5', '')]
    """
    rows = []
    for each in found:
        # Student's t with blocks − 1 degrees of freedom: blocks are few
        half = None if each.se is None else student(each.blocks - 1) * each.se
        error = "" if half is None else f"± {half:.2g}"
        value, truth = ("–" if v is None else f"{v:.4g}" for v in (each.value, each.truth))
        rows.append((each.name, value, error, "" if each.truth is None else truth, each.note))
    return rows


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t.

    >>> round(student(9), 3)
    2.262
    """
    return float(stdtrit(freedom, 0.975))
