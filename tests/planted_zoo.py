"""The planted zoo: models written down, not trained, whose condition holds by its definition, and data to match.

`ZOO[condition]` are functions of a seed; `judged` gives the package's own verdict on what they return. Data are rotated
at random with the seed; encoders and decoders are written in the data's principal coordinates t = x·turn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from causes import Stuck
from planted import EIGENVALUES, gaussian_data, optimum
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.utils.data import DataLoader

from vaecollapse.batch import Batch, collate
from vaecollapse.callbacks.monitor import all_detectors
from vaecollapse.detectors.base import Finding
from vaecollapse.detectors.decoder_reliance import DecoderReliance
from vaecollapse.detectors.rate import Rate
from vaecollapse.diagnosis import Facts, Verdict, diagnose
from vaecollapse.distributions.flows import Flow
from vaecollapse.distributions.likelihoods import LaplaceLikelihood, NormalLikelihood
from vaecollapse.distributions.posteriors import DeclaredNormal
from vaecollapse.elbo import ELBO, Objective, Progress
from vaecollapse.evaluation import blocks_of, quiet, read
from vaecollapse.models.linear import LinearVAE
from vaecollapse.preflight import survey
from vaecollapse.probing import Plan, probe
from vaecollapse.regularizers.base import Regularizer
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.free_bits import FreeBits
from vaecollapse.vae import VAE

HELD_OUT, TRAINING, TRAINING_PROBE = 600, 2000, 32
FORK_STEPS = 40
WIDE = (4.0, 3.5, 3.0, 2.5, 2.0, 1.5, *[0.02] * 26)  # six directions far above the rest
DONE = Progress(1, 1)


class Case(NamedTuple):
    """What a construction gives: the model, both splits, the regularizer at the end of training, and what is known."""

    vae: VAE
    held_out: Batch
    training: Batch
    price: Callable[[ELBO], Objective]
    facts: Facts


class Written(VAE):
    """q(z|x, c), x̂(z, c) and p(z|c) as given."""

    def __init__(self, encoder, decoder, prior, likelihood: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prior_head = encoder, decoder, prior
        self.likelihood = (NormalLikelihood() if likelihood is None else likelihood).double()

    def encode(self, x: Tensor, context=None, mask=None) -> Distribution:
        return self.encoder(x) if context is None else self.encoder(x, context)

    def prior(self, context=None) -> Distribution:
        return self.prior_head() if context is None else self.prior_head(context)

    def decode(self, z: Tensor, context=None, mask=None) -> Distribution:
        return self.likelihood(self.decoder(z) if context is None else self.decoder(z, context))


class Distance(Written):
    """The mean absolute difference, no density."""

    normalised = False  # pyright: ignore[reportAssignmentType]

    def __init__(self, encoder, decoder, prior) -> None:
        super().__init__(encoder, decoder, prior)
        self.likelihood = nn.Identity()  # nothing that a forecast is made from

    def decode(self, z: Tensor, context=None, mask=None) -> Distribution:
        return normal(self.decoder(z), 1.0)

    def distortion(self, batch, z):
        return (batch.x - self.decoder(z)).abs().mean(1)

    def between(self, batch, z, other):
        return (batch.x - batch.x[other]).abs().mean(1)


def normal(mean: Tensor, scale: Tensor | float) -> Distribution:
    """A factorised Gaussian of float64, one event a row."""
    return Independent(Normal(mean, torch.as_tensor(scale).double().expand_as(mean), validate_args=False), 1)


def standard(units: int) -> Callable[..., Distribution]:
    """p(z) = N(0, I), whatever the condition."""
    return lambda context=None: normal(torch.zeros(units).double(), 1.0)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turning(size: int, seed: int) -> Tensor:
    """A random rotation."""
    return torch.linalg.qr(randn(size, size, seed=seed))[0]


class Gaussians(NamedTuple):
    """Gaussian data with these variances along the columns of `turn`."""

    held_out: Tensor
    training: Tensor
    turn: Tensor
    values: Tensor

    def along(self, x: Tensor) -> Tensor:
        """Principal coordinates in units of their standard deviations."""
        return x @ self.turn / self.values.sqrt()

    def back(self, t: Tensor) -> Tensor:
        """From the first coordinates, in those units, to x; the others at 0."""
        used = t.shape[1]
        return (t * self.values[:used].sqrt()) @ self.turn[:, :used].T


def gaussians(seed: int, values: Sequence[float] = EIGENVALUES, held: int = HELD_OUT) -> Gaussians:
    turn = turning(len(values), 300 + seed)
    held_out, training = (gaussian_data(n, values, s) @ turn.T for n, s in ((held, 100 + seed), (TRAINING, 200 + seed)))
    return Gaussians(held_out, training, turn, torch.tensor(values, dtype=torch.float64))


def plain(weight: float = 1.0) -> Regularizer:
    return Beta(weight=Constant(value=weight))


def case(vae: VAE, held_out: Tensor | Batch, training: Tensor | Batch, regularizer: Regularizer | None = None,
         **known) -> Case:  # fmt: skip
    """With the facts a run would have: its final weight and floor, and the pre-flight's survey of the training data."""
    splits = [each if isinstance(each, Batch) else Batch(each) for each in (held_out, training)]
    held_out, training = (each._replace(index=torch.arange(len(each.x))) for each in splits)
    regularizer = (regularizer or plain()).eval()
    weight = float(regularizer.weight(DONE))
    with quiet(vae, 0):
        units = vae.encode(*held_out.part(slice(0, 2))[:2]).event_shape.numel()
        plan = survey(vae, training, held_out, beta=weight, units=units, steps=100, warmup_ends=0)
    facts = Facts(units=units, weight=weight, floor=getattr(regularizer, "floor", 0.0))
    if plan.decides:
        facts = facts._replace(
            forecast=plan.directions, beta_effective=plan.beta_effective, forecast_at_one=plan.at_one
        )
    return Case(vae, held_out, training, partial(regularizer, progress=DONE), facts._replace(**known))


