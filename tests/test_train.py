"""The command as people type it: real processes in empty folders, from the line typed to the exit code."""

import csv
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from vaecollapse import cli, config, tasks
from vaecollapse.labels import NAMES, number
from vaecollapse.prescriptions import STATES
from vaecollapse.tasks.fitting import usual_rate

SPEC = importlib.util.spec_from_file_location("fuzz_for_train", Path(__file__).parents[1] / "benchmarks" / "fuzz.py")
assert SPEC and SPEC.loader
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)
SCRIPT = Path(sys.executable).parent / cli.NAME
PROMISED = {"config.yaml", "overrides.txt", "provenance.json", "preflight.json", "metrics.jsonl", "metrics.csv",
            "units.csv", "events.jsonl", "verdict.json", "trained.json", "report.html", "checkpoints"}  # fmt: skip
LINEAR = ["model=linear", "max_epochs=60"]


def environment() -> dict[str, str]:
    """Not the test run's own; the script's folder comes first, so that a printed command can be pasted."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HYDRA", "PYTEST", "PYTHON"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PATH": f"{SCRIPT.parent}{os.pathsep}{kept['PATH']}"}


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([SCRIPT, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True)


def forked(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """As `train`, forked from here, where torch is imported, which costs more than most trainings do."""
    fuzz.preload()
    code = fuzz.waited(fuzz.forked(fuzz.Case(list(arguments), list(arguments)), cwd.parent))
    out, err = ((cwd.parent / name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(arguments, code, out, err)


def runs(folder: Path) -> list[Path]:
    """Run directories in the order in which they were made."""
    return sorted([*folder.glob("outputs/train/*"), *folder.glob("outputs/multirun/*/[0-9]*")])


def read(directory: Path, name: str) -> dict:
    return json.loads((directory / name).read_text(), parse_constant=pytest.fail)


def lines(directory: Path, name: str) -> list[dict]:
    text = (directory / name).read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def parameters(directory: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(directory / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def value(directory: Path, reading: str) -> float:
    return read(directory, "verdict.json")["readings"][reading]["value"]


# ---- one sweep, one dead run and the command it prescribes, shared by the laws up to the next line like this


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[subprocess.CompletedProcess, dict[tuple[float, int], Path]]:
    """Dead jobs first, so that a job after them shows that the sweep went on."""
    folder = tmp_path_factory.mktemp("sweep")
    done = train("-m", *LINEAR, "beta=8,1", "seed=0,1", "fail_on=[posterior_collapse]", cwd=folder)
    settings = [(OmegaConf.load(directory / "config.yaml"), directory) for directory in runs(folder)]
    return done, {(cfg.beta, cfg.seed): directory for cfg, directory in settings}


@pytest.fixture(scope="module")
def dead(tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    folder = tmp_path_factory.mktemp("dead")
    done = train(*LINEAR, "beta=8", "fail_on=[healthy]", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done, runs(folder)[0]


@pytest.fixture(scope="module")
def cured(dead, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """What the dead run says to try next, pasted into a shell."""
    folder = tmp_path_factory.mktemp("cured")
    (line,) = [line for line in dead[0].stdout.splitlines() if line.lstrip().startswith("try next")]
    command = line.strip().removeprefix("try next").strip()
    done = subprocess.run(command, shell=True, cwd=folder, env=environment(), capture_output=True, text=True)
    return done, runs(folder)[0]


@pytest.fixture
def directories(sweep, dead) -> list[Path]:
    return [dead[1], *sweep[1].values()]


def test_a_run_leaves_every_promised_file_and_no_other(directories):
    assert len(directories) == 5
    for place, directory in enumerate(directories):
        promised = PROMISED | ({"job.json"} if place else set())  # of a sweep
        assert promised <= {path.name for path in directory.iterdir()} <= promised | {"samples"}
        assert {path.name for path in (directory / "checkpoints").iterdir()} == {
            "best.ckpt",
            "last.ckpt",
            "previous.ckpt",
        }


def test_config_is_resolved_and_says_what_was_typed(dead, sweep):
    text = (dead[1] / "config.yaml").read_text()
    assert "${" not in text
    assert OmegaConf.create(text).regularizer.weight.value == 8
    assert (dead[1] / "overrides.txt").read_text().splitlines() == [*LINEAR, "beta=8", "fail_on=[healthy]"]
    for (beta, seed), directory in sweep[1].items():
        typed = (directory / "overrides.txt").read_text().splitlines()
        assert {f"beta={beta:g}", f"seed={seed}", *LINEAR} <= set(typed)


def test_provenance_names_versions_seed_and_data(sweep):
    found = {key: read(directory, "provenance.json") for key, directory in sweep[1].items()}
    for (_, seed), provenance in found.items():
        assert provenance["seed"] == seed
        assert provenance["versions"]["torch"] == version("torch")
        assert {"lightning", "hydra-core", "python"} <= set(provenance["versions"])
    data = {key: provenance["data"]["hash"] for key, provenance in found.items()}
    assert data[1, 0] == data[8, 0] != data[1, 1], "the fingerprint follows the data, which the seed draws"


def test_metrics_are_whole_strict_lines_and_the_table_is_derived_from_them(directories):
    for directory in directories:
        rows = lines(directory, "metrics.jsonl")
        with (directory / "metrics.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        assert list(table[0]) == list(dict.fromkeys(key for row in rows for key in row))
        plain = [{key: "" if v is None else str(v) for key, v in row.items()} for row in rows]
        assert [{key: row.get(key, "") for key in table[0]} for row in plain] == table
        assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)


def test_the_series_of_units_add_up_to_the_rate(directories):
    for directory in directories:
        with (directory / "units.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["epoch", "step", "unit", "reading", "value"]
        last = [row for row in rows if row["step"] == rows[-1]["step"] and row["reading"] == "kl"]
        assert [int(row["unit"]) for row in last] == list(range(5))
        assert sum(float(row["value"]) for row in last) == pytest.approx(value(directory, "rate"), rel=1e-9)


def test_the_verdict_is_the_last_one_told(directories):
    for directory in directories:
        verdict = read(directory, "verdict.json")
        assert {"verdict", "confidence", "mechanisms", "findings", "refuted", "missing", "readings",
                "prescriptions"} <= set(verdict)  # fmt: skip
        assert [e["to"] for e in lines(directory, "events.jsonl") if e["event"] == "verdict"][-1] == verdict["verdict"]
        codes = [row["collapse/verdict"] for row in lines(directory, "metrics.jsonl") if "collapse/verdict" in row]
        assert STATES[int(codes[-1])] == verdict["verdict"]


def test_best_is_the_epoch_of_the_smallest_selection_value(directories):
    for directory in directories:
        seen = {row["epoch"]: row["val/selection"] for row in lines(directory, "metrics.jsonl") if "epoch" in row}
        chosen = {epoch: each for epoch, each in seen.items() if each is not None}
        best = torch.load(directory / "checkpoints" / "best.ckpt", weights_only=True)
        assert best["epoch"] == min(chosen, key=chosen.__getitem__)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(dead, sweep):
    """In a run of its own and in a sweep."""
    alone, together, other = dead[1], sweep[1][8, 0], sweep[1][8, 1]
    readings = [read(directory, "verdict.json")["readings"] for directory in (alone, together, other)]
    assert readings[0] == readings[1] != readings[2]
    for name in ("best", "last"):
        first, second, third = (parameters(directory, name) for directory in (alone, together, other))
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert not all(torch.equal(first[key], third[key]) for key in first)


def test_the_table_names_verdict_three_deciding_numbers_and_a_command(dead):
    verdict = read(dead[1], "verdict.json")
    text = [line.strip() for line in dead[0].stdout.splitlines() if line.strip()]
    assert text[0].startswith("posterior_collapse ")
    assert verdict["verdict"] == "posterior_collapse"
    assert len(verdict["deciding"]) == 3
    for name in verdict["deciding"]:
        shown = NAMES[name], number(verdict["readings"][name]["value"])
        assert any(line.startswith(shown[0]) and shown[1] in line.split() for line in text), name
    assert f"try next  {verdict['prescriptions'][0]['command']}" in text
    assert text[-1].endswith(str(Path("outputs", "train", dead[1].name)))


def test_every_prescribed_command_is_valid_and_another_run(directories):
    for directory in directories:
        own = config.compose((directory / "overrides.txt").read_text().splitlines())
        prescribed = [each["command"] for each in read(directory, "verdict.json")["prescriptions"]]
        assert 1 <= len(prescribed) <= 3
        for command in prescribed:
            name, *words = shlex.split(command)
            assert name == cli.NAME
            assert config.compose(words) != own, f"{command} is the run it should follow"


@pytest.mark.parametrize(("lines", "rate"), [(["model=linear", "lr=1e-6"], 0.03), (["model=image", "lr=3"], 0.001),
                                             (["model=linear"], 0.03), (["lr=0.1"], 0.001)])  # fmt: skip
def test_the_rate_of_a_plan_that_is_told_none_is_its_models(lines: list[str], rate: float) -> None:
    assert usual_rate(config.compose(lines), lines) == rate


def test_the_prescribed_command_runs_and_cures(dead, cured):
    done, directory = cured
    assert read(directory, "verdict.json")["verdict"] == "healthy", done.stderr
    assert value(directory, "rate") > 10 * value(dead[1], "rate")
    assert value(directory, "gap") > 1 > value(dead[1], "gap")


def test_fail_on_is_the_exit_code_of_the_verdicts_listed(dead, cured):
    assert dead[0].returncode == 0, "a collapse is not listed"
    assert cured[0].returncode == cli.FAIL_ON, "healthy is"


def test_a_sweep_ends_before_it_fails(sweep):
    done, found = sweep
    assert done.returncode == cli.FAIL_ON, done.stderr
    assert list(found) == [(8, 0), (8, 1), (1, 0), (1, 1)]
    verdicts = [read(directory, "verdict.json")["verdict"] for directory in found.values()]
    assert verdicts == ["posterior_collapse"] * 2 + ["healthy"] * 2
    assert [line.split()[0] for line in done.stdout.splitlines() if "confidence" in line] == verdicts


def test_the_run_with_the_natural_price_is_told_from_the_dead_one(sweep):
    assert value(sweep[1][1, 0], "information_rank") == 3
    assert value(sweep[1][8, 0], "information_rank") == 0


# ---- what ends early


@pytest.mark.parametrize("epochs", [4, 17])
def test_the_last_epoch_is_validated_however_few_there_are(epochs, tmp_path):
    """model=linear validates every 15 epochs: the weights that training ends with must not go unselected."""
    overrides = ["model=linear", f"max_epochs={epochs}", f"logger.csv.directory={tmp_path}", "trainer.accelerator=cpu"]
    tasks.train(config.compose(overrides), tmp_path, overrides)
    seen = [row["epoch"] for row in lines(tmp_path, "metrics.jsonl") if row.get("val/selection") is not None]
    assert seen[-1:] == [epochs - 1]
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize(("sent", "codes"), [(signal.SIGINT, {130}), (signal.SIGTERM, {130, 143})])
def test_an_interrupted_run_leaves_verdict_and_checkpoint_and_says_how_to_go_on(sent, codes, tmp_path):
    """Right after the first numbers, long before the first validation."""
    process = subprocess.Popen([SCRIPT, "model=linear", "max_epochs=100000"], cwd=tmp_path, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not any((run / "metrics.jsonl").exists() for run in runs(tmp_path)):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(sent)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    (run,) = runs(tmp_path)
    assert read(run, "verdict.json")["confidence"] == "low"
    assert [path.suffix for path in (run / "checkpoints").glob("last.ckpt")] == [".ckpt"]
    assert all(weights.isfinite().all() for weights in parameters(run).values())
    assert process.returncode in codes
    advice, ended = err.splitlines()[-2:]
    assert [line for line in err.splitlines() if line.startswith(f"{cli.NAME}:")] == [advice, ended]
    assert advice == f"{cli.NAME}: go on with: {cli.NAME} resume={run.relative_to(tmp_path)}"
    assert "Traceback" not in out + err


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    done = train("dataset=audio_folder", "dataset.root=nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout, runs(tmp_path)) == (cli.FAILED, "", [])
    assert done.stderr.startswith(f"{cli.NAME}: dataset.root=nowhere ")
    assert done.stderr.count("\n") == 1


# ---- somebody else's model

THEIR_PACKAGE = '''
import torch
from torch import nn
from torch.distributions import Independent, Normal

from vaecollapse import VAE


class TheirVAE(VAE):
    def __init__(self, *, event_shape, width):
        super().__init__()
        self.down = nn.Sequential(nn.Linear(event_shape[0], 4 * width), nn.Tanh(), nn.Linear(4 * width, 2 * width))
        self.up = nn.Linear(width, event_shape[0])
        self.steps = 0

    def encode(self, x, context=None, mask=None):
        mean, log_scale = self.down(x).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp()), 1)

    def prior(self, context=None):
        zero = self.up.weight.new_zeros(self.up.in_features)
        return Independent(Normal(zero, zero + 1), 1)

    def decode(self, z, context=None, mask=None):
        self.steps += self.training and torch.is_grad_enabled()
        mean = self.spoilt(self.up(z)) if self.training and self.steps == 21 else self.up(z)
        return Independent(Normal(mean, torch.ones_like(mean), validate_args=False), 1)

    def spoilt(self, mean):
        return mean


class Infinite(TheirVAE):
    def spoilt(self, mean):
        return mean + torch.inf


class SpoiltGradient(TheirVAE):
    """The loss is finite, its gradient is 0/0."""

    def spoilt(self, mean):
        return mean + (0 * mean).square().sqrt()


class Refuses(TheirVAE):
    def __init__(self, *, event_shape, width):
        raise ValueError("width must be even")


class Stranger(nn.Linear):
    def __init__(self, *, width):
        super().__init__(width, width)
'''
THEIR_YAML = """# @package _global_
defaults:
  - override /dataset: gaussian

