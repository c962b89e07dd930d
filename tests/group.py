"""What a few gloo processes compute; started once per test session by the `group` fixture, read by the laws."""

import json
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from planted import all_detectors, gaussian_data, optimum, probe, read
from torch.distributions import Normal

from vaecollapse.callbacks.epoch_means import EpochMeans
from vaecollapse.distributions.likelihoods import LaplaceLikelihood, NormalLikelihood
from vaecollapse.distributions.posteriors import FlowPosterior
from vaecollapse.distributions.priors import FlowPrior
from vaecollapse.elbo import ELBO, Progress
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.free_bits import FORMS, FreeBits
from vaecollapse.vae import VAE


def kl_of_all() -> torch.Tensor:
    """Eight examples, shared out evenly; unit means lie above and below the floor only over all of them."""
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


class FlowVAE(VAE):
    """A linear model between a flow posterior and a flow prior, at random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.posterior_head, self.prior_head = FlowPosterior(features=8, units=3), FlowPrior(units=3)
        self.mean, self.likelihood = torch.nn.Linear(3, 8), NormalLikelihood()

    def encode(self, x, context=None, mask=None):
        return self.posterior_head(x)

    def prior(self, context=None):
        return self.prior_head()

    def decode(self, z, context=None, mask=None):
        return self.likelihood(self.mean(z), mask)


def readings() -> dict:
    """Of a closed-form optimum and of a flow, priced, in eight blocks."""
    price = partial(Beta(weight=Constant(value=1.0)).eval(), progress=Progress())
    cases = {"linear": (optimum(5, e=1.0), gaussian_data(2000)), "flow": (FlowVAE().double(), gaussian_data(512))}
    return {
        f"{name}/{finding.name}": [finding.value, finding.se, finding.n]
        for name, (vae, x) in cases.items()
        for finding in read(vae, probe(x, block=len(x) // 8), all_detectors(), price)[0].values()
    }


def epoch_means(form: str, rows: slice) -> list[list]:
    """What a tuner reads of an epoch of two batches, and once more of one that was saved between them."""
    found, kl = [], kl_of_all()[rows]
    for saved in (False, True):
        regularizer, means = FreeBits(weight=Constant(value=1.0), floor=0.8, form=form), EpochMeans()
        for part in kl.split(max(1, len(kl) - 1)):
            q = Normal(torch.zeros_like(part), 1.0)
            elbo = ELBO(part.sum(1), part, torch.zeros_like(part), q, q)
            means.heard(regularizer, (elbo,), regularizer(elbo, Progress()))
            if saved:
                state, means = means.state_dict(), EpochMeans()
                means.load_state_dict(state)
        found.append(list(means.take() or ()))
    return found


def laws(rows: slice) -> dict:
    return {
        "means": epoch_means("hinge", rows),
        "readings": readings(),
        "gradients": {form: free_bits_gradient(form, kl_of_all()[rows]) for form in FORMS},
        "scales": optimal_scales(rows),
    }


if __name__ == "__main__":
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=120),
    )
    (folder / f"{rank}.json").write_text(json.dumps(laws(slice(8 // world * rank, 8 // world * (rank + 1)))))
    torch.distributed.destroy_process_group()
