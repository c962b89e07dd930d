"""How rain in mm becomes what a network sees, with the statistics of training in buffers."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RainTransform(nn.Module):
    """z = (u − mean)/std of a field in mm, u = ln(1 + x) where `log`, else x; and of each channel of its condition.

    The statistics are buffers, so a model that holds this carries them, and their hash, in its checkpoint. `mean` and
    `std` are of the whole field, (1, 1, 1), or of each cell, (1, height, width); the condition's of each channel.

    >>> rain = RainTransform(
    ...     log=True, mean=torch.full((1, 1, 1), 0.5), std=torch.full((1, 1, 1), 2.0),
    ...     context_log=[True], context_mean=torch.zeros(1, 1, 1), context_std=torch.ones(1, 1, 1),
    ... )
    >>> mm = torch.tensor([[[0.0, 1.5]]])
    >>> rain.inverse(rain(mm))
    tensor([[[0.0000, 1.5000]]])
    """

    mean: Tensor
    std: Tensor
    context_log: Tensor
    context_mean: Tensor
    context_std: Tensor
    digest: Tensor

    def __init__(
        self,
        *,
        log: bool,
        mean: Float[Tensor, "1 #height #width"],
        std: Float[Tensor, "1 #height #width"],
        context_log: Sequence[bool],
        context_mean: Float[Tensor, "channel 1 1"],
        context_std: Float[Tensor, "channel 1 1"],
    ) -> None:
        super().__init__()
        self.log = log
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("context_log", torch.tensor([*context_log], dtype=torch.bool).reshape(-1, 1, 1))
        self.register_buffer("context_mean", context_mean)
        self.register_buffer("context_std", context_std)
        digest = hashlib.sha256(repr(log).encode())
        for buffer in (mean, std, self.context_log, context_mean, context_std):
            digest.update(buffer.cpu().numpy().tobytes())
        self.register_buffer("digest", torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8))

    @property
    def hash(self) -> str:
        """SHA-256 of the statistics as they were fitted."""
        return bytes(self.digest.tolist()).hex()

    def forward(self, x: Float[Tensor, "*batch 1 height width"]) -> Float[Tensor, "*batch 1 height width"]:
        """mm to z."""
        return ((x.log1p() if self.log else x) - self.mean) / self.std

    def inverse(self, z: Float[Tensor, "*batch 1 height width"]) -> Float[Tensor, "*batch 1 height width"]:
        """z to mm; below the z of 0 mm it is negative, and what to do about that is the caller's matter."""
        u = self.mean + self.std * z
        return u.expm1() if self.log else u

    def condition(self, context: Float[Tensor, "*batch channel h w"]) -> Float[Tensor, "*batch channel h w"]:
        """The condition, its channels of rain in mm, as a network sees it."""
        u = torch.where(self.context_log, context.clamp(min=0).log1p(), context)
        return (u - self.context_mean) / self.context_std

    def log_slope(self, x: Float[Tensor, "*batch 1 height width"]) -> Float[Tensor, "*batch 1 height width"]:
        """ln dz/dx of each cell: ln p(x) = ln p(z) + this makes a density of z one of mm."""
        return -self.std.log() - (x.log1p() if self.log else torch.zeros_like(x))