max_epochs: 4
batch_size: 256
model:
  _target_: their_pkg.TheirVAE
  width: 3
"""
CUSTOM = ["model=custom", "+model.width=3", "dataset=gaussian", "max_epochs=4", "batch_size=256"]


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A folder with a package and a folder of yaml, neither of them ours."""
    work = tmp_path / "work"
    (work / "their_pkg").mkdir(parents=True)
    (work / "their_pkg" / "__init__.py").write_text(THEIR_PACKAGE)
    (work / "my_conf" / "model").mkdir(parents=True)
    (work / "my_conf" / "model" / "theirs.yaml").write_text(THEIR_YAML)
    return work


def test_a_model_from_outside_reaches_a_verdict_by_both_ways_alike(theirs):
    typed = forked(*CUSTOM, "model._target_=their_pkg.TheirVAE", cwd=theirs)
    filed = forked("--config-dir", "my_conf", "model=theirs", cwd=theirs)
    assert (typed.returncode, filed.returncode) == (0, 0), typed.stderr + filed.stderr
    first, second = runs(theirs)
    assert read(first, "verdict.json")["readings"] == read(second, "verdict.json")["readings"]
    assert value(first, "units") == 3
    assert value(first, "gap") is not None
    assert typed.stdout.split()[0] == read(first, "verdict.json")["verdict"]
    assert "vae.down.0.weight" in parameters(first)


