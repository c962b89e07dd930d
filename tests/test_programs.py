"""An audio autoencoder of anybody's by its programs: planted decoders, RAVE's shapes, our own export, refusals."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from vaecollapse import cli, config, diagnose
from vaecollapse.datasets.audio import AudioFolderData
from vaecollapse.detectors.decoder_reliance import DecoderReliance
from vaecollapse.distributions.likelihoods import SpectralLikelihood
from vaecollapse.evaluation import read
from vaecollapse.evidence.programs import clips_of, from_programs
from vaecollapse.exporting import Programs, given_for, made
from vaecollapse.refusal import Refused

RATE, TIME, CLIPS = 8000, 512, 100


@pytest.fixture(scope="module", autouse=True)
def _cached(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("clips")
    clips(home, CLIPS)
    return home


def clips(home: Path, count: int) -> None:
    """Clips of eight cosines, each of a level of its own."""
    rng = np.random.default_rng(0)
    for number in range(count):
        sf.write(home / f"{number:03}.wav", 0.1 * (rng.standard_normal(8) @ basis().numpy()), RATE, subtype="FLOAT")


def basis() -> Tensor:
    """Eight orthonormal rows over the clip, of different pitch."""
    at = (torch.arange(TIME) + 0.5) / TIME
    return torch.stack([torch.cos(torch.pi * k * at) for k in range(20, 180, 20)]) * (2 / TIME) ** 0.5


class Linear(nn.Module):
    """z = A·(levels of the cosines); x̂ = of `used` of them. Planes, as RAVE has them, where `frames` are above 0."""

    def __init__(
        self, used: int, mix: Tensor | None = None, frames: int = 0, more: int = 0, still: bool = False
    ) -> None:
        super().__init__()
        mix = torch.eye(8) if mix is None else mix
        keep = torch.zeros(8)
        keep[:used] = 1
        self.register_buffer("down", mix @ basis())
        self.register_buffer("up", basis().T @ torch.diag(keep) @ torch.linalg.inv(mix))
        self.frames, self.more, self.still = frames, more, 0.0 if still else 1.0

    def encode(self, x: Tensor) -> Tensor:
        rows = x if self.frames == 0 else x[:, 0]
        z = self.still * (rows @ self.down.T)
        return z if self.frames == 0 else z[:, :, None].expand(-1, -1, self.frames)

    def decode(self, z: Tensor) -> Tensor:
        rows = (z if self.frames == 0 else z.mean(2)) @ self.up.T
        if self.more != 0:
            rows = nn.functional.pad(rows, (0, self.more))
        return rows if self.frames == 0 else rows[:, None]


def scripted(module: nn.Module, file: Path) -> Path:
    x = torch.randn(3, 1, TIME) if getattr(module, "frames", 0) else torch.randn(3, TIME)
    z = module.encode(x)
    z = z[0] if isinstance(z, tuple) else z
    torch.jit.trace_module(module, {"encode": x, "decode": z}, check_trace=False).save(str(file))
    return file


def judged(module: nn.Module, folder: Path, tmp_path: Path, **more):
    return diagnose(encode=scripted(module, tmp_path / "both.ts"), data=folder, sample_rate=RATE, length=TIME, **more)


MIX = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0] @ torch.diag(
    2.0 ** torch.arange(8)
)


@pytest.mark.parametrize("used", [1, 3, 8])
@pytest.mark.parametrize("mix", [None, MIX], ids=["as they are", "mixed"])
@pytest.mark.parametrize("frames", [0, 4], ids=["vector", "sequence"])
def test_the_rank_is_that_of_what_the_decoder_uses_whatever_map_z_went_through(folder, tmp_path, used, mix, frames):
    verdict = judged(Linear(used, mix, frames), folder, tmp_path)
    rank = verdict.readings["information_rank"]
    assert (rank.value, rank.status) == (used, "measured")
    assert verdict.readings["gap"].status == "material"
    assert verdict.verdict == "healthy"
    assert f"{used} directions carry information" in verdict.findings[0]


def test_an_identity_loses_nothing_and_its_z_is_worth_a_whole_clip(folder, tmp_path):
    """D(own) = 0, and another's z gives another's clip: the gap is D̄ itself."""
    found = judged(Linear(8), folder, tmp_path).readings
    assert found["distortion"].value == pytest.approx(0, abs=1e-3)
    assert found["gap"].value == pytest.approx(found["distance_between_examples"].value, rel=0.1)


@pytest.mark.parametrize(
    ("module", "word"), [(Linear(0), "bypassed_latent"), (Linear(8, still=True), "posterior_collapse")]
)
def test_a_decoder_that_ignores_z_and_an_encoder_that_says_nothing(tmp_path_factory, tmp_path, module, word):
    """Of 500 clips or more an absence is said; of fewer the same zeros are inconclusive."""
    many = tmp_path_factory.mktemp("many")
    clips(many, 500)
    verdict = judged(module, many, tmp_path)
    gap = verdict.readings["gap"]
    assert (gap.value, gap.se, gap.status) == (0, 0, "absent")
    assert verdict.readings["information_rank"].value == 0
    assert verdict.verdict == word
    assert judged(module, many, tmp_path, examples=100).verdict == "inconclusive"


def test_what_a_code_without_a_posterior_cannot_say_is_said(folder, tmp_path):
    verdict = judged(Linear(8), folder, tmp_path)
    assert verdict.readings["rate"].status == "undefined"
    assert verdict.readings["mi"].value == pytest.approx(np.log(CLIPS))
    assert any("encode gives z alone: R, I(x; z) in nats" in said for said in verdict.findings)
    assert not {"gap_prior", "gap_zero", "prior_hole"} & set(verdict.readings)
    assert not any("prior" in said for said in verdict.missing)


class Noisy(nn.Module):
    """Mean and scale."""

    def __init__(self) -> None:
        super().__init__()
        self.of = Linear(8)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.of.encode(x)
        return 10 * z, 0.1 + 0 * z

    def decode(self, z: Tensor) -> Tensor:
        return self.of.decode(z / 10)


def test_mean_and_scale_are_a_posterior_and_read_as_one(folder, tmp_path):
    found = judged(Noisy(), folder, tmp_path).readings
    assert found["rate"].value > 1 and found["mi"].status != "undefined"
    assert found["information_rank"].value == found["directions_used"].value == 8
    z = torch.stack([torch.from_numpy(sf.read(path)[0]).float() for path in sorted(folder.iterdir())]) @ basis().T
    exact = 0.5 * ((10 * z).square() + 0.01 - 1 - np.log(0.01)).sum(1).mean()
    assert found["rate"].value == pytest.approx(float(exact), rel=1e-4)


class Second(Noisy):
    """Beside z what is no scale: features of another shape, a log-variance, or what is zero for some clips, of which
    none is among the first two."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.of.encode(x)
        if self.kind == "features":
            return z, 1 + z.repeat(1, 3).abs()
        if self.kind == "log-variance":
            return z, -3 + 0 * z
        return z, (z[:, :1] > -0.15).to(z) + 0 * z

    def decode(self, z: Tensor) -> Tensor:
        return self.of.decode(z)


