"""`vaecollapse-evaluate`: the bound and its closed forms, the training's own numbers again, and what is refused."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from planted import Planted, collapsed, gaussian_data, informative, optimum, probe
from torch.distributions import Independent, MultivariateNormal, Normal

from vaecollapse import cli, config, tasks
from vaecollapse.batch import Batch
from vaecollapse.distributions.flows import Flow
from vaecollapse.distributions.likelihoods import NormalLikelihood
from vaecollapse.elbo import importance_weighted_nll
from vaecollapse.evaluation import bound, likelihood_of, reconstruction
from vaecollapse.models.linear import LinearVAE
from vaecollapse.refusal import Refused
from vaecollapse.tasks.measuring import Examples
from vaecollapse.vae import VAE

ROOT = Path(__file__).parents[1]
EIGENVALUES = torch.tensor([6.0, 3.0, 1.5, 0.8, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


# ---- the importance-weighted bound


def iw_nll(vae: VAE, x: torch.Tensor, samples: int, seed: int = 0, chunk: int = 8) -> torch.Tensor:
    batch = Batch(x, index=torch.arange(len(x)))
    with torch.no_grad():
        return importance_weighted_nll(
            vae.encode(x), vae.prior(), likelihood_of(vae, batch), batch.positions(), samples=samples, chunk=chunk,
            seed=seed,
        )  # fmt: skip


def exact_nll(vae: LinearVAE, x: torch.Tensor) -> torch.Tensor:
    """x ~ N(m, WWᵀ + s²I)."""
    weight, scale = vae.decoder.weight.detach(), float(vae.likelihood.scale)
    covariance = weight @ weight.T + scale**2 * torch.eye(len(weight)).double()
    return -MultivariateNormal(vae.decoder.bias.detach(), covariance).log_prob(x)


@pytest.mark.parametrize("samples", [1, 3, 20])
@pytest.mark.parametrize("units", [2, 5])
def test_with_the_exact_posterior_any_number_of_samples_gives_the_exact_nll(samples, units):
    vae, x = optimum(units, e=0.35), gaussian_data(50)
    torch.testing.assert_close(iw_nll(vae, x, samples), exact_nll(vae, x), rtol=1e-10, atol=1e-10)


def test_with_another_posterior_it_lies_above_and_falls_with_k():
    """The encoder is that of twice the price, so q is not p(z|x)."""
    vae, x = optimum(3, e=0.7, beta=2.0), gaussian_data(500)
    truth = exact_nll(vae, x)
    means, errors = [], []
    for samples in (1, 4, 16, 128):
        excess = iw_nll(vae, x, samples) - truth
        means.append(float(excess.mean()))
        errors.append(float(excess.std()) / len(x) ** 0.5)
    assert means[0] > means[1] > means[2] > means[3] > -3 * errors[3]
    assert means[0] > 5 * errors[0]
    assert means[3] < 0.1 * means[0]


def test_it_does_not_depend_on_the_chunk_or_the_company():
    vae, x = optimum(3, e=0.7, beta=2.0), gaussian_data(12)
    whole = iw_nll(vae, x, 10, chunk=10)
    torch.testing.assert_close(iw_nll(vae, x, 10, chunk=3), whole, rtol=1e-12, atol=1e-12)
    batch = Batch(x, index=torch.arange(12)).part(torch.tensor([7, 2]))
    alone = importance_weighted_nll(
        vae.encode(batch.x), vae.prior(), likelihood_of(vae, batch), batch.positions(), samples=10
    )
    torch.testing.assert_close(alone, whole[[7, 2]], rtol=1e-12, atol=1e-12)
    assert not torch.equal(iw_nll(vae, x, 10, seed=1), whole)


class Flowing(VAE):
    """A linear decoder between two flows of two units."""

    def __init__(self, posterior: str, prior: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q = Flow(kind=posterior, units=2, context=4, hidden=(8,))
        self.p = Flow(kind=prior, units=2, hidden=(8,))
        self.decoder, self.encoder = torch.nn.Linear(2, 3), torch.nn.Linear(3, 4)
        self.double()

    def encode(self, x, context=None, mask=None):
        h = self.encoder(x)
        base = Normal(h[:, :2] / 4, 0.6 + h[:, 2:].sigmoid(), validate_args=False)
        return self.q(Independent(base, 1), h)

    def prior(self, context=None):
        zero = torch.zeros(2, dtype=torch.float64)
        return self.p(Independent(Normal(zero, zero + 1), 1))

    def decode(self, z, context=None, mask=None):
        return Independent(Normal(self.decoder(z), 1.5), 1)


FLOWS = [("realnvp", "maf"), ("iaf", "nsf"), ("maf", "realnvp")]


@pytest.mark.parametrize(("posterior", "prior"), FLOWS)
def test_between_flows_it_reaches_the_integral(posterior, prior):
    """p(x) = ∫ p(x|z) p(z) dz, summed over a grid."""
    vae, x = Flowing(posterior, prior), torch.tensor([[0.5, -1.0, 0.2], [2.0, 0.0, 1.0]]).double()
    axis = torch.linspace(-8, 8, 401).double()
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_prior = vae.prior().log_prob(z)
        log_cell = 2 * math.log(float(axis[1] - axis[0]))
        truth = [-float((vae.decode(z).log_prob(each) + log_prior).logsumexp(0) + log_cell) for each in x]
    assert iw_nll(vae, x, 2000, chunk=500).tolist() == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize(("posterior", "prior"), FLOWS)
def test_its_first_draw_is_the_elbos(posterior, prior):
    vae, x = Flowing(posterior, prior), torch.randn(6, 3).double()
    with torch.no_grad():
        elbo = vae.elbo(Batch(x), seed=0)
    torch.testing.assert_close(iw_nll(vae, x, 1), elbo.distortion + elbo.rate, rtol=1e-9, atol=1e-9)
    assert set(reconstruction(vae, [Batch(x)])) == {"mse", "explained"}


# ---- figures of a split


def exact_data(count: int = 512) -> torch.Tensor:
    """Data of exactly these eigenvalues and mean zero."""
    x = gaussian_data(count, [1.0] * 8)
    x = x - x.mean(0)
    factor = torch.linalg.cholesky(x.T @ x / count)
    return torch.linalg.solve_triangular(factor, x.T, upper=False).T.contiguous() * EIGENVALUES.sqrt()


@pytest.mark.parametrize("e", [0.35, 1.0, 7.0])
def test_reconstructions_from_the_mean_meet_the_closed_form(e):
    """Σ_active e²/λ + Σ_inactive λ (definitions, the linear VAE)."""
    x, active = exact_data(), e < EIGENVALUES
    active[5:] = False
    lost = float((e**2 / EIGENVALUES)[active].sum() + EIGENVALUES[~active].sum())
    found = reconstruction(optimum(5, e=e), probe(x, 100), audio=True)
    assert found["mse"].value == pytest.approx(lost / 8, rel=1e-9)
    assert found["explained"].value == pytest.approx(1 - lost / float(EIGENVALUES.sum()), abs=1e-9)
    assert found["snr"].value == pytest.approx(10 * math.log10(float(EIGENVALUES.sum()) / lost), abs=1e-9)


def test_figures_do_not_depend_on_the_blocks():
    x, vae = gaussian_data(300), optimum(3, e=0.7, beta=2.0)
    few, many = ({**bound(vae, blocks, samples=4), **reconstruction(vae, blocks)}
                 for blocks in (probe(x, 300), probe(x, 7)))  # fmt: skip
    for name, finding in few.items():
        assert many[name].value == pytest.approx(finding.value, rel=1e-12), name
        assert many[name].se == (None if finding.se is None else pytest.approx(finding.se, rel=1e-9))


def test_bits_per_dimension_of_white_noise_under_its_own_law():
    """½ log₂ 2πe, whatever the number of dimensions: the collapsed optimum of white data is N(0, I)."""
    x = exact_data() / EIGENVALUES.sqrt()
    vae = optimum(2, e=1.0, eigenvalues=[1.0] * 8)
    found = bound(vae, probe(x, 100), samples=2)
    assert found["bits_per_dim"].value == pytest.approx(0.5 * math.log2(2 * math.pi * math.e), rel=1e-9)
    assert found["iw_nll"].value == pytest.approx(-found["elbo"].value, rel=1e-9)


def test_padding_counts_nowhere():
    vae = LinearVAE(event_shape=(8,), latent_dim=3, likelihood=NormalLikelihood(scale=0.7)).double()
    vae.encoder.weight.data[:, 5:] = 0  # z must not see the padding either
    x, mask = gaussian_data(40), torch.ones(40, 8, dtype=torch.bool)
    mask[:, 5:] = False
    padded = [Batch(part, mask=mask) for part in (x * mask, x * mask + 1e3 * ~mask)]
    first, second = ({**bound(vae, [b], samples=3), **reconstruction(vae, [b], audio=True)} for b in padded)
    assert {name: f.value for name, f in first.items()} == {name: f.value for name, f in second.items()}
    bits = first["iw_nll"].value / (5 * math.log(2))
    assert first["bits_per_dim"].value == pytest.approx(bits, rel=1e-12)


class Distance(Planted):
    normalised = False


def test_of_a_distance_no_nll_is_claimed():
    vae = Distance(informative, lambda z: torch.cat([z / 2, 0 * z], 1))
    assert set(bound(vae, probe(gaussian_data(64)))) == {"distortion", "rate"}


def test_measuring_moves_nothing():
    vae, state = Planted(collapsed, lambda z: torch.cat([z, z], 1)).train(), torch.get_rng_state()
    bound(vae, probe(gaussian_data(64)), samples=2)
    reconstruction(vae, probe(gaussian_data(64)))
    assert vae.training
    assert torch.equal(torch.get_rng_state(), state)


# ---- a run


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    """Two epochs with a seed that is not the default's."""
    folder = tmp_path_factory.mktemp("honest")
    typed = ["model=linear", "max_epochs=2", "seed=3", f"logger.csv.directory={folder}", "trainer.accelerator=cpu"]
    tasks.train(config.compose(typed), folder, typed)
    return folder


