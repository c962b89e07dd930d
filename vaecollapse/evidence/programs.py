"""An audio autoencoder of anybody's as programs: TorchScript or torch.export files with encode and decode."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..batch import Batch
from ..callbacks.monitor import all_detectors
from ..datasets.cache import Cache
from ..detectors.base import Detector, Finding, undefined
from ..detectors.decoder_reliance import DecoderReliance
from ..detectors.information_rank import InformationRank
from ..distributions.likelihoods import SpectralLikelihood
from ..elbo import ELBO, noise
from ..evaluation import blocks_of, quiet, read, spread
from ..files import read_object
from ..listening.network import loaded
from ..listening.sounds import Clip, Folder
from ..refusal import Refused
from ..vae import PART, VAE
from .base import Evidence, known
from .models import imported
from .used import FEWEST, used_directions

BLOCK = 256  # as the monitor reads its probes
LONGEST = 30.0  # seconds of a clip, where no length is declared
ROUND = 2048  # samples that an undeclared length is rounded up to: strides divide it
NUMBERS = 2**27  # in memory: of long clips fewer are read
CUT = 8  # a network may give up to one part in so many more or fewer samples than it was given
STILL = 1e-6  # of the largest number in z: units that move less do not move
LEVELS = {"peak": 0.95, "rms": 0.1}  # that a run of ours brings its recordings to
NO_SCALE = (
    "encode gives a second output that is no scale (not positive, or of another shape) and it was left out; if it is a "
    "log-variance, give (mean, exp(log_variance / 2))"
)
NO_PRIOR = (
    "encode gives a mean and a scale, but sample is not decode of N(0, I): p(z) is not known, and z is read alone"
)
ALONE = "R, I(x; z) in nats and whether z fills a prior cannot be known"
SPECTRAL = "D is the multi-scale spectral distance (1024, 256, 64), its floors set on these clips"


class Functions(NamedTuple):
    """What files hold: encode, decode, perhaps draw and sample; and what an export of ours says of them."""

    encode: Callable[..., Any]
    decode: Callable[..., Any]
    draw: Callable[..., Any] | None
    sample: Callable[..., Any] | None
    told: Mapping[str, Any]


def functions_of(encode: Path, decode: Path | None) -> Functions:
    """The functions of one file or of two. Refused where there is no decode among them."""
    told = read_object(encode.parent / "export.json")
    first = loaded(encode, "encode")
    if decode is None and (beside := encode.with_name("decode.pt2")).is_file() and told.get("format") == "export":
        decode = beside
    second = first if decode is None else loaded(decode, "decode")
    found = {"encode": method(first, "encode") or first, "decode": method(second, "decode")}
    if found["decode"] is None:
        if decode is None:
            raise Refused(f"encode={encode} has no method decode: give the file that has it, decode=path/to/decode.ts")
        found["decode"] = second
    more = {name: method(first, name) for name in ("draw", "sample")}
    if told.get("format") == "export":
        beside = {name: encode.with_name(f"{name}.pt2") for name in more}
        more = {name: loaded(file, "encode") if file.is_file() else None for name, file in beside.items()}
    return Functions(found["encode"], found["decode"], more["draw"], more["sample"], told)


def method(module: nn.Module, name: str) -> Callable[..., Any] | None:
    found = getattr(module, name, None)
    return found if callable(found) else None


# ---- the clips


class Clips(NamedTuple):
    """Clips of one length with their padding masked, at one rate, and what is to be said of them."""

    batch: Batch
    rate: int
    said: list[str]


def clips_of(
    root: str, told: Mapping[str, Any], *, rate: int | None, length: int | None, examples: int
) -> Clips:  # fmt: skip
    """Distinct clips of a folder, spread over it. Refused where there are fewer than two."""
    rate = rate or told.get("sample_rate")
    if rate is None:
        raise Refused("sample_rate is missing: declare the Hz that the network expects, such as sample_rate=44100")
    folder = Folder.of(root, "data", Cache())
    if (own := max(each.sample_rate for each in folder.recordings)) < rate:
        folder.said.append(
            f"{root} was recorded at {own} Hz, below the network's {rate}: nothing lies above {own // 2} Hz"
        )
    longest = length or told.get("length") or int(LONGEST * rate)
    sounds = folder.sounds(rate, longest).distinct()
    if len(sounds.clips) < 2:
        raise Refused(f"data={root} has one recording (or copies of one): give at least 64 different ones")
    chosen = [sounds.clips[i] for i in spread(len(sounds.clips), min(examples, max(FEWEST, NUMBERS // longest)))]
    if not (length or told.get("length")):
        longest = -int(-np.quantile([clip.samples for clip in chosen], 0.95) // ROUND) * ROUND
    x, mask = torch.zeros(len(chosen), longest), torch.zeros(len(chosen), longest, dtype=torch.bool)
    for row, clip in enumerate(chosen):
        waveform = torch.from_numpy(clip.read()[:longest])
        x[row, : len(waveform)] = waveform * level(clip, told.get("normalise"))
        mask[row, : len(waveform)] = True
    return Clips(Batch(x, None, mask, torch.arange(len(x))), rate, sounds.said)


def level(clip: Clip, normalise: Any) -> float:
    """What a run of ours multiplied its recordings by, the whole of them."""
    loudest = LEVELS["peak"] / clip.peak
    if normalise == "rms":
        return min(LEVELS["rms"] / clip.rms, loudest)
    return loudest if normalise == "peak" else 1.0


# ---- as the model that detectors read


class Code(Distribution):
    """z of each clip: the same every time, or `drawn` from noise. It has no density."""

    arg_constraints: ClassVar = {}  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, z: Tensor, drawn: Callable[[Tensor], Tensor] | None = None) -> None:
        self.z, self.drawn = z, drawn
        super().__init__(z.shape[:1], z.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.z

    def rsample(self, sample_shape=()) -> Tensor:
        shape = (*sample_shape, *self.z.shape)
        if self.drawn is None:
            return self.z.expand(shape)
        eps = torch.randn(shape, dtype=self.z.dtype).reshape(-1, *self.z.shape)
        return torch.stack([self.drawn(each) for each in eps]).reshape(shape)


class Programmed(VAE):
    """Programs as a VAE whose D is a distance of waveforms. Where encode gives (mean, scale) and nothing speaks against
    it, q is that Gaussian and p(z) N(0, I); else z is a code without density."""

    def __init__(self, functions: Functions, distance: Any, *, planes: bool) -> None:
        super().__init__()
        self.functions, self.distance, self.planes = functions, distance, planes
        self.gaussian, self.code_drawn = False, functions.draw is not None
        self.why = "encode gives z alone"  # it is read as a code
        self.unit: tuple[int, ...] = ()
        self.lost = 0  # samples that decode gives more or fewer

    @property
    def normalised(self) -> bool:
        return False

    def encoded(self, x: Tensor) -> Any:
        found = called("encode", self.functions.encode, self.shaped(x))
        parts: list[Any] = [*found] or [None] if isinstance(found, tuple | list) else [found]
        for part in parts:
            if not isinstance(part, Tensor) or part.ndim < 2 or len(part) != len(x) or not part.is_floating_point():
                what = tuple(part.shape) if isinstance(part, Tensor) else f"a {type(part).__name__}"
                raise Refused(
                    f"encode of {tuple(self.shaped(x).shape)} gives {what}: z of shape (clips, units) or (clips, "
                    "channels, frames) is needed, or (mean, scale) of such shapes"
                )
            if not torch.isfinite(part).all():
                raise Refused(
                    "encode gives numbers that are not finite: load an earlier checkpoint, or scale the clips"
                )
        return (parts[0], parts[1]) if len(parts) > 1 else parts[0]

    def encoded_mean(self, x: Tensor) -> Tensor:
        found = self.encoded(x)
        return found[0] if isinstance(found, tuple) else found

    def shaped(self, x: Tensor) -> Tensor:
        return x[:, None] if self.planes else x

    def encode(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        found = self.encoded(x)
        mean, scale = found if isinstance(found, tuple) else (found, None)
        self.unit = tuple(mean.shape[1:])
        if self.gaussian and scale is not None:
            return Independent(Normal(mean, scale, validate_args=False), mean.ndim - 1)
        draw: Any = self.functions.draw
        return Code(mean, (lambda eps: called("draw", draw, self.shaped(x), eps)) if self.code_drawn else None)

    def prior(self, context: Tensor | None = None) -> Distribution:
        zero = torch.zeros(self.unit)
        return Independent(Normal(zero, torch.ones_like(zero)), len(self.unit)) if self.gaussian else Code(zero[None])

    def decode(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Any:
        y = called("decode", self.functions.decode, z)
        if isinstance(y, Tensor) and y.ndim == 3 and y.shape[1] == 1:
            y = y[:, 0]
        if not isinstance(y, Tensor) or y.ndim != 2 or len(y) != len(z):
            what = tuple(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise Refused(f"decode of {tuple(z.shape)} gives {what}: mono waveforms, (clips, [1,] time), are needed")
        return y

    def elbo(self, batch: Batch, *, seed: int | None = None, epoch: int = 0) -> ELBO:
        if self.gaussian:
            return super().elbo(batch, seed=seed, epoch=epoch)
        posterior: Any = self.encode(batch.x)
        z = posterior.z
        if self.code_drawn:
            z = posterior.drawn(noise(batch.positions(), self.unit, seed=seed or 0, epoch=epoch)[0].to(z))
        return ELBO(self.distortion(batch, z), torch.full((len(z),), torch.nan), z, posterior, self.prior())

    def distortion(self, batch: Batch, z: Float[Tensor, "batch *unit"]) -> Float[Tensor, " batch"]:
        if not torch.is_grad_enabled() and len(z) > PART:
            rows = [slice(start, start + PART) for start in range(0, len(z), PART)]
            return torch.cat([self.distortion(batch.part(part), z[part]) for part in rows])
        y = self.decode(z)
        own, other = batch.x.shape[1], y.shape[1]
        if CUT * abs(other - own) > own:
            raise Refused(
                f"decode gives {other} samples for clips of {own}: no pair of one network, or another length is needed "
                f"(length={other}, say)"
            )
        if not torch.isfinite(y).all():
            raise Refused(
                "decode gives samples that are not finite: load an earlier checkpoint, or the decoder of this encoder"
            )
        self.lost, kept = other - own, min(own, other)
        assert batch.mask is not None
        return self.away(batch.x[:, :kept], y[:, :kept], batch.mask[:, :kept])

    def away(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        if isinstance(self.distance, SpectralLikelihood):
            return self.distance.distance(x, y, mask)
        found = called("distance", self.distance, x * mask, y * mask)
        if not isinstance(found, Tensor) or found.shape != x.shape[:1]:
            what = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise Refused(
                f"distance of {len(x)} clips gives {what}: one number for each clip is needed, of shape ({len(x)},)"
            )
        return found

    def between(self, batch: Batch, z: Tensor, other: Tensor) -> Tensor | None:
        assert batch.mask is not None
        return self.away(batch.x, batch.x[other], batch.mask)


def called(name: str, function: Callable[..., Any], *given: Tensor) -> Any:
    """What somebody's program gives; what it raises becomes a sentence."""
    try:
        return function(*given)
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        shapes = ", ".join(str(tuple(each.shape)) for each in given)
        raise Refused(
            f"{name} does not take {shapes} ({said}): declare length and sample_rate as it was trained"
        ) from error


