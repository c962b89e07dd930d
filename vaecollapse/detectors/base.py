"""The contract of a detector: it sees model, batch, bound and price, streams float64 sums, and says how sure it is."""

import math
from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from ..batch import Batch
from ..elbo import ELBO, Objective
from ..vae import VAE

Status = Literal["material", "absent", "undecided", "measured", "lower_bound", "undefined"]
Z95 = 1.959963984540054


class Finding(NamedTuple):
    """One reading: its value with standard error over `n` examples, and what its own threshold makes of it.

    `material`: the lower 95 % limit lies above the size that matters. `absent`: the upper limit lies below it.
    `undecided`: neither, or too few examples. `measured`: no threshold of its own.
    """

    name: str
    value: float | None
    se: float | None = None
    n: int = 0
    status: Status = "measured"
    threshold: float | None = None
    note: str = ""


def judge(
    value: float,
    se: float,
    n: int,
    *,
    absent_below: float,
    present_above: float | None = None,
    material_examples: int = 64,
    absent_examples: int = 500,
) -> Status:
    """Absent, material or undecided at 95 %, never significance alone.

    >>> judge(0.0, 0.01, 600, absent_below=0.1), judge(0.5, 0.1, 600, absent_below=0.1)
    ('absent', 'material')
    >>> judge(0.0, 0.01, 64, absent_below=0.1)
    'undecided'
    """
    if value + Z95 * se < absent_below and n >= absent_examples:
        return "absent"
    above = absent_below if present_above is None else present_above
    return "material" if value - Z95 * se > above and n >= material_examples else "undecided"


class Detector(Metric, ABC):
    """A streaming reading. States are float64 sums, so stream = whole and shards add up."""

    full_state_update = False
    of: ClassVar[str] = "anything"  # or tokens: what it reads; other examples it passes over, and then finds nothing

    def __getattr__(self, name: str) -> Any:
        """States are attributes that type checkers cannot see."""
        return super().__getattr__(name)

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)

    def add_column(self, *names: str) -> None:
        """States for the mean and standard error of per-example numbers."""
        for name in names:
            for suffix in ("sum", "square", "count"):
                self.add_state(
                    f"{name}_{suffix}", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum", persistent=True
                )

    def accumulate(self, name: str, values: Float[Tensor, "batch *unit"]) -> None:
        """Adds per-example numbers (or vectors of them) to a column."""
        values = values.detach().double()
        setattr(self, f"{name}_sum", getattr(self, f"{name}_sum") + values.sum(0))
        setattr(self, f"{name}_square", getattr(self, f"{name}_square") + values.square().sum(0))
        setattr(self, f"{name}_count", getattr(self, f"{name}_count") + len(values))

    def count(self, name: str) -> int:
        return int(getattr(self, f"{name}_count"))

    def mean(self, name: str) -> Tensor:
        return getattr(self, f"{name}_sum") / getattr(self, f"{name}_count").clamp(min=1)

    def se(self, name: str) -> float:
        """Standard error of the column's mean over examples (of the total, for a column of vectors: not defined)."""
        n, mean = self.count(name), self.mean(name)
        if n < 2:
            return math.inf
        variance = (getattr(self, f"{name}_square") / n - mean.square()).clamp(min=0) * n / (n - 1)
        return float((variance / n).sqrt())

    def ratio_error(self, top: str, under: str, product: str) -> float | None:
        """Standard error of Σ top/Σ under over examples, by the residuals top − ratio · under."""
        n = self.count(top)
        if n < 2:
            return None
        ratio = float(self.mean(top) / self.mean(under))
        squares = getattr(self, f"{top}_square") + ratio**2 * getattr(self, f"{under}_square")
        variance = (squares - 2 * ratio * getattr(self, f"{product}_sum")) / (n - 1)
        return math.sqrt(max(0.0, float(variance)) / n) / float(self.mean(under))

    @abstractmethod
    def update(self, vae: VAE, batch: Batch, elbo: ELBO, objective: Objective | None = None) -> None:
        """Takes in one block of examples."""

    @abstractmethod
    def reading(self) -> Tensor:
        """The reading of the states at hand (NaN where not defined)."""

    def compute(self) -> Tensor:
        """The reading. (Findings call `reading`: torchmetrics' wrapper of this method would undo `read`'s sync.)"""
        return self.reading()

    def read(self) -> list[Finding]:
        """`findings` over the examples of all ranks."""
        with self.sync_context():
            return self.findings()

    @abstractmethod
    def findings(self) -> list[Finding]:
        """What was read and what it means; the detector's own reading first."""

    def light(self) -> "Detector | None":
        """The form to run while training, one draw on few examples; None for a detector that is too dear for that."""
        return deepcopy(self)

    def per_unit(self) -> dict[str, Tensor]:
        """Series for units.csv: name → one number per unit, in the latent's flattened order."""
        return {}


def undefined(name: str, note: str) -> Finding:
    return Finding(name, None, status="undefined", note=note)


BATCH_NORMALISED = "batch-normalised means spread by construction, whatever z is used for"
BUDGET = 2**23  # numbers in one collected column (64 MiB): a latent of thousands of units is read on fewer examples


class Collecting(Detector):
    """A detector that keeps rows of examples, at most `examples`, and reads them in the order of their positions."""

    def __init__(self, *columns: str, examples: int) -> None:
        super().__init__()
        self.columns, self.examples = columns, examples
        for name in ("position", *columns):
            self.add_state(name, [], dist_reduce_fx="cat", persistent=True)

    def collect(self, position: Tensor, **columns: Tensor) -> None:
        """Adds rows while there is room; a column left out in one block is left out in all."""
        width = max(value[0].numel() for value in columns.values())
        if sum(map(len, self.position)) >= min(self.examples, max(1, BUDGET // width)):
            return
        self.position.append(position.detach().cpu())
        for name, value in columns.items():
            value = value.detach().flatten(1) if value.ndim > 1 else value.detach()
            getattr(self, name).append((value.double() if value.is_floating_point() else value).cpu())

    def collected(self) -> dict[str, Tensor]:
        """Column → rows, of all that were filled; empty where nothing was collected."""
        filled = {name: getattr(self, name) for name in ("position", *self.columns)}
        joined = {
            name: torch.cat(rows) if isinstance(rows, list) else rows for name, rows in filled.items() if len(rows)
        }
        if not joined:
            return {}
        limit = min(self.examples, *(max(1, BUDGET // rows[0].numel()) for rows in joined.values()))
        order = joined["position"].argsort()[:limit]
        return {name: rows[order] for name, rows in joined.items()}