@pytest.fixture
def run(honest, tmp_path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def composed(*typed: str) -> DictConfig:
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), job_name="evaluate", version_base="1.3"):
        cfg = hydra.compose("evaluate", list(typed))
    config.check_evaluation(cfg)
    return cfg


def evaluated(run: Path, *typed: str) -> dict:
    """The content of evaluation.json."""
    out = run.parent / "out"
    typed = (f"run={run}", "samples=4", *typed)
    tasks.evaluate(composed(*typed), out, typed)
    return json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)


def test_the_validation_numbers_of_the_training_come_again(run):
    content = evaluated(run, "split=validation", "checkpoint=last")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (*_, last) = [row for row in rows if "val/distortion" in row]
    for name, shown in (("distortion", "val/distortion"), ("rate", "val/latent/rate"), ("elbo", "val/elbo")):
        assert content["figures"][name]["value"] == pytest.approx(last[shown], rel=1e-6), name


def test_the_readings_of_the_training_come_again(run):
    """512 validation examples are read in the same blocks, with the same noise and permutations."""
    content = evaluated(run, "split=validation", "checkpoint=last")
    verdict = json.loads((run / "verdict.json").read_text())
    assert content["verdict"] == verdict["verdict"]
    for name, reading in content["readings"].items():
        told = verdict["readings"][name]
        assert set(reading) == set(told)
        for key in ("value", "se", "threshold"):
            wanted = told[key]
            assert reading[key] == (wanted if wanted is None else pytest.approx(wanted, rel=1e-9, abs=1e-12)), name
        assert (reading["n"], reading["status"]) == (told["n"], told["status"])