@pytest.mark.parametrize("kind", ["features", "log-variance", "zero for some"])
def test_a_second_output_that_is_no_scale_is_left_out_and_said(folder, tmp_path, kind):
    """z is then read as a code, as it is where it comes alone."""
    verdict = judged(Second(kind), folder, tmp_path)
    assert any("a second output that is no scale" in said and "exp(log_variance / 2)" in said for said in
               verdict.findings)  # fmt: skip
    assert not any("gives z alone" in said for said in verdict.findings)
    assert verdict.readings["rate"].status == "undefined"
    assert verdict.readings["information_rank"].value == 8


class Whispering(Noisy):
    """z = 1 + 3·10⁻⁷ w·x."""

    def encode(self, x: Tensor) -> Tensor:
        return 1 + 3e-7 * self.of.encode(x) / 0.1

    def decode(self, z: Tensor) -> Tensor:
        return self.of.decode(z)


def test_a_code_that_stands_still_has_no_information_however_its_last_bits_differ(folder, tmp_path):
    found = judged(Whispering(), folder, tmp_path).readings
    assert found["dead_units"].value == found["units"].value == 8
    assert (found["mi"].value, found["mi"].status) == (0, "absent")


def test_a_few_samples_more_or_fewer_are_cut_and_that_is_said(folder, tmp_path):
    whole, more, fewer = (judged(Linear(8, frames=4, more=each), folder, tmp_path) for each in (0, 17, -17))
    for cut, said in ((more, "17 samples more"), (fewer, "17 samples fewer")):
        assert f"decode gives {said} than a clip has: compared over the shorter" in cut.findings
        assert cut.readings["gap"].value == pytest.approx(whole.readings["gap"].value, rel=0.2)


