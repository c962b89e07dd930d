"""p(x|z, c) of token sequences: one categorical after the other, each given the tokens before it."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from ..refusal import Refused
from ..tokens import EOS, PAD

Next = Callable[[Int[Tensor, " batch"]], Float[Tensor, "batch kinds"]]


def pick(logits: Float[Tensor, "batch kinds"], temperature: float, top_p: float) -> Int[Tensor, " batch"]:
    """A draw from softmax(logits/temperature), the likeliest at temperature 0; with `top_p` among the fewest kinds that
    together have that probability (Holtzman 2020).

    >>> logits = torch.tensor([[0.0, 2.0, 1.0]])
    >>> pick(logits, 0.0, 1.0).tolist(), pick(logits, 1.0, 0.5).tolist()
    ([1], [1])
    """
    if temperature == 0:
        return logits.argmax(-1)
    p = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, which = p.sort(-1, descending=True)
        p = torch.zeros_like(p).scatter(-1, which, ordered * (ordered.cumsum(-1) - ordered < top_p))
    return p.multinomial(1)[:, 0]


class TokenSequence(Distribution):
    """ln p(x|z, c) = Σ_t ln p(x_t | x_<t, z, c) over an answer and its EOS, in nats; padding carries none.

    `given(x)` are the logits of all places at once, by a net that is shown x (teacher forcing), of ids from EOS up:
    PAD, BOS and SEP are never written, so that p sums to one over the sequences that end. `begin()` are those of the
    first place, and a function from the tokens drawn there to those of the next: a net that keeps what it has seen.
    `mask` says which tokens of x count (None: all but PAD); drawing stops after `longest` tokens, EOS or not.

    `log_prob` costs one pass of the net, a `sample` one of a single token for each of its length. Tokens have no mean.
    """

    arg_constraints: ClassVar = {}  # pyright: ignore[reportAssignmentType]
    normalised, sequential = True, True

    def __init__(
        self,
        given: Callable[[Int[Tensor, "batch time"]], Float[Tensor, "batch time kinds"]],
        begin: Callable[[], tuple[Float[Tensor, "batch kinds"], Next]],
        *,
        batch: int,
        longest: int,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> None:
        self.given, self.begin, self.longest, self.mask = given, begin, longest, mask
        time = longest if mask is None else mask.shape[1]
        super().__init__(torch.Size([batch]), torch.Size([time]), validate_args=False)

    def token_log_prob(self, x: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
        """ln p(x_t | x_<t, z, c) of each token, 0 where there is padding."""
        target = (x - EOS).clamp(min=0)
        nll = F.cross_entropy(self.given(x).flatten(0, 1), target.flatten(), reduction="none").reshape(x.shape)
        return torch.where(self.counted(x), (-nll).masked_fill(x < EOS, -math.inf), 0.0)

    def counted(self, x: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
        return x != PAD if self.mask is None else self.mask

    def writes(self, x: Int[Tensor, "batch time"]) -> Bool[Tensor, " batch"]:
        """Is x, its end included, what a sample at temperature 0 gives? In one pass, since up to the first token that
        is not the likeliest both see the same tokens before."""
        return ((self.given(x).argmax(-1) + EOS == x) | ~self.counted(x)).all(1)

    def log_prob(self, value: Int[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
        return self.token_log_prob(value).sum(1)

    @torch.no_grad()
    def sample(
        self, sample_shape: tuple[int, ...] = (), *, temperature: float = 1.0, top_p: float = 1.0
    ) -> Int[Tensor, "*draws batch longest"]:
        """Tokens up to EOS, then PAD; the likeliest one after the other at `temperature` 0."""
        if not temperature >= 0 or not 0 < top_p <= 1:
            raise Refused(
                f"a temperature is at least 0 and top_p above 0 and at most 1, but got temperature={temperature:g} "
                f"top_p={top_p:g}: try temperature=1 top_p=0.9, or temperature=0 for the likeliest token each time"
            )
        drawn = [self._drawn(temperature, top_p) for _ in range(math.prod(sample_shape))]
        return torch.stack(drawn).reshape(*sample_shape, *drawn[0].shape)

    def _drawn(self, temperature: float, top_p: float) -> Int[Tensor, "batch longest"]:
        logits, following = self.begin()
        written = logits.new_full((len(logits), self.longest), PAD, dtype=torch.long)
        ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        for place in range(self.longest):
            token = (pick(logits, temperature, top_p) + EOS).masked_fill(ended, PAD)
            written[:, place] = token
            ended |= token == EOS
            if ended.all() or place + 1 == self.longest:
                break
            logits = following(token)
        return written
