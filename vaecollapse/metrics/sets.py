"""What metrics of two sets share: one row for each clip, halves drawn again and again, and real against real beside."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..refusal import Refused, check_least
from .base import Metric, Score

Rows = Float[Tensor, "n d"]
Others = Float[Tensor, "m d"]  # of another number
View = Callable[[Rows], Callable[[Tensor], Tensor]]  # of some reference rows: how rows are compared beside them


def in_order(rows: Rows) -> Rows:
    """The same rows in an order that only they decide, so that which came first, or from which rank, says nothing.

    >>> in_order(torch.tensor([[2.0, 1.0], [1.0, 3.0], [1.0, 2.0]])).tolist()
    [[1.0, 2.0], [1.0, 3.0], [2.0, 1.0]]
    """
    columns = rows.cpu().numpy().T[::-1]
    return rows[torch.from_numpy(np.lexsort(columns)).to(rows.device)] if len(rows) else rows


def halves(
    real: int, generated: int, n: int, *, splits: int, seed: int
) -> Iterator[tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]]:
    """Positions of n real ones, of n other real ones and of n generated ones, drawn without replacement."""
    drawn = torch.Generator().manual_seed(seed)
    for _ in range(splits):
        first = torch.randperm(real, generator=drawn)
        yield first[:n], first[n : 2 * n], torch.randperm(generated, generator=drawn)[:n]


class SetMetric(Metric):
    """A metric of two sets of rows (n, d), real and generated, that is defined for any n.

    `value`: the mean over `splits` random subsets of n real and n generated rows, without replacement, n half of the
    smaller set (at most `most`). `truth`, its floor: the same of these n real rows and n others, so both have the bias
    of that n. How rows are compared (`view`, bandwidths) is decided without these others and without the generated
    ones, so that where both sets are of one law value − truth is 0 in the mean. `se` is of value − truth:
    sd·√(n/(N − n) + 1/splits) over the splits (delete-half jackknife, Shao & Wu 1989), too wide rather than too narrow
    where both sets are of one law. `blocks`: the splits.

    Rows are kept, since what is compared in pairs needs all of them: 4·d bytes a clip, shared by the metrics they are
    given to.
    """

    most: int | None = None
    least = 2
    whitened = True  # wants directions of the embedding in units of the real set's spread; False: as they are

    def __init__(self, name: str, *, splits: int, seed: int) -> None:
        super().__init__()
        check_least(f"metric.{name}", 2, splits=splits)
        self.name, self.splits, self.seed = name, splits, seed
        for name in ("real", "generated"):
            self.add_state(name, [], dist_reduce_fx="cat", persistent=True)

    def update(self, real: Rows, generated: Float[Tensor, "m e"]) -> None:
        """Takes in rows of both sets, or of one of them. Refused where they are not of one size, or no numbers."""
        widths = {part.shape[1] for part in (*self.rows("real"), *self.rows("generated"), real, generated) if len(part)}
        if len(widths) > 1:
            raise Refused(f"rows of {' and '.join(map(str, sorted(widths)))} numbers: give both sets one embedding")
        for name, part in (("real", real), ("generated", generated)):
            if not torch.isfinite(part).all():
                lost = int((~torch.isfinite(part)).any(1).sum())
                raise Refused(f"{lost} of {len(part)} {name} rows have no number somewhere: mend what embeds them")
            if len(part):
                setattr(self, name, [*self.rows(name), part])

    def rows(self, name: str) -> list[Rows]:
        """A state's parts."""
        state = getattr(self, name)
        return list(state) if isinstance(state, list) else [state]  # after a sync a tensor

    @abstractmethod
    def compare(self, real: Rows, generated: Others) -> dict[str, float]:
        """Numbers by name, the metric's own first, of two sets of n rows in float64; `_NAME` is only for `note`."""

    def note(self, own: Mapping[str, float]) -> str:
        """What stands beside the first score, from the means of `compare`."""
        return ""

    def sides(
        self, real: Rows, generated: Others, a: Int[Tensor, " k"], b: Int[Tensor, " k"], view: View | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Generated rows, and the real ones at b, each against the real ones at a; seen by all real ones but b's."""
        reference, other = real[a], real[b]
        if view is not None and self.whitened:
            known = torch.ones(len(real), dtype=torch.bool, device=real.device)
            known[b] = False
            seen = view(real[known])
            reference, other, generated = seen(reference), seen(other), seen(generated)
        return self.compare(reference, generated), self.compare(reference, other)

    def scores(self, view: View | None = None) -> list[Score]:
        """What was measured, of rows as `view` has them where the metric wants them whitened."""
        real, generated = (in_order(torch.cat(self.rows(name))) if self.rows(name) else torch.zeros(0, 0)
                           for name in ("real", "generated"))  # fmt: skip
        smaller = min(len(real), len(generated))
        n = min(smaller // 2, self.most or smaller)
        if n < self.least:
            why = f"needs {2 * self.least} clips or more of each, and there are {len(real)} and {len(generated)}"
            return [Score(self.name, None, note=why if smaller else "nothing was measured")]
        real, generated = real.double(), generated.double()
        found = [
            self.sides(real, generated[c], a, b, view)
            for a, b, c in halves(len(real), len(generated), n, splits=self.splits, seed=self.seed)
        ]
        own, floor = ({name: np.array([each[side][name] for each in found]) for name in found[0][side]}
                      for side in (0, 1))  # fmt: skip
        wide = (n / (smaller - n) + 1 / self.splits) ** 0.5
        means = {name: float(values.mean()) for name, values in own.items()}
        names = [name for name in own if not name.startswith("_")]
        return [
            Score(
                name, means[name], wide * float((own[name] - floor[name]).std(ddof=1)), n, self.splits,
                float(floor[name].mean()), self.note(means) if name == names[0] else "",
            )
            for name in names
        ]  # fmt: skip