# ---- our own export


def test_an_export_of_ours_has_the_value_of_z_that_the_run_reads(folder, tmp_path):
    """With the same noise, the same distance and the same clips: flows on either side, and none."""
    batch = clips_of(str(folder), {}, rate=RATE, length=TIME, examples=512).batch
    for flows in (True, False):
        cfg = config.compose([f"model={'audio_nf' if flows else 'audio'}", "capacity=1", "latent_dim=3"])
        torch.manual_seed(0)
        vae = instantiate(cfg.model, _partial_=True, _convert_="all")(event_shape=(TIME,), sample_rate=RATE)
        vae.calibrate(batch)
        for parameter in vae.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        vae.eval()
        programs = Programs(vae, padded=True)
        with torch.no_grad():
            content = made(programs, given_for(programs, batch, 0), "torchscript")["model.ts"]
        file = tmp_path / f"{flows}.ts"
        file.write_bytes(content)
        own = read(vae, [batch], {"reliance": DecoderReliance()}, seed=0)[0]["gap"]
        found = from_programs(file, data=folder, sample_rate=RATE, length=TIME).held_out
        assert found["gap"].value == pytest.approx(own.value, rel=1e-3, abs=1e-5)
        assert ("rate" in found) == (not flows), "R of a flow is no Gaussian's"
        assert found["information_rank"].value is not None


