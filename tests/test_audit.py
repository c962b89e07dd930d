"""The loss-convention auditor: what people write in scripts, read off as e and β_eff without believing a word of it."""

import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from planted import EIGENVALUES, gaussian_data, probe
from settled import exact_data, settle
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from torch.nn import functional as F

from vaecollapse.audit import Audit, audit, audit_loss
from vaecollapse.batch import Batch
from vaecollapse.detectors.price_of_a_nat import PriceOfANat
from vaecollapse.detectors.rate import Rate
from vaecollapse.distributions.likelihoods import (
    BernoulliLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
    SpectralLikelihood,
)
from vaecollapse.elbo import ELBO, Objective, Progress
from vaecollapse.evaluation import read
from vaecollapse.models.linear import LinearVAE
from vaecollapse.preflight import Survey
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.base import Regularizer
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant, Linear
from vaecollapse.regularizers.free_bits import FORMS, FreeBits

B, D, K, FRAMES = 12, 50, 8, 6  # examples, cells, units, frames of a latent sequence
W = 0.03  # the number that stands before the KL in each script


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, Y = draw(B, D), draw(B, D, seed=1) * 0.4
RESIDUAL = float((X - Y).double().square().mean())  # ŝ², per cell
ABSOLUTE = float((X - Y).double().abs().mean())  # b̂, per cell
MEAN, LOG_VARIANCE = draw(B, K, seed=2), 0.3 * draw(B, K, seed=3)
BITS = (draw(B, D, seed=4) > 0).float()


# ---- losses as they stand in other people's scripts


def mean_mse_and_sum(x, recon_x, mu, logvar, w=W):
    MSE = F.mse_loss(recon_x, x, reduction="mean")
    KLD = torch.mean(-0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1), dim=0)
    return MSE + w * KLD


def mean_mse_and_unit_mean(x, recon_x, mu, logvar, w=W):
    KLD = -0.5 * torch.mean(1 + logvar - mu**2 - torch.exp(logvar))
    return F.mse_loss(recon_x, x) + w * KLD


def half_sse_and_sum(x, recon_x, mu, logvar, w=W):
    recon = 0.5 * ((x - recon_x) ** 2).reshape(x.shape[0], -1).sum(dim=-1)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=-1)
    return (recon + w * kld).mean(dim=0)


def sse_and_sum(x, recon_x, mu, logvar, w=W):
    return F.mse_loss(recon_x, x, reduction="sum") / len(x) + w * kl(mu, logvar).sum(1).mean()


def sse_and_sum_over_the_batch(x, recon_x, mu, logvar, w=W):
    """The examples of torch: both parts summed over the batch, whose size then cancels."""
    return F.mse_loss(recon_x, x, reduction="sum") + w * kl(mu, logvar).sum()


def mean_l1_and_sum(x, recon_x, mu, logvar):
    return F.l1_loss(recon_x, x) + W * kl(mu, logvar).sum(1).mean()


def weighted_l1_and_sum(x, recon_x, mu, logvar):
    weight = torch.linspace(0.2, 2.0, D)
    return (weight * (x - recon_x).abs()).mean() + W * kl(mu, logvar).sum(1).mean()


def huber_and_sum(x, recon_x, mu, logvar):
    return F.smooth_l1_loss(recon_x, x) + W * kl(mu, logvar).sum(1).mean()


def mean_bce_and_sum(x, logits, mu, logvar, w=W):
    return F.binary_cross_entropy_with_logits(logits, x) + w * kl(mu, logvar).sum(1).mean()


def mean_bce_of_probabilities_and_sum(x, recon_x, mu, logvar):
    return F.binary_cross_entropy(recon_x, x) + W * kl(mu, logvar).sum(1).mean()


def bce_sum_and_sum(x, recon_x, mu, logvar):
    BCE = F.binary_cross_entropy(recon_x, x, reduction="sum")
    KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return BCE + KLD


def frames_without_a_half(x, recon_x, mu, logvar):
    kl = (mu.pow(2) + logvar.exp() - logvar - 1).sum(2).mean()
    return F.mse_loss(recon_x, x) + W * kl


def token_mean_and_unit_mean(tokens, logits, mu, logvar):
    nll = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    return nll + W * kl(mu, logvar).mean()