def test_a_directory_of_its_own_says_what_was_measured(run):
    content = evaluated(run)
    out = run.parent / "out"
    assert {path.name for path in out.iterdir()} == {"config.yaml", "overrides.txt", "provenance.json",
                                                     "evaluation.json"}  # fmt: skip
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["trained"] == json.loads((run / "provenance.json").read_text())
    assert provenance["evaluated"]["run"] == str(run)
    assert {"split": "test", "checkpoint": "best.ckpt", "examples": 512}.items() <= content.items()
    assert OmegaConf.load(out / "config.yaml").seed == 3, "the run's own"
    assert content["figures"]["iw_nll"]["note"] == "K = 4"
    assert {"distortion", "rate", "elbo", "iw_nll", "bits_per_dim", "mse", "explained"} == set(content["figures"])
    assert content["prescriptions"] == []


def test_fewer_examples_another_seed_and_more_samples_change_the_figures(run):
    whole, few = evaluated(run), evaluated(run, "examples=100", "seed=1")
    assert (few["examples"], few["figures"]["mse"]["n"]) == (100, 100)
    figures = whole["figures"], evaluated(run, "seed=1")["figures"], evaluated(run, "samples=64")["figures"]
    assert figures[0]["mse"] == figures[1]["mse"]
    assert figures[0]["distortion"] == figures[2]["distortion"] != figures[1]["distortion"]
    assert figures[2]["iw_nll"]["value"] < figures[0]["iw_nll"]["value"]


