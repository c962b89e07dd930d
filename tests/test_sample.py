"""`vaecollapse-sample`: the same samples however many there are, each mode against what it says it is, and refusals."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from planted import EIGENVALUES, gaussian_data, optimum
from torch.distributions import Independent, Normal

from vaecollapse import cli, config, tasks
from vaecollapse.batch import Batch
from vaecollapse.distributions.priors import FlowPrior
from vaecollapse.refusal import Refused
from vaecollapse.sampling import MODES, REACH, WIDTH, Held, made, most, path
from vaecollapse.vae import VAE
from vaecollapse.writers.numbers import NumbersWriter, shards

ROOT = Path(__file__).parents[1]


def held(count: int = 100) -> Held:
    x = gaussian_data(count)
    return Held(count, lambda positions: Batch(x[list(positions)], index=torch.tensor(list(positions))))


def drawn(vae: VAE, mode: str, n: int, of: Held | None = None, **asked) -> dict[str, np.ndarray]:
    """Every column of a mode, all blocks together."""
    with torch.no_grad():
        blocks = list(MODES[mode](vae, of or held(), n, **asked))
    assert [block.start for block in blocks] == list(range(0, n, WIDTH))
    return {name: np.concatenate([block.columns[name] for block in blocks]) for name in blocks[0].columns}


@pytest.fixture
def vae():
    return optimum(4, e=0.5)


# ---- what each mode is


def test_the_schema_and_the_code_know_the_same_modes():
    assert tuple(MODES) == config.SAMPLE_MODES == tuple(tasks.sampling.USUAL)


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_is_the_same_bits_however_many_there_are(vae, mode):
    few, many = (drawn(vae, mode, n) for n in ((1, 4) if mode == "traverse" else (5, 70)))
    for name, values in few.items():
        assert values.tobytes() == many[name][: len(values)].tobytes(), name


def test_prior_samples_have_the_models_covariance_and_temperature_scales_it(vae):
    """WWᵀ, of which the eigenvalues are λ − e."""
    spread = drawn(vae, "prior", 4000)["sample"].var(0)
    np.testing.assert_allclose(spread[:4], np.array(EIGENVALUES[:4]) - 0.5, rtol=0.1, atol=0.02)
    half, none = (drawn(vae, "prior", 50, temperature=t)["sample"] for t in (0.5, 0.0))
    np.testing.assert_allclose(half, drawn(vae, "prior", 50)["sample"] / 2)
    assert not none.any()


def test_a_reconstruction_is_the_means_and_draws_scatter_around_it(vae):
    """Of the linear optimum W E[z|x] = (1 − e/λ) x, and Var(W z|x) = (λ − e) e/λ."""
    found = drawn(vae, "posterior", 100, draws=40)
    values = np.array(EIGENVALUES[:4])
    np.testing.assert_allclose(found["reconstruction"][:, :4], found["real"][:, :4] * (1 - 0.5 / values), atol=1e-9)
    scatter = np.stack([found[f"draw_{i + 1}"] for i in range(40)])[..., :4] - found["reconstruction"][None, :, :4]
    np.testing.assert_allclose(scatter.var((0, 1)), (values - 0.5) * 0.5 / values, rtol=0.1)
    cold = drawn(vae, "posterior", 10, draws=1, temperature=0.0)
    np.testing.assert_array_equal(cold["draw_1"], cold["reconstruction"])


def test_an_interpolation_goes_from_one_reconstruction_to_the_next(vae):
    found, whole = drawn(vae, "interpolate", 40, steps=5), drawn(vae, "posterior", 41)
    np.testing.assert_allclose(found["step_1"], whole["reconstruction"][:40], atol=1e-12)
    np.testing.assert_allclose(found["step_5"], whole["reconstruction"][1:], atol=1e-12)
    np.testing.assert_allclose(2 * found["step_3"], found["step_1"] + found["step_5"], atol=1e-12)
    np.testing.assert_array_equal(found["last"], whole["real"][1:])


def test_a_way_is_straight_in_the_base_of_the_priors_flow():
    torch.manual_seed(0)
    head = FlowPrior(units=4, kind="maf").double()
    for parameter in head.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    with torch.no_grad():
        prior, (first, last) = head(), torch.randn(2, 3, 4).double()
        points = torch.stack([prior.to_base(z) for z in path(first, last, 5, prior)])
    torch.testing.assert_close(points[1:] - points[:-1], (points[1:2] - points[:1]).expand(4, 3, 4))
    torch.testing.assert_close(points[-1], prior.to_base(last))


def test_traversals_go_along_the_eigenvectors_two_deviations_either_way(vae):
    """Direction i of the linear optimum moves coordinate i alone, by 2·√(1 − e/λ)·√(λ − e)."""
    found = drawn(vae, "traverse", 3, held(5000), steps=3)
    moved = np.abs(found["step_3"] - found["step_2"])
    values = np.array(EIGENVALUES[:3])
    np.testing.assert_allclose(np.diag(moved[:, :3]), REACH * (values - 0.5) / np.sqrt(values), rtol=0.1)
    assert (moved.argmax(1) == np.arange(3)).all()
    np.testing.assert_allclose(found["step_2"][0], found["step_2"][2])


class Conditioned(VAE):
    """p(z|c) = N(c, 2²), q(z|x, c) = N(x, 0.1²), x = z."""

    def encode(self, x, context=None, mask=None):
        return Independent(Normal(x, torch.full_like(x, 0.1)), 1)

    def prior(self, context=None):
        return Independent(Normal(context, torch.full_like(context, 2.0)), 1)

    def decode(self, z, context=None, mask=None):
        return Independent(Normal(z, torch.ones_like(z)), 1)

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))


def conditions(count: int = 50) -> Held:
    x = gaussian_data(count, [1.0] * 3)

    def take(positions):
        rows = torch.tensor(list(positions))
        return Batch(x[rows], context=10.0 * rows[:, None].expand(-1, 3).double(), index=rows)

    return Held(count, take, conditional=True)


def test_a_conditional_model_gets_the_held_out_conditions_around_and_around():
    found = drawn(Conditioned(), "prior", 120, conditions())["sample"]
    expected = 10.0 * (np.arange(120) % 50)
    assert np.abs(found - expected[:, None]).max() < 2 * 5
    assert not np.allclose(found[0], found[50], atol=1e-3), "another draw under the same condition"


def test_between_two_conditions_the_first_ones_holds_on_the_way():
    """u = (z − c)/2 is what goes from one end to the other."""
    found = drawn(Conditioned(), "interpolate", 5, conditions(), steps=2)
    np.testing.assert_allclose(found["step_1"], found["first"])
    np.testing.assert_allclose(found["step_2"], found["last"] - 10.0)
    walks = drawn(Conditioned(), "traverse", 2, conditions(), steps=3)
    np.testing.assert_allclose(walks["step_2"][0], walks["step_1"][0] / 2 + walks["step_3"][0] / 2)


@pytest.mark.parametrize(
    ("mode", "count", "said"),
    [
        ("prior", 0, "conditional .* a split that is empty: type split=train"),
        ("posterior", 0, "conditional"),
        ("interpolate", 1, "2 or more, and this split has one example"),
        ("traverse", 1, "2 or more, and this split has one example"),
    ],
)
def test_modes_that_the_split_cannot_serve_are_refused(mode, count, said):
    with pytest.raises(Refused, match=said):
        most(Conditioned(), conditions()._replace(count=count), mode)


def test_how_many_there_can_be():
    assert [most(Conditioned(), conditions(), mode) for mode in MODES] == [None, 50, 49, 3]
    assert most(optimum(4, e=0.5), Held(0, lambda positions: pytest.fail("there are none")), "prior") is None


def test_a_block_has_no_more_rows_than_are_wanted():
    values = torch.arange(float(WIDTH))
    assert len(made(WIDTH + 3, WIDTH, {"sample": values}).columns["sample"]) == 3
    assert made(2, 0, {"sample": values.bfloat16()}).columns["sample"].tolist() == [0.0, 1.0]


# ---- a run


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    """An epoch with a seed that is not the default's."""
    folder = tmp_path_factory.mktemp("honest")
    typed = ["model=linear", "max_epochs=1", "seed=3", "callback=[]", f"logger.csv.directory={folder}",
             "trainer.accelerator=cpu"]  # fmt: skip
    tasks.train(config.compose(typed), folder, typed)
    return folder