def mse_mean_and_kl_over_the_batch(x, recon_x, mu, logvar):
    """A classic: one part averaged, the other summed over the examples."""
    return F.mse_loss(recon_x, x) + W * kl(mu, logvar).sum()


def clamped(x, recon_x, mu, logvar):
    """Free bits of half a nat per unit."""
    return F.mse_loss(recon_x, x) + W * kl(mu, logvar).mean(0).clamp(min=0.5).sum()


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())


# loss, what a nat of R costs, e, and the words, for the weight w, k units and d cells
GAUSSIAN = [
    (mean_mse_and_sum, lambda w, k: w, lambda w, k, d: w * d / 2,
     "the mean of squared errors over 50 cells + 0.03 · KL summed over 8 units"),
    (mean_mse_and_unit_mean, lambda w, k: w / k, lambda w, k, d: w * d / (2 * k),
     "the mean of squared errors over 50 cells + 0.03 · KL averaged over 8 units"),
    (half_sse_and_sum, lambda w, k: w, lambda w, k, d: w,
     "half the sum of squared errors + 0.03 · KL summed over 8 units"),
    (sse_and_sum, lambda w, k: w, lambda w, k, d: w / 2,
     "the sum of squared errors + 0.03 · KL summed over 8 units"),
    (sse_and_sum_over_the_batch, lambda w, k: w, lambda w, k, d: w / 2,
     "the sum of squared errors, over the batch too + 0.03 · KL summed over 8 units, over the batch too"),
]  # fmt: skip
conventions = pytest.mark.parametrize(
    ("loss", "acting", "e", "words"), GAUSSIAN, ids=[f.__name__ for f, *_ in GAUSSIAN]
)


@conventions
def test_squared_errors_give_e_and_beta_eff_as_the_table_says(loss, acting, e, words) -> None:
    found = audit_loss(loss, X, Y, MEAN, LOG_VARIANCE, declared=W)
    assert found.e == pytest.approx(e(W, K, D), rel=1e-5)
    assert found.beta_effective == pytest.approx(e(W, K, D) / RESIDUAL, rel=1e-5)
    assert found.weight == pytest.approx(acting(W, K), rel=1e-5)
    assert found.convention == words
    assert not found.faults and found.free == 0


def test_the_mean_l1_is_a_laplace_density_whose_scale_fits() -> None:
    """β·n/L_rec, and weighted alike."""
    found = audit_loss(mean_l1_and_sum, X, Y, MEAN, LOG_VARIANCE, declared=W)
    assert found.beta_effective == pytest.approx(W * D / ABSOLUTE, rel=1e-5)
    assert found.convention == "the mean of absolute errors over 50 cells + 0.03 · KL summed over 8 units"
    assert found.e == pytest.approx(W * D * math.sqrt(RESIDUAL * math.pi / 2), rel=1e-5)
    weights = torch.linspace(0.2, 2.0, D)
    weighted = audit_loss(weighted_l1_and_sum, X, Y, MEAN, LOG_VARIANCE, declared=W)
    assert weighted.beta_effective == pytest.approx(W * D / float((weights * (X - Y).abs()).mean()), rel=1e-5)
    assert weighted.distortion == "a distance that is no plain L1, L2 or cross-entropy"


def test_case_c_is_92_times_too_dear() -> None:
    """A mean L1 of 2.23 over 20 592 cells at β = 0.01, and 462 after the fix that was planned."""
    x = torch.zeros(2, 20_592)
    y = x + 2.23 * draw(2, 20_592).sign()
    for beta, effective in ((0.01, 92.3), (0.05, 461.7)):

        def loss(x, y, mu, logvar, beta=beta):
            return F.l1_loss(y, x) + beta * kl(mu, logvar).sum(1).mean()

        found = audit_loss(loss, x, y, draw(2, 128), draw(2, 128), declared=beta)
        assert found.beta_effective == pytest.approx(effective, rel=1e-3)
        assert any("times the ELBO's own price" in line for line in found.warnings())


