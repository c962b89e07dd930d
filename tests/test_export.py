"""`vaecollapse-export`: the run's own numbers in a process that has never heard of this package, and refusals."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from planted import EIGENVALUES, gaussian_data, optimum
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vaecollapse import cli, config, exporting, tasks
from vaecollapse.batch import Batch, collate
from vaecollapse.distributions.autoregressive import Autoregressive
from vaecollapse.distributions.flows import FlowDistribution
from vaecollapse.elbo import draw, gaussian, noise
from vaecollapse.refusal import Refused
from vaecollapse.tasks.exporting import silence_told
from vaecollapse.tasks.measuring import opened
from vaecollapse.vae import VAE

ROOT = Path(__file__).parents[1]
TINY = ["model=audio_nf", "capacity=1", "latent_dim=3", "dataset.clips=60", "dataset.seconds=0.1"]
RUNS = {
    "linear": ["model=linear", "dataset.examples=200"],
    "image": ["model=image", "posterior=batch_norm", "capacity=2"],
    "sound": TINY,
    "pooled": [*TINY, "pool=mean", "posterior=iaf", "prior=realnvp"],
    "mixture": [*TINY, "posterior=normal", "prior=autoregressive"],
}
MADE = [("linear", "torchscript"), ("image", "export"), ("sound", "torchscript"), ("pooled", "torchscript"),
        ("mixture", "torchscript"), ("second", "torchscript")]  # fmt: skip
STRANGER = """
import json, sys
import numpy as np
class Deaf:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vaecollapse", "zuko", "lightning", "hydra"):
            raise ImportError(name)
sys.meta_path.insert(0, Deaf())
import torch
for folder in sys.argv[1:]:
    told = json.load(open(f"{folder}/export.json"))
    if told["format"] == "torchscript":
        model = torch.jit.load(f"{folder}/model.ts")
        functions = {name: getattr(model, name) for name in told["functions"]}
    else:
        functions = {n: torch.export.load(f"{folder}/{f['file']}").module() for n, f in told["functions"].items()}
    given = {name: torch.from_numpy(each) for name, each in np.load(f"{folder}/given.npz").items()}
    found = {}
    for name, parts in told["functions"].items():
        out = functions[name](*(given[part] for part in parts["inputs"]))
        for label, each in zip(parts["outputs"], out if len(parts["outputs"]) > 1 else [out]):
            found[f"{name}_{label}"] = each.numpy()
    np.savez(f"{folder}/found.npz", **found)
assert not {"vaecollapse", "zuko"} & {name.partition(".")[0] for name in sys.modules}
"""


def composed(*typed: str) -> DictConfig:
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), job_name="export", version_base="1.3"):
        cfg = hydra.compose("export", list(typed))
    config.check_evaluation(cfg, config.ExportSchema)
    return cfg


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """One epoch of each, with a seed that is not the default's."""
    home = tmp_path_factory.mktemp("runs")
    for name, line in RUNS.items():
        typed = [*line, "max_epochs=1", "seed=3", "callback=[]", f"logger.csv.directory={home / name}",
                 "trainer.accelerator=cpu"]  # fmt: skip
        tasks.train(config.compose(typed), home / name, typed)
    stage = ["model=latent_prior", f"dataset.run={home / 'linear'}", "prior=maf", "max_epochs=1", "report=false",
             f"logger.csv.directory={home / 'second'}", "trainer.accelerator=cpu"]  # fmt: skip
    tasks.train(config.compose(stage), home / "second", stage)
    return {name: home / name for name in (*RUNS, "second")}


