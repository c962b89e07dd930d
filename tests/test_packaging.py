"""What a user gets: the wheel, by way of the sdist, in an environment and a folder of its own."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from itertools import chain
from pathlib import Path

import pytest

from vaecollapse import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# one process builds, the others would wait for it


def run(*line: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of console scripts of an environment with the wheel; the dependencies are lent by this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    # a .pth inside a lent folder is not followed, so an editable install here stays out of sight
    (site / "lent.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel,
        cwd=home)  # fmt: skip
    return home / "bin"


def test_the_wheel_carries_the_package_and_all_of_conf(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vaecollapse").rglob("*")
               if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    conf = {f"vaecollapse/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert names == package | conf


def test_the_installed_command_runs_in_an_unrelated_folder(installed, tmp_path):
    script = installed / "vaecollapse-train"
    where = run(installed / "python", "-c", "import vaecollapse; print(vaecollapse.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert "_target_: vaecollapse.models.audio.AudioVAE" in run(script, "--cfg", "job", cwd=tmp_path)
    assert str(installed.parent) in run(script, "--info", "searchpath", cwd=tmp_path)
    assert run(script, "--version", cwd=tmp_path) == f"vaecollapse {__version__}\n"
    assert "model=audio_nf sets" in run(script, "--help", cwd=tmp_path)


@pytest.mark.parametrize("name", PROJECT["scripts"])
def test_every_console_script_is_installed(installed, name):
    assert os.access(installed / name, os.X_OK)


def test_one_version():
    assert PROJECT["version"] == __version__


def test_the_constraints_pin_every_dependency_and_torch_first():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines[0].startswith("torch==")
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "exact, and no local versions"
    pinned = {re.sub(r"[._-]+", "-", line.split("==")[0]).lower() for line in lines}
    wanted = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    names = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in wanted} - {PROJECT["name"]}
    assert names <= pinned
    extras = re.search(r"^vaecollapse\[(.*)\]$", PROJECT["optional-dependencies"]["dev"][0])[1].split(",")
    assert {*extras, "dev"} == {*PROJECT["optional-dependencies"]}, "the tests need every extra"


def test_make_help_lists_every_target():
    text = run("make", "-f", ROOT / "Makefile", "help", cwd=ROOT)
    targets = [
        "help",
        "setup",
        "train",
        "test",
        "check",
        "format",
        "bench",
        "bench-zoo",
        "bench-remedies",
        "bench-cured",
        "clean",
    ]
    assert re.findall(r"^make ([\w-]+)", text, re.M) == targets


def test_ci_starts_from_nothing():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make (\w+)", script.read_text(), re.M) == ["check", "test"]