def test_both_probes_are_read_so_that_a_memory_can_be_told(run):
    """The gap on training examples stands beside the held-out one; on the training split there is only one."""
    readings = evaluated(run)["readings"]
    assert readings["train/gap"]["n"] == 512
    assert readings["gap"]["n"] == 512
    assert "train/gap" not in evaluated(run, "split=train")["readings"]


def test_examples_are_read_block_by_block(run):
    """However long the split, no more than a block of it is in memory at once; copies are left out of readings."""
    held: list[int] = []

    class Counted(list):
        def __getitem__(self, position):
            held.append(position)
            return super().__getitem__(position)

    rows = [Batch(torch.full((1, 2), float(row % 7)), index=torch.tensor([row])) for row in range(20)]
    rows = [row._replace(x=row.x[0], index=row.index[0]) for row in rows]
    module = torch.nn.Linear(2, 2)
    examples = Examples(Counted(rows), range(20), module)
    blocks = examples.blocks(8)
    assert [len(block) for block in blocks.positions] == [8, 12]
    assert held == []
    assert blocks[0].x.shape == (8, 2)
    assert held == list(range(8))
    assert examples.distinct().positions == list(range(7))
    assert [len(block.x) for block in examples.blocks(8, whole=False)[1:]] == [8, 4]


def test_training_examples_acquit_nobody(run):
    assert evaluated(run, "split=train", "examples=512")["verdict"] == "inconclusive"


def test_a_run_that_is_still_training_is_read(run):
    for name in ("verdict.json", "metrics.csv", "preflight.json", "checkpoints/best.ckpt"):
        (run / name).unlink()
    assert evaluated(run, "checkpoint=last")["figures"]["rate"]["n"] == 512


def test_a_class_of_theirs_is_measured_where_they_are_trusted(run, tmp_path, monkeypatch):
    (tmp_path / "their_vae.py").write_text(
        "from vaecollapse.models.linear import LinearVAE\nclass Theirs(LinearVAE):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ours = evaluated(run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("vaecollapse.models.linear.LinearVAE", "their_vae.Theirs"))
    with pytest.raises(Refused, match=r"trust=\[their_vae\]"):
        evaluated(run)
    assert evaluated(run, "trust=[their_vae]")["figures"] == ours["figures"]


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("  latent_dim: 5", "  latent_dim: [5]"),
        ("  latent_dim: 5", "  latent_din: 5"),
        ("  draws: 16", "  draws: many"),
        ("  permutations: 4", "  permutations: -4"),
        ("seed: 3", "seed: x"),
        ("  max_epochs: 2", "  max_epochs: [2]"),
        ("    warmup: 0.1", "    warmup: {}"),
        ("  latent_dim: 5", "  latent_dim: 2000000000"),
    ],
)
def test_a_spoilt_configuration_is_a_sentence_or_does_not_matter(run, line, instead):
    text = (run / "config.yaml").read_text()
    assert line in text
    (run / "config.yaml").write_text(text.replace(line, instead))
    try:
        evaluated(run)
    except (Refused, InstantiationException) as error:
        assert cli.errors.refusal_behind(error) is not None  # noqa: PT017


# ---- its data


def test_other_data_are_a_warning_of_one_line(run, caplog):
    evaluated(run)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    content = evaluated(run, "overrides=['dataset.seed=9','dataset.test_examples=100']")
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "the data are not those of the run (hash " in warning
    assert "\n" not in warning
    assert content["examples"] == 100
    (run / "provenance.json").unlink()
    caplog.clear()
    evaluated(run)
    assert "is not known" in " ".join(r.getMessage() for r in caplog.records)


