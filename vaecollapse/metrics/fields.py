"""What metrics of ensembles of fields share: the fields in mm, and sums by independent block."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ..refusal import Refused
from .base import Metric, Score, jackknife

Rows = Float[Tensor, "times n"]


class Fields(NamedTuple):
    """What was observed, in mm of `unit`, and what is known of it. A value that is NaN counts as masked.

    `block`: the independent block (a year, a stretch of days) of each field, None where all may hang together; then no
    error can be given. `place`: the window it was cut from. `index`: its position in the data, which keys random ties.
    `area`: of the cells, in any unit. `reference`: for the diversity, fields of other times under nearly the same
    condition (`diversity.analog_members`).
    """

    values: Float[Tensor, "times height width"]
    mask: Bool[Tensor, "times height width"] | None = None
    block: Int[Tensor, " times"] | None = None
    place: Int[Tensor, " times"] | None = None
    index: Int[Tensor, " times"] | None = None
    area: Float[Tensor, "times height width"] | None = None
    reference: Float[Tensor, "analogs times height width"] | None = None
    unit: str = "mm/day"

    def at(self, rows: Tensor | slice) -> "Fields":
        """Some of the times."""
        own = {name: part[rows] for name, part in zip(self._fields, self[:6], strict=False) if part is not None}
        reference = None if self.reference is None else self.reference[:, rows]
        return self._replace(**own, reference=reference)

    def labels(self, name: str) -> Int[Tensor, " times"]:
        """`block` or `place`, one for all where there is none; `index`, counted where there is none."""
        given = getattr(self, name)
        if given is not None:
            return given.cpu()
        count = len(self.values)
        return torch.arange(count) if name == "index" else torch.zeros(count, dtype=torch.long)


def cleaned(
    real: Fields, generated: Float[Tensor, "members times height width"]
) -> tuple[Fields, Float[Tensor, "members times height width"], Bool[Tensor, "times height width"]]:
    """Both with 0 where the mask or the truth's NaN leave nothing to compare, and where there is something.

    Refused where shapes differ, or where a member has no number and the truth has one.
    """
    truth = real.values
    if generated.shape[1:] != truth.shape:
        raise Refused(
            f"members must be (member, {', '.join(map(str, truth.shape))}) as the truth is, "
            f"but are {tuple(generated.shape)}: give one field of each member for each time"
        )
    valid = torch.isfinite(truth) if real.mask is None else real.mask & torch.isfinite(truth)
    if not torch.isfinite(generated.sum()):
        lost = sum(int((~torch.isfinite(member) & valid).sum()) for member in generated)
        if lost:
            raise Refused(
                f"members have no number in {lost} cells where the truth has one: mask them, or mend the model"
            )
    if not valid.all():
        nothing = torch.zeros((), dtype=generated.dtype, device=generated.device)
        truth, generated = torch.where(valid, truth, nothing.to(truth)), torch.where(valid, generated, nothing)
    return real._replace(values=truth), generated, valid


class FieldMetric(Metric):
    """A metric that is a function of sums over times: `rows` gives one row for each time, `values` what a sum of rows
    means. Rows are summed by block, so errors are over blocks.

    Fewer than `least` members are refused. `times` counts the fields.
    """

    least = 1

    def __init__(self) -> None:
        super().__init__()
        for name in ("block", "sums"):  # lists of one tensor: ranks may differ in their blocks
            self.add_state(name, [], dist_reduce_fx="cat", persistent=True)
        self.add_state("times", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum", persistent=True)
        self.add_state("members", torch.zeros((), dtype=torch.long), dist_reduce_fx="max", persistent=True)

    def update(self, real: Fields, generated: Float[Tensor, "members times height width"]) -> None:
        members, before = len(generated), int(self.members)
        if members < self.least:
            raise Refused(f"{type(self).__name__} needs at least {self.least} members, but got {members}")
        if before not in (0, members):
            raise Refused(f"{before} members at first and {members} now: give the same number for every time")
        self.members = self.members.clamp(min=members)
        real, generated, valid = cleaned(real, generated)
        seen = valid.any(-1).any(-1)
        if not seen.all():  # a field without a cell to compare is none
            real, generated, valid = real.at(seen), generated[:, seen], valid[seen]
        self.times = self.times + len(real.values)
        if len(real.values):
            self.take(real, generated, valid)

    def take(self, real: Fields, generated: Tensor, valid: Tensor) -> None:
        """Keeps what is needed of one part; fields are 0 where they are not valid."""
        self.add(real.labels("block"), self.rows(real, generated, valid).double().cpu())

    def add(self, block: Int[Tensor, " rows"], rows: Float[Tensor, "rows n"]) -> None:
        """Sums rows into those of their block."""
        own, at = self.kept("block", block).unique(return_inverse=True)
        every = self.kept("sums", rows)
        self.block, self.sums = [own], [rows.new_zeros(len(own), rows.shape[1]).index_add_(0, at, every)]

    def kept(self, name: str, more: Shaped[Tensor, "rows *n"]) -> Shaped[Tensor, "all *n"]:
        """A state's rows, and more."""
        state = getattr(self, name)
        parts = state if isinstance(state, list) else [state]  # after a sync a tensor
        return torch.cat([*(part.cpu() for part in parts), more])

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        """One row of numbers for each time; what is no sum over times has a `take` of its own instead."""
        raise NotImplementedError(f"{type(self).__name__} writes neither rows nor take")

    @abstractmethod
    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        """Sums to numbers by name, NaN where not defined; `NAME/truth` is what is real of NAME."""

    def note(self, name: str) -> str:
        """What stands beside a score."""
        return ""

    def beside(self) -> list[Score]:
        """Scores that are no function of sums alone, without an error of their own, such as a p."""
        return []

    def by_block(self) -> tuple[Shaped[Tensor, " blocks"], Float[Tensor, "blocks n"]]:
        """The rows' sums, one for each block (more than one rank may have seen it)."""
        if not len(self.block):
            return torch.zeros(0, dtype=torch.long), torch.zeros(0, 0, dtype=torch.float64)
        block, sums = (torch.cat(state) if isinstance(state, list) else state for state in (self.block, self.sums))
        own, at = block.unique(return_inverse=True)
        return own, sums.new_zeros(len(own), sums.shape[1]).index_add_(0, at, sums)

    def scores(self) -> list[Score]:
        block, sums = self.by_block()
        if not len(block):
            return [Score(type(self).__name__, None, note="nothing was measured")]
        names = list(self.values(sums[0]))
        judged = [name for name in names if not name.endswith("/truth")]

        def both(sums: Tensor) -> Tensor:
            found = self.values(sums)
            differences = [found[name] - found.get(f"{name}/truth", torch.zeros(())) for name in judged]
            return torch.stack([*(found[name] for name in names), *differences], -1)

        value, se = (part.tolist() for part in jackknife(both, sums))
        seen, errors = dict(zip(names, value, strict=False)), dict(zip(judged, se[len(names) :], strict=True))
        found = [
            Score(
                name,
                number(seen[name]),
                None if seen[name] != seen[name] else number(errors[name]),
                int(self.times),
                len(block),
                number(seen.get(f"{name}/truth")),
                self.note(name),
            )
            for name in judged
        ]
        return [*found, *self.beside()]


