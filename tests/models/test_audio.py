"""Laws of the audio VAE: every parameter is trained, no example sees another, padding is silent, options act."""

import math
from functools import partial

import pytest
import torch

from vaecollapse.batch import Batch
from vaecollapse.distributions.likelihoods import LaplaceLikelihood, NormalLikelihood, SpectralLikelihood
from vaecollapse.distributions.posteriors import FlowPosterior, NormalPosterior
from vaecollapse.distributions.priors import FlowPrior, NormalPrior
from vaecollapse.models.audio import AudioVAE
from vaecollapse.nn.audio import INJECTIONS, POOLS, TimePool, plan
from vaecollapse.refusal import Refused

TIME = 2048
HEADS = {
    "normal": (NormalPosterior, NormalPrior),
    "flows": (partial(FlowPosterior, hidden=(16,), transforms=2), partial(FlowPrior, hidden=(16,), transforms=2)),
    "iaf": (partial(FlowPosterior, kind="iaf", hidden=(16,)), partial(FlowPrior, kind="realnvp", hidden=(16,))),
}
LIKELIHOODS = {
    "spectral": SpectralLikelihood,
    "all terms": partial(SpectralLikelihood, log_mel=1.0, waveform=0.5, waveform_norm="l2", loudness=2.0),
    "normal": partial(NormalLikelihood, scale_mode="learned"),
    "laplace": partial(LaplaceLikelihood, scale_mode="optimal"),
}
BASE = {"event_shape": (TIME,), "sample_rate": 8000, "latent_dim": 6, "capacity": 4}


def audio_vae(*, heads: str = "normal", likelihood: str = "spectral", seed: int = 0, **options) -> AudioVAE:
    torch.manual_seed(seed)
    posterior, prior = HEADS[heads]
    parts = {"posterior": posterior, "prior": prior, "likelihood": LIKELIHOODS[likelihood]()}
    return AudioVAE(**BASE | parts | options)