@pytest.fixture
def run(honest, tmp_path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def composed(*typed: str) -> DictConfig:
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), job_name="sample", version_base="1.3"):
        cfg = hydra.compose("sample", list(typed))
    config.check_evaluation(cfg, config.SampleSchema)
    return cfg


def sampled(run: Path, *typed: str, out: str = "out") -> Path:
    typed = (f"run={run}", *typed)
    return tasks.sample(composed(*typed), run.parent / out, typed).directory


def test_a_directory_of_its_own_says_what_was_sampled(run):
    out = sampled(run, "mode=posterior", "n=5", "draws=2", "format=npz")
    assert {path.name for path in out.iterdir()} == {"config.yaml", "overrides.txt", "provenance.json", "samples"}
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["trained"] == json.loads((run / "provenance.json").read_text())
    asked = {"run": str(run), "checkpoint": "best.ckpt", "split": "test", "examples": 5, "mode": "posterior"}
    assert asked.items() <= provenance["sampled"].items()
    assert OmegaConf.load(out / "config.yaml").seed == 3, "the run's own"
    found = shards(out / "samples")
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(
        ["real", "reconstruction", "draw_1", "draw_2"], (5, 8)
    )
    assert [path.name for path in (out / "samples").iterdir()] == ["samples_000000.npz"]


def test_the_same_seed_gives_the_same_bytes_and_another_others(run):
    first, again, other = (
        {path.name: path.read_bytes() for path in (sampled(run, *typed, out=out) / "samples").iterdir()}
        for out, typed in (("a", []), ("b", ["seed=3"]), ("c", ["seed=4"]))
    )
    assert first == again
    assert set(first) == set(other)
    assert first != other