def read_as(functions: Functions, batch: Batch, distance: Any) -> Programmed:
    """The programs, given clips as (clips, time), or as (clips, 1, time) where they do not take that."""
    vae, few = Programmed(functions, distance, planes=False), batch.part(slice(0, 2))
    try:
        vae.encoded(few.x)
    except Refused:
        vae = Programmed(functions, distance, planes=True)
        vae.encoded(few.x)
    found = vae.encoded(few.x)
    if isinstance(found, tuple):
        scaled = all(has_scale(*vae.encoded(batch.x[rows])) for rows in blocks_of(len(batch.x), BLOCK))
        vae.gaussian = scaled and is_gaussian(vae, few, *found)
        vae.why = NO_PRIOR if scaled else NO_SCALE
    return vae


def has_scale(mean: Tensor, second: Tensor) -> bool:
    """Can what encode gives beside the mean be a σ?"""
    return second.shape == mean.shape and bool((second > 0).all())


def is_gaussian(vae: Programmed, batch: Batch, mean: Tensor, scale: Tensor) -> bool:
    """Does what the programs themselves draw agree with N(mean, scale²), and what they sample with N(0, I)?"""
    eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0), dtype=mean.dtype)
    draw, sample = vae.functions.draw, vae.functions.sample
    same = draw is None or alike(called("draw", draw, vae.shaped(batch.x), eps), mean + scale * eps)
    return same and (
        sample is None or alike(called("sample", sample, eps), called("decode", vae.functions.decode, eps))
    )


def alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


# ---- its readings


def from_programs(
    encode: str | Path, *, data: str | Path, decode: str | Path | None = None, distance: Any = None,
    sample_rate: int | None = None, length: int | None = None, examples: int = 512, seed: int = 0,
) -> Evidence:  # fmt: skip
    """The value of z and the directions of it that the decoder uses; all readings where encode gives mean and scale."""
    places = [None if each is None else Path(each).expanduser() for each in (encode, decode)]
    assert places[0] is not None
    functions = functions_of(places[0], places[1])
    clips = clips_of(str(data), functions.told, rate=sample_rate, length=length, examples=examples)
    cost: Any = SpectralLikelihood() if distance is None else distance
    if isinstance(cost, str):
        cost = imported("distance", cost)
    if isinstance(cost, SpectralLikelihood):
        cost.calibrate(clips.batch.x, clips.batch.mask)
    with torch.no_grad():
        vae = read_as(functions, clips.batch, cost)
    blocks = [clips.batch.part(rows) for rows in blocks_of(len(clips.batch.x), BLOCK)]
    with quiet(vae, seed):
        held, notes = readings(vae, blocks, seed)
        held |= {each.name: each for each in used_directions(vae, clips.batch, seed=seed)}
    if not vae.gaussian and not vae.code_drawn:
        held["information_rank"] = held["directions_used"]._replace(name="information_rank")
    notes += [*clips.said, "data do not say of which split they are: they are taken for held-out ones"]
    if distance is None:
        notes.append(SPECTRAL)
    if vae.lost:
        more = f"{abs(vae.lost)} samples {'more' if vae.lost > 0 else 'fewer'}"
        notes.append(f"decode gives {more} than a clip has: compared over the shorter")
    facts = known(units=int(held["units"].value or 0), prior=vae.gaussian, event_size=float(clips.batch.x.shape[1]))
    name = places[0].name if places[1] is None else f"{places[0].name} and {places[1].name}"
    return Evidence(held, None, facts, f"{name}: {len(clips.batch.x)} clips of {data} at {clips.rate} Hz", notes)


