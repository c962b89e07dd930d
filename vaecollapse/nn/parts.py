"""What models of every family say of their networks: a table of parameters, and which widths can be."""

from typing import NamedTuple

from torch import nn

from ..refusal import Refused


class Part(NamedTuple):
    """A line of the parameter table."""

    name: str
    parameters: int
    note: str = ""

    @classmethod
    def of(cls, name: str, module: nn.Module, note: str = "") -> "Part":
        """The line of a module's own parameters."""
        return cls(name, sum(p.numel() for p in module.parameters()), note)


def check_widths(capacity: int, max_channels: int, latent_dim: int) -> None:
    """Refused unless 0 < capacity ≤ max_channels and there is a latent unit."""
    if not 0 < capacity <= max_channels:
        raise Refused(
            f"expected 0 < capacity <= max_channels, but got capacity={capacity} and "
            f"max_channels={max_channels}: lower capacity or raise model.max_channels"
        )
    if latent_dim < 1:
        raise Refused(f"expected at least one latent unit, but got latent_dim={latent_dim}: try latent_dim=16")