def test_the_split_and_the_checkpoint_are_those_asked_for(run):
    data = tasks.measuring.rebuilt_data(OmegaConf.load(run / "config.yaml"), run)  # type: ignore[arg-type]
    for split in ("train", "validation", "test"):
        found = shards(sampled(run, "mode=posterior", f"split={split}", "checkpoint=last", out=split) / "samples")
        np.testing.assert_array_equal(found["real"], data.examples(split, 16).x.numpy())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ["mode=priors"],
            r"mode=priors \(did you mean prior or posterior\?\) is none of prior, posterior, interpolate, traverse",
        ),
        (["n=0"], "n must be at least 1, but n=0: try n=16"),
        (["mode=interpolate", "steps=1"], "steps must be at least 2"),
        (["mode=posterior", "draws=0"], "draws must be at least 1"),
        (["temperature=-1"], "temperature must be a finite number of at least 0"),
        (["steps=5"], "steps has no effect with mode=prior: type mode=interpolate or mode=traverse"),
        (["draws=5"], "draws has no effect with mode=prior: type mode=posterior"),
        (["mode=traverse", "temperature=2"], "temperature has no effect with mode=traverse"),
        (["mode=posterior", "n=600"], "there are 512 examples: type n=512"),
        (["mode=interpolate", "n=512"], "type n=511"),
        (["mode=traverse", "n=6"], "there are 5 units: type n=5"),
        (["tokens=1", "top_p=0"], "top_p must be above 0 and at most 1, but top_p=0: try"),
        (["top_p=0.9"], "top_p has no effect .* type tokens=1"),
        (["tokens=1"], "tokens=1 has no effect: .* no tokens"),
        (["format=wav"], "format=wav is none .* type npz or csv"),
        (["split=tets"], r"did you mean test\?"),
        (["checkpoint=ema"], "has no ema checkpoint: type checkpoint=best"),
        (["overrides=['dataset.rot=x']"], r"has no dataset\.rot"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_refused_before_anything_is_written(run, typed, said):
    with pytest.raises((Refused, InstantiationException), match=said):
        sampled(run, *typed)
    assert not (run.parent / "out").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interruption_leaves_whole_files(run, monkeypatch, error):
    add = NumbersWriter.add

    def fails(self, made):
        if made.start:
            raise error
        add(self, made)

    monkeypatch.setattr(NumbersWriter, "add", fails)
    with pytest.raises(type(error)):
        sampled(run, "n=100")
    folder = run.parent / "out" / "samples"
    assert len(shards(folder)["sample"]) == WIDTH
    assert not list(folder.glob(".*"))


# ---- the command


def command(monkeypatch, folder: Path, *typed: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [cli.SAMPLE, *typed])
    try:
        return cli.sample()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def test_the_command_says_what_it_wrote_and_what_to_open(run, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, tmp_path, f"run={run}", "mode=traverse") == 0
    (directory,) = (tmp_path / "outputs" / "sample").iterdir()
    said = capsys.readouterr().out
    assert "3 of mode=traverse, best.ckpt of epoch 1" in said
    assert f"outputs/sample/{directory.name}/samples" in said
    assert (directory / "samples" / "samples_000000.npz").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "run has no value"),
        (["run=nowhere"], "is no folder"),
        (["run=run", "mode=dream"], "is none of prior"),
        (["run=run", "stpes=3"], "did you mean steps?"),
        (["run=run"], "has no best checkpoint"),
        (["run=empty"], "is no run directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_refusal_is_one_sentence_exit_code_1_and_no_directory(run, tmp_path, monkeypatch, capfd, typed, said):
    shutil.rmtree(run / "checkpoints")
    (tmp_path / "empty").mkdir()
    assert command(monkeypatch, tmp_path, *typed) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert all(line.startswith("vaecollapse-sample: ") for line in err.splitlines())
    assert not list(tmp_path.glob("outputs/sample/*"))


def test_nothing_heavy_is_imported_before_the_configuration_is_valid(tmp_path):
    program = (
        "import sys\nfrom vaecollapse.cli import sample\n"
        "for typed in ([], ['run=nowhere'], ['run=x', 'mode=y'], ['--help'], ['run=x', '--cfg', 'job']):\n"
        "    sys.argv = ['vaecollapse-sample', *typed]\n"
        "    try:\n        sample()\n    except SystemExit:\n        pass\n"
        "print([name for name in ('torch', 'lightning', 'torchmetrics', 'numpy', 'soundfile') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_help_names_every_key_with_its_meaning(capsys, monkeypatch, tmp_path):
    assert command(monkeypatch, tmp_path, "--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {key}=" in text for key in config.SampleSchema.__dataclass_fields__)


def test_the_readmes_commands_compose():
    text = (ROOT / "README.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith(f"{cli.SAMPLE} ")]
    assert {composed(*shlex.split(re.sub(r" #.*", "", line))[1:]).mode for line in lines} == {*MODES}