def findings(one: Case, seed: int, block: int = 1000):
    """Every detector on the held-out and on the training probe."""
    training = one.training.part(slice(0, TRAINING_PROBE))
    both = ([batch.part(rows) for rows in blocks_of(len(batch.x), block)] for batch in (one.held_out, training))
    return tuple(read(one.vae, blocks, all_detectors(), one.price, seed=seed)[0] for blocks in both)


def judged(one: Case, seed: int, block: int = 1000) -> Verdict:
    """The verdict by the package's own path."""
    return diagnose(*findings(one, seed, block), one.facts)


def optimal(data: Gaussians, units: int, *, e: float, beta: float = 1.0) -> LinearVAE:
    """The exact minimum of D + βR at e = βs² for such data."""
    covariance = data.turn @ torch.diag(data.values) @ data.turn.T
    zero = torch.zeros(len(data.values), dtype=torch.float64)
    return LinearVAE.closed_form(
        covariance=covariance, mean=zero, latent_dim=units, scale=math.sqrt(e / beta), beta=beta
    )


def silenced(vae: LinearVAE, units: Sequence[int]) -> LinearVAE:
    """The same with some units at the prior, read by nobody: a saddle of the same objective."""
    with torch.no_grad():
        for unit in units:
            vae.encoder.weight[unit], vae.log_variance[unit], vae.decoder.weight[:, unit] = 0.0, 0.0, 0.0
    return vae


def channel(t: Tensor, sigma: float) -> Distribution:
    """q(z|t) of unit-variance t such that over all x the prior is filled."""
    return normal(math.sqrt(1 - sigma**2) * t, sigma)


def channels(data: Gaussians, units: int, sigma: float, **more) -> Written:
    """One such unit for each of the first coordinates, and the decoder E[x|z]."""
    return Written(
        lambda x: channel(data.along(x)[:, :units], sigma),
        lambda z: data.back(math.sqrt(1 - sigma**2) * z),
        standard(units), **more,
    )  # fmt: skip


def blind_of(size: int) -> Callable[..., Tensor]:
    """A decoder that says 0 whatever z is."""
    return lambda z, context=None: torch.zeros(len(z), size, dtype=torch.float64)


def blinded(vae: Written, size: int) -> Written:
    vae.decoder = blind_of(size)
    return vae


# ---- gap absent


def beyond_the_critical_price(seed: int) -> Case:
    """The optimum where no direction pays."""
    data = gaussians(seed)
    return case(optimal(data, 5, e=1.5 * EIGENVALUES[0]), *data[:2])


def what_training_leaves(seed: int) -> Case:
    """Little random weights around the collapsed point, on both sides."""
    data = gaussians(seed)
    vae = optimal(data, 6, e=2 * EIGENVALUES[0])
    with torch.no_grad():
        vae.encoder.weight.copy_(0.01 * randn(6, 8, seed=seed))
        vae.decoder.weight.copy_(0.01 * randn(8, 6, seed=seed + 50))
    return case(vae, *data[:2])


def collapsed_flow(seed: int) -> Case:
    """A flow posterior that has become its flow prior, but for a hundredth of x, read from few draws."""
    data, flow = gaussians(seed), wild_flow(4, seed)
    vae = Written(lambda x: flow(normal(0.01 * data.along(x)[:, :4], 1.0)), blind_of(8), lambda: flow(standard(4)()))
    return case(vae, *data[:2])


def thinly_spread(seed: int) -> Case:
    """32 units of 0.005 nats each, none alive: R is above a tenth of a nat, and nobody reads it."""
    data, mixed = gaussians(seed), randn(32, 8, seed=seed)
    mixed = math.sqrt(2 * 0.005) * mixed / mixed.norm(dim=1, keepdim=True)
    vae = Written(lambda x: normal(data.along(x) @ mixed.T, 1.0), blind_of(8), standard(32))
    return case(vae, *data[:2])


def following_the_condition(seed: int) -> Case:
    """z moves with c and so does its prior; the decoder reads c. Units look active to whoever forgets c."""
    data, centres = classes(seed)
    where = 3 * randn(10, 4, seed=seed + 70)
    vae = Written(
        lambda x, c: normal(where[c], 0.5), lambda z, c: centres[c], lambda c: normal(where[c], 0.5)
    )  # fmt: skip
    return case(vae, *data)


