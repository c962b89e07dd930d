"""What a search over runs minimises, and what a run must be to count. Reads run directories, and trains nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .config import listed
from .files import read_object
from .run import STOPPED, Run


class Search(NamedTuple):
    """What a search minimises (or maximises), and what a run must be to count: `search:` of conf/train.yaml."""

    objective: str
    verdicts: tuple[str, ...]
    min_rank: float
    penalty: float
    maximize: bool = False

    @classmethod
    def of(cls, plan: Any, sweeper: Any) -> "Search":
        """From the configuration, and the direction that the sweeper has."""
        towards = "maximize" in str(sweeper.get("direction", "minimize"))
        return cls(plan.objective, tuple(listed(plan.verdicts)), plan.min_rank, plan.penalty, towards)

    def judged(self, place: Path) -> tuple[float, bool, str | None]:
        """The objective with its penalties, whether the run is feasible, and why it is not."""
        verdict = read_object(place / "verdict.json")
        value, word = self.value(place, verdict), str(verdict.get("verdict"))
        rank = reading(verdict, "information_rank")
        wrong = [] if word in self.verdicts else [f"its verdict is {word}"]
        wrong += [f"the alarm {alarm} stopped it" for alarm in stopped_by(place)]
        if self.min_rank > 0 and (rank is None or rank < self.min_rank):
            wrong.append(f"its information rank is {'unknown' if rank is None else format(rank, 'g')}")
        if value is None:
            wrong.append(f"it has no {self.objective}")
        penalties = self.penalty * (len(wrong) + (value is None))
        return (value or 0.0) + (-penalties if self.maximize else penalties), not wrong, "; ".join(wrong) or None

    def value(self, place: Path, verdict: Mapping[str, Any]) -> float | None:
        if self.objective == "selection":
            return best_selection(place)
        return reading(verdict, self.objective)


def reading(verdict: Mapping[str, Any], name: str) -> float | None:
    """A number of verdict.json's readings."""
    found = (verdict.get("readings") or {}).get(name) or {}
    value = found.get("value") if isinstance(found, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def stopped_by(place: Path) -> list[str]:
    """The alarm that ended a run's training (`on_alarm=stop`), if one did."""
    events = Run(place).lines("events.jsonl")
    return [str(event.get("alarm")) for event in events if event.get("event") == STOPPED][-1:]


def best_selection(place: Path) -> float | None:
    """The smallest selection value that was logged: that of the best checkpoint."""
    logged = (row.get("val/selection") for row in Run(place).lines("metrics.jsonl"))
    return min((float(value) for value in logged if isinstance(value, int | float)), default=None)
