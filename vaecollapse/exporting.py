"""What a trained model does, as functions of tensors alone, saved as programs that run without this package."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution

from .batch import Batch
from .distributions.flows import base_and_inverse
from .elbo import draw, gaussian, relative, unit_information, unit_moments
from .refusal import Refused
from .sampling import mean_of
from .vae import VAE

INPUTS = {"encode": ("x",), "draw": ("x", "noise"), "decode": ("z",), "sample": ("noise",)}
OUTPUTS = {"encode": ("mean", "scale"), "draw": ("z",), "decode": ("x",), "sample": ("x",)}
FORMATS = ("torchscript", "export")
TRACED = 3  # examples that a program is traced on; it is checked on other numbers of them
CLOSE = 1e-5  # relative to the largest number: beyond it a program is another function


def sounding(x: Float[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """False on the zeros after a clip's last sample that is none: there it is padded.

    >>> sounding(torch.tensor([[0.0, 1.0, 0.0, -1.0, 0.0, 0.0]])).tolist()
    [[True, True, True, True, False, False]]
    """
    return (x != 0).float().flip(-1).cumsum(-1).flip(-1) > 0


def centre_and_scale(posterior: Distribution) -> tuple[Float[Tensor, "batch *unit"], Float[Tensor, "batch *unit"]]:
    """Mean and σ of a Gaussian. Of a flow z = T(u) the image of its base's mean, and the standard deviation of each z_i
    to first order, (Σ_j ((T(μ + σ_j e_j) − T(μ − σ_j e_j))_i/2)²)^½, which is exact where T is affine.

    Refused where the posterior is neither.
    """
    flow = base_and_inverse(posterior)
    base = gaussian(flow[0] if flow else posterior)
    if base is None:
        raise Refused(
            f"a {type(posterior).__name__} has no mean and scale to export: posterior=normal has, or a flow on it"
        )
    if flow is None:
        return base
    mean, scale = base
    steps = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)[:, None] * scale
    moved = (flow[1](mean + steps) - flow[1](mean - steps)) / 2
    return flow[1](mean), moved.square().sum(0).sqrt()


class Programs(nn.Module):
    """A model's functions of tensors, none of which draws noise of its own: noise is standard normal, and given.

    `encode(x)` → the posterior's mean and scale (`centre_and_scale`); `draw(x, noise)` → z ~ q(z|x); `decode(z)` → the
    mean of p(x|z), of audio the waveform; `sample(noise)` → the same of z ~ p(z), through the prior's flow. Where
    examples are `padded`, the zeros at a clip's end are taken for padding.
    """

    def __init__(self, vae: VAE, *, padded: bool = False) -> None:
        super().__init__()
        self.vae, self.padded = vae, padded

    def posterior(self, x: Tensor) -> Distribution:
        return self.vae.encode(x, None, sounding(x) if self.padded else None)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return centre_and_scale(self.posterior(x))

    def draw(self, x: Tensor, noise: Tensor) -> Tensor:
        return draw(self.posterior(x), noise)

    def decode(self, z: Tensor) -> Tensor:
        return cast(Tensor, mean_of(self.vae.decode(z)))

    def sample(self, noise: Tensor) -> Tensor:
        return self.decode(draw(self.vae.prior(), noise))


class Called(nn.Module):
    """One function of the programs, as the forward of a module: torch.export takes no other."""

    def __init__(self, programs: Programs, name: str) -> None:
        super().__init__()
        self.programs, self.name = programs, name

    def forward(self, *given: Tensor) -> Any:
        return getattr(self.programs, self.name)(*given)


class Given(NamedTuple):
    """Examples, z and noise to trace and to check with."""

    x: Tensor
    z: Tensor
    noise: Tensor

    def of(self, name: str, count: int) -> tuple[Tensor, ...]:
        """What a function takes, `count` of each."""
        return tuple(getattr(self, part)[:count] for part in INPUTS[name])


def given_for(programs: Programs, batch: Batch, seed: int) -> Given:
    """A few more examples than are traced. Refused where the model is no function of x or z alone."""
    vae = programs.vae
    if vae.condition(batch) is not None or batch.context is not None:
        raise Refused(
            "this model is conditional, and an export has functions of x and z alone: vaecollapse-sample writes what "
            "it decodes to under the conditions of its data"
        )
    if batch.mask is not None and not programs.padded:
        raise Refused(
            "the examples of this run have masks that cannot be seen in x itself, and an export is given x alone: "
            "vaecollapse-sample writes what it decodes to"
        )
    rows = torch.arange(2 * TRACED) % len(batch.x)
    x, unit = batch.x[rows.to(batch.x.device)], tuple(vae.prior().event_shape)
    generator = torch.Generator().manual_seed(seed)
    mean = centre_and_scale(programs.posterior(x))[0]
    noise = torch.randn(len(x), *unit, generator=generator, dtype=torch.float64).to(mean)
    decoded: Any = vae.decode(mean)
    if getattr(decoded, "sequential", False):
        raise Refused(
            "this decoder makes each element of x from those before it, which is no program of fixed steps: only "
            "models that decode at once are exported (model=image, model=audio, model=linear)"
        )
    if mean_of(decoded) is None:
        raise Refused(
            "what this model decodes to are tokens, drawn one after the other, which is no function of z: "
            "vaecollapse-sample writes them"
        )
    return Given(x, mean, noise)


def made(programs: Programs, given: Given, form: str) -> dict[str, bytes]:
    """The files' contents by name: one `model.ts` with every function as a method, or a .pt2 of each. The model is
    frozen by it, so that nobody has to ask for no gradients."""
    programs.eval().requires_grad_(False)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracers warn of every number that is the same for all examples
        if form == "torchscript":
            return {"model.ts": traced(programs, given)}
        return {f"{name}.pt2": exported(Called(programs, name).eval(), given.of(name, TRACED)) for name in INPUTS}


def traced(programs: Programs, given: Given) -> bytes:
    file = io.BytesIO()
    inputs = {name: given.of(name, TRACED) for name in INPUTS}
    torch.jit.save(torch.jit.trace_module(programs, inputs, check_trace=False), file)
    return file.getvalue()


def exported(module: nn.Module, given: tuple[Tensor, ...]) -> bytes:
    file = io.BytesIO()
    batches = (tuple({0: torch.export.Dim.DYNAMIC} for _ in given),)
    torch.export.save(torch.export.export(module, given, dynamic_shapes=batches, strict=False), file)
    return file.getvalue()


def loaded(files: Mapping[str, bytes]) -> dict[str, Callable[..., Any]]:
    """The functions of files that were just made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "model.ts" in files:
            module = torch.jit.load(io.BytesIO(files["model.ts"]))
            return {name: getattr(module, name) for name in INPUTS}
        return {name: torch.export.load(io.BytesIO(files[f"{name}.pt2"])).module() for name in INPUTS}