def readings(vae: Programmed, blocks: list[Batch], seed: int) -> tuple[dict[str, Finding], list[str]]:
    """All of them where q and p(z) are known Gaussians; else those that need no density."""
    if vae.gaussian:
        found = read(vae, blocks, all_detectors(), seed=seed)[0]
        return found, ["encode gives a mean and a scale: p(z) is taken for N(0, I)"]
    detectors: dict[str, Detector] = {"decoder_reliance": DecoderReliance()}
    if vae.code_drawn:
        detectors["information_rank"] = InformationRank()
    found = read(vae, blocks, detectors, seed=seed)[0]
    found = {name: each for name, each in found.items() if name not in ("gap_prior", "gap_zero")}  # of which prior?
    z = torch.cat([vae.encoded_mean(block.x) for block in blocks])
    dead, kinds = still(z.flatten(1))
    found |= {"units": Finding("units", float(len(dead))), "dead_units": Finding("dead_units", float(dead.sum()))}
    if vae.code_drawn:
        more = [NO_SCALE] * (vae.why == NO_SCALE)
        return found, [*more, "q(z|x) and p(z) are known by draws and not by densities: R and I(x; z) are not measured"]
    note = f"ln of {kinds} different z: a deterministic code has no I in nats but this least"
    found["mi"] = Finding("mi", float(np.log(kinds)), None, len(z), "material" if kinds > 1 else "absent", note=note)
    found["rate"] = undefined("rate", "of q(z|x) and p(z) no densities are known")
    return found, [f"{vae.why}: {ALONE}"]


def still(z: Float[Tensor, "batch k"]) -> tuple[Bool[Tensor, " k"], int]:
    """Which units stand still, to 10⁻⁶ of the largest number, and how many different z there are to the same accuracy.

    >>> still(torch.tensor([[1.0, 0.0], [1.0 + 1e-7, 2.0], [1.0, 2.0]]))
    (tensor([ True, False]), 2)
    """
    step = STILL * z.abs().max().clamp(min=1e-30)
    dead = z.std(0) <= step
    return dead, len(torch.unique(((z - z.mean(0)) / step).round().masked_fill(dead, 0.0), dim=0))
