"""What two gloo processes compute; started once per test session by the `pair` fixture, read by the laws."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from planted import findings_on, gaussian_data, optimum
from torch.distributions import Normal

from vaecollapse.distributions.likelihoods import LaplaceLikelihood, NormalLikelihood
from vaecollapse.elbo import ELBO, Progress
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.free_bits import FORMS, FreeBits


def kl_of_all() -> torch.Tensor:
    """Eight examples, four to a rank; unit means lie above and below the floor only over all of them."""
    generator = torch.Generator().manual_seed(0)
    kl = torch.rand(8, 6, generator=generator).double()
    kl[:4, :3] += 1.0
    return kl


def free_bits_gradient(form: str, kl: torch.Tensor) -> list:
    kl = kl.clone().requires_grad_()
    q = Normal(torch.zeros_like(kl), 1.0)
    elbo = ELBO(torch.zeros(len(kl)).double(), kl, torch.zeros_like(kl), q, q)
    FreeBits(weight=Constant(value=1.0), floor=0.8, form=form)(elbo, Progress()).loss.backward()
    assert kl.grad is not None
    return kl.grad.tolist()


def optimal_scales(rows: slice) -> list[float]:
    """The scales after one training batch, one rank's residuals ten times the other's."""
    x, scales = kl_of_all() * torch.logspace(0, 1, 8)[:, None], []
    for likelihood in (NormalLikelihood(scale_mode="optimal"), LaplaceLikelihood(scale_mode="optimal")):
        likelihood(torch.zeros_like(x[rows])).log_prob(x[rows])
        scales.append(float(likelihood.scale))
    return scales


def readings() -> dict:
    found = findings_on(optimum(5, e=1.0), gaussian_data(2000))
    return {name: [finding.value, finding.se, finding.n] for name, finding in found.items()}


def laws(rows: slice) -> dict:
    return {
        "readings": readings(),
        "gradients": {form: free_bits_gradient(form, kl_of_all()[rows]) for form in FORMS},
        "scales": optimal_scales(rows),
    }


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    (folder / f"{rank}.json").write_text(json.dumps(laws(slice(4 * rank, 4 * rank + 4))))
    torch.distributed.destroy_process_group()