class Told(NamedTuple):
    """An export, the run's own module and batch, and what the programs gave elsewhere."""

    folder: Path
    vae: VAE
    batch: Batch
    eps: Tensor
    found: dict[str, np.ndarray]

    @property
    def content(self) -> dict[str, Any]:
        return json.loads((self.folder / "export.json").read_text())


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory) -> dict[tuple[str, str], Told]:
    home, made = tmp_path_factory.mktemp("exports"), {}
    for name, form in MADE:
        typed = [f"run={runs[name]}", f"format={form}"]
        folder = tasks.export(composed(*typed), home / f"{name}_{form}", typed).directory
        run_ = opened(composed(*typed))
        batch = collate([run_.split("test")[i] for i in range(5)]).like(run_.module)
        vae = run_.module.vae.eval()
        eps = noise(torch.arange(5), tuple(vae.prior().event_shape), seed=9)[0].to(batch.x)
        with torch.no_grad():
            z = draw(vae.encode(batch.x, None, batch.mask), eps)
        np.savez(folder / "given.npz", x=batch.x, noise=eps, z=z)
        made[name, form] = Told(folder, vae, batch, eps, {})
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    folders = [str(told.folder) for told in made.values()]
    done = subprocess.run([sys.executable, "-c", STRANGER, *folders], cwd=home, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {key: told._replace(found=dict(np.load(told.folder / "found.npz"))) for key, told in made.items()}


def same(found: np.ndarray, own: Tensor) -> None:
    assert found.shape == tuple(own.shape)
    np.testing.assert_allclose(found, own.numpy(), rtol=1e-5, atol=1e-5 * float(own.abs().max()))


@pytest.mark.parametrize("key", MADE, ids="_".join)
def test_in_a_process_without_this_package_the_numbers_are_the_runs_own(exports, key) -> None:
    """Five examples, where a program was traced on three."""
    _, vae, batch, eps, found = told = exports[key]
    with torch.no_grad():
        posterior, prior = vae.encode(batch.x, None, batch.mask), vae.prior()
        z = draw(posterior, eps)
        same(found["draw_z"], z)
        same(found["encode_mean"], draw(posterior, torch.zeros_like(eps)))
        if (own := gaussian(posterior)) is not None:
            same(found["encode_scale"], own[1])
        same(found["decode_x"], vae.decode(z).mean)
        same(found["sample_x"], vae.decode(draw(prior, eps)).mean)
    assert told.content["largest_difference"] <= exporting.CLOSE


def test_what_is_said_of_a_run_of_sounds(exports, runs) -> None:
    told = exports["sound", "torchscript"]
    said, run = told.content, runs["sound"]
    assert (said["sample_rate"], said["length"], said["trim"]) == (8000, 1024, None)
    assert said["padding_differs"] == {"clips": 0.0, "largest": 0.0}
    assert said["shapes"] == {"x": ["batch", 1024], "z": ["batch", 3], "noise": ["batch", 3]}
    assert (said["posterior"], said["prior"], said["seed"], said["latent_dim"]) == ("flow", "flow", 3, 3)
    assert sorted(said["order"]) == [0, 1, 2]
    assert np.all(np.diff(np.array(said["nats_by_unit"])[said["order"]]) <= 0)
    assert said["versions"]["torch"] == torch.__version__
    assert {"verdict", "confidence", "deciding", "final"} <= set(said["verdict"])
    assert said["run"] == str(run) and said["checkpoint"] == "best.ckpt"
    names = {path.name for path in told.folder.iterdir()} - {"given.npz", "found.npz"}
    assert names == {"config.yaml", "overrides.txt", "provenance.json", "export.json", "model.ts"}


def test_zeros_at_a_clips_end_are_its_padding(exports) -> None:
    """With a mean over frames silence would count, were it not seen as padding."""
    told = exports["pooled", "torchscript"]
    assert told.content["padding"] == "the zeros at a clip's end"
    masks = torch.stack([exporting.sounding(told.batch.x)[i] for i in range(5)])
    assert torch.equal(masks, told.batch.mask)
    assert not bool(told.batch.mask.all())


class Averaging(VAE):
    """z is the mean over what the mask says is data."""

    def encode(self, x, context=None, mask=None):
        mean = ((x * mask).sum(1) / mask.sum(1))[:, None]
        return Independent(Normal(mean, torch.full_like(mean, 0.5)), 1)

    def prior(self, context=None):
        return Independent(Normal(torch.zeros(1), torch.ones(1)), 1)

    def decode(self, z, context=None, mask=None):
        return Independent(Normal(z.expand(-1, 8), 1.0), 1)


@pytest.mark.parametrize("trailing", [0, 2, 4])
def test_silence_at_the_end_of_a_recording_is_told(trailing, caplog) -> None:
    """Ones, of one clip in four followed by zeros that are its own: there the mean is 6/(6 + zeros), the programs' 1.
    The largest number of the first batch is its own mean and σ."""
    x, mask = torch.zeros(4, 12), torch.zeros(4, 12, dtype=torch.bool)
    x[:, :6], mask[:, :6], mask[0, : 6 + trailing] = 1, True, True
    programs = exporting.Programs(Averaging(), padded=True)
    told = silence_told(programs, [Batch(x[:1], None, mask[:1]), Batch(x, None, mask)])
    own = 6 / (6 + trailing)
    assert told["clips"] == (2 / 5 if trailing else 0)
    assert told["largest"] == pytest.approx((1 - own) / (own + 0.5), abs=1e-6)
    assert ("40 % of these clips end in zeros that are no padding to the run" in caplog.text) == bool(trailing)


# ---- what mean, scale and order are


class Affine(VAE):
    """x = z + noise; z | x is the image of a diagonal Gaussian under a fixed matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64))

    def encode(self, x, context=None, mask=None):
        return FlowDistribution(Independent(Normal(x, torch.full_like(x, 0.3)), 1), Through(self.matrix), inverted=True)

    def prior(self, context=None):
        return Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)

    def decode(self, z, context=None, mask=None):
        return Independent(Normal(z, 1.0), 1)


class Through:
    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __call__(self, u: Tensor) -> Tensor:
        return u @ self.matrix.T


def test_the_scale_of_an_affine_flow_is_exact() -> None:
    vae, x = Affine(), gaussian_data(7, (1.0, 1.0))
    mean, scale = exporting.centre_and_scale(vae.encode(x))
    torch.testing.assert_close(mean, x @ vae.matrix.T)
    covariance = 0.09 * vae.matrix @ vae.matrix.T
    torch.testing.assert_close(scale, covariance.diagonal().sqrt().expand(7, 2))


def test_units_are_ordered_by_what_the_closed_form_says_of_them() -> None:
    """I(x; z_i) = ½ ln(λ_i/e) of the linear optimum, 0 of its dead units."""
    x = gaussian_data(20_000)
    found = exporting.nats_by_unit(optimum(5, e=1.0), [Batch(x[:10_000]), Batch(x[10_000:])])
    expected = 0.5 * torch.tensor(EIGENVALUES[:5]).double().clamp(min=1.0).log()
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


# ---- refusals


class Tokens(Distribution):
    """Without a mean, as words are."""


class Speaking(Affine):
    def decode(self, z, context=None, mask=None):
        return Tokens(z.shape[:1], z.shape[1:], validate_args=False)


class Counting(Affine):
    def decode(self, z, context=None, mask=None):
        return Autoregressive(lambda x: Normal(x, 1.0), lambda levels: levels, z.shape)


X = gaussian_data(6, (1.0, 1.0))


@pytest.mark.parametrize(
    ("vae", "batch", "said"),
    [
        (Counting(), Batch(X), "makes each element of x from those before it"),
        (Speaking(), Batch(X), "tokens, drawn one after the other"),
        (Affine(), Batch(X, context=X), "conditional"),
        (Affine(), Batch(X, mask=X > 0), "masks that cannot be seen in x itself"),
    ],
)
def test_what_is_no_function_of_x_and_z_is_refused(vae, batch, said) -> None:
    with torch.no_grad(), pytest.raises(Refused, match=said):
        exporting.given_for(exporting.Programs(vae), batch, 0)


class Unscaled(Affine):
    """The scale of one unit is no number, after a mean that is."""

    def encode(self, x, context=None, mask=None):
        return Independent(Normal(x, x.new_tensor([1.0, torch.nan]).expand_as(x), validate_args=False), 1)


class Looking(Affine):
    """A decoder that takes another way where z is large: of that a trace keeps only one."""

    def decode(self, z, context=None, mask=None):
        return Independent(Normal(z if bool(z[0, 0] < 1e9) and len(z) == exporting.TRACED else 2 * z, 1.0), 1)


def test_a_program_that_is_another_function_is_refused() -> None:
    programs = exporting.Programs(Looking())
    with torch.no_grad():
        given = exporting.given_for(programs, Batch(X), 0)
        files = exporting.made(programs, given, "torchscript")
        with pytest.raises(Refused, match=r"the program of (decode|sample) is off by .* Looking"):
            exporting.checked(files, programs, given)


def test_numbers_that_are_not_finite_are_refused_wherever_they_stand() -> None:
    programs = exporting.Programs(Unscaled())
    with torch.no_grad():
        given = exporting.given_for(programs, Batch(X), 0)
        files = exporting.made(programs, given, "torchscript")
        with pytest.raises(Refused, match="encode gives numbers that are not finite"):
            exporting.checked(files, programs, given)


def command(monkeypatch, folder: Path, *typed: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [cli.EXPORT, *typed])
    try:
        return cli.export()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def test_the_command_says_what_it_wrote_and_writes_over_nothing(runs, tmp_path, monkeypatch, capfd) -> None:
    typed = (f"run={runs['linear']}", "hydra.run.dir=mine")
    assert command(monkeypatch, tmp_path, *typed) == 0
    out = capfd.readouterr().out
    assert "encode, draw, decode, sample of best.ckpt of epoch 1" in out and "model.ts, export.json" in out
    before = (tmp_path / "mine/model.ts").stat()
    assert command(monkeypatch, tmp_path, *typed) == 1
    assert "mine holds a run already: give this one a folder of its own" in capfd.readouterr().err
    assert (tmp_path / "mine/model.ts").stat() == before


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "run has no value"),
        (["run=nowhere"], "is no folder"),
        (["run=empty"], "is no run directory"),
        (["run=run", "format=onnx"], "format=onnx is none of torchscript, export"),
        (["run=run", "fromat=export"], "did you mean format?"),
        (["run=run", "checkpoint=last"], "has no last checkpoint"),
        (["run=run"], "is no checkpoint, or a truncated one"),
        (["run=run", "split=tets"], "did you mean test?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(runs, tmp_path, monkeypatch, capfd, typed, said) -> None:
    run = Path(shutil.copytree(runs["linear"], tmp_path / "run"))
    shutil.copyfile(run / "config.yaml", run / "checkpoints/best.ckpt")
    (run / "checkpoints/last.ckpt").unlink()
    (tmp_path / "empty").mkdir()
    assert command(monkeypatch, tmp_path, *typed) == 1
    out, err = capfd.readouterr()
    assert out == "" and said in err
    assert all(line.startswith("vaecollapse-export: ") for line in err.splitlines())
    assert not list(tmp_path.glob("outputs/export/*"))


def test_an_interruption_leaves_no_part_of_a_program(runs, tmp_path, monkeypatch) -> None:
    def interrupted(self, content):
        Path.open(self, "wb").write(content[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    typed = [f"run={runs['linear']}"]
    with pytest.raises(KeyboardInterrupt):
        tasks.export(composed(*typed), tmp_path / "out", typed)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.yaml", "overrides.txt", "provenance.json"}


def test_nothing_heavy_is_imported_before_the_configuration_is_valid(tmp_path) -> None:
    program = (
        "import sys\nfrom vaecollapse.cli import export\n"
        "for typed in ([], ['run=nowhere'], ['run=x', 'format=y'], ['--help'], ['run=x', '--cfg', 'job']):\n"
        "    sys.argv = ['vaecollapse-export', *typed]\n"
        "    try:\n        export()\n    except SystemExit:\n        pass\n"
        "print([name for name in ('torch', 'lightning', 'torchmetrics', 'numpy', 'soundfile') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_help_names_every_key_with_its_meaning(capsys, monkeypatch, tmp_path) -> None:
    assert command(monkeypatch, tmp_path, "--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {key}=" in text for key in config.ExportSchema.__dataclass_fields__)
