"""The command line: what is imported when, what is said, what is left behind, and the exit codes."""

import importlib.util
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from vaecollapse import __version__, cli, config
from vaecollapse.__main__ import main
from vaecollapse.refusal import Refused

HEAVY = ("torch", "lightning", "torchmetrics", "wandb", "zuko", "numpy", "scipy")


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    line = [sys.executable, "-m", "vaecollapse", "train", *arguments]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), **environment}
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True)


class Here:
    """The command in this process, in an empty folder, with `work` in place of the training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.folder, self.jobs = monkeypatch, folder, []
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))
        # Hydra and the command line add handlers, bound to the stderr of one test
        for name in (None, "vaecollapse"):
            log = logging.getLogger(name)
            monkeypatch.setattr(log, "handlers", list(log.handlers))
            monkeypatch.setattr(log, "level", log.level)

    def __call__(self, *arguments: str, work=lambda cfg, directory, overrides: "healthy") -> int:
        pid, kept = os.getpid(), self.folder.parent / f"{self.folder.name}.jobs"

        def train(cfg, directory, overrides):
            self.jobs.append((cfg, directory, overrides))
            if os.getpid() != pid:  # a job of a sweep, in a fork
                kept.mkdir(exist_ok=True)
                (kept / f"{len(list(kept.iterdir())):03}").write_bytes(pickle.dumps((cfg, directory, overrides)))
            return types.SimpleNamespace(verdict=work(cfg, directory, overrides), diagnosis=None, directory=directory)

        self.patch.setitem(sys.modules, "vaecollapse.tasks", types.SimpleNamespace(train=train))
        self.patch.setattr(sys, "argv", ["vaecollapse-train", *arguments])
        try:
            return cli.train()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        finally:
            if kept.is_dir():
                self.jobs += [pickle.loads(file.read_bytes()) for file in sorted(kept.iterdir())]
                shutil.rmtree(kept)

    def runs(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("outputs/train/*"))


@pytest.fixture
def here(monkeypatch, tmp_path) -> Here:
    return Here(monkeypatch, tmp_path)


# ---- start-up


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--cfg", "job"], 0),
        (["--cfg", "job", "--resolve", "-p", "model"], 0),
        (["--help"], 0),
        (["--version"], 0),
        (["--info", "defaults-tree"], 0),
        (["-sc", "query=bash"], 0),
        (["beta=-1"], 1),
        (["regularizer=beta", "free_bits=0.1"], 1),
        (["modle=audio"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_nothing_heavy_is_imported_before_the_configuration_is_valid(arguments, code, tmp_path):
    program = (
        "import json, sys\nfrom vaecollapse.cli import train\n"
        f"sys.argv = ['vaecollapse-train', *{arguments!r}]\n"
        "try:\n    code = train()\nexcept SystemExit as stop:\n    code = stop.code\n"
        f"print(); print(json.dumps([code or 0, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "COMP_LINE": "vaecollapse-train beta"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [code, []], done.stderr


def test_the_version_is_ours(here, capsys):
    assert here("--version") == 0
    assert capsys.readouterr().out == f"vaecollapse {__version__}\n"


def test_help_names_every_knob_group_option_and_exit_code(here, capsys):
    assert here("--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {knob}=" in text for knob in config.KNOBS)
    for group, names in config.options([config.folder()]).items():
        assert (f"\n  {group} " in text) == (group not in config.EVALUATED)  # a training reads no metric
        assert all(name in text for name in names) or group in config.EVALUATED
    assert all(f" {code} " in text for code in (0, 1, 2, 3, 130))
    assert "model=audio_nf sets beta=0.01" in text


def test_help_shows_the_options_of_ones_own_folder(here, capsys, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "wavelets.yaml").write_text("# @package _global_\nmodel:\n  _target_: a.B\n")
    here("--config-dir", "mine", "--help")
    assert "wavelets" in capsys.readouterr().out


def test_the_examples_of_help_are_valid_commands(here, capsys, tmp_path):
    here("--help")
    text = capsys.readouterr().out.replace("\\\n", " ")
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith(f"  {cli.NAME}")]
    assert len(lines) == 8
    for words in lines:
        singles = [word.split(",")[0] if not word.endswith("]") else word for word in words if word != "-m"]
        if "--config-dir" not in words:
            config.compose(singles)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("model=audio_", "model=audio_nf"), ("free_", "free_bits="), ("regularizer=free", "regularizer=free_bits")],
)
def test_shell_completion_answers(typed, offered, tmp_path):
    done = command("-sc", "query=bash", cwd=tmp_path, COMP_LINE=f"vaecollapse-train {typed}")
    assert offered in done.stdout.split(), done.stderr
    assert "complete" in command("-sc", "install=bash", cwd=tmp_path).stdout


def test_hydras_own_help_stays_within_reach(here, capsys):
    here("--hydra-help")
    assert "--multirun" in capsys.readouterr().out


def test_python_dash_m_knows_its_verbs(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    line = [sys.executable, "-m", "vaecollapse"]
    done = subprocess.run([*line, "trian"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, "train" in done.stderr) == (2, True)
    done = subprocess.run([*line, "--version"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, f"vaecollapse {__version__}")


# ---- did you mean


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["free_bit=0.1"], "free_bit (did you mean free_bits?)"),
        (["optimiser=adam"], "did you mean optimizer"),
        (["model=audio_fn"], "model=audio_fn (did you mean audio_nf"),
        (["dataset=drum"], "dataset=drum (did you mean drums?)"),
        (["detector=[rate,active_unit]"], "detector=active_unit (did you mean active_units"),
        (["regularizer.flor=1"], "did you mean regularizer.floor"),
        (["dataset.root=x"], "dataset.root exists with dataset=audio_folder"),
        (["model=linear", "trainer.precison=64"], "did you mean trainer.precision"),
        (["-m", "regularizer=beta,freebits"], "regularizer=freebits (did you mean free_bits?)"),
        (["--beta", "0.1"], "knobs are written without dashes: beta=…"),
    ],
)
def test_a_typo_gets_hydras_error_and_the_nearest_names(here, capfd, arguments, hint):
    assert here(*arguments) == (2 if arguments[0] == "--beta" else 1)
    assert hint in capfd.readouterr().err
    assert not here.jobs


def test_did_you_mean_sees_ones_own_folder(here, capfd, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "wavelets.yaml").write_text("# @package _global_\nmodel:\n  _target_: a.B\n")
    assert here("--config-dir", "mine", "model=wavelet") == 1
    assert "did you mean wavelets?" in capfd.readouterr().err


# ---- jobs, refusals, directories, exit codes


def test_a_job_gets_its_configuration_directory_and_overrides(here):
    def work(cfg, directory, overrides):
        (directory / "verdict.json").write_text("{}")
        return "healthy"

    assert here("beta=0.3", "prior=nsf", work=work) == 0
    ((cfg, directory, overrides),) = here.jobs
    assert (cfg.beta, cfg.prior.kind, overrides) == (0.3, "nsf", ["beta=0.3", "prior=nsf"])
    assert here.runs() == [directory]
    assert sorted(path.name for path in directory.iterdir()) == ["verdict.json"], "and nothing of Hydra's"


@pytest.mark.parametrize("arguments", [["beta=-1"], ["regularizer=beta", "free_bits=1"], ["dataset=audio_folder"]])
def test_a_refusal_is_one_sentence_and_leaves_no_directory(here, capfd, arguments):
    assert here(*arguments) == cli.FAILED
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("vaecollapse-train: ")
    assert err.count("\n") == 1
    assert (here.jobs, here.runs()) == ([], [])


@pytest.mark.parametrize("chosen", ["logger=tensorboard", "logger=[csv,tensorboard]"])
def test_a_missing_extra_is_named_with_what_to_type(here, capfd, monkeypatch, chosen):
    def absent(name: str):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    assert here(chosen) == cli.FAILED
    assert "pip install -c constraints.txt '.[tensorboard]'" in capfd.readouterr().err
    assert (here.jobs, here.runs()) == ([], [])


def refuse(**_):
    raise Refused("this cannot be: type that")


def test_a_refusal_inside_hydras_instantiate_is_the_same_sentence(here, capfd):
    from hydra.utils import instantiate

    def work(cfg, directory, overrides):
        return instantiate({"_target_": f"{__name__}.refuse"})

    assert here(work=work) == cli.FAILED
    assert capfd.readouterr().err == "vaecollapse-train: this cannot be: type that\n"
    assert here.runs() == []


def test_a_refusal_after_work_has_begun_keeps_the_directory(here):
    def work(cfg, directory, overrides):
        (directory / "events.jsonl").write_text("{}\n")
        raise Refused("no")

    assert here(work=work) == cli.FAILED
    assert len(here.runs()) == 1


def test_a_bug_shows_its_traceback(here, capfd):
    def work(cfg, directory, overrides):
        return 1 / 0

    assert here(work=work) == cli.FAILED
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert here.runs() == []


def test_whole_tracebacks_on_demand(here, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Refused):
        here("beta=-1")


def interrupt(cfg, directory, overrides):
    raise KeyboardInterrupt


def interrupt_as_lightning_does(cfg, directory, overrides):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("work", [interrupt, interrupt_as_lightning_does])
def test_an_interruption_is_one_line_and_130(here, capfd, work):
    assert here(work=work) == cli.INTERRUPTED
    assert capfd.readouterr().err == "vaecollapse-train: interrupted\n"


@pytest.mark.parametrize(
    ("listed", "verdict", "code"),
    [
        ("[posterior_collapse,fake_rate]", "fake_rate", 3),
        ("[posterior_collapse]", "healthy", 0),
        ("[]", "posterior_collapse", 0),
    ],
)
def test_fail_on_makes_a_verdict_the_exit_code(here, listed, verdict, code):
    assert here(f"fail_on={listed}", work=lambda *_: verdict) == code


def test_a_sweep_runs_to_its_end_before_the_exit_code(here):
    def work(cfg, directory, overrides):
        return "posterior_collapse" if cfg.seed == 0 else "healthy"

    assert here("-m", "seed=0,1", "beta=0.1,0.2", "fail_on=[posterior_collapse]", work=work) == cli.FAIL_ON
    assert [(cfg.seed, cfg.beta) for cfg, _, _ in here.jobs] == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]
    assert [directory.name for _, directory, _ in here.jobs] == ["0", "1", "2", "3"]


def test_a_refusal_in_a_sweep_spares_the_other_jobs_and_outranks_a_verdict(here, capfd):
    code = here("-m", "warmup=0.1,2,0.2", "fail_on=[fake_rate]", work=lambda *_: "fake_rate")
    assert (code, len(here.jobs)) == (cli.FAILED, 2)
    err = capfd.readouterr().err
    assert err.count("would end after training") == 1
    assert "job 2: warmup=0.2" in err


def test_a_knob_that_some_regularizers_do_not_read_is_a_warning_in_a_sweep_over_them(here, capfd):
    assert here("-m", "regularizer=beta,free_bits", "free_bits=0.1", "seed=0,1") == 0
    assert len(here.jobs) == 4
    assert capfd.readouterr().err.count("warning: free_bits has no effect with regularizer=beta") == 1


def test_a_sweep_over_what_nothing_reads_is_refused_and_leaves_nothing(here, tmp_path):
    assert here("-m", "regularizer=beta", "free_bits=0.1,0.2") == cli.FAILED
    assert here.jobs == []
    assert list(tmp_path.glob("outputs/multirun/*")) == []


def test_the_packages_log_lines_reach_the_terminal(here, capfd):
    def work(cfg, directory, overrides):
        logging.getLogger("vaecollapse.somewhere").info("three of five directions")
        return "healthy"

    assert here(work=work) == 0
    assert capfd.readouterr().err == "three of five directions\n"


# ---- inside a running job


def test_a_prescription_can_be_checked_inside_a_running_job(here, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "wavelets.yaml").write_text("# @package _global_\nmodel:\n  _target_: a.B\n")
    answers = {}

    def work(cfg, directory, overrides):
        answers["sees the folder"] = config.compose([*overrides, "beta=0.1"]).beta
        with pytest.raises(Refused):
            config.compose([*overrides, "capacity=4"])
        answers["and leaves the job alone"] = str(cfg.logger.csv.directory) == str(directory)
        return "healthy"

    assert here("--config-dir", "mine", "model=wavelets", work=work) == 0
    assert answers == {"sees the folder": 0.1, "and leaves the job alone": True}


def test_ones_own_package_beside_the_command_is_importable(here, tmp_path):
    (tmp_path / "my_own_vae.py").write_text(
        "class MyVAE:\n    def __init__(self, *, width):\n        self.width = width\n"
    )
    built = []

    def work(cfg, directory, overrides):
        from hydra.utils import instantiate

        built.append(instantiate(cfg.model).width)
        return "healthy"

    assert here("model=custom", "model._target_=my_own_vae.MyVAE", "+model.width=3", work=work) == 0
    assert built == [3]


def test_a_rank_that_lightning_starts_by_the_module_trains_and_a_person_is_told_the_verbs(monkeypatch, capsys) -> None:
    """Lightning repeats `python -m vaecollapse` with what stands after the verb."""
    started = []
    monkeypatch.setattr(cli, "train", lambda: started.append(sys.argv[1:]) or 0)
    monkeypatch.setattr(sys, "argv", ["vaecollapse", "model=linear"])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert main() == 2
    assert "usage: python -m vaecollapse {train|" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main() == 0
    assert started == [["model=linear"]]