def wild_flow(units: int, seed: int) -> Flow:
    """A RealNVP far from the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Flow(kind="realnvp", units=units, transforms=1, hidden=(8,)).double()


def classes(seed: int, spread: float = 2.0, noise: float = 1.0) -> tuple[tuple[Batch, Batch], Tensor]:
    """x = centre of its class c + noise, ten classes; the splits and the centres."""
    centres, splits = spread * randn(10, 8, seed=400 + seed), []
    for n, s in ((HELD_OUT, 500 + seed), (TRAINING, 600 + seed)):
        c = torch.arange(n) % 10
        splits.append(Batch(centres[c] + noise * randn(n, 8, seed=s), context=c))
    return (splits[0], splits[1]), centres


def constant_code(seed: int, units: int = 4, mean: float = 2.0, sigma: float = 1.0, gain: float = 0.0,
                  regularizer: Regularizer | None = None) -> Case:  # fmt: skip
    """The same code for every x: the KL is paid, and satisfies any floor."""
    data = gaussians(seed)
    matrix = gain * turning(8, seed)[:units]
    vae = Written(
        lambda x: normal(torch.full((len(x), units), mean).double(), sigma),
        lambda z: (z - mean) @ matrix, standard(units),
    )  # fmt: skip
    return case(vae, *data[:2], regularizer)


def constant_and_read(seed: int) -> Case:
    """The decoder reads the constant code, so that the prior's z costs dearly and another's nothing."""
    return constant_code(seed, mean=3.0, sigma=0.3, gain=1.0)


def constant_and_narrow(seed: int) -> Case:
    """σ = .02 for every x at mean 0: looks like an autoencoder."""
    return constant_code(seed, mean=0.0, sigma=0.02, gain=1.0)


def constant_flow(seed: int) -> Case:
    """A flow posterior that is far from the prior for every x alike."""
    data, flow = gaussians(seed), wild_flow(4, seed)
    vae = Written(
        lambda x: flow(normal(torch.full((len(x), 4), 1.5).double(), 0.5)), lambda z: data.back(0.1 * z), standard(4)
    )
    return case(vae, *data[:2])


def constant_beside_the_condition(seed: int) -> Case:
    """The posterior stands 2σ off its conditional prior, whatever x; the decoder reads c."""
    data, centres = classes(seed)
    where = 3 * randn(10, 4, seed=seed + 70)
    vae = Written(lambda x, c: normal(where[c] + 2, 1.0), lambda z, c: centres[c], lambda c: normal(where[c], 1.0))
    return case(vae, *data)


def a_leak(seed: int, names: int = 100) -> Case:
    """z tells which of many names c is, and nothing else of x, to a decoder that is not told c."""
    centres, splits = 2 * randn(names, 8, seed=400 + seed), []
    for n, s in ((HELD_OUT, 500 + seed), (TRAINING, 600 + seed)):
        c = torch.randint(names, (n,), generator=torch.Generator().manual_seed(s))
        splits.append(Batch(centres[c] + 0.3 * randn(n, 8, seed=s), context=c))
    vae = Written(
        lambda x, c: normal(0.45 * centres[c], 0.3), lambda z, c: z / 0.45, standard(8), NormalLikelihood(scale=0.8)
    )
    return case(vae, *splits)


def a_leak_of_strangers(seed: int) -> Case:
    """The same of names that few examples share: whose z another could take is not known."""
    return a_leak(seed, 5000)


def unheard(seed: int) -> Case:
    """Four sound units and a decoder that is deaf."""
    data = gaussians(seed)
    return case(blinded(channels(data, 4, 0.5), 8), *data[:2])


def batch_normalised(seed: int) -> Case:
    """Means of unit variance in each unit, as batch normalisation makes them, and a decoder that is deaf."""
    data = gaussians(seed)

    def encoder(x: Tensor) -> Distribution:
        mean = data.along(x)[:, :6]
        return Independent(DeclaredNormal(mean, torch.full_like(mean, 0.7), 1e-4, batch_normalised=True), 1)

    return case(Written(encoder, blind_of(8), standard(6)), *data[:2])


def the_condition_does_it(seed: int) -> Case:
    """z tells where in its class x lies; the decoder draws the class."""
    data, centres = classes(seed)
    vae = Written(lambda x, c: channel((x - centres[c])[:, :2], 0.6), lambda z, c: centres[c], standard(2))
    return case(vae, *data)


def whispered(seed: int) -> Case:
    """Both sides informative, but the decoder's gain is a thousandth."""
    data = gaussians(seed)
    sound = channels(data, 4, 0.5)
    vae = Written(sound.encoder, lambda z: sound.decoder(1e-3 * z), standard(4))
    return case(vae, *data[:2])


def the_wrong_unit(seed: int) -> Case:
    """Four units inform; the decoder reads a fifth, which is noise and moves it about."""
    data = gaussians(seed)

    def encoder(x: Tensor) -> Distribution:
        sound = math.sqrt(0.75) * data.along(x)[:, :4]
        scale = torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0]).double()
        return normal(torch.cat([sound, torch.zeros(len(x), 1).double()], 1), scale)

    return case(Written(encoder, lambda z: data.back(0.2 * z[:, 4:]), standard(5)), *data[:2])


# ---- gap on training examples alone


def by_heart(seed: int) -> Case:
    """A random code for each training example, any of them for another x: no neighbourhood survives."""
    data = gaussians(seed)
    known, book = data.training[:600], 3 * randn(600, 4, seed=seed + 80)

    def encoder(x: Tensor) -> Distribution:
        distance, nearest = torch.cdist(x, known).min(1)
        anything = (x[:, 0] * 1e6).long().abs() % len(known)
        return normal(book[torch.where(distance < 1e-6, nearest, anything)], 0.05)

    vae = Written(encoder, lambda z: known[torch.cdist(z, book).argmin(1)], standard(4))
    return case(vae, data.held_out, known)


def linear_memory(seed: int) -> Case:
    """Twenty examples of noise in 256 dimensions, and the linear map that tells them apart without error."""
    known, held_out = randn(20, 256, seed=seed), randn(HELD_OUT, 256, seed=700 + seed)
    inverse = torch.linalg.pinv(known)
    return case(Written(lambda x: normal(x @ inverse, 0.05), lambda z: z @ known, standard(20)), held_out, known)


def nearest_neighbour(seed: int) -> Case:
    """The code of the nearest of thirty examples, in 256 dimensions where no neighbour is near."""
    known, held_out = randn(30, 256, seed=seed), randn(HELD_OUT, 256, seed=700 + seed)
    book = randn(30, 6, seed=seed + 80)
    vae = Written(
        lambda x: normal(book[torch.cdist(x, known).argmin(1)], 0.1),
        lambda z: known[torch.cdist(z, book).argmin(1)], standard(6),
    )  # fmt: skip
    return case(vae, held_out, known)


# ---- gap material


def at_the_floor_of_its_scale(seed: int, kind: type = NormalLikelihood) -> Case:
    """Data of three dimensions in eight, decoded without error at the smallest scale a learned likelihood can have."""
    data = flat(seed)
    likelihood = kind(scale_mode="learned")
    nn.init.constant_(likelihood.raw_log_scale, -40.0)
    return case(channels(data, 3, 1e-4, likelihood=likelihood), *data[:2])