def test_the_level_is_the_whole_recordings_as_in_training(tmp_path):
    """Half of it loud, half silent: of the loud half alone the level is another."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        whole = np.concatenate([0.2 * rng.standard_normal(TIME).clip(-2, 2), np.full(3 * TIME, 1e-3)])
        sf.write(tmp_path / f"{name}.wav", whole, RATE, subtype="FLOAT")
    told = {"sample_rate": RATE, "length": TIME, "normalise": "rms"}
    data = AudioFolderData(root=tmp_path, sample_rate=RATE, seconds=TIME / RATE, multiple_of=1, normalise="rms",
                           val_fraction=0.25, test_fraction=0.0, pack_gib=0.0)  # fmt: skip
    own = torch.stack([part[i].x for part in (data.splits.train, data.splits.validation) for i in range(len(part))])
    found = clips_of(str(tmp_path), told, rate=None, length=None, examples=4).batch.x
    torch.testing.assert_close(found[found[:, 0].argsort()], own[own[:, 0].argsort()])


# ---- the third function


def test_the_distance_is_the_users_own_where_one_is_given(folder, tmp_path):
    def squared(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().sum(1)

    found = judged(Linear(3), folder, tmp_path, distance=squared).readings
    x = torch.stack([torch.from_numpy(sf.read(path)[0]).float() for path in sorted(folder.iterdir())])
    lost = ((x @ basis().T)[:, 3:]).square().sum(1).mean()
    assert found["distortion"].value == pytest.approx(float(lost), rel=1e-3)
    assert found["information_rank"].value == 3


# ---- the command


def command(monkeypatch, home: Path, *typed: str) -> int:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", [cli.DIAGNOSE, *typed])
    try:
        return cli.diagnose()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


class Half(nn.Module):
    """Encode, or decode, as the forward of a file of its own."""

    def __init__(self, of: Linear, name: str) -> None:
        super().__init__()
        self.of, self.name = of, name

    def forward(self, given: Tensor) -> Tensor:
        return self.of.encode(given) if self.name == "encode" else self.of.decode(given)


def test_two_files_are_a_pair_and_pt2_will_do(folder, tmp_path, monkeypatch, capsys):
    of, x = Linear(3), torch.randn(3, TIME)
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.export.save(torch.export.export(Half(of, "encode"), (x,), dynamic_shapes=(batch,)), tmp_path / "enc.pt2")
    torch.jit.trace(Half(of, "decode"), of.encode(x)).save(str(tmp_path / "dec.ts"))
    typed = ("encode=enc.pt2", "decode=dec.ts", f"data={folder}", f"sample_rate={RATE}", f"length={TIME}")
    assert command(monkeypatch, tmp_path, *typed, "format=json") == 0
    assert json.loads(capsys.readouterr().out)["readings"]["information_rank"]["value"] == 3
    (directory,) = (tmp_path / "outputs/diagnose").iterdir()
    told = json.loads((directory / "provenance.json").read_text())
    assert told["input"] == "encode" and told["file"] == str(tmp_path / "enc.pt2") and "sha256" in told


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["encode=both.ts"], "encode needs recordings to be read on: give data="),
        (["encode=none.ts", "data=clips"], "encode=none.ts is no file: give a TorchScript file"),
        (["encode=bad.ts", "data=clips", "sample_rate=8000"], "encode=bad.ts is neither a .pt2 of torch.export nor"),
        (["encode=both.ts", "data=clips"], "sample_rate is missing: declare the Hz"),
        (["encode=both.ts", "data=empty", "sample_rate=8000"], "data="),
        (["encode=half.ts", "data=clips", "sample_rate=8000"], "has no method decode: give the file that has it"),
        (["encode=both.ts", "data=clips", "sample_rate=8000", "length=400"], "encode does not take"),
        (
            ["encode=long.ts", "data=clips", "sample_rate=8000", "length=512"],
            "decode gives 712 samples for clips of 512",
        ),
        (["encode=both.ts", "data=clips", "distance=mine"], "distance=mine names no function"),
        (["arrays=bad.ts", "decode=both.ts"], "decode belongs to encode=…, but arrays is given"),
        (["encode=both.ts", "data=clips", "sample_rate=0"], "sample_rate must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(folder, tmp_path, monkeypatch, capfd, typed, said):
    scripted(Linear(8), tmp_path / "both.ts")
    scripted(Linear(8, more=200), tmp_path / "long.ts")
    torch.jit.trace(Half(Linear(8), "encode"), torch.randn(3, TIME)).save(str(tmp_path / "half.ts"))
    (tmp_path / "bad.ts").write_text("no program")
    (tmp_path / "clips").symlink_to(folder)
    (tmp_path / "empty").mkdir()
    assert command(monkeypatch, tmp_path, *typed) == 1
    out, err = capfd.readouterr()
    assert out == "" and said in err
    assert len(err.splitlines()) == 1 and err.startswith("vaecollapse-diagnose: ")
    assert not list(tmp_path.glob("outputs/diagnose/*"))


def test_the_distance_that_is_the_default_is_the_models_own_default():
    assert list(config.compose(["model=audio"]).likelihood.scales) == list(SpectralLikelihood().scales)


def test_without_any_pair_of_clips_nothing_is_read(tmp_path):
    sf.write(tmp_path / "one.wav", 0.1 * np.sin(np.arange(TIME)), RATE)
    with pytest.raises(Refused, match="has one recording"):
        clips_of(str(tmp_path), {}, rate=RATE, length=TIME, examples=512)
