"""What a few gloo processes compute; started once per test session by the `group` fixture, read by the laws."""

import json
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from lightning.pytorch.strategies import DDPStrategy
from planted import all_detectors, gaussian_data, optimum, probe, read
from torch.distributions import Distribution, Normal

from vaecollapse.batch import Batch
from vaecollapse.callbacks.aggressive import AggressiveEncoder, Burst
from vaecollapse.callbacks.epoch_means import EpochMeans
from vaecollapse.distributions.batch_norm import BatchNormPosterior
from vaecollapse.distributions.likelihoods import LaplaceLikelihood, NormalLikelihood
from vaecollapse.distributions.posteriors import FlowPosterior
from vaecollapse.distributions.priors import FlowPrior
from vaecollapse.elbo import ELBO, Progress, closed_form_kl
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import PID, Constant
from vaecollapse.regularizers.free_bits import FORMS, FreeBits
from vaecollapse.regularizers.geco import Geco
from vaecollapse.regularizers.kl_capacity import KLCapacity
from vaecollapse.regularizers.mmd import MMD
from vaecollapse.regularizers.target_rate import TargetRate
from vaecollapse.training import Training
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


class Rows(Distribution):
    """A prior whose draws are these rows, so that one process and many compare z with the same ones."""

    arg_constraints = {}

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        super().__init__(rows.shape[:1], rows.shape[1:], validate_args=False)

    def rsample(self, sample_shape=()) -> torch.Tensor:
        return self.rows


# what R of the eight examples is 5.5 in the mean, of the first four 7 and of the last four 4
REMEDIES = {
    "target_rate": lambda: TargetRate(weight=Constant(value=1.5), target=5.0),
    "target_rate_example": lambda: TargetRate(weight=Constant(value=1.5), target=5.0, per="example"),
    "kl_capacity": lambda: KLCapacity(weight=Constant(value=1.5), target=5.0, ramp=0.0),
    "geco": lambda: Geco(kappa=2.0, start=3.0),
    "mmd": lambda: MMD(weight=Constant(value=1.5), alpha=0.5),
    "mmd_rbf": lambda: MMD(weight=Constant(value=1.5), alpha=1.0, kernel="rbf"),
    "pid": lambda: Beta(weight=PID(value=1.0, target=2.0)),
}


def remedy_gradient(name: str, rows: slice) -> list:
    """d loss/d (D, KL, z) of these rows, of the first step."""
    kl = kl_of_all()
    prior = Rows(torch.randn(kl.shape, generator=torch.Generator().manual_seed(1)).double()[rows])
    parts = [part[rows].clone().requires_grad_() for part in (kl[:, 0], kl, 2 * kl)]
    elbo = ELBO(*parts, Normal(parts[2], 1.0), prior)
    loss = REMEDIES[name]().double()(elbo, Progress()).loss
    gradients = torch.autograd.grad(loss, parts, allow_unused=True, materialize_grads=True)
    return torch.cat([gradients[0][:, None], *gradients[1:]], 1).tolist()


class Given(VAE):
    """D and KL are read off the example, its first number D."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.ones(()).double())

    def encode(self, x, context=None, mask=None):
        raise NotImplementedError

    prior = decode = encode

    def elbo(self, batch: Batch, *, seed: int | None = None, epoch: int = 0) -> ELBO:
        kl = self.anchor * batch.x
        q = Normal(torch.zeros_like(kl), 1.0)
        return ELBO(10 * kl[:, 0], kl, torch.zeros_like(kl), q, q)


def controlled(name: str, rows: slice) -> dict[str, float]:
    """A controller's state after three steps of two batches each through `Training`, with DDP's own reduction."""
    module = Training(vae=Given(), regularizer=REMEDIES[name]().double(), optimizer=torch.optim.Adam)
    trainer = SimpleNamespace(
        global_step=0, accumulate_grad_batches=2, current_epoch=0, world_size=1, loggers=[],
        strategy=DDPStrategy() if torch.distributed.is_initialized() else SimpleNamespace(reduce=lambda t, **_: t),
    )  # fmt: skip
    module._trainer = trainer  # pyright: ignore
    module.log_every = 10**9
    trainer.global_step = 1
    for step in range(3):
        for part in (0, 1):
            x = (kl_of_all() * (1 + step) + part)[rows]
            module.training_step(Batch(x), part)
        module.on_before_optimizer_step(torch.optim.SGD(module.parameters(), lr=0.0))
    return {name: float(value) for name, value in module.regularizer.named_buffers()}


def optimal_scales(rows: slice) -> list[float]:
    """The scales after one training batch, one rank's residuals ten times the other's."""
    x, scales = kl_of_all() * torch.logspace(0, 1, 8)[:, None], []
    for likelihood in (NormalLikelihood(scale_mode="optimal"), LaplaceLikelihood(scale_mode="optimal")):
        likelihood(torch.zeros_like(x[rows])).log_prob(x[rows])
        scales.append(float(likelihood.scale))
    return scales


def batch_norm(rows: slice) -> dict[str, list]:
    """One training batch of a batch-normalising head: means, gradient of their cost and running statistics."""
    torch.manual_seed(0)
    posterior, h = BatchNormPosterior(features=6, units=3).double(), kl_of_all() * torch.logspace(0, 1, 8)[:, None]
    q = posterior(h[rows])
    prior = Normal(torch.zeros(3).double(), 1.0)
    (closed_form_kl(q, prior) * torch.logspace(0, 1, 8)[rows, None]).sum(1).mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in posterior.parameters() if p.grad is not None])
    running = torch.cat([posterior.running_mean, posterior.running_variance])
    return {"means": q.mean.tolist(), "gradient": gradient.tolist(), "running": running.tolist()}


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


def bursts(rows: slice) -> list[list[int]]:
    """After which steps the decoder's turn came. The loss of the first half of the examples rises, that of the others
    falls by more until the tenth step: over all the encoder goes on until then."""
    ahead, turns = AggressiveEncoder(most=99, window=2), []
    for step in range(20):
        loss = torch.cat([torch.full((4,), 1.0 * step), torch.full((4,), abs(20 - 2.0 * step))]).double()
        ahead.note(loss[rows].mean())
        if ahead.decoders_turn:
            turns.append([step, *ahead.burst[:1]])
            ahead.burst, ahead.decoders_turn, ahead.losses = Burst(), False, None
    return turns


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
        "bursts": bursts(rows),
        "readings": readings(),
        "gradients": {form: free_bits_gradient(form, kl_of_all()[rows]) for form in FORMS},
        "scales": optimal_scales(rows),
        "remedies": {name: remedy_gradient(name, rows) for name in REMEDIES},
        "controllers": {name: controlled(name, rows) for name in ("geco", "pid")},
        "batch_norm": batch_norm(rows),
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