def flat(seed: int) -> Gaussians:
    """Gaussian data in three of eight dimensions."""
    return gaussians(seed, (6.0, 3.0, 1.5, *[1e-14] * 5))


def laplace_at_its_floor(seed: int) -> Case:
    return at_the_floor_of_its_scale(seed, LaplaceLikelihood)


def fixed_far_too_fine(seed: int) -> Case:
    """The optimum at a fixed s = 10⁻⁴ of data without noise: every nat is bought."""
    data = flat(seed)
    return case(optimal(data, 3, e=1e-8), *data[:2])


def no_scale_fits(seed: int) -> Case:
    """A learned scale at β = 2 with five of eight directions alive: s² = Σ λ/(d − aβ) has no solution, s falls."""
    data = gaussians(seed)
    vae = optimal(data, 5, e=0.01, beta=2.0)
    vae.likelihood = NormalLikelihood(scale_mode="learned", scale=math.sqrt(0.005)).double()
    return case(vae, *data[:2], plain(2.0))


def autoencoder(seed: int) -> Case:
    """The optimum where a nat costs a millionth of the ELBO's."""
    data = gaussians(seed)
    return case(optimal(data, 5, e=1e-6, beta=1e-6), *data[:2], plain(1e-6))


def far_flung(seed: int) -> Case:
    """Codes ten times as wide as the prior with σ at the head's floor."""
    data = gaussians(seed)

    def encoder(x: Tensor) -> Distribution:
        mean = 10 * data.along(x)[:, :5]
        return Independent(DeclaredNormal(mean, torch.full_like(mean, 1e-3), 1e-3), 1)

    return case(Written(encoder, lambda z: data.back(z / 10), standard(5)), *data[:2], plain(1e-5))


def wide_and_no_narrower(seed: int) -> Case:
    """What training without a price leaves: σ a fifth of the prior's, beside codes thirty times as wide."""
    data = gaussians(seed)
    vae = Written(lambda x: normal(30 * data.along(x)[:, :5], 0.2), lambda z: data.back(z / 30), standard(5))
    return case(vae, *data[:2], plain(1e-4))


def free_nats_of_a_distance(seed: int) -> Case:
    """The same under a mean absolute difference, with idle units beside."""
    data = gaussians(seed)

    def encoder(x: Tensor) -> Distribution:
        idle = torch.zeros(len(x), 3).double()
        scale = torch.tensor([1e-4] * 5 + [1.0] * 3).double()
        return normal(torch.cat([data.along(x)[:, :5].sinh(), idle], 1), scale)

    return case(Distance(encoder, lambda z: data.back(z[:, :5].asinh()), standard(8)), *data[:2], plain(1e-6))


def corners(seed: int) -> Case:
    """Three bits as codes at ±.99: mean and variance are the prior's."""
    turn = 2 * turning(8, seed)[:3]

    def made(n: int, s: int) -> Tensor:
        return randn(n, 3, seed=s).sign() @ turn + 0.3 * randn(n, 8, seed=s + 1)

    vae = Written(
        lambda x: normal(0.99 * (x @ turn.T).sign(), math.sqrt(1 - 0.99**2)), lambda z: z.sign() @ turn, standard(3)
    )
    return case(vae, made(HELD_OUT, 800 + seed), made(TRAINING, 900 + seed))


def rings(seed: int, sigma: float = 0.1, count: int = 2) -> Case:
    """Angles as points on circles of radius √(2(1 − σ²)): two moments are the prior's, which draws all radii."""
    turn, radius = 3 * turning(8, seed), math.sqrt(2 * (1 - sigma**2))

    def made(n: int, s: int) -> Tensor:
        angle = 2 * math.pi * torch.rand(n, count, generator=torch.Generator().manual_seed(s)).double()
        points = torch.stack([angle.cos(), angle.sin()], 2).flatten(1)
        return points @ turn[: 2 * count] + 0.2 * randn(n, 8, seed=s + 1)

    def on_circles(points: Tensor) -> Tensor:
        pairs = points.unflatten(1, (count, 2))
        return (pairs / pairs.norm(dim=2, keepdim=True)).flatten(1)

    vae = Written(
        lambda x: normal(radius * on_circles(x @ turn[: 2 * count].T), sigma),
        lambda z: z / radius @ turn[: 2 * count], standard(2 * count),
    )  # fmt: skip
    return case(vae, made(HELD_OUT, 800 + seed), made(TRAINING, 900 + seed))


def one_ring(seed: int) -> Case:
    return rings(seed, sigma=0.11, count=1)


def too_wide(seed: int) -> Case:
    """Codes three times as wide as the prior."""
    data = gaussians(seed)
    vae = Written(lambda x: normal(3 * data.along(x)[:, :4], 0.5), lambda z: data.back(z / 3), standard(4))
    return case(vae, *data[:2])


def off_centre(seed: int) -> Case:
    """A sound latent moved by 2 along two units, which the decoder undoes."""
    data, shift = gaussians(seed), torch.tensor([2.0, -2.0, 0.0, 0.0]).double()
    sound = channels(data, 4, 0.5)
    vae = Written(lambda x: normal(sound.encoder(x).mean + shift, 0.5), lambda z: sound.decoder(z - shift), standard(4))
    return case(vae, *data[:2])


def said_twice(seed: int) -> Case:
    """Each of three coordinates told by two units, each of which fills its prior: together they do not."""
    data = gaussians(seed)
    vae = Written(
        lambda x: channel(data.along(x)[:, :3].repeat(1, 2), 0.2),
        lambda z: data.back((z[:, :3] + z[:, 3:]) / 2), standard(6),
    )  # fmt: skip
    return case(vae, *data[:2])


