"""Models whose trouble has a known cause, for the probe that is to name it: `CAUSES[name](seed)`."""

from functools import partial

import torch
from planted import EIGENVALUES, gaussian_data, optimum, probe
from torch.utils.data import DataLoader

from vaecollapse.batch import Batch, collate
from vaecollapse.detectors.decoder_reliance import DecoderReliance
from vaecollapse.detectors.information_rank import InformationRank
from vaecollapse.detectors.rate import Rate
from vaecollapse.diagnosis import Facts, Verdict, diagnose
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.elbo import Progress
from vaecollapse.evaluation import read
from vaecollapse.models.linear import LinearVAE
from vaecollapse.probing import Plan, Probed
from vaecollapse.probing import probe as fork
from vaecollapse.regularizers.base import Regularizer
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.free_bits import FreeBits
from vaecollapse.vae import VAE

STEPS, BATCH = 200, 128


def silent(seed: int) -> LinearVAE:
    """A linear VAE at the collapsed point, with the little noise that training leaves."""
    torch.manual_seed(seed)
    vae = LinearVAE(event_shape=(len(EIGENVALUES),), latent_dim=5, likelihood=NormalLikelihood()).double()
    with torch.no_grad():
        for weight in (vae.encoder.weight, vae.decoder.weight):
            weight.normal_(0.0, 0.01)
    return vae


def priced_out(seed: int) -> tuple[VAE, Regularizer]:
    """At ten times the price that the largest direction pays for."""
    return silent(seed), Beta(weight=Constant(value=10 * EIGENVALUES[0]))


def lagging(seed: int) -> tuple[VAE, Regularizer]:
    """The decoder of the optimum, and an encoder that has forgotten."""
    vae = optimum(5, e=1.0)
    torch.manual_seed(seed)
    with torch.no_grad():
        vae.encoder.weight.normal_(0.0, 0.01)
        vae.log_variance.zero_()
    return vae, Beta(weight=Constant(value=1.0))


class Stuck(LinearVAE):
    """Learns next to nothing, whatever the KL costs: what z says reaches the output a thousandth as strong."""

    def decode(self, z, context=None, mask=None):
        return super().decode(1e-3 * z.tanh(), context, mask)


def stuck(seed: int) -> tuple[VAE, Regularizer]:
    torch.manual_seed(seed)
    vae = Stuck(event_shape=(len(EIGENVALUES),), latent_dim=5, likelihood=NormalLikelihood()).double()
    return vae, Beta(weight=Constant(value=1.0))


def held_up(seed: int) -> tuple[VAE, Regularizer]:
    """A constant code of 2 nats a unit, which a floor of 2 allows and a decoder does not read."""
    vae = silent(seed)
    with torch.no_grad():
        vae.encoder.bias.fill_(2.0)
        vae.decoder.weight.zero_()
    return vae, FreeBits(weight=Constant(value=10.0), floor=2.0)


CAUSES = {"price": priced_out, "encoder": lagging, "underfit": stuck, "floor": held_up}


def probed(cause: str, seed: int) -> tuple[Probed, Verdict]:
    """The forks of a planted model, and the verdict that knows them."""
    vae, regularizer = CAUSES[cause](seed)
    rows = gaussian_data(2000, seed=100 + seed)
    examples = [Batch(x, index=torch.tensor(i)) for i, x in enumerate(rows)]
    loader = DataLoader(examples, batch_size=BATCH, shuffle=True, collate_fn=collate,
                        generator=torch.Generator().manual_seed(seed))  # fmt: skip
    plan = Plan(partial(torch.optim.Adam, lr=0.02), loader, Progress(1, 1), STEPS, seed)
    blocks = probe(gaussian_data(600, seed=200 + seed))
    detectors = {"gap": DecoderReliance(), "rate": Rate(), "rank": InformationRank()}
    found = fork(vae, regularizer, plan, blocks, Batch(rows), detectors)
    held_out, _ = read(vae, blocks, detectors, lambda elbo: regularizer.eval()(elbo, Progress(1, 1)))
    facts = Facts(forks=found.forks, over_reference=found.over_reference, floor=getattr(regularizer, "floor", 0.0))
    return found, diagnose(held_out, None, facts)


def named(cause: str, seed: int) -> bool:
    """Is the planted cause what the verdict names, and no other?"""
    _, verdict = probed(cause, seed)
    said = {"price_too_high": "price", "lagging_encoder": "encoder", "floor_holds_rate": "floor"}
    causes = {said[name] for name in verdict.mechanisms if name in said}
    return (verdict.verdict == "underfit") if cause == "underfit" else causes == {cause}
