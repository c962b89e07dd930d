"""Normalizing flows: a thin adaptor over zuko (https://github.com/probabilists/zuko)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, Independent, Normal

from ..refusal import Refused
from .mixture import MixtureTransform

KINDS = ("maf", "nsf", "realnvp", "iaf", "mixture")
SPLINE_RANGE = 5.0  # zuko's; each layer maps [−5, 5] onto itself, unit by unit, and leaves the rest as it is


def _zuko():
    """zuko switches torch's distribution checks off for the whole process at import; they are put back here."""
    checks = Distribution._validate_args
    import zuko

    Distribution.set_default_validate_args(checks)
    return zuko


def base_and_inverse(distribution: Distribution) -> tuple[Distribution, Callable[[Tensor], Tensor]] | None:
    """The base distribution of a flow and the map from base to z; None for anything that is no flow of ours."""
    if isinstance(distribution, FlowDistribution):
        return distribution.base, distribution.to_z
    return None


class FlowDistribution(Distribution):
    """z = T(u), u ~ base. ln p(z) = ln base(T⁻¹ z) + ln |det ∂T⁻¹/∂z|.

    `transform` maps z to u as zuko's does; with `inverted` it maps u to z (an inverse autoregressive flow, fast to
    sample and slow to evaluate). `spline_range` is the B of splines that are the identity outside [−B, B], None where
    there are none.
    """

    arg_constraints = {}  # pyright: ignore[reportAssignmentType]  (torch's own subclasses do the same)
    has_rsample = True

    def __init__(
        self, base: Distribution, transform, *, inverted: bool = False, spline_range: float | None = None
    ) -> None:
        self.base, self.transform, self.inverted, self.spline_range = base, transform, inverted, spline_range
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def to_z(self, u: Tensor) -> Tensor:
        """z = T(u)."""
        with torch.autocast(u.device.type, enabled=False):  # the transform's networks run here, not where it was built
            return (self.transform if self.inverted else self.transform.inv)(u)

    def to_base(self, z: Tensor) -> Tensor:
        """u = T⁻¹(z): where z lies in the base space."""
        with torch.autocast(z.device.type, enabled=False):
            return (self.transform.inv if self.inverted else self.transform)(z)

    def rebased(self, base: Distribution) -> "FlowDistribution":
        """The same transform on another base."""
        return FlowDistribution(base, self.transform, inverted=self.inverted, spline_range=self.spline_range)

    def rsample(self, sample_shape=()) -> Tensor:
        return self.to_z(self.base.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        u, log_det = self.pull(value)
        return self.base.log_prob(u) + log_det

    def pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u = T⁻¹(z) and ln |det ∂u/∂z|."""
        return self._through(self.transform.inv if self.inverted else self.transform, z)

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """z = T(u) and ln |det ∂z/∂u|; ln p(z) is ln base(u) less that, which costs no inverse."""
        return self._through(self.transform if self.inverted else self.transform.inv, u)

    def _through(self, transform, value: Tensor) -> tuple[Tensor, Tensor]:
        # zuko's transforms do not broadcast a value against their context
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        with torch.autocast(value.device.type, enabled=False):
            return transform.call_and_ladj(value.expand(shape))


class Flow(nn.Module):
    """A stack of transforms of a vector of `units`, conditioned on `context` numbers.

    Sources: MAF, Papamakarios 2017; IAF, Kingma 2016; RealNVP, Dinh 2017; NSF, Durkan 2019 (splines are the identity
    outside [−5, 5]). One transform of `mixture` is the product over units of mixtures of `components` Gaussians, each
    given the units before it (RNADE, Uria 2013, with the masks of MADE, Germain 2015).
    """

    def __init__(
        self, *, kind: str, units: int, context: int = 0, transforms: int = 3, hidden: Sequence[int] = (64, 64),
        components: int = 8,
    ) -> None:  # fmt: skip
        super().__init__()
        if kind not in KINDS:
            raise Refused(f"expected a flow of kind {', '.join(KINDS)}, but got {kind!r}")
        if transforms < 1:
            raise Refused(
                f"a flow needs at least one transform, but got transforms={transforms}: try 3, or kind normal"
            )
        if units < 2:
            raise Refused(
                f"a {kind} flow needs at least 2 latent units, but latent_dim={units}: set latent_dim=2 "
                "or more, or take the Gaussian (posterior=normal prior=normal)"
            )
        if components < 1:
            raise Refused(f"a mixture needs at least one component, but got components={components}: try 8")
        flows = _zuko().flows
        mixture = partial(flows.MAF, univariate=MixtureTransform, shapes=[(components,)] * 3)
        build = {
            "maf": flows.MAF, "iaf": flows.MAF, "nsf": flows.NSF, "realnvp": flows.RealNVP, "mixture": mixture,
        }[kind]  # fmt: skip
        self.inverted = kind == "iaf"
        self.spline_range = SPLINE_RANGE if kind == "nsf" else None
        self.transform = build(units, context, transforms=transforms, hidden_features=tuple(hidden)).transform

    def forward(self, base: Distribution, context: Tensor | None = None) -> FlowDistribution:
        return FlowDistribution(base, self.transform(context), inverted=self.inverted, spline_range=self.spline_range)


def moved(
    inner: Distribution, location: Float[Tensor, " k"], scale: Float[Tensor, " k"], order: Int[Tensor, " k"]
) -> FlowDistribution:
    """The law of z whose units less `location`, over `scale` and taken in `order`, are of the law `inner`: a
    Gaussian, or a flow on one.

    >>> z = torch.tensor([[5.0, 1.0]])
    >>> inner = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    >>> law = moved(inner, torch.tensor([5.0, 0.0]), torch.tensor([2.0, 1.0]), torch.tensor([1, 0]))
    >>> law.to_base(z).tolist(), bool(law.log_prob(z) < inner.log_prob(torch.tensor([[1.0, 0.0]])))
    ([[1.0, 0.0]], True)
    """
    transforms: Any = _zuko().transforms
    base, rest = (inner.base, [inner.transform]) if isinstance(inner, FlowDistribution) else (inner, [])
    whitened = AffineTransform(-location / scale, 1 / scale, event_dim=1)
    whole = transforms.ComposedTransform(whitened, transforms.PermutationTransform(order), *rest)
    return FlowDistribution(base, whole, spline_range=getattr(inner, "spline_range", None))


def can_rescale(posterior: Distribution) -> bool:
    """Is it a Gaussian, or a flow on one?"""
    if isinstance(posterior, FlowDistribution | Independent):
        return can_rescale(posterior.base if isinstance(posterior, FlowDistribution) else posterior.base_dist)
    return isinstance(posterior, Normal)


def rescaled(posterior: Distribution, factor: Tensor) -> Distribution:
    """The posterior with every base σ multiplied by `factor`: what the price of a nat differentiates."""
    if isinstance(posterior, FlowDistribution):
        return posterior.rebased(rescaled(posterior.base, factor))
    if isinstance(posterior, Independent):
        return Independent(rescaled(posterior.base_dist, factor), posterior.reinterpreted_batch_ndims)
    if isinstance(posterior, Normal):
        return Normal(posterior.loc, posterior.scale * factor, validate_args=False)
    raise TypeError(f"expected a Gaussian posterior or a flow on one, but got {type(posterior).__name__}")


def from_standard(distribution: Distribution, eps: Tensor) -> tuple[Tensor, Tensor]:
    """z of a Gaussian or a flow on one, made from standard normal `eps`, and ln p(z), which takes no inverse.

    >>> z, log_prob = from_standard(Normal(3.0, 2.0), torch.zeros(1, 1))
    >>> z.item(), bool(log_prob == Normal(3.0, 2.0).log_prob(z))
    (3.0, True)
    """
    if isinstance(distribution, FlowDistribution):
        u, log_prob = from_standard(distribution.base, eps)
        z, log_det = distribution.push(u)
        return z, log_prob - log_det
    normal = _normal(distribution)
    z = normal.loc + normal.scale * eps.to(normal.loc)
    return z, distribution.log_prob(z)


def to_standard(distribution: Distribution, z: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `from_standard`: the point in the space where the distribution is N(0, I), and ln p(z)."""
    if isinstance(distribution, FlowDistribution):
        u, log_det = distribution.pull(z)
        eps, log_prob = to_standard(distribution.base, u)
        return eps, log_prob + log_det
    normal = _normal(distribution)
    return (z - normal.loc) / normal.scale, distribution.log_prob(z)


def _normal(distribution: Distribution) -> Normal:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if not isinstance(distribution, Normal):
        raise TypeError(f"expected a Gaussian or a flow on one, but got {type(distribution).__name__}")
    return distribution