def clips(count: int = 6, time: int = TIME) -> Batch:
    """Noisy tones of different pitch, level and length."""
    generator = torch.Generator().manual_seed(0)
    length = torch.linspace(time // 3, time, count)[:, None]
    mask = torch.arange(time) < length
    pitch = torch.linspace(0.05, 1.5, count)[:, None]
    level = torch.logspace(-1.5, -0.2, count)[torch.randperm(count, generator=generator)][:, None]
    tone = torch.sin(pitch * torch.arange(time)) + 0.1 * torch.randn(count, time, generator=generator)
    return Batch(level * tone * mask, None, mask, torch.arange(count))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("z_inject", INJECTIONS)
@pytest.mark.parametrize("pool", POOLS)
def test_gradients_reach_every_parameter(pool, z_inject, heads, likelihood):
    vae, batch = audio_vae(pool=pool, z_inject=z_inject, heads=heads, likelihood=likelihood), clips()
    vae.calibrate(batch)
    elbo = vae.elbo(batch)
    (elbo.distortion + elbo.rate).mean().backward()
    without = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    assert all(p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("heads", ["normal", "flows"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("pool", POOLS)
def test_no_example_sees_another(pool, likelihood, heads):
    """Permuting the batch permutes D, R and z; an example alone reads as it does in company (in evaluation: an optimal
    scale is the batch's own)."""
    vae, batch = audio_vae(pool=pool, likelihood=likelihood, heads=heads).eval(), clips()
    vae.calibrate(batch)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        straight = vae.elbo(batch, seed=1)
        permuted = vae.elbo(Batch(batch.x[order], None, batch.mask[order], batch.index[order]), seed=1)
        alone = vae.elbo(Batch(batch.x[2:3], None, batch.mask[2:3], batch.index[2:3]), seed=1)
    for name in ("distortion", "kl", "z"):
        torch.testing.assert_close(getattr(permuted, name), getattr(straight, name)[order], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(getattr(alone, name), getattr(straight, name)[2:3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("pool", POOLS)
def test_what_lies_under_the_padding_changes_nothing(pool, likelihood):
    vae, batch = audio_vae(pool=pool, likelihood=likelihood), clips()
    vae.calibrate(batch)
    dirty = batch._replace(x=batch.x + torch.randn_like(batch.x) * ~batch.mask)
    with torch.no_grad():
        clean, other = vae.elbo(batch, seed=1), vae.elbo(dirty, seed=1)
    torch.testing.assert_close(clean.z, other.z)
    torch.testing.assert_close(clean.distortion, other.distortion)
    level, floors = vae.level.clone(), vae.state_dict()
    vae.calibrate(dirty)
    torch.testing.assert_close(vae.level, level)
    torch.testing.assert_close(vae.state_dict(), floors)


def test_attention_starts_as_the_mean_and_weighs_frames_by_its_query():
    torch.manual_seed(0)
    x, mask = torch.randn(3, 8, 20), torch.arange(20) < torch.tensor([[20], [7], [0]])
    pool, mean = (TimePool(pool=name, channels=8, length=20) for name in ("attention", "mean"))
    torch.testing.assert_close(pool(x, mask), mean(x, mask))
    with torch.no_grad():
        pool.query.copy_(1e3 * x[1, :, 4])
    torch.testing.assert_close(pool(x, mask)[1], x[1, :, :7][:, (x[1, :, 4] @ x[1, :, :7]).argmax()])
    assert (pool(x, mask)[2] == 0).all(), "a clip that is all padding"
    dirty = torch.where(mask[:, None], x, torch.full_like(x, 1e6))
    torch.testing.assert_close(pool(dirty, mask), pool(x, mask))


@pytest.mark.parametrize("pool", ["mean", "meanstd", "attention"])
def test_a_mean_over_time_ignores_silence_far_from_the_data(pool):
    """Appending padding moves a masked mean only through the frames at the border; `flatten` sees position."""
    vae, batch = audio_vae(pool=pool), clips()
    if pool == "attention":
        torch.nn.init.normal_(vae.encoder.pool.query)
    short = batch.x[:1, : TIME // 2], batch.mask[:1, : TIME // 2]
    with torch.no_grad():
        long = vae.encode(batch.x[:1], None, batch.mask[:1]).mean
        cut = vae.encode(short[0], None, short[1]).mean
        unmasked = vae.encode(batch.x[:1]).mean
    assert (long - cut).norm() < 0.5 * (unmasked - cut).norm()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_level_of_the_data_set_changes_neither_z_nor_distortion(likelihood):
    """Level and floors come from the data, so a quieter copy of the data is the same problem."""
    batch, quiet = clips(), clips()
    quiet = quiet._replace(x=quiet.x * 1e-2)
    readings = []
    for data in (batch, quiet):
        vae = audio_vae(likelihood=likelihood)
        vae.calibrate(data)
        with torch.no_grad():
            elbo = vae.elbo(data, seed=1)
        readings.append(elbo)
    torch.testing.assert_close(readings[0].z, readings[1].z, rtol=1e-3, atol=1e-4)
    if not vae.normalised:
        torch.testing.assert_close(readings[0].distortion, readings[1].distortion, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_likelihood_says_whether_it_is_a_density(likelihood):
    vae, batch = audio_vae(likelihood=likelihood), clips()
    vae.calibrate(batch)
    between = vae.between(batch, torch.zeros(6, 6), torch.arange(6).roll(1))
    assert vae.normalised == vae.decode(torch.zeros(6, 6)).normalised == (likelihood in ("normal", "laplace"))
    assert (between is None) == vae.normalised
    assert vae.decode(torch.zeros(6, 6), None, batch.mask).mean.shape == batch.x.shape
    if vae.normalised:  # the decoder's own waveform is where the density of its features peaks
        waveform = vae.decode(torch.zeros(6, 6)).mean.detach()
        distribution = vae.decode(torch.zeros(6, 6))
        assert (distribution.log_prob(waveform) > distribution.log_prob(batch.x)).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("capacity", 6),
        ("latent_dim", 5),
        ("max_channels", 8),
        ("pool", "mean"),
        ("pool", "meanstd"),
        ("pool", "attention"),
        ("pool", "strided"),
        ("z_inject", "first"),
        ("dilations", (1, 9)),
        ("residual_units", 1),
        ("event_shape", (TIME + 513,)),
        ("posterior", HEADS["flows"][0]),
        ("prior", HEADS["flows"][1]),
        ("likelihood", "laplace"),
        ("likelihood", "all terms"),
    ],
)
def test_every_option_changes_something(option, value):
    batch = clips()
    batch = Batch(torch.nn.functional.pad(batch.x, (0, 513)), None, torch.nn.functional.pad(batch.mask, (0, 513)))
    readings = []
    for options in ({}, {option: value}):
        vae = audio_vae(seed=0, **options)
        length = dict(BASE | options)["event_shape"][0]
        torch.manual_seed(1)
        elbo = vae.elbo(Batch(batch.x[:, :length], None, batch.mask[:, :length]))
        readings.append((elbo.distortion, elbo.rate))
    assert not torch.allclose(torch.cat(readings[0]), torch.cat(readings[1]), rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["normal", "all terms"])
@pytest.mark.parametrize("options", [{"mels": 20}, {"sample_rate": 16000}])
def test_the_features_follow_mels_and_sample_rate(options, likelihood):
    batch = clips()
    one, other = (audio_vae(likelihood=likelihood, **o).eval().elbo(batch, seed=1).distortion for o in ({}, options))
    assert not torch.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("time", [256, 1000, 2048, 5001])
@pytest.mark.parametrize("pool", POOLS)
def test_any_length_comes_back(time, pool):
    vae = audio_vae(event_shape=(time,), pool=pool)
    batch = clips(2, time)
    assert vae.elbo(batch).distortion.isfinite().all()
    assert vae.decode(torch.zeros(2, 6)).mean.shape == (2, time)


@pytest.mark.parametrize("length", [256, 1000, 8192, 16384, 48000, 131072])
def test_the_plan_stops_between_16_and_64_frames_and_drops_wide_dilations(length):
    layout = plan(length=length, capacity=8, max_channels=64, dilations=(1, 3, 9, 200))
    assert 16 <= layout.length <= 64
    assert all(2 * d < stage.length for stage in layout.stages for d in stage.dilations)
    assert [stage.channels for stage in layout.stages] == [min(8 * 2**i, 64) for i in range(len(layout.stages))]
    assert plan(length=length, capacity=8, max_channels=64, dilations=(1,), to_one=True).length == 1


def test_uncapped_doubling_quadruples_every_stage_and_the_cap_stops_it():
    """`one layer less, ten times fewer`: without a cap the last stages hold nearly all parameters."""

    def table(**options) -> dict[str, int]:
        vae = audio_vae(event_shape=(65536,), pool="strided", capacity=2, **options)
        rows = vae.parameter_table()
        assert sum(row.parameters for row in rows) == sum(p.numel() for p in vae.parameters())
        return {row.name: row.parameters for row in rows}

    free, capped = table(max_channels=512), table(max_channels=16)
    ratios = [free[f"encoder stage {i + 1}"] / free[f"encoder stage {i}"] for i in range(2, 6)]
    assert all(3.5 < ratio < 4.5 for ratio in ratios)
    assert sum(free.values()) > 20 * sum(capped.values())
    assert capped["encoder stage 5"] == capped["encoder stage 4"]


@pytest.mark.parametrize("pool", ["flatten", "strided"])
@pytest.mark.parametrize("length", [256, 640, 1000, 8192])
def test_dead_taps_are_those_without_gradient(length, pool):
    """Counted by arithmetic, seen as taps whose gradient is exactly zero on dense input."""
    vae = audio_vae(event_shape=(length,), pool=pool, dilations=(1, 3, 9))
    stages = [*vae.encoder.stages, *vae.decoder.stages]
    seen: dict[torch.nn.Module, int] = {}
    for stage in stages:
        stage.register_forward_pre_hook(lambda module, given: seen.update({module: given[0].shape[-1]}))
    x = torch.randn(4, length)
    vae.decoder(vae.encode(x).rsample()).square().sum().backward()
    for stage in stages:
        convolutions = [stage.conv, *(unit.wide for unit in stage.residual)]
        silent = sum(int((conv.weight.grad.abs().sum((0, 1)) == 0).sum()) for conv in convolutions)
        assert stage.dead_taps(seen[stage]) == silent


def test_upsampling_leaves_no_checkerboard():
    """A constant input through a constant kernel is constant: every output sample has the same number of inputs."""
    vae = audio_vae()
    for stage in vae.decoder.stages:
        torch.nn.init.ones_(stage.conv.weight)
        h = stage.conv(torch.ones(1, stage.conv.in_channels, 32))[0, 0]
        inside = h[2 * stage.stride : -2 * stage.stride]
        assert (inside - inside[0]).abs().max() < 1e-4


@pytest.mark.parametrize("z_inject", INJECTIONS)
def test_z_acts_in_every_stage_or_in_the_first_alone(z_inject):
    vae, z = audio_vae(z_inject=z_inject), torch.randn(2, 6)
    assert len(vae.decoder.stages) > 1
    for i, stage in enumerate(vae.decoder.stages):
        h = torch.randn(1, stage.conv.in_channels, 32).expand(2, -1, -1)
        one, other = stage(h, z)
        acts = (one - other).abs().max() > 1e-3
        assert acts == (z_inject == "all" or i == 0)


def test_state_survives_a_checkpoint():
    vae, batch = audio_vae(heads="flows"), clips()
    vae.calibrate(batch)
    other = audio_vae(heads="flows", seed=5)
    other.load_state_dict(vae.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(vae.elbo(batch, seed=1).distortion, other.elbo(batch, seed=1).distortion)
    assert not math.isclose(vae.level.item(), 0.1)


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"event_shape": (255,)}, "at least 256 samples"),
        ({"event_shape": (2, 8192)}, "mono"),
        ({"pool": "max"}, "flatten, mean, meanstd, attention, strided"),
        ({"z_inject": "last"}, "z_inject=all"),
        ({"capacity": 300}, "max_channels"),
        ({"latent_dim": 0}, "latent_dim=16"),
        ({"mels": 40}, "does nothing"),
        ({"mels": 65, "likelihood": NormalLikelihood()}, "64 mels"),
    ],
)
def test_impossible_plans_are_refused(options, say):
    posterior, prior = HEADS["normal"]
    parts = {"posterior": posterior, "prior": prior, "likelihood": SpectralLikelihood()}
    with pytest.raises(Refused, match=say):
        AudioVAE(**BASE | parts | options)
