"""D + (1 − α) R + (α + λ − 1) MMD²(q(z), p(z)) (InfoVAE, Zhao 2019): z may inform as long as it fills the prior."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution

from ..elbo import ELBO, Objective, Progress
from ..refusal import Refused
from .base import Weighted
from .coefficients import Coefficient
from .step_mean import processes

KERNELS = ("rbf", "imq")
WIDTHS = (0.2, 0.5, 1.0, 2.0, 5.0)  # of 2k, the mean squared distance of two draws of N(0, I_k)


ROWS = 128  # a block of distances that stays in the cache: two to fourteen times as fast at 1024 rows


class KernelSum(torch.autograd.Function):
    """Σ_nm of the mean over `WIDTHS` w of exp(−d²/2kw) (`rbf`) or of 2kw/(2kw + d²) (`imq`, inverse multiquadratic:
    heavier tails, so that it still pulls at a z far away).

    The slopes are found beside the values, a block of rows at a time, so that nothing of size n × m is kept: memory is
    linear in the rows. It can be differentiated once.
    """

    @staticmethod
    def forward(ctx, x: Float[Tensor, "n k"], y: Float[Tensor, "m k"], kind: str) -> Float[Tensor, ""]:
        pulls = torch.zeros_like(x), torch.zeros_like(y)
        whole, lengths, moved = x.new_zeros(()), y.square().sum(1), any(ctx.needs_input_grad)
        for start in range(0, len(x), ROWS):
            rows = slice(start, start + ROWS)
            part = x[rows]
            distance = torch.addmm(lengths.expand(len(part), -1), part, y.T, alpha=-2)
            distance = distance.add_(part.square().sum(1)[:, None]).clamp_(min=0).div_(2 * x.shape[1])
            values, slopes = summed(distance, kind, sloped=moved)
            whole += values
            if slopes is not None:
                pulls[0][rows] = slopes.sum(1)[:, None] * part - slopes @ y
                pulls[1].add_(slopes.sum(0)[:, None] * y - slopes.T @ part)
        ctx.save_for_backward(*pulls)
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Float[Tensor, ""]) -> tuple[Tensor, Tensor, None]:
        x, y = ctx.saved_tensors
        scale = gradient / x.shape[1]  # of d²/2k: slope × 2(x − y)/2k
        return scale * x, scale * y, None


def summed(scaled: Float[Tensor, "n m"], kind: str, *, sloped: bool) -> tuple[Tensor, Tensor | None]:
    """Of the scaled squared distances the sum of kernel values, and their slopes."""
    whole, slopes = scaled.new_zeros(()), torch.zeros_like(scaled) if sloped else None
    for width in WIDTHS:
        values = (scaled / -width).exp_() if kind == "rbf" else (scaled / width).add_(1).reciprocal_()
        whole += values.sum()
        if slopes is not None:
            share = -1 / (width * len(WIDTHS))
            slopes = slopes.add_(values, alpha=share) if kind == "rbf" else slopes.addcmul_(values, values, value=share)
    return whole / len(WIDTHS), slopes


def kernel_sum(x: Float[Tensor, "n k"], y: Float[Tensor, "m k"], kind: str) -> Float[Tensor, ""]:
    """Over all pairs of a row of x and a row of y.

    >>> kernel_sum(torch.zeros(2, 3), torch.zeros(4, 3), "imq").item()
    8.0
    """
    return cast(Tensor, KernelSum.apply(x, y, kind))


def mmd_squared(x: Float[Tensor, "n k"], y: Float[Tensor, "m k"], *, kind: str) -> Float[Tensor, ""]:
    """The unbiased estimate of MMD² (Gretton 2012): pairs of one and the same draw are left out, so that its mean is 0
    where both come from one distribution, and single values may be negative. The biased one would press z together by
    order 1/n at the small batches of training.

    >>> x = torch.zeros(3, 2)
    >>> mmd_squared(x, x, kind="rbf").item()
    0.0
    """

    def within(rows: Tensor) -> Tensor:
        n = len(rows)
        return (kernel_sum(rows, rows, kind) - n) / (n * (n - 1))  # k(x, x) = 1

    return within(x) + within(y) - 2 * kernel_sum(x, y, kind) / (len(x) * len(y))


def drawn(prior: Distribution, z: Tensor, *, keyed: bool) -> Tensor:
    """A reparametrised draw of p(z | c) for every row of z; `keyed` the same at every call, and nothing else moves."""
    lead = z.shape[: z.ndim - len(prior.batch_shape + prior.event_shape)]
    if not keyed:
        return prior.rsample(lead)
    with torch.random.fork_rng([z.device] if z.device.type == "cuda" else []):
        torch.manual_seed(0)
        return prior.rsample(lead)


def from_all_ranks(rows: Float[Tensor, "n k"]) -> Float[Tensor, "all k"]:
    """The rows of all ranks; a gradient reaches only one's own."""
    own = torch.distributed.get_rank()
    counts = [torch.zeros_like(torch.tensor(len(rows), device=rows.device)) for _ in range(processes())]
    torch.distributed.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    most = int(max(counts))
    padded = torch.nn.functional.pad(rows.detach(), (0, 0, 0, most - len(rows)))  # the last batches may differ by one
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([rows if rank == own else parts[rank][: int(n)] for rank, n in enumerate(counts)])