def test_a_smooth_l1_has_a_price_too() -> None:
    """No plain distance: β_eff = w·n/(dD/d ln t) still, whatever its shape."""
    found = audit_loss(huber_and_sum, X, Y, MEAN, LOG_VARIANCE, declared=W)
    r = (X - Y).double().abs()
    stretch = float(torch.where(r < 1, r.square(), r).mean())
    assert found.beta_effective == pytest.approx(W * D / stretch, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "decoded", "weight", "effective"),
    [
        (mean_bce_and_sum, Y, W, W * D),
        (mean_bce_of_probabilities_and_sum, Y.sigmoid(), W, W * D),
        (bce_sum_and_sum, Y.sigmoid(), 1.0, 1.0),
    ],
    ids=["logits", "probabilities", "sum"],
)
def test_a_mean_cross_entropy_multiplies_the_price_by_the_cells(loss, decoded, weight, effective) -> None:
    found = audit_loss(loss, BITS, decoded, MEAN, LOG_VARIANCE, declared=weight)
    assert found.beta_effective == pytest.approx(effective, rel=1e-5)
    assert found.e is None, "bits have no residual variance"
    assert "binary cross-entropies" in found.convention


def test_a_kl_without_its_half_averaged_over_frames() -> None:
    """nats = ½·T·value, so a nat costs 2w/T."""
    mu, logvar = draw(B, FRAMES, K, seed=5), 0.3 * draw(B, FRAMES, K, seed=6)
    found = audit_loss(frames_without_a_half, X, Y, mu, logvar, declared=W)
    assert found.weight == pytest.approx(2 * W / FRAMES, rel=1e-5)
    assert found.e == pytest.approx(W * D / FRAMES, rel=1e-5)
    assert found.penalty == f"KL without its ½, averaged over {FRAMES} frames"
    assert "acts as 0.01 per nat of R" in "\n".join(found.warnings())


@pytest.mark.parametrize("vocabulary_last", [True, False])
def test_token_means_with_a_unit_mean_cost_tokens_over_units(vocabulary_last: bool) -> None:
    tokens = torch.randint(0, 9, (B, 20), generator=torch.Generator().manual_seed(0))
    logits = draw(B, 20, 9, seed=7)
    loss = token_mean_and_unit_mean
    if not vocabulary_last:
        logits = logits.movedim(2, 1)

        def loss(tokens, logits, mu, logvar):
            return F.cross_entropy(logits, tokens) + W * kl(mu, logvar).mean()

    found = audit_loss(loss, tokens, logits, MEAN, LOG_VARIANCE, declared=W)
    assert found.beta_effective == pytest.approx(W * 20 / K, rel=1e-5)
    assert found.convention == "the mean of token NLLs over 20 cells + 0.03 · KL averaged over 8 units"


def test_a_price_that_depends_on_the_batch_size_is_a_fault() -> None:
    found = audit_loss(mse_mean_and_kl_over_the_batch, X, Y, MEAN, LOG_VARIANCE, declared=W)
    assert found.weight == pytest.approx(W * B, rel=1e-5)
    assert found.e == pytest.approx(W * B * D / 2, rel=1e-5)
    assert any("grows with the batch size, here 12" in line for line in found.warnings())


def test_a_floor_shows_as_free_nats_and_changes_no_price_above_it() -> None:
    found = audit_loss(clamped, X, Y, MEAN, LOG_VARIANCE, declared=W)
    assert found.weight == pytest.approx(W, rel=1e-5)
    assert found.free == pytest.approx(0.5 * K, rel=1e-5)
    assert "the first 4 nats are free" in found.lines()[0]


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("size", [(3, 8, 8), (40,)])
def test_any_shape_of_event_and_batch(n: int, size: tuple[int, ...]) -> None:
    x, y = draw(n, *size), draw(n, *size, seed=1)
    found = audit_loss(mean_mse_and_sum, x, y, draw(n, 5), draw(n, 5))
    assert found.e == pytest.approx(W * x[0].numel() / 2, rel=1e-4)
    assert found.declared is None and found.penalty == "KL"