def test_a_model_that_cannot_be_built_is_one_sentence(theirs):
    wrong = ["their_pkg.Refuses", "their_pkg.Stranger", "their_pkg.Absent", "absent_pkg.VAE"]
    done = forked("-m", *CUSTOM, f"model._target_={','.join(wrong)}", cwd=theirs)
    assert (done.returncode, runs(theirs)) == (cli.FAILED, [])
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if " job " not in line and "training, " not in line]
    assert len(said) == len(wrong), done.stderr
    for line, target in zip(said, wrong, strict=True):
        assert line.startswith(f"{cli.NAME}: ")
        assert target in line
    assert "width must be even" in said[0]


def test_a_model_that_leaves_the_finite_numbers_has_diverged(theirs):
    """Exit code 0: the verdict is the answer. The step is not taken, so the weights stay those before it."""
    done = forked("-m", *CUSTOM, "model._target_=their_pkg.Infinite,their_pkg.SpoiltGradient", cwd=theirs)
    assert done.returncode == 0, done.stderr
    for run, tensor in zip(runs(theirs), ("the distortion", "gradient"), strict=True):
        verdict = read(run, "verdict.json")
        assert verdict["verdict"] == "diverged"
        assert tensor in verdict["findings"][0]
        assert "step 20" in verdict["findings"][0]
        assert all(weights.isfinite().all() for weights in parameters(run).values())
    assert not [line for line in done.stderr.splitlines() if ".py:" in line], "nobody else's warnings"


def test_a_learning_rate_beyond_reason_has_diverged(tmp_path):
    overrides = [
        "model=linear",
        "lr=1e6",
        "max_epochs=5",
        f"logger.csv.directory={tmp_path}",
        "trainer.accelerator=cpu",
    ]
    assert tasks.train(config.compose(overrides), tmp_path, overrides).verdict == "diverged"
    assert read(tmp_path, "verdict.json")["verdict"] == "diverged"


def test_a_price_that_rises_within_an_epoch_is_no_divergence(tmp_path):
    """One step an epoch: the first is taken before the warm-up's end, at a price of nothing."""
    overrides = ["model=linear", "beta=8", "max_epochs=5", "dataset.examples=600", "trainer.accelerator=cpu",
                 "trainer.log_every_n_steps=1", f"logger.csv.directory={tmp_path}"]  # fmt: skip
    assert tasks.train(config.compose(overrides), tmp_path, overrides).verdict != "diverged"
    losses = [
        row["train/objective/total"] for row in lines(tmp_path, "metrics.jsonl") if "train/objective/total" in row
    ]
    assert min(losses[1:]) > 2 * losses[0], "what was taken for a divergence"
