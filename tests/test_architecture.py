"""Who may know whom, what importing costs, and words the house does not use."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vaecollapse

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "vaecollapse").rglob("*.py"))
HEAVY = ("torch", "lightning", "torchmetrics", "wandb", "zuko", "numpy", "hydra")


def test_import_contracts_hold():
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_imports_nothing_heavy():
    code = f"import json, sys, vaecollapse; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", vaecollapse.__all__)
def test_every_public_name_is_there(name):
    assert getattr(vaecollapse, name).__name__ == name
    assert name in dir(vaecollapse)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'colapse'"):
        vaecollapse.colapse


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_the_house_does_not_use(path):
    assert not {"utils", "helpers", "common", "misc", "manager", "v2"} & {*path.relative_to(ROOT).parts, path.stem}
    text = path.read_text("utf-8")
    assert "from __future__ import annotations" not in text, "jaxtyping cannot see such annotations"
    assert not re.search(r"\.\./shared|[\"'](/work|/home|/root|/tmp)/", text), "a path of somebody's machine"
    assert "except:" not in text


def test_conf_names_nobodys_machine():
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert not re.search(r"shared/|/work/|/home/|/tmp/", path.read_text("utf-8")), path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_can_be_imported_alone(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