def checked(files: Mapping[str, bytes], programs: Programs, given: Given) -> float:
    """The largest difference between files and model, over other numbers of examples than were traced, relative to the
    largest number. Refused where they are different functions."""
    worst = 0.0
    with torch.no_grad():
        for name, program in loaded(files).items():
            for count in (1, TRACED, len(given.x)):
                parts = given.of(name, count)
                found, own = program(*parts), getattr(programs, name)(*parts)
                pairs = [*zip(found, own, strict=True)] if name == "encode" else [(found, own)]
                if not all(bool(torch.isfinite(each).all()) for pair in pairs for each in pair):
                    raise Refused(
                        f"{name} gives numbers that are not finite for {count} examples of this run: export another "
                        "checkpoint, such as checkpoint=last"
                    )
                off = max(float((f - o).abs().max() / o.abs().max().clamp(min=1e-30)) for f, o in pairs)
                if not off <= CLOSE:
                    raise Refused(
                        f"the program of {name} is off by {off:.2g} of the largest number for {count} examples: what "
                        f"{type(programs.vae).__name__} does depends on the values it is given, which no program holds"
                    )
                worst = max(worst, off)
    return worst


class Padding(NamedTuple):
    """Where the programs make another q(z|x) than the run: the share of `clips` on which they differ by more than
    `CLOSE`, and the `largest` difference of z at no noise and at one σ, relative to the largest number."""

    clips: float
    largest: float


def padding_differs(programs: Programs, batches: Sequence[Batch]) -> Padding:
    """A run's mask ends with the recording, a program's with the last sample that is not zero: of a recording that
    ends in zeros these are two functions."""
    found = torch.cat([_off_by_padding(programs, batch) for batch in batches])
    return Padding(float((found > CLOSE).double().mean()), float(found.max()))


def _off_by_padding(programs: Programs, batch: Batch) -> Float[Tensor, " batch"]:
    own, seen = programs.vae.encode(batch.x, None, batch.mask), programs.posterior(batch.x)
    shape = (len(batch.x), *programs.vae.prior().event_shape)
    pairs = [(draw(own, eps), draw(seen, eps)) for eps in (batch.x.new_zeros(shape), batch.x.new_ones(shape))]
    z, other = (torch.stack(each, 1).flatten(1) for each in zip(*pairs, strict=True))
    return ((other - z).abs().amax(1) / z.abs().max().clamp(min=1e-30)).nan_to_num(torch.inf)


def nats_by_unit(vae: VAE, batches: Sequence[Batch]) -> Float[Tensor, " k"]:
    """½ ln(1 + Var_x(E[z_i|x])/E_x[Var(z_i|x)]) of each unit: I(x; z_i) where z_i is Gaussian. From draws (a flow)
    debiased, as the information rank is."""
    found = [unit_moments(relative(vae.encode(b.x, None, b.mask), vae.prior()), b.positions()) for b in batches]
    mean, variance = torch.cat([part.mean for part in found]), torch.cat([part.variance for part in found])
    return unit_information(mean, variance, found[0].draws)