def test_padding_is_told_by_the_number_of_cells() -> None:
    mask = torch.zeros(D)
    mask[:30] = 1

    def loss(x, y, mu, logvar):
        return ((x - y).abs() * mask).sum(1).mean() / 30 + W * kl(mu, logvar).sum(1).mean()

    found = audit_loss(loss, X, Y, MEAN, LOG_VARIANCE, cells=30.0)
    own = float(((X - Y).abs() * mask).sum(1).mean() / 30)
    assert found.beta_effective == pytest.approx(W * 30 / own, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda x, y, m, v: F.mse_loss(y, x) + W * (kl(m, v).sum(1).mean() - 3).abs() ** 2, "no straight line in R"),
        (lambda x, y, m, v: F.mse_loss(y, x) + W * kl(m, v).sum(1).mean().sqrt(), "no straight line in R"),
    ],
)
def test_what_is_no_weight_is_said(loss: Callable, words: str) -> None:
    assert any(words in line for line in audit_loss(loss, X, Y, MEAN, LOG_VARIANCE).warnings())


def test_an_autoencoder_pays_nothing_and_nothing_is_made_of_it() -> None:
    found = audit_loss(lambda x, y, m, v: F.mse_loss(y, x), X, Y, MEAN, LOG_VARIANCE, declared=W)
    assert found.weight == 0 and found.beta_effective == 0
    assert any("the declared weight 0.03 acts as 0 per nat" in line for line in found.warnings())


@pytest.mark.parametrize(
    ("loss", "parts", "words"),
    [
        (lambda x, y, m, v: (F.mse_loss(y, x), 0), (X, Y, MEAN, LOG_VARIANCE), "returns the total alone"),
        (lambda x, y: F.mse_loss(y, x), (X, Y, MEAN, LOG_VARIANCE), "a function of these four"),
        (lambda x, y, m, v: F.mse_loss(y, x) * math.nan, (X, Y, MEAN, LOG_VARIANCE), "has not diverged"),
        (lambda x, y, m, v: F.mse_loss(y + torch.randn(()), x), (X, Y, MEAN, LOG_VARIANCE), "no noise in the loss"),
        (mean_mse_and_sum, (X, Y, MEAN, LOG_VARIANCE[:, :2]), "of one shape"),
        (mean_mse_and_sum, (X[:1], Y[:1], MEAN[:1], LOG_VARIANCE[:1]), "at least two examples"),
        (mean_mse_and_sum, (X, Y[:3], MEAN, LOG_VARIANCE), "at least two examples"),
    ],
)  # fmt: skip
def test_what_is_no_loss_of_a_batch_is_refused_in_a_sentence(loss, parts, words) -> None:
    with pytest.raises(Refused) as sentence:
        audit_loss(loss, *parts)
    assert words in str(sentence.value) and "\n" not in str(sentence.value)
    with pytest.raises(Refused, match="declared=-1"):
        audit_loss(mean_mse_and_sum, X, Y, MEAN, LOG_VARIANCE, declared=-1.0)
    with pytest.raises(Refused, match="cells=0"):
        audit_loss(mean_mse_and_sum, X, Y, MEAN, LOG_VARIANCE, cells=0.0)


# ---- our own models: configuration, one batch


def model(likelihood) -> LinearVAE:
    torch.manual_seed(0)
    return LinearVAE(event_shape=(8,), latent_dim=5, likelihood=likelihood).double()


DATA = probe(gaussian_data(64))[0]


@pytest.mark.parametrize(("s2", "beta"), [(1.0, 1.0), (0.35, 2.0), (0.1, 3.0)])
def test_a_batch_of_ours_finds_what_the_configuration_says(s2: float, beta: float) -> None:
    found = audit(model(NormalLikelihood(scale=math.sqrt(s2))), Beta(weight=Constant(value=beta)), DATA, residual=0.2)
    assert found.e == pytest.approx(beta * s2, rel=1e-6)
    assert found.weight == pytest.approx(beta, rel=1e-9) and found.declared == beta
    assert found.beta_effective == pytest.approx(beta * s2 / 0.2, rel=1e-6)
    assert not found.faults


def test_a_laplace_of_ours_costs_beta_n_over_b() -> None:
    vae = model(LaplaceLikelihood(scale=0.5))
    found = audit(vae, Beta(weight=Constant(value=2.0)), DATA)
    with torch.no_grad():
        residual = DATA.x - vae.decode(vae.elbo(DATA, seed=0).z).mean
    assert found.beta_effective == pytest.approx(2.0 * 0.5 / float(residual.abs().mean()), rel=1e-6)
    assert found.e == pytest.approx(2 * 0.5 * math.sqrt(float(residual.square().mean()) * math.pi / 2), rel=1e-6)