def test_a_model_far_larger_than_its_weights_is_refused_before_its_memory_is_asked_for(run):
    """8 TB of encoder in ten letters."""
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("  latent_dim: 5", "  latent_dim: 100000000000"))
    with pytest.raises(Refused, match="far larger than what"):
        evaluated(run)
    line = ["model=linear", "latent_dim=100000000000"]
    with pytest.raises(Refused, match="larger than this machine's memory"):
        tasks.train(config.compose(line), run.parent / "new", line)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("overrides=['dataset.rot=x']", r"has no dataset\.rot: its dataset has .*eigenvalues"),
        ("overrides=['dataset.test_examples=3']", "too few"),
        ("overrides=['dataset.eigenvalues=[1.0,2.0]']", r"encoder.weight is \(5, 8\) in the checkpoint and \(5, 2\)"),
        ("overrides=['dataset._target_=os.system']", "is no key of the run's dataset"),
        ("overrides=['model.latent_dim=3']", "is no key of the run's dataset"),
        ("overrides=['dataset.seed=[']", "cannot be read"),
        ("device=cuda:77", "is not there"),
        ("device=gpu", "device=gpu is not known"),
        ("split=tets", r"split=tets \(did you mean test\?\)"),
        ("checkpoint=first", "is none of best, last"),
        ("samples=0", "samples must be at least 1"),
        ("examples=0", "examples must be at least 1"),
        ("seed=-1", "seed must lie"),
        ("trust=[a.b]", "is no top-level package"),
        ("~split", "split is needed and was taken out"),
        ("split=${nowhere}", "cannot be resolved"),
        ("trust=${x}", "cannot be resolved"),
        ("metric=[crps]", r"metric=\[crps\] has no effect: this run's data are neither fields nor sounds"),
        ("mode=prior", "mode has no effect"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(run, typed, said):
    with pytest.raises((Refused, InstantiationException), match=said):
        evaluated(run, typed)
    assert not (run.parent / "out").exists()


# ---- the command


def command(monkeypatch, folder: Path, *typed: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [cli.EVALUATE, *typed])
    try:
        return cli.evaluate()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def test_the_command_prints_the_table_and_where_it_lies(run, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, tmp_path, f"run={run}", "samples=5") == 0
    (directory,) = (tmp_path / "outputs" / "evaluate").iterdir()
    text = capsys.readouterr().out
    content = json.loads((directory / "evaluation.json").read_text())
    lines = [line.strip() for line in text.splitlines()]
    assert any(line.startswith(content["verdict"]) for line in lines)
    for shown in ("importance-weighted NLL (nats)", "bits per dimension", "value of z (gap)", "ELBO = −(D + R)"):
        assert any(line.startswith(shown) for line in lines), shown
    assert f"{content['figures']['iw_nll']['value']:.4g}" in text
    assert "K = 5" in text
    assert lines[-1].endswith(f"outputs/evaluate/{directory.name}")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "run has no value"),
        (["run=nowhere"], "is no folder"),
        (["run=run", "split=tets"], "did you mean test?"),
        (["run=run", "splt=test"], "did you mean split?"),
        (["run=run", "checkpoint=last"], "os.system is of a package"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_refusal_is_one_sentence_exit_code_1_and_no_directory(run, tmp_path, monkeypatch, capfd, typed, said):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("vaecollapse.models.linear.LinearVAE", "os.system"))
    assert command(monkeypatch, tmp_path, *typed) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert all(line.startswith("vaecollapse-evaluate: ") for line in err.splitlines())
    assert not list(tmp_path.glob("outputs/evaluate/*"))


def test_whole_tracebacks_on_demand(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Refused):
        command(monkeypatch, tmp_path, "run=nowhere")


@pytest.mark.parametrize("typed", [[], ["run=nowhere"], ["run=x", "split=y"], ["--help"], ["run=x", "--cfg", "job"]])
def test_nothing_heavy_is_imported_before_the_configuration_is_valid(typed, tmp_path):
    program = (
        "import sys\nfrom vaecollapse.cli import evaluate\n"
        f"sys.argv = ['vaecollapse-evaluate', *{typed!r}]\n"
        "try:\n    evaluate()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'lightning', 'torchmetrics', 'numpy') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_help_names_every_key_with_its_meaning(capsys, monkeypatch, tmp_path):
    assert command(monkeypatch, tmp_path, "--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {key}=" in text for key in config.EvaluateSchema.__dataclass_fields__)


def test_the_readmes_commands_compose():
    text = (ROOT / "README.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith(f"{cli.EVALUATE} ")]
    assert len(lines) >= 3
    for line in lines:
        assert composed(*shlex.split(re.sub(r" #.*", "", line))[1:]).run
