"""Traversals, interpolations and prior samples, where the answer is known."""

import numpy as np
import pytest
import soundfile as sf
import torch
from planted import EIGENVALUES, gaussian_data, optimum, probe

from vaecollapse.distributions.priors import FlowPrior
from vaecollapse.pictures import grid, spectrogram, write_png
from vaecollapse.sampling import aggregate, decode, interpolation, prior_samples, reconstructions, traversals


@pytest.fixture
def vae():
    return optimum(4, e=0.5)


def test_directions_come_by_information_and_are_as_long_as_the_codes_spread(vae) -> None:
    """Of the linear optimum: the axes in the eigenvalues' order, E[z_i|x] with standard deviation √(1 − e/λ_i)."""
    found = aggregate(vae, probe(gaussian_data(20_000), block=20_000)[0])
    expected = [(1 - 0.5 / value) ** 0.5 for value in EIGENVALUES[:4]]
    torch.testing.assert_close(found.directions.diagonal().abs(), torch.tensor(expected).double(), atol=0.02, rtol=0)
    assert float((found.directions - torch.diag(found.directions.diagonal())).detach().abs().max()) < 0.1


def test_a_traversal_passes_through_the_mean_and_moves_one_direction_of_the_data(vae) -> None:
    found = aggregate(vae, probe(gaussian_data(2000), block=2000)[0])
    walks = traversals(vae, found, directions=3, steps=5)
    assert walks.shape == (3, 5, 8)
    for walk in walks:
        torch.testing.assert_close(walk[2], decode(vae, found.mean[None])[0])
        torch.testing.assert_close(walk[4] - walk[2], walk[2] - walk[0])


@pytest.mark.parametrize("flow", [False, True])
def test_an_interpolation_starts_and_ends_at_its_codes(vae, flow: bool) -> None:
    torch.manual_seed(0)
    first, last = torch.randn(2, 4).double()
    straight = interpolation(vae, first, last)
    if flow:
        vae.prior_head = FlowPrior(units=4, kind="maf").double()
        with torch.no_grad():
            for parameter in vae.prior_head.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    points = interpolation(vae, first, last)
    torch.testing.assert_close(points[0], decode(vae, first[None])[0])
    torch.testing.assert_close(points[-1], decode(vae, last[None])[0])
    assert torch.allclose(points[2], straight[2]) != flow


def test_a_prior_sample_does_not_depend_on_how_many_are_drawn(vae) -> None:
    assert torch.equal(prior_samples(vae, 2, (4,), seed=3), prior_samples(vae, 6, (4,), seed=3)[:2])
    assert not torch.equal(prior_samples(vae, 2, (4,), seed=3), prior_samples(vae, 2, (4,), seed=4))
    spread = prior_samples(vae, 4000, (4,)).var(0)
    expected = torch.tensor([max(0.0, value - 0.5) for value in EIGENVALUES[:4]]).double()
    torch.testing.assert_close(spread[:4], expected, rtol=0.1, atol=0.02)


def test_another_clips_code_gives_another_clips_sound(vae) -> None:
    made = reconstructions(vae, probe(gaussian_data(200), block=200)[0])
    own, other = ((made["real"] - made[name]).square().sum(1).mean() for name in ("reconstruction", "other_z"))
    assert float(other) > 3 * float(own)
    torch.testing.assert_close(made["other_z"], made["reconstruction"].roll(1, 0))


def test_a_sine_is_one_bright_line_at_its_frequency(tmp_path) -> None:
    picture = spectrogram(np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000))
    brightness = picture.astype(int).sum(2)[:, 20:-20].mean(1)
    assert abs((len(brightness) - 1 - int(brightness.argmax())) * 8000 / 256 - 1000) < 32
    write_png(tmp_path / "sheet.png", grid([[picture, picture], [picture]]))
    from PIL import Image

    assert Image.open(tmp_path / "sheet.png").size == (2 * picture.shape[1] + 4, 2 * picture.shape[0] + 4)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_a_run_on_audio_leaves_every_kind_of_sample(tmp_path) -> None:
    from vaecollapse import config
    from vaecollapse.tasks import train

    overrides = ["dataset.clips=260", "max_epochs=1", "model.capacity=4", "callback.samples.examples=64",
                 "callback.collapse_monitor.final_examples=64", "trainer.accelerator=cpu",
                 f"logger.csv.directory={tmp_path}"]  # fmt: skip
    train(config.compose(overrides), tmp_path, overrides)
    folder = tmp_path / "samples" / "epoch_000"
    kinds = {path.stem.rpartition("_")[0] for path in folder.glob("*.wav")}
    assert kinds == {"real", "reconstruction", "other_z", "prior", "mean_z", "interpolation",
                     "traversal_1", "traversal_2", "traversal_3"}  # fmt: skip
    for path in folder.glob("*.wav"):
        waveform, rate = sf.read(path)
        assert rate == 8000 and len(waveform) == 4096 and np.isfinite(waveform).all()
    assert (folder / "spectrograms.png").stat().st_size > 1000