def on_a_map(told: Callable[[Tensor], Tensor], decoder: Callable[[Tensor], Tensor], shape: tuple[int, int, int],
             sigma: float = 0.3, **more) -> Written:  # fmt: skip
    """A spatial latent (C, H, W) of unit-variance numbers behind noise, and its decoder E[x|z]."""

    def spread(mean: Tensor, scale: float) -> Distribution:
        return Independent(Normal(mean, torch.full_like(mean, scale), validate_args=False), 3)

    gain = math.sqrt(1 - sigma**2)
    return Written(
        lambda x: spread(gain * told(x), sigma), lambda z: decoder(gain * z),
        lambda context=None: spread(torch.zeros(shape).double(), 1.0), **more,
    )  # fmt: skip


def said_everywhere(seed: int) -> Case:
    """Four coordinates, told again by each of sixteen positions: any single one fills its prior."""
    data = gaussians(seed)
    vae = on_a_map(
        lambda x: data.along(x)[:, :4, None, None].expand(-1, -1, 4, 4), lambda z: data.back(z.mean((2, 3))), (4, 4, 4)
    )
    return case(vae, *data[:2])


def said_with_signs(seed: int) -> Case:
    """The same, each position with a sign of its own, so that the map's mean shows nothing."""
    data, sign = gaussians(seed), randn(4, 4, seed=seed + 20).sign()
    vae = on_a_map(
        lambda x: data.along(x)[:, :4, None, None] * sign, lambda z: data.back((z * sign).mean((2, 3))), (4, 4, 4)
    )
    return case(vae, *data[:2])


def half_squeezed_out(seed: int, e: float = 2.6, units: int = 8) -> Case:
    """The optimum at a price that leaves three of six directions, where the ELBO's own leaves all."""
    data = gaussians(seed, WIDE)
    return case(optimal(data, units, e=e, beta=e / 0.05), *data[:2], plain(e / 0.05))


def one_left(seed: int) -> Case:
    return half_squeezed_out(seed, e=3.75)


def squeezed_and_scaled(seed: int) -> Case:
    """Two of six directions, in a latent whose prior and posterior have other scales."""
    inner = half_squeezed_out(seed, e=3.25)
    return inner._replace(vae=Scaled(inner.vae, factors(8, seed)))


def some_silent(seed: int, silent: Sequence[int] = (2, 3, 4)) -> Case:
    """The optimum of five units, of which some have died: a saddle at the price the run itself pays."""
    data = gaussians(seed)
    return case(silenced(optimal(data, 5, e=0.2), silent), *data[:2])


def the_strong_ones_silent(seed: int) -> Case:
    return some_silent(seed, (0, 1, 2))


def one_alive(seed: int) -> Case:
    return some_silent(seed, (1, 2, 3, 4))


def one_direction_in_every_unit(seed: int) -> Case:
    """Every unit tells the same coordinate, half as loud: all units active, one direction."""
    data, share = gaussians(seed), 0.5
    gain = share * 4 / (1 + 3 * share**2)  # the best linear estimate of t from the sum of four units

    def encoder(x: Tensor) -> Distribution:
        return normal(share * data.along(x)[:, :1].repeat(1, 4), math.sqrt(1 - share**2))

    return case(Written(encoder, lambda z: data.back(gain * z.mean(1, keepdim=True)), standard(4)), *data[:2])


# ---- healthy


def the_optimum(seed: int) -> Case:
    data = gaussians(seed)
    return case(optimal(data, 5, e=0.35), *data[:2])


def the_finest_optimum(seed: int) -> Case:
    """σ = √(e/λ) of a hundredth and I at the ceiling of its estimator: small, but a nat has its price."""
    data = gaussians(seed)
    return case(optimal(data, 5, e=1e-4 * EIGENVALUES[0]), *data[:2])


def a_hundred_surplus_units(seed: int) -> Case:
    data = gaussians(seed)
    return case(optimal(data, 103, e=1.0), *data[:2])


def barely_worth_it(seed: int, largest: float = 1.6) -> Case:
    """A single direction worth a quarter of a nat, in sixteen units."""
    data = gaussians(seed, (largest, *[0.9] * 7), held=1000)
    return case(optimal(data, 16, e=1.0), *data[:2])


def rare_event(seed: int, share: float = 0.08) -> Case:
    """One unit that speaks of one example in twelve, and is the prior for all others."""
    turn = 6 * turning(8, seed)

    def made(n: int, at: int) -> Tensor:
        happens = torch.rand(n, 1, generator=torch.Generator().manual_seed(at)) < share
        return happens.double() @ turn[:1] + randn(n, 8, seed=at + 1)

    def encoder(x: Tensor) -> Distribution:
        happens = (x @ turn[:1].T > 18).double()
        return normal(torch.cat([3 * happens, 0 * happens], 1), torch.cat([1 - 0.5 * happens, 0 * happens + 1], 1))

    def decoder(z: Tensor) -> Tensor:
        first = z[:, :1]
        odds = normal(0 * first + 3, 0.5).log_prob(first) - normal(0 * first, 1.0).log_prob(first)
        return (odds + math.log(share / (1 - share))).sigmoid()[:, None] @ turn[:1]

    return case(Written(encoder, decoder, standard(2)), made(HELD_OUT, 800 + seed), made(TRAINING, 900 + seed))


