"""What every input becomes: readings by name, what is known beside them, and where they come from."""

from typing import Any, NamedTuple

from ..detectors.base import Finding
from ..diagnosis import Facts


class Evidence(NamedTuple):
    """Readings of held-out examples and, where there are some, of training ones; `source` says in words what was read,
    `notes` are sentences on how."""

    held_out: dict[str, Finding]
    training: dict[str, Finding] | None
    facts: Facts
    source: str
    notes: list[str]


def known(**facts: Any) -> Facts:
    """The facts that are known of what is not ours; the others as they are by default."""
    return Facts(ours=False)._replace(
        **{name: fact for name, fact in facts.items() if name in Facts._fields and fact is not None}
    )
