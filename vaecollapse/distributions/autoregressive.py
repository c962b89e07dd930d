"""p(x|z) as a product over the elements of x, each given those before it."""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Distribution


def quantile(elements: Distribution, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The value below which an element lies with probability `level`; of a bit, 1 where level < P(1).

    >>> quantile(Bernoulli(torch.tensor([0.3, 0.3])), torch.tensor([0.2, 0.4])).tolist()
    [1.0, 0.0]
    """
    return (level < elements.mean).to(level) if isinstance(elements, Bernoulli) else elements.icdf(level)


class Autoregressive(Distribution):
    """ln p(x|z) = Σ_i ln p(x_i | x_<i, z), one example one event; elements where `mask` is False carry no probability.

    `given(x)` is the product's factors at once, by a net that is shown x (teacher forcing); `draw(levels)` makes the x
    each of whose elements is the quantile at its level given those before it, one after the other. `log_prob` costs one
    pass of the net; `sample` and `mean` are `sequential` and cost many, so that readings which decode hundreds of z
    leave them alone.
    """

    arg_constraints: ClassVar = {}  # pyright: ignore[reportAssignmentType]
    normalised, sequential = True, True

    def __init__(
        self,
        given: Callable[[Tensor], Distribution],
        draw: Callable[[Tensor], Tensor],
        shape: torch.Size,
        mask: Tensor | None = None,
    ) -> None:
        self.given, self.draw, self.mask = given, draw, mask
        super().__init__(shape[:1], shape[1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.given(value).log_prob(value)

    def sample(self, sample_shape=()) -> Tensor:
        levels = torch.rand(*sample_shape, *self.batch_shape, *self.event_shape)
        drawn = [self.draw(each) for each in levels.reshape(-1, *self.batch_shape, *self.event_shape)]
        return torch.stack(drawn).reshape(levels.shape)

    @property
    def mean(self) -> Tensor:
        """An estimate of E[x|z] without bias over its levels: each element's mean given those before it, along one draw
        whose levels are the same for every z. So it is a function of z alone, and two z differ by what z says."""
        generator = torch.Generator().manual_seed(0)
        levels = torch.rand(self.event_shape, generator=generator)
        return self.given(self.draw(levels.expand(*self.batch_shape, *self.event_shape))).mean