def in_sigma_alone(seed: int, bits: int = 1, narrow: float = 0.1) -> Case:
    """Bits, each told by how wide a unit's posterior is: no mean moves, no direction is read."""
    turn = turning(8, seed)[:bits]
    wide = math.sqrt(2 - narrow**2)

    def made(n: int, s: int) -> Tensor:
        return 3 * (randn(n, bits, seed=s).sign() @ turn) + randn(n, 8, seed=s + 1)

    def encoder(x: Tensor) -> Distribution:
        on = (x @ turn.T > 0).double()
        return normal(0 * on, narrow + (wide - narrow) * on)

    def decoder(z: Tensor) -> Tensor:
        odds = Normal(0.0, wide).log_prob(z) - Normal(0.0, narrow).log_prob(z)
        return 3 * (odds / 2).tanh() @ turn

    return case(Written(encoder, decoder, standard(bits)), made(HELD_OUT, 800 + seed), made(TRAINING, 900 + seed))


def scaled(seed: int) -> Case:
    """A sound latent in other units of each axis, prior and all."""
    inner = the_optimum(seed)
    return inner._replace(vae=Scaled(inner.vae, factors(5, seed)))


def rotated(seed: int) -> Case:
    """A sound latent turned in itself: posteriors are no longer factorised."""
    data, inner = gaussians(seed), the_optimum(seed)
    turn = turning(5, seed + 90)

    def encoder(x: Tensor) -> Distribution:
        own = inner.vae.encode(x).base_dist
        return MultivariateNormal(own.loc @ turn.T, scale_tril=torch.linalg.cholesky(
            turn @ torch.diag_embed(own.scale.square()) @ turn.T), validate_args=False)  # fmt: skip

    decoder = inner.vae.decoder
    vae = Written(encoder, lambda z: decoder(z @ turn), standard(5), inner.vae.likelihood)
    return case(vae, *data[:2])


def through_a_flow(seed: int) -> Case:
    """A sound latent seen through a RealNVP, posterior and prior alike."""
    data, flow = gaussians(seed), wild_flow(4, seed)
    sound = channels(data, 4, 0.4)
    vae = Written(
        lambda x: flow(sound.encoder(x)), lambda z: sound.decoder(flow(standard(4)()).to_base(z)),
        lambda: flow(standard(4)()),
    )  # fmt: skip
    return case(vae, *data[:2])


def under_a_condition(seed: int) -> Case:
    """z tells where in its class x lies, the decoder draws both, and the prior moves with c."""
    data, centres = classes(seed, noise=1.0)
    where, s = randn(10, 8, seed=seed + 70), 0.5
    vae = Written(
        lambda x, c: normal(where[c] + math.sqrt(1 - s**2) * (x - centres[c]), s),
        lambda z, c: centres[c] + math.sqrt(1 - s**2) * (z - where[c]),
        lambda c: normal(where[c], 1.0), NormalLikelihood(scale=s),
    )  # fmt: skip
    return case(vae, *data)


def a_place_for_each(seed: int) -> Case:
    """A spatial latent of which every number tells a coordinate of its own."""
    s = 0.3
    vae = on_a_map(
        lambda x: x.reshape(-1, 4, 4, 4), lambda z: z.flatten(1), (4, 4, 4), s, likelihood=NormalLikelihood(scale=s)
    )
    return case(vae, randn(HELD_OUT, 64, seed=800 + seed), randn(TRAINING, 64, seed=900 + seed))


def by_a_distance(seed: int) -> Case:
    """Sound units under a mean absolute difference, at about the Laplace price."""
    data = gaussians(seed)
    return case(Distance(*vars_of(channels(data, 5, 0.4))), *data[:2], plain(0.05))


def vars_of(vae: Written):
    return vae.encoder, vae.decoder, vae.prior_head


def warped_data(seed: int) -> Case:
    """Uniform data, whose codes are the normal quantiles: nonlinear on both sides, and the prior is filled."""
    turn, s = 4 * turning(8, seed), 0.3
    unit = Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())

    def made(n: int, at: int) -> Tensor:
        u = torch.rand(n, 3, generator=torch.Generator().manual_seed(at)).double()
        return (u - 0.5) @ turn[:3] + 0.1 * randn(n, 8, seed=at + 1)

    def encoder(x: Tensor) -> Distribution:
        u = (x @ turn[:3].T / 16 + 0.5).clamp(1e-4, 1 - 1e-4)
        return channel(unit.icdf(u), s)

    def decoder(z: Tensor) -> Tensor:  # E[Φ(t)|z] of t|z ~ N(√(1 − s²) z, s²)
        return (unit.cdf(math.sqrt(1 - s**2) * z / math.sqrt(1 + s**2)) - 0.5) @ turn[:3]

    vae = Written(encoder, decoder, standard(3), NormalLikelihood(scale=0.35))
    return case(vae, made(HELD_OUT, 800 + seed), made(TRAINING, 900 + seed))


# ---- what was misread at first, or still is


def silent_among_many(seed: int) -> Case:
    """Three directions of six, and 100 units that are surplus."""
    data = gaussians(seed)
    return case(silenced(optimal(data, 105, e=0.2), (2, 3, 4)), *data[:2])


def a_whisper(seed: int) -> Case:
    """The optimum where all that the data offers is .09 nats."""
    return barely_worth_it(seed, 1.2)


def three_bits_in_sigma(seed: int) -> Case:
    return in_sigma_alone(seed, 3, 0.3)


def beside_a_loud_condition(seed: int) -> Case:
    """The class moves x in all eight directions, and the decoder draws it; z has the two that are left."""
    (held_out, training), centres = classes(seed, spread=2.0, noise=0.2)
    s = 0.3

    def loud(batch: Batch, at: int) -> Batch:
        return batch._replace(x=batch.x + torch.nn.functional.pad(1.5 * randn(len(batch.x), 2, seed=at), (0, 6)))

    def encoder(x: Tensor, c: Tensor) -> Distribution:
        rest = (x - centres[c])[:, :2] / math.sqrt(1.5**2 + 0.2**2)
        scale = torch.tensor([0.2, 0.2, 1.0, 1.0, 1.0, 1.0]).double()
        return normal(torch.nn.functional.pad(math.sqrt(0.96) * rest, (0, 4)), scale)

    def decoder(z: Tensor, c: Tensor) -> Tensor:
        return centres[c] + torch.nn.functional.pad(math.sqrt(0.96 * (1.5**2 + 0.2**2)) * z[:, :2], (0, 6))

    vae = Written(encoder, decoder, standard(6), NormalLikelihood(scale=s))
    return case(vae, loud(held_out, 40 + seed), loud(training, 60 + seed))