@pytest.mark.parametrize("mode", ["learned", "optimal"])
def test_a_scale_that_fits_costs_the_weight_itself(mode: str) -> None:
    vae, regularizer = model(NormalLikelihood(scale=0.7, scale_mode=mode)), Beta(weight=Linear(value=1.3, warmup=0.5))
    now, then = audit(vae, regularizer, DATA), audit(vae, regularizer, DATA, residual=0.2)
    assert now.beta_effective == then.beta_effective == pytest.approx(1.3)
    assert now.e == pytest.approx(1.3 * 0.49, rel=1e-4)
    assert then.e == pytest.approx(1.3 * 0.2), "at the scale that fits what the forecast leaves over"
    assert "whose scale is fitted" in now.convention


def test_bits_cost_the_weight_itself() -> None:
    bits = Batch((draw(16, 8).double() > 0).double(), index=torch.arange(16))
    found = audit(model(BernoulliLikelihood()), Beta(weight=Constant(value=0.4)), bits)
    assert found.beta_effective == pytest.approx(0.4) and found.e is None
    assert found.distortion == "the sum of binary cross-entropies"


@pytest.mark.parametrize("form", FORMS)
def test_free_bits_charge_the_whole_weight_above_the_floor(form: str) -> None:
    """The five clamps; the hinge, divided by the units, charges that share, and says so."""
    found = audit(model(NormalLikelihood()), FreeBits(weight=Constant(value=1.0), floor=0.5, form=form), DATA)
    assert found.weight == pytest.approx(1 / 5 if form == "hinge" else 1.0, rel=1e-4)
    assert any("averaged over 5 units" in line for line in found.warnings()) == (form == "hinge")


def test_the_weight_of_the_schedules_end_is_the_one_audited() -> None:
    found = audit(model(NormalLikelihood()), Beta(weight=Linear(value=4.0, warmup=1.0)), DATA)
    assert found.weight == pytest.approx(4.0)


class Multiplier(Regularizer):
    """R + m·D: the price of a nat is 1/m, whatever is declared."""

    def forward(self, elbo: ELBO, progress: Progress) -> Objective:
        rate, weight = elbo.rate.mean(), elbo.rate.new_ones(1)
        return Objective(rate + 4 * elbo.distortion.mean(), weight, weight[0], rate)


def test_a_weight_on_the_distortion_divides_the_price() -> None:
    found = audit(model(NormalLikelihood()), Multiplier(), DATA)
    assert found.weight == pytest.approx(0.25)
    assert any("acts as 0.25" in line for line in found.warnings())


def test_auditing_moves_nothing() -> None:
    vae, regularizer = model(NormalLikelihood(scale_mode="optimal")).train(), Beta(weight=Constant(value=1.0)).train()
    before, state = {n: t.clone() for n, t in vae.state_dict().items()}, torch.get_rng_state()
    audit(vae, regularizer, DATA)
    assert vae.training and regularizer.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(t, before[n]) for n, t in vae.state_dict().items())


def test_a_distance_takes_the_pre_flights_figure() -> None:
    torch.manual_seed(0)
    clips = Batch(draw(4, 2048), index=torch.arange(4))
    vae = LinearVAE(event_shape=(2048,), latent_dim=3, likelihood=SpectralLikelihood())
    found = audit(vae, Beta(weight=Constant(value=1.0)), clips, beta_effective=210.0)
    assert found.beta_effective == pytest.approx(210.0) and found.e is None
    assert any("that price is beta=0.00476" in line for line in found.warnings())
    assert audit(vae, Beta(weight=Constant(value=1.0)), clips).beta_effective is None


# ---- after training: the price of a nat, which reads no configuration


class Script(LinearVAE):
    """A linear VAE whose distortion is that of somebody's loss, example by example."""

    def __init__(self, loss: Callable, units: int) -> None:
        super().__init__(event_shape=(len(EIGENVALUES),), latent_dim=units, likelihood=NormalLikelihood())
        self.loss, self.nothing = loss, torch.zeros(1, units, dtype=torch.float64)

    def distortion(self, batch: Batch, z: Tensor) -> Tensor:
        alone = partial(self.loss, mu=self.nothing, logvar=self.nothing)
        return torch.vmap(lambda x, y: alone(x[None], y[None]))(batch.x, self.decoder(z))


