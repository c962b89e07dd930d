"""Text models whose readings are known because they were put there: answers of a few tokens, codes that spell them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaecollapse.batch import Batch, collate
from vaecollapse.distributions.tokens import TokenSequence
from vaecollapse.evaluation import blocks_of
from vaecollapse.tokens import EOS, PAD
from vaecollapse.vae import VAE

KINDS = 5  # EOS and four letters, ids 3 to 7
LONGEST = 4
SHARP = 40.0  # logits of what is sure
Logits = Callable[[Tensor], Tensor]  # of z, for every place: (batch, LONGEST, KINDS)


def answers(count: int, seed: int = 0, frequencies: Sequence[float] = (0.4, 0.3, 0.2, 0.1)) -> Batch:
    """Random letters, one to three of them, and EOS."""
    generator = torch.Generator().manual_seed(seed)
    letters = torch.multinomial(torch.tensor(frequencies), 3 * count, replacement=True, generator=generator) + EOS + 1
    lengths = torch.randint(1, LONGEST, (count,), generator=generator).tolist()
    rows = [
        torch.cat([part[:length], torch.tensor([EOS])]) for part, length in zip(letters.split(3), lengths, strict=True)
    ]
    return collate(
        [Batch(row, None, torch.ones(len(row), dtype=torch.bool), torch.tensor(i)) for i, row in enumerate(rows)]
    )


def blocks(count: int = 600, size: int = 200, **given) -> list[Batch]:
    whole = answers(count, **given)
    return [whole.part(rows) for rows in blocks_of(count, size)]


class Spelling(VAE):
    """z (LONGEST, KINDS), each row near the indicator of a token; `logits` make of z what stands at each place,
    whatever was written before. `scale` of q, and the `mean` of it for each x."""

    autoregressive = True

    def __init__(self, logits: Logits, mean: Callable[[Tensor], Tensor] | None = None, scale: float = 0.05) -> None:
        super().__init__()
        self.logits, self.mean, self.scale = logits, mean or spelled, scale
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def encode(self, x: Tensor, context=None, mask=None) -> Distribution:
        mean = self.mean(x)
        return Independent(Normal(mean, torch.full_like(mean, self.scale)), 2)

    def prior(self, context=None) -> Distribution:
        zero = torch.zeros(LONGEST, KINDS, dtype=torch.float64)
        return Independent(Normal(zero, torch.ones_like(zero)), 2)

    def decode(self, z: Tensor, context=None, mask=None) -> Distribution:
        logits = self.logits(z)

        def begin():
            place = iter(range(1, LONGEST))
            return logits[:, 0], lambda token: logits[:, next(place)]

        return TokenSequence(lambda x: logits[:, : x.shape[1]], begin, batch=len(z), longest=LONGEST, mask=mask)


def spelled(x: Tensor) -> Tensor:
    """Indicators of the tokens; a row of padding is 0."""
    padded = nn.functional.pad(x, (0, LONGEST - x.shape[1]), value=PAD)
    return nn.functional.one_hot((padded - EOS).clamp(min=0), KINDS).double() * (padded != PAD).unsqueeze(-1)


def copying() -> Spelling:
    """Says what z spells."""
    return Spelling(lambda z: SHARP * z)


def ignoring(batches: Sequence[Batch]) -> Spelling:
    """Says each token as often as these answers have it, and looks at nothing."""
    counts = torch.zeros(KINDS, dtype=torch.float64)
    for batch in batches:
        counts += torch.bincount(batch.x[batch.mask] - EOS, minlength=KINDS)  # type: ignore[index]
    logits = (counts / counts.sum()).log()
    return Spelling(
        lambda z: logits.expand(len(z), LONGEST, KINDS), lambda x: torch.zeros(len(x), LONGEST, KINDS).double(), 1.0
    )