def as_wide_as_the_data(seed: int) -> Case:
    """Probabilistic principal components, d − 1 of d, with the scale learned: s² is the last eigenvalue, no less."""
    values = (6.0, 3.0, 1.5, 0.5)
    data = gaussians(seed, values)
    vae = optimal(data, 3, e=values[-1])
    vae.likelihood = NormalLikelihood(scale_mode="learned", scale=math.sqrt(values[-1])).double()
    return case(vae, *data[:2])


# ---- what no reading of the latent shows


def fault(seed: int) -> Case:
    """Readings of a sound model, of a run whose objective left for good."""
    return the_optimum(seed)._replace(facts=Facts(units=5, fault="the objective is beyond ten times its initial drop"))


def no_number(seed: int) -> Case:
    """A weight of the encoder that is no number."""
    one = the_optimum(seed)
    with torch.no_grad():
        one.vae.encoder.weight[0, 0] = math.nan
    return one


def endless_decoder(seed: int) -> Case:
    one = the_optimum(seed)
    with torch.no_grad():
        one.vae.decoder.weight[0, 0] = math.inf
    return one


def endless_rate(seed: int) -> Case:
    """Codes hundreds of prior widths away."""
    data = gaussians(seed)
    vae = Written(lambda x: normal(300 * data.along(x)[:, :4], 0.5), lambda z: data.back(z / 300), standard(4))
    return case(vae, *data[:2])


def without_its_price(vae: VAE, seed: int, lr: float = 0.02) -> Case:
    """With what the forks of a probe moved, and the distance of the autoencoder to its closed-form reference."""
    held_out, training = gaussian_data(HELD_OUT, seed=200 + seed), gaussian_data(TRAINING, seed=100 + seed)
    one = case(vae, held_out, training)
    examples = [Batch(x, index=torch.tensor(i)) for i, x in enumerate(training)]
    loader = DataLoader(examples, batch_size=128, shuffle=True, collate_fn=collate,
                        generator=torch.Generator().manual_seed(seed))  # fmt: skip
    plan = Plan(partial(torch.optim.Adam, lr=lr), loader, DONE, FORK_STEPS, seed)
    blocks = [one.held_out.part(rows) for rows in blocks_of(len(held_out), 1000)]
    found = probe(vae, plain(), plan, blocks, one.training, {"gap": DecoderReliance(), "rate": Rate()})
    return one._replace(facts=one.facts._replace(forks=found.forks, over_reference=found.over_reference))


def five_units(kind: type, seed: int) -> LinearVAE:
    torch.manual_seed(seed)
    return kind(event_shape=(len(EIGENVALUES),), latent_dim=5, likelihood=NormalLikelihood()).double()


def stuck(seed: int) -> Case:
    """What z says reaches the output a thousandth as strong, whatever the KL costs."""
    return without_its_price(five_units(Stuck, seed), seed)


class Positive(LinearVAE):
    """Cannot say a negative number."""

    def decode(self, z, context=None, mask=None):
        return self.likelihood(self.decoder(z).relu().unflatten(1, self.event_shape), mask)


def one_sided(seed: int) -> Case:
    return without_its_price(five_units(Positive, seed), seed)


def standing_still(seed: int) -> Case:
    """Steps of a millionth from weights that say nothing."""
    vae = silenced(optimum(5, e=1.0), range(5))
    with torch.no_grad():
        for weight in (vae.encoder.weight, vae.decoder.weight):
            weight.copy_(0.01 * randn(*weight.shape, seed=seed))
    return without_its_price(vae, seed, lr=1e-6)


# ---- at the floor


def at_the_floor(floor: float) -> Regularizer:
    return FreeBits(weight=Constant(value=1.0), floor=floor)


def pinned_constant(seed: int) -> Case:
    """2 nats a unit, constant, under a floor of 2."""
    return constant_code(seed, regularizer=at_the_floor(2.0))


def pinned_and_unheard(seed: int) -> Case:
    """Four units of ln 2 nats under a floor of .7, and a deaf decoder."""
    data = gaussians(seed)
    return case(blinded(channels(data, 4, 0.5), 8), *data[:2], at_the_floor(0.7))


def pinned_on_few_examples(seed: int) -> Case:
    """The same on 300 examples, where an absence is not said."""
    data = gaussians(seed, held=300)
    return case(blinded(channels(data, 4, 0.5), 8), *data[:2], at_the_floor(0.7))


def pinned_but_sound(seed: int) -> Case:
    data = gaussians(seed)
    return case(channels(data, 4, 0.5), *data[:2], at_the_floor(0.7))


# ---- what must change nothing


class Around(VAE):
    """Another model's latent in other coordinates, prior and posterior alike."""

    def __init__(self, inner: VAE) -> None:
        super().__init__()
        self.inner = inner
        self.likelihood = inner.likelihood

    def encode(self, x: Tensor, context=None, mask=None) -> Distribution:
        return self.moved(self.inner.encode(x, context, mask))

    def prior(self, context=None) -> Distribution:
        return self.moved(self.inner.prior(context))

    def decode(self, z: Tensor, context=None, mask=None) -> Distribution:
        return self.inner.decode(self.undone(z), context, mask)


class Scaled(Around):
    """Each unit times a positive factor."""

    def __init__(self, inner: VAE, factors: Tensor) -> None:
        super().__init__(inner)
        self.factors = factors

    def moved(self, distribution: Distribution) -> Distribution:
        own = distribution.base_dist
        return normal(own.loc * self.factors, own.scale * self.factors)

    def undone(self, z: Tensor) -> Tensor:
        return z / self.factors