def number(value: float | None) -> float | None:
    """NaN is no number."""
    return None if value is None or value != value else value


def sign_flips(
    differences: Float[Tensor, "blocks n"], *, permutations: int = 999, seed: int = 0
) -> Float[Tensor, "p n"]:
    """Σ_b s_b d_b for signs s: what a statistic of the sum would be had real and generated changed places within
    blocks. The first is the observed one; all 2^(B − 1) where there are no more than `permutations`.

    Under the null that both are draws of one law, independent between blocks, each is as likely as the first.
    """
    blocks = len(differences)
    if blocks <= permutations.bit_length():
        flipped = torch.arange(2 ** (blocks - 1))[:, None] >> torch.arange(blocks) & 1
    else:
        drawn = torch.Generator().manual_seed(seed)
        flipped = torch.randint(0, 2, (permutations + 1, blocks), generator=drawn)
        flipped[0] = 0
    return (1.0 - 2.0 * flipped).to(differences) @ differences


def permutation_p(statistics: Float[Tensor, " p"], *, least: int = 20) -> float | None:
    """The share of permutations at least as extreme as the first, which is the observed one (Phipson & Smyth 2010).
    None with fewer than `least`, of which none could be significant.

    >>> permutation_p(torch.tensor([3.0] + 39 * [1.0]))
    0.025
    """
    if len(statistics) < least:
        return None
    return float((statistics >= statistics[0] * (1 - 1e-12)).double().mean())


def permuted(name: str, p: float | None, blocks: int, times: int) -> Score:
    """A p as a score; where there is none, why.

    >>> permuted("ks_p", None, 5, 90).note
    '5 blocks: 16 distinct permutations, and fewer than 20 give no p'
    """
    why = f"{blocks} blocks: {2 ** (blocks - 1)} distinct permutations, and fewer than 20 give no p"
    return Score(name, p, n=times, blocks=blocks, note=why if p is None else "")


def positive(metric: str, **numbers: Sequence[float | int] | float) -> None:
    """Refused unless every number is above 0; of a sequence also unless there is one."""
    for name, given in numbers.items():
        each = list(given) if isinstance(given, Sequence) else [given]
        if not each or not all(0 < value < float("inf") for value in each):
            raise Refused(f"metric.{metric}.{name} must be above 0, but got {given}: type such as {name}=1")
