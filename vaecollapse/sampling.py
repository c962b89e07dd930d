"""What a latent does when it is decoded: reconstructions, prior samples, traversals, interpolations."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from .batch import Batch, are_tokens
from .detectors.information_rank import LARGEST, information_directions
from .distributions.flows import can_rescale, from_standard, to_standard
from .elbo import draw, gaussian, noise, relative, unit_moments
from .refusal import Refused
from .vae import VAE
from .writers.base import Made

WIDTH = 32  # decoded at once: a sample keeps its place among the same companions, so it is the same bits whatever n is
REACH = 2.0  # standard deviations either way
AGGREGATE = 512  # examples that the directions are read on


class Aggregate(NamedTuple):
    """The aggregate posterior's mean, and its informative directions in z (in u = (z − μ_p)/σ_p, where the prior is a
    Gaussian): one column each, one standard deviation of E[z|x] long, the most informative first."""

    mean: Float[Tensor, " k"]
    directions: Float[Tensor, "k k"]


def aggregate(vae: VAE, batch: Batch) -> Aggregate:
    """Mean and directions of E[z|x] over a batch (for a flow, from its draws)."""
    posterior = relative(vae.encode(batch.x, batch.context, batch.mask), vae.prior(batch.context))
    found = unit_moments(posterior, batch.positions())
    within = found.within() / len(found.mean)
    between = torch.cov(found.mean.T).reshape(within.shape) - (within / found.draws if found.draws else 0)
    values, vectors = information_directions(between, within)
    return Aggregate(found.mean.mean(0), vectors * values.sqrt())


def decode(vae: VAE, z: Float[Tensor, "batch *unit"], like: Batch | None = None) -> Tensor:
    """The decoder's mean for each z; silent where `like` has padding, on which no loss ever acted.

    Raises Refused where there is none: tokens are drawn.
    """
    decoded = vae.decode(z) if like is None else vae.decode(z, like.context, like.mask)
    mean = mean_of(decoded)
    if mean is None:
        raise Refused(f"a {type(decoded).__name__} has no mean: draw from it, decode(z, context).sample()")
    return mean if like is None or like.mask is None else mean * like.mask


def mean_of(decoded: Distribution) -> Tensor | None:
    """The mean of what was decoded; None where the values have none, as tokens."""
    try:
        return decoded.mean
    except NotImplementedError:
        return None


class Shown(NamedTuple):
    """How what is decoded is shown: by its mean; tokens, which have none, by a draw of each at this temperature among
    the likeliest that together have `top_p`, of the likeliest at 0; by its `member` where a mean is like no example, as
    of rain that is dry or not."""

    vae: VAE
    tokens: float = 0.0
    top_p: float = 1.0

    def __call__(
        self, z: Float[Tensor, "batch *unit"], context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        decoded: Any = self.vae.decode(z, context, mask)
        mean = decoded.member() if hasattr(decoded, "member") else mean_of(decoded)
        if mean is None:
            return decoded.sample(temperature=self.tokens, top_p=self.top_p)
        return mean if mask is None else mean * mask


def reconstructions(vae: VAE, batch: Batch, *, seed: int = 0) -> dict[str, Tensor]:
    """`real`, `reconstruction` from its own z, and `other_z`: from the next example's z."""
    z = vae.elbo(batch, seed=seed).z
    return {"real": batch.x, "reconstruction": decode(vae, z, batch), "other_z": decode(vae, z.roll(1, 0), batch)}


def beside(vae: VAE, batch: Batch, *, draws: int = 2, seed: int = 0) -> Made:
    """`real` examples (no number where the mask says that there are no data), and under the condition of each what is
    decoded from the centre of its posterior (`reconstruction`), of the next one's (`other_z`), and from draws of the
    prior (`prior_1` …): where z carries nothing, all but the first are alike."""
    show, mask = Shown(vae), None if are_tokens(batch) else batch.mask
    posterior, prior = vae.encode(batch.x, batch.context, batch.mask), vae.prior(batch.context)
    z = centre(posterior)
    eps = noise(batch.positions(), tuple(posterior.event_shape), draws=draws, seed=seed, epoch=2)
    codes = {"reconstruction": z, "other_z": z.roll(1, 0)}
    codes |= {f"prior_{number + 1}": draw(prior, each) for number, each in enumerate(eps)}
    columns = {"real": batch.x if mask is None else batch.x.masked_fill(~mask, torch.nan)}
    columns |= {name: show(code, batch.context, mask) for name, code in codes.items()}
    return made(len(batch.x), 0, columns, batch.context)