class Permuted(Around):
    def __init__(self, inner: VAE, order: Tensor) -> None:
        super().__init__(inner)
        self.order = order

    def moved(self, distribution: Distribution) -> Distribution:
        own = distribution.base_dist
        return normal(own.loc[..., self.order], own.scale[..., self.order])

    def undone(self, z: Tensor) -> Tensor:
        return z[:, self.order.argsort()]


class Padded(Around):
    """Units at the prior that nobody reads."""

    def __init__(self, inner: VAE, more: int) -> None:
        super().__init__(inner)
        self.more = more

    def moved(self, distribution: Distribution) -> Distribution:
        own = distribution.base_dist
        idle = own.loc.new_zeros(*own.loc.shape[:-1], self.more)
        return normal(torch.cat([own.loc, idle], -1), torch.cat([own.scale, idle + 1], -1))

    def undone(self, z: Tensor) -> Tensor:
        return z[:, : -self.more]


def factors(units: int, seed: int) -> Tensor:
    """Positive, over two orders of magnitude."""
    return randn(units, seed=seed + 60).exp()


ZOO: dict[str, tuple[Callable[[int], Case], ...]] = {
    "posterior_collapse": (
        what_training_leaves, collapsed_flow, following_the_condition, beyond_the_critical_price, thinly_spread,
    ),
    "fake_rate": (
        constant_code, constant_and_read, constant_and_narrow, constant_flow, constant_beside_the_condition,
        a_leak,
    ),
    "bypassed_latent": (unheard, batch_normalised, the_condition_does_it, whispered, the_wrong_unit),
    "overfit": (by_heart, linear_memory, nearest_neighbour),
    "decoder_variance_collapse": (at_the_floor_of_its_scale, laplace_at_its_floor, fixed_far_too_fine, no_scale_fits),
    "variance_collapse": (autoencoder, far_flung, free_nats_of_a_distance, wide_and_no_narrower),
    "prior_hole": (
        said_everywhere, corners, one_ring, said_with_signs, too_wide, off_centre, said_twice,
    ),
    "over_compressed": (half_squeezed_out, one_left, squeezed_and_scaled),
    "partial_collapse": (
        some_silent, the_strong_ones_silent, one_alive, one_direction_in_every_unit, silent_among_many,
    ),
    "underfit": (stuck, one_sided, standing_still),
    "diverged": (fault, no_number, endless_decoder, endless_rate),
    "healthy": (
        the_finest_optimum, in_sigma_alone, barely_worth_it, the_optimum, a_hundred_surplus_units, rare_event, scaled,
        rotated, through_a_flow, under_a_condition, by_a_distance, warped_data, three_bits_in_sigma,
        beside_a_loud_condition, as_wide_as_the_data, a_place_for_each,
    ),
    "rate_pinned": (pinned_constant, pinned_and_unheard, pinned_on_few_examples, pinned_but_sound),
}  # fmt: skip

# Beyond the readings so far: each in its condition by definition, and read otherwise.
BEYOND: dict[str, tuple[Callable[[int], Case], ...]] = {
    "prior_hole": (rings,),
    "healthy": (a_whisper,),
}

PINNED_STATE = {  # the state below the mechanism
    pinned_constant: "fake_rate", pinned_and_unheard: "bypassed_latent", pinned_on_few_examples: "rate_pinned",
    pinned_but_sound: "healthy",
}  # fmt: skip


class Outcome(NamedTuple):
    """What was planted, and what the package and two rules of thumb said of it.

    `by_kl`: posterior_collapse if R < 0.1 nats, else healthy. `by_units`: posterior_collapse if no unit has
    Var(E[z]) > 0.01 (Burda 2016), else healthy. `named`: the verdict, in the rows of rate_pinned the mechanism.
    """

    condition: str
    construction: str
    seed: int
    sick: bool
    verdict: str
    named: str
    by_kl: str
    by_units: str


def outcome(condition: str, make: Callable[[int], Case], seed: int) -> Outcome:
    one = make(seed)
    held_out, training = findings(one, seed)
    verdict = diagnose(held_out, training, one.facts)
    said = named = verdict.verdict
    if condition == "rate_pinned" and said == PINNED_STATE[make]:
        named = "rate_pinned" if "rate_pinned" in (said, *verdict.mechanisms) else said
    sick = PINNED_STATE.get(make, condition) != "healthy"
    return Outcome(condition, make.__name__, seed, sick, said, named, *by_rules(held_out))


def by_rules(held_out: Mapping[str, Finding]) -> tuple[str, str]:
    """What a KL threshold and a count of active units say of the held-out readings."""
    low, none = (held_out["rate"].value or 0.0) < 0.1, held_out["active_units"].value == 0
    by_kl, by_units = ("posterior_collapse" if holds else "healthy" for holds in (low, none))
    return by_kl, by_units


def outcomes(
    constructions: Mapping[str, Sequence[Callable[[int], Case]]], seeds: Sequence[int], few: Sequence[int] | None = None
) -> list[Outcome]:
    """Every construction at every seed; those beyond the first three of a condition at the `few` seeds, if given."""
    return [
        outcome(name, make, seed)
        for name, makes in constructions.items()
        for number, make in enumerate(makes)
        for seed in (seeds if few is None or number < 3 else few)
    ]


def crossed(those: Sequence[Outcome], judge: str) -> tuple[int, int]:
    """How many sick ones were called healthy, and how many healthy ones sick (undecided is neither)."""
    said = [(each.sick, getattr(each, judge)) for each in those]
    called_healthy = sum(sick and word == "healthy" for sick, word in said)
    return called_healthy, sum(not sick and word not in ("healthy", "inconclusive") for sick, word in said)