@conventions
def test_the_price_that_a_trained_model_pays_is_the_weight_that_was_audited(loss, acting, e, words) -> None:
    """Each minimised as it stands on data of exactly these moments. To 1 %, the price of a nat, which reads no script,
    is the audited weight in the loss's own unit, and R and the living units are those of the audited e."""
    torch.manual_seed(0)
    k, d, price = 5, len(EIGENVALUES), 0.6
    w = price / e(1.0, k, d)
    x = exact_data(512)
    vae = Script(partial(loss, w=w), k).double()
    settle(vae, vae.loss, x)
    with torch.no_grad():
        mean = vae.encoder(x)
        audited = audit_loss(vae.loss, x, vae.decoder(mean), mean, vae.log_variance.expand_as(mean), declared=w)
    assert audited.e == pytest.approx(price, rel=1e-6)
    assert audited.weight == pytest.approx(acting(w, k), rel=1e-6)
    detectors = {"price": PriceOfANat(pairs=16, one_in=1, chunk=512), "rate": Rate()}
    readings, units = read(vae, probe(x), detectors)
    paid = readings["price_of_a_nat"]
    assert paid.value == pytest.approx(audited.weight, rel=0.01)
    assert audited.against(paid.value, paid.se) is None
    alive = [value for value in EIGENVALUES[:k] if value > price]
    assert readings["rate"].value == pytest.approx(sum(0.5 * math.log(value / price) for value in alive), rel=0.01)
    assert int((units["kl"] > 0.01).sum()) == len(alive)


def test_words_of_the_two_numbers_agree() -> None:
    found = Audit("D", "KL", 0.5, 0.5, 1.0, 1.0)
    assert found.warnings() == []
    assert found.against(0.49, 0.001) is None
    assert "costs 0.3" in (found.against(0.3, 0.01) or "")


def test_the_pre_flight_prints_and_keeps_it() -> None:
    found = audit(model(NormalLikelihood()), Beta(weight=Constant(value=1.0)), DATA, residual=0.05)
    plan = Survey(5, 10, 1, 1.0, audit=found)
    assert plan.lines()[1].startswith("audit: half the sum of squared errors + 1 · KL summed over 5 units")
    assert any(line.startswith("warning: a nat costs 20 times the ELBO's own price") for line in plan.lines())
    assert json.loads(json.dumps(plan.as_dict()))["audit"]["beta_effective"] == pytest.approx(20)


class Peculiar(LinearVAE):
    """A model of somebody's: its density has no mean, or scores nothing but its own support."""

    def __init__(self, decoded: Callable[[Tensor], Distribution]) -> None:
        super().__init__(event_shape=(8,), latent_dim=5, likelihood=torch.nn.Identity())
        self.decoded = decoded

    def decode(self, z: Tensor, context=None, mask=None) -> Distribution:
        return self.decoded(self.decoder(z))


class NoMean(Independent):
    @property
    def mean(self) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("decoded", "x"),
    [
        (lambda y: Independent(Bernoulli(logits=y, validate_args=True), 1), (DATA.x > 0).double()),
        (lambda y: NoMean(Normal(y, torch.ones_like(y)), 1), DATA.x),
    ],
    ids=["support", "mean"],
)
def test_a_density_that_cannot_be_probed_stops_nothing(decoded, x) -> None:
    found = audit(Peculiar(decoded).double(), Beta(weight=Constant(value=2.0)), Batch(x, index=torch.arange(len(x))))
    assert found.weight == pytest.approx(2.0) and found.e is None and found.beta_effective is None
    assert found.lines() == ["audit: the model's own distortion + 2 · KL summed over 5 units: a nat of R costs 2"]


def test_the_page_shows_what_the_auditor_prints(capsys) -> None:
    page = (Path(__file__).parents[1] / "docs" / "conventions.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(compile(code, "conventions.md", "exec"), {})
    assert capsys.readouterr().out in page
    for found, line in ((2, "KL averaged over 5 units"), (1, "KL averaged over 20 units: a nat of R costs 0.025")):
        assert page.count(line) >= found