def prior_samples(vae: VAE, count: int, unit: tuple[int, ...], *, seed: int = 0) -> Tensor:
    """Decoded draws from the prior; sample i is the same whatever `count` is."""
    eps = noise(torch.arange(count), unit, seed=seed, epoch=2)[0]
    return decode(vae, draw(vae.prior(), eps))


def from_units(prior: Distribution, u: Float[Tensor, "batch *unit"]) -> Float[Tensor, "batch *unit"]:
    """z of what `aggregate` is in: u itself, but μ_p + σ_p u where the prior is a Gaussian."""
    p = gaussian(prior)
    return u if p is None else p[0] + p[1] * u


def traversals(vae: VAE, found: Aggregate, *, directions: int = 3, steps: int = 5, reach: float = REACH) -> Tensor:
    """Decoded walks through the mean along the most informative directions, ±`reach` standard deviations:
    (directions, steps, *event)."""
    dtype, prior = next(vae.parameters()).dtype, vae.prior()
    ways = walks(found, directions, steps, reach).to(dtype).unflatten(2, tuple(prior.event_shape))
    return torch.stack([decode(vae, from_units(prior, walk)) for walk in ways])


def walks(found: Aggregate, directions: int, steps: int, reach: float = REACH) -> Float[Tensor, "way steps k"]:
    """The points of traversals."""
    at = torch.linspace(-reach, reach, steps).to(found.mean)
    ways = found.directions[:, :directions].T
    return found.mean + at[None, :, None] * ways[:, None]


def interpolation(vae: VAE, first: Float[Tensor, "*unit"], last: Float[Tensor, "*unit"], *, steps: int = 5) -> Tensor:
    """Decoded points between two codes, straight in the base space of the prior's flow (in z, where it has none)."""
    return decode(vae, torch.cat(path(first[None], last[None], steps, vae.prior())))


def path(
    first: Float[Tensor, "batch *unit"], last: Float[Tensor, "batch *unit"], steps: int, prior: Distribution,
    other: Distribution | None = None,
) -> list[Float[Tensor, "batch *unit"]]:  # fmt: skip
    """Points from code to code, straight where the prior is N(0, I); `other` is the prior at the last one's condition,
    which is left for the first one's on the way."""
    at = torch.linspace(0, 1, steps).tolist()
    if not can_rescale(prior):
        return [first * (1 - share) + last * share for share in at]
    ends = to_standard(prior, first)[0], to_standard(other or prior, last)[0]
    return [from_standard(prior, ends[0] * (1 - share) + ends[1] * share)[0] for share in at]


# ---- samples by the thousand: one block of `WIDTH` after the other


class Held(NamedTuple):
    """The held-out examples that conditions and codes are taken from: how many, the batch of some of them, whether the
    model is conditional, and whether a mask says where data can be, as of fields, and not how many there are."""

    count: int
    take: Callable[[Sequence[int]], Batch]
    conditional: bool = False
    of_places: bool = False

    def block(self, start: int, ahead: int = 0) -> Batch:
        """`WIDTH` examples from `start`, around and around."""
        return self.take([(start + ahead + row) % self.count for row in range(WIDTH)])

    def conditions(self, start: int) -> Tensor | None:
        """Theirs; None where the model has none."""
        return self.block(start).context if self.conditional else None


def starts(n: int, seed: int) -> Iterator[int]:
    """Where blocks begin; what takes its noise from torch takes the same in each of them."""
    for start in range(0, n, WIDTH):
        torch.manual_seed(seed * 2**31 + start)
        yield start


def made(n: int, start: int, columns: dict[str, Tensor], context: Tensor | None = None) -> Made:
    """A block, without what is beyond n."""
    rows = min(WIDTH, n - start)
    arrays = {name: plain(values[:rows]) for name, values in columns.items()}
    return Made(start, arrays, None if context is None else plain(context[:rows]))


def plain(values: Tensor) -> np.ndarray:
    """An array; numpy has no bfloat16."""
    return (values.float() if values.dtype in (torch.bfloat16, torch.half) else values).detach().cpu().numpy()


