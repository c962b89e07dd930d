"""Bricks of the waveform networks: stage plan, residual units, strided encoder, FiLM decoder, time pools.

No normalisation crosses examples, and none is needed: residual branches start small.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..refusal import Refused

POOLS = ("flatten", "mean", "meanstd", "attention", "strided")
INJECTIONS = ("first", "all")
SLOPE = 0.2
M = TypeVar("M", bound=nn.Module)


class Stage(NamedTuple):
    """One resolution: `length` frames of `channels`, then a stride to the next."""

    length: int
    channels: int
    stride: int
    dilations: tuple[int, ...]


class Plan(NamedTuple):
    """The resolutions from the waveform down; after the last stage `length` frames of `channels` are left."""

    stages: tuple[Stage, ...]
    length: int
    channels: int


def plan(*, length: int, capacity: int, max_channels: int, dilations: Sequence[int], to_one: bool = False) -> Plan:
    """Strides of 4, and 2 where 4 would go below 16 frames, until 64 frames or fewer are left (one, if `to_one`).

    Channels are min(capacity·2^i, max_channels): uncapped, the last stages hold nearly all parameters. A dilation d is
    kept where 2d is below the stage's length.

    >>> layout = plan(length=8192, capacity=8, max_channels=64, dilations=(1,))
    >>> [(stage.length, stage.channels, stage.stride) for stage in layout.stages], layout.length, layout.channels
    ([(8192, 8, 4), (2048, 16, 4), (512, 32, 4), (128, 64, 4)], 32, 64)
    """
    stages, frames = [], length
    while frames > (1 if to_one else 64):
        stride = 4 if frames >= 64 or (to_one and frames > 2) else 2
        kept = tuple(d for d in dilations if 2 * d < frames)
        stages.append(Stage(frames, min(capacity * 2 ** len(stages), max_channels), stride, kept))
        frames = math.ceil(frames / stride)
    return Plan(tuple(stages), frames, min(capacity * 2 ** len(stages), max_channels))


def dead_taps(*, length: int, kernel: int, stride: int = 1, dilation: int = 1, left: int, outputs: int) -> int:
    """How many of a convolution's taps meet only padding: with `left` zeros before `length` frames, tap k of output j
    reads frame j·stride + k·dilation − left.

    >>> dead_taps(length=2, kernel=3, dilation=4, left=4, outputs=2), dead_taps(length=8, kernel=3, left=1, outputs=8)
    (2, 0)
    """
    read = (any(0 <= j * stride + k * dilation - left < length for j in range(outputs)) for k in range(kernel))
    return kernel - sum(read)


def variance_preserving(module: M) -> M:
    """He initialisation for the leaky units used here; biases zero. Deep stacks without normalisation need it."""
    for part in module.modules():
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.Linear)):
            fan_in = part.weight[0].numel()
            if isinstance(part, nn.ConvTranspose1d):
                fan_in = part.weight.shape[0] * part.kernel_size[0] // part.stride[0]
            nn.init.normal_(part.weight, std=math.sqrt(2 / (1 + SLOPE**2) / fan_in))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


class ResidualUnit(nn.Module):
    """x + conv1(act(conv3(act(x)))), the first convolution dilated (van den Oord 2016; as in RAVE and SoundStream)."""

    def __init__(self, *, channels: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv1d(channels, channels, 3, dilation=dilation, padding=dilation)
        self.point = nn.Conv1d(channels, channels, 1)
        variance_preserving(self)
        with torch.no_grad():
            self.point.weight.mul_(0.3)

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        return x + self.point(F.leaky_relu(self.wide(F.leaky_relu(x, SLOPE)), SLOPE))


def residual_units(stage: Stage, count: int) -> nn.Sequential:
    """`count` units cycling through the stage's dilations (none where the stage is too short for any)."""
    chosen = [stage.dilations[i % len(stage.dilations)] for i in range(count)] if stage.dilations else []
    return nn.Sequential(*[ResidualUnit(channels=stage.channels, dilation=d) for d in chosen])