class MMD(Weighted):
    """loss = mean_b D + β(t) · [(1 − α) R + (α + λ − 1) · MMD²(z of the batch, as many draws of the prior)].

    α (`alpha`) is the share of R's price that is lifted, λ (`lambda_w`) the price of a z that does not fill the prior;
    α = 0, λ = 1 is the ELBO, α = 1 MMD-VAE. MMD² is at most 2 however far z strays, so λ is of the size of D. At the
    collapsed point MMD² is at its smallest: it keeps z in place, and only α > 0 makes nats cheap.

    Any latent is taken flat and any prior is drawn from, flows and conditional ones included. Under several processes
    MMD² is that of all their rows together, and so is its gradient; batches that add up to one step each have their
    own. Needs at least two examples a step. In evaluation the draws are the same at every call.
    """

    def __init__(
        self, *, weight: Coefficient, alpha: float = 1.0, lambda_w: float = 100.0, kernel: str = "imq"
    ) -> None:
        super().__init__(weight=weight)
        if kernel not in KERNELS:
            raise Refused(f"regularizer.kernel={kernel} is no kernel: take rbf or imq")
        if not alpha <= 1 or not 1 <= alpha + lambda_w < float("inf"):
            raise Refused(
                f"R and MMD need prices of at least 0, 1 - alpha and alpha + lambda_w - 1, but alpha={alpha:g} "
                f"lambda_w={lambda_w:g}: try alpha=1 lambda_w=100, or alpha=0 lambda_w=1 for the ELBO"
            )
        self.alpha, self.lambda_w, self.kernel = float(alpha), float(lambda_w), kernel

    def forward(self, elbo: ELBO, progress: Progress) -> Objective:
        beta, rate = self.price(elbo.rate, progress), elbo.rate.mean()
        penalty, scalars = beta * (1 - self.alpha) * rate, {}
        if self.alpha + self.lambda_w > 1:
            divergence = self.divergence(elbo)
            penalty = penalty + beta * (self.alpha + self.lambda_w - 1) * divergence
            scalars = {"mmd": divergence.detach()}
        weight = beta * (1 - self.alpha)
        return Objective(elbo.distortion.mean() + penalty, weight.reshape(1), weight, penalty, scalars=scalars)

    def divergence(self, elbo: ELBO) -> Float[Tensor, ""]:
        """MMD²(q(z), p(z)) of the draws at hand."""
        z, p = elbo.z.flatten(1), drawn(elbo.prior, elbo.z, keyed=not self.training).flatten(1)
        # a reading prices its own block, since ranks read different numbers of them
        world = processes() if self.training else 1
        if world > 1:
            z, p = from_all_ranks(z), from_all_ranks(p)
        if len(z) < 2:
            raise Refused("MMD compares pairs of examples, but a step has one: set batch_size=2 or more")
        value = mmd_squared(z, p, kind=self.kernel)
        # each rank's gradient is that of its own rows, and their mean is taken
        return value.detach() + world * (value - value.detach()) if world > 1 else value

    def end_weight(self, *, asked: bool = False) -> float | None:
        end = super().end_weight(asked=asked)
        return None if end is None else (1 - self.alpha) * end

    def compared(self, distortion: float, rate: float) -> float:
        return distortion + (1 - self.alpha) * self.weight.cost(rate)