def from_prior(
    vae: VAE, held: Held, n: int, *, seed: int = 0, temperature: float = 1.0, tokens: float = 0.0, top_p: float = 1.0
) -> Iterator[Made]:
    """`sample`: decoded draws z = T(temperature·ε) from the prior, each under the next held-out condition."""
    show = Shown(vae, tokens, top_p)
    for start in starts(n, seed):
        context = held.conditions(start)
        prior, mask = vae.prior(context), held.block(start).mask if held.of_places else None
        eps = temperature * noise(torch.arange(start, start + WIDTH), tuple(prior.event_shape), seed=seed, epoch=2)[0]
        yield made(n, start, {"sample": show(draw(prior, eps), context, mask)}, context)


def from_posterior(
    vae: VAE,
    held: Held,
    n: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    draws: int = 3,
    tokens: float = 0.0,
    top_p: float = 1.0,
) -> Iterator[Made]:
    """`real`, a held-out example; `reconstruction` from the posterior's centre; `draw_1` … from draws of it."""
    show = Shown(vae, tokens, top_p)
    for start in starts(n, seed):
        batch = held.block(start)
        posterior = vae.encode(batch.x, batch.context, batch.mask)
        unit = tuple(posterior.event_shape)
        eps = temperature * noise(batch.positions(), unit, draws=draws, seed=seed, epoch=8)
        columns = {"real": batch.x, "reconstruction": show(centre(posterior), batch.context, batch.mask)}
        columns |= {f"draw_{i + 1}": show(draw(posterior, e), batch.context, batch.mask) for i, e in enumerate(eps)}
        yield made(n, start, columns, batch.context)


def from_interpolations(
    vae: VAE, held: Held, n: int, *, seed: int = 0, steps: int = 7, tokens: float = 0.0, top_p: float = 1.0
) -> Iterator[Made]:
    """`first` and `last`, two held-out examples that follow each other, and the steps from one's code to the other's,
    under the first one's condition."""
    show = Shown(vae, tokens, top_p)
    for start in starts(n, seed):
        first, last = held.block(start), held.block(start, ahead=1)
        begin, end = (centre(vae.encode(each.x, each.context, each.mask)) for each in (first, last))
        points = path(begin, end, steps, vae.prior(first.context), vae.prior(last.context))
        columns = {"first": first.x} | {f"step_{i + 1}": show(z, first.context) for i, z in enumerate(points)}
        yield made(n, start, columns | {"last": last.x}, first.context)


def from_traversals(
    vae: VAE, held: Held, n: int, *, seed: int = 0, steps: int = 7, tokens: float = 0.0, top_p: float = 1.0
) -> Iterator[Made]:
    """Walks of `steps` through the aggregate posterior's mean, each along a direction, the most informative first, all
    under the first held-out condition."""
    found = aggregate(vae, held.take(range(0, held.count, -(-held.count // AGGREGATE))))
    context = held.conditions(0)
    context = None if context is None else context[:1].expand_as(context)
    prior, dtype = vae.prior(context), next(vae.parameters()).dtype
    ways = walks(found, n, steps).to(dtype).unflatten(2, tuple(prior.event_shape))
    show = Shown(vae, tokens, top_p)
    for start in starts(n, seed):
        rows = (torch.arange(start, start + WIDTH) % n).to(ways.device)
        points = [from_units(prior, ways[rows, i]) for i in range(steps)]
        yield made(n, start, {f"step_{i + 1}": show(z, context) for i, z in enumerate(points)}, context)


MODES = {
    "prior": from_prior,
    "posterior": from_posterior,
    "interpolate": from_interpolations,
    "traverse": from_traversals,
}


def centre(posterior: Distribution) -> Tensor:
    """Where noise of 0 leads: the mean of a Gaussian, of a flow the image of its base's mean."""
    return draw(posterior, torch.zeros(posterior.batch_shape + posterior.event_shape))


def most(vae: VAE, held: Held, mode: str) -> int | None:
    """So many samples there can be in a mode; None for as many as one likes. Refused where there can be none."""
    if held.conditional and not held.count:
        raise Refused("this model is conditional and takes its conditions from a split that is empty: type split=train")
    if mode == "prior":
        return None
    spare = {"posterior": 0, "interpolate": 1, "traverse": 1}[mode]
    if held.count <= spare:
        few = "one example" if held.count else "no examples"
        raise Refused(
            f"mode={mode} needs held-out examples, {spare + 1} or more, and this split has {few}: type split=train"
        )
    if mode != "traverse":
        return held.count - spare
    units = vae.prior(held.conditions(0)).event_shape.numel()
    if units > LARGEST:
        raise Refused(f"no directions are found among {units} units, {LARGEST} at most: type mode=interpolate")
    return units