def dead_in_residuals(units: nn.Sequential, length: int) -> int:
    """Dead taps of a stage's dilated convolutions at `length` frames."""
    dilations = [unit.wide.dilation[0] for unit in units if isinstance(unit, ResidualUnit)]
    return sum(dead_taps(length=length, kernel=3, dilation=d, left=d, outputs=length) for d in dilations)


class Down(nn.Module):
    """The stage's residual units, then a strided convolution: ceil(length/stride) frames of `out` channels."""

    def __init__(self, *, stage: Stage, out: int, units: int) -> None:
        super().__init__()
        self.stride = stage.stride
        self.residual = residual_units(stage, units)
        self.conv = variance_preserving(nn.Conv1d(stage.channels, out, 2 * stage.stride, stride=stage.stride))

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch out shorter"]:
        x = F.leaky_relu(self.residual(x), SLOPE)
        frames = x.shape[-1]
        total = (math.ceil(frames / self.stride) + 1) * self.stride - frames
        return self.conv(F.pad(x, (self.stride // 2, total - self.stride // 2)))

    def dead_taps(self, length: int) -> int:
        """Taps of this stage, at an input of `length` frames, that never meet data."""
        outputs, kernel = math.ceil(length / self.stride), self.conv.kernel_size[0]
        strided = dead_taps(length=length, kernel=kernel, stride=self.stride, left=self.stride // 2, outputs=outputs)
        return strided + dead_in_residuals(self.residual, length)


class FiLM(nn.Module):
    """(1 + tanh γ(z))·x + β(z), per channel (Perez 2018).

    The gain is bounded because the stages multiply it: one extreme z would otherwise be louder by powers of itself.
    """

    def __init__(self, *, units: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(units, 2 * channels)

    def forward(
        self, x: Float[Tensor, "batch channels frames"], z: Float[Tensor, "batch units"]
    ) -> Float[Tensor, "batch channels frames"]:
        gain, shift = self.affine(z).unsqueeze(-1).chunk(2, 1)
        return (1 + gain.tanh()) * x + shift


class Up(nn.Module):
    """Mirror of `Down`: transposed convolution, FiLM of z (not where `latent` is 0), the stage's residual units.

    The kernel is twice the stride, so every output sample has the same number of inputs (no checkerboard).
    """

    def __init__(self, *, stage: Stage, inputs: int, latent: int, units: int) -> None:
        super().__init__()
        self.length, self.stride = stage.length, stage.stride
        self.conv = variance_preserving(
            nn.ConvTranspose1d(inputs, stage.channels, 2 * stage.stride, stride=stage.stride)
        )
        self.film = FiLM(units=latent, channels=stage.channels) if latent else None
        self.residual = residual_units(stage, units)

    def forward(
        self, x: Float[Tensor, "batch channels frames"], z: Float[Tensor, "batch units"]
    ) -> Float[Tensor, "batch out longer"]:
        x = self.conv(F.leaky_relu(x, SLOPE))[..., self.stride // 2 :][..., : self.length]
        return self.residual(x if self.film is None else self.film(x, z))

    def dead_taps(self, length: int) -> int:
        """Taps of this stage, at an input of `length` frames, whose outputs are all cut off."""
        # the transposed convolution's tap k writes output j·stride + k; stride // 2 are cut off before `self.length`
        strided = dead_taps(
            length=self.length,
            kernel=self.conv.kernel_size[0],
            stride=self.stride,
            left=self.stride // 2,
            outputs=length,
        )
        return strided + dead_in_residuals(self.residual, self.length)


class TimePool(nn.Module):
    """Frames → one vector of `features` numbers. Means and attention see only frames with data; `flatten` keeps every
    frame.

    `attention`: the mean weighted by softmax_t(q·x_t/√channels), q one learned query (0 at start, where it is `mean`).
    """

    def __init__(self, *, pool: str, channels: int, length: int) -> None:
        super().__init__()
        if pool not in POOLS:
            raise Refused(f"expected model.pool to be one of {', '.join(POOLS)}, but got {pool!r}")
        self.pool = pool
        self.features = {"flatten": channels * length, "strided": channels * length, "meanstd": 2 * channels}.get(
            pool, channels
        )
        if pool == "attention":
            self.query = nn.Parameter(torch.zeros(channels))

    def weights(
        self, x: Float[Tensor, "batch channels frames"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch one frames"]:
        """What each frame counts: 0 on padding, in sum 1 (0 for a clip that is all padding)."""
        valid = torch.ones_like(x[:, :1]) if mask is None else mask.unsqueeze(1).to(x.dtype)
        if self.pool != "attention":
            return valid / valid.sum(-1, keepdim=True).clamp_min(1)
        score = (self.query[:, None] * x).sum(1, keepdim=True) / math.sqrt(x.shape[1])
        return valid * score.masked_fill(valid == 0, torch.finfo(score.dtype).min).softmax(-1)

    def forward(
        self, x: Float[Tensor, "batch channels frames"], mask: Bool[Tensor, "batch frames"] | None = None
    ) -> Float[Tensor, "batch features"]:
        if self.pool in ("flatten", "strided"):
            return x.flatten(1)
        weight = self.weights(x, mask)
        mean = (x * weight).sum(-1)
        if self.pool != "meanstd":
            return mean
        variance = ((x - mean.unsqueeze(-1)).square() * weight).sum(-1)
        return torch.cat([mean, (variance + 1e-5).sqrt()], 1)


class AudioEncoder(nn.Module):
    """Waveform (batch, time), silent on padding → features (batch, `features`) for a posterior's head."""

    def __init__(self, *, plan: Plan, pool: str, units: int) -> None:
        super().__init__()
        widths = [stage.channels for stage in plan.stages] + [plan.channels]
        self.first = variance_preserving(nn.Conv1d(1, widths[0], 7, padding=3))
        self.stages = nn.ModuleList(
            Down(stage=stage, out=out, units=units) for stage, out in zip(plan.stages, widths[1:], strict=True)
        )
        self.pool = TimePool(pool=pool, channels=plan.channels, length=plan.length)
        self.features = self.pool.features
        self.stride = math.prod(stage.stride for stage in plan.stages)

    def forward(
        self, x: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch features"]:
        h = self.first(x.unsqueeze(1))
        for stage in self.stages:
            h = stage(h)
        frames = None
        if mask is not None:
            frames = F.max_pool1d(mask.float(), self.stride, ceil_mode=True)[:, : h.shape[-1]] > 0
        return self.pool(F.leaky_relu(h, SLOPE), frames)


class AudioDecoder(nn.Module):
    """z (batch, latent) → waveform (batch, time); z also acts through FiLM, in every stage (`z_inject` all) or in the
    first one, the slowest, alone."""

    def __init__(self, *, plan: Plan, latent: int, units: int, z_inject: str = "all") -> None:
        super().__init__()
        if z_inject not in INJECTIONS:
            raise Refused(f"expected model.z_inject to be first or all, but got {z_inject!r}: try model.z_inject=all")
        self.seed_shape = (plan.channels, plan.length)
        self.seed = nn.Linear(latent, plan.channels * plan.length)
        widths = [stage.channels for stage in plan.stages] + [plan.channels]
        self.stages = nn.ModuleList(
            Up(stage=stage, inputs=inputs, latent=latent if z_inject == "all" or i == 0 else 0, units=units)
            for i, (stage, inputs) in enumerate(reversed(list(zip(plan.stages, widths[1:], strict=True))))
        )
        self.last = variance_preserving(nn.Conv1d(widths[0], 1, 7, padding=3))
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # a loud start costs a distance of 34 where silence costs 9

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch time"]:
        h = self.seed(z).unflatten(1, self.seed_shape)
        for stage in self.stages:
            h = stage(h, z)
        return self.last(F.leaky_relu(h, SLOPE)).squeeze(1)
