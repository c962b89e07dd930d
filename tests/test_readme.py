"""README and docs say only what is so: their commands compose, their targets, links and paths exist."""

import ast
import inspect
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import vaecollapse
from vaecollapse import cli, config
from vaecollapse.exporting import INPUTS
from vaecollapse.prescriptions import STATES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
# what a page may show though it cannot be composed here: the folder after it is the reader's
SKIPPED = ("--config-dir",)
# flags that ask for something else than a training; the number of words they take with them
FLAGS = {"-m": 0, "--multirun": 0, "--help": 0, "--version": 0, "--hydra-help": 0, "--cfg": 1, "--info": 1, "-sc": 1}


class Fence(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str


def fences(page: Path) -> list[Fence]:
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    return [Fence(page, language, text) for language, text in found]


FENCES = [fence for page in PAGES for fence in fences(page)]


def commands() -> list[str]:
    """Every command line of ours in a block, printed tables included, from our name on."""
    lines = [line for fence in FENCES for line in fence.text.replace("\\\n", " ").splitlines()]
    return list(dict.fromkeys(line[line.index(cli.NAME) :] for line in lines if f"{cli.NAME} " in f"{line} "))


def singles(command: str) -> list[str]:
    """The overrides of a command; of a sweep, each one's first choice."""
    words, overrides = iter(shlex.split(command, comments=True)[1:]), []
    for word in words:
        if word.startswith("-"):
            assert word in FLAGS, f"{command}: no such flag"
            for _ in range(FLAGS[word]):
                next(words)
            continue
        parsed = OverridesParser.create().parse_override(word)
        if parsed.is_sweep_override():
            # of a search's interval its start
            first = next(iter(parsed.sweep_string_iterator())) if parsed.is_choice_sweep() else parsed.value().start
            word = f"{word.partition('=')[0]}={first}"
        overrides.append(word)
    return overrides


def test_the_readme_shows_commands() -> None:
    """The two that head it, the reference command, and a user's own model."""
    (first, *_) = (fence.text for fence in FENCES if fence.page.name == "README.md")
    assert re.findall(r"^make (\w+)", first, re.M) == ["train", "test"]
    shown = " ".join(commands())
    assert "model=audio_nf regularizer=free_bits free_bits=0.005 dataset=audio_folder dataset.root=path/to/rec" in shown
    assert "model=custom model._target_=" in shown
    assert len(commands()) >= 8


@pytest.mark.parametrize("command", [each for each in commands() if not any(flag in each for flag in SKIPPED)])
def test_every_command_is_valid(command: str) -> None:
    config.compose(singles(command))


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    mentioned = {
        target for page in PAGES for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text("utf-8"), re.M)
    }
    assert {"train", "test"} <= mentioned <= targets


def test_every_local_link_leads_somewhere() -> None:
    for page in PAGES:
        links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8"))
        missing = [link for link in links if not (page.parent / link).exists()]
        assert not missing, f"{page.name} links to {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_is_empty(page) -> None:
    title, _, body = page.read_text("utf-8").partition("\n")
    assert re.match(r"# \S", title) and len(body.split()) > 50


def test_the_page_of_exports_names_every_key_and_function() -> None:
    """Each key that is written stands in the table."""
    text = (ROOT / "docs/export.md").read_text("utf-8")
    source = (ROOT / "vaecollapse/tasks/exporting.py").read_text("utf-8")
    (written,) = re.findall(r'run\.write\("export\.json", \{(.*?)\n    \}\)', source, re.S)
    keys = re.findall(r'^        "(\w+)":', written, re.M)
    assert len(keys) > 10
    assert not [key for key in keys if f"`{key}`" not in text]
    assert not [name for name in INPUTS if f"`{name}({', '.join(INPUTS[name])})`" not in text]


def test_the_map_names_what_exists_and_every_folder() -> None:
    (tree,) = (fence.text for fence in FENCES if re.search(r"^vaecollapse/", fence.text, re.M))
    named = {word for line in tree.splitlines() for word in line.split()[:1]}
    named |= set(re.findall(r"(?<!\S)[\w./-]+/(?!\S)", tree))
    assert not [path for path in named if not (ROOT / path).exists()]
    folders = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vaecollapse").iterdir() if path.is_dir()}
    assert {f for f in folders if not f.endswith("__")} <= {path.rstrip("/") for path in named}
    assert {"conf/", "tests/", "docs/", "benchmarks/"} <= named


def test_the_readme_shows_one_live_and_one_dead_run_and_a_picture() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    shown = set(re.findall(r"^ *(\w+)  .*confidence (?:high|medium|low)", text, re.M))
    assert shown <= set(STATES)
    assert "healthy" in shown
    assert shown & {"posterior_collapse", "fake_rate"}
    assert re.search(r"^!\[.+\]\(.+\)", text, re.M)
    assert not re.findall(r"@[A-Z]+@", text), "still to be filled in"


def test_python_examples_use_names_and_arguments_that_exist() -> None:
    blocks = [fence.text for fence in FENCES if fence.language == "python"]
    calls = [node for text in blocks for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    ours = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in vaecollapse.__all__]
    assert ours
    for call in ours:
        known = inspect.signature(getattr(vaecollapse, call.func.id)).parameters
        assert {keyword.arg for keyword in call.keywords} <= set(known), call.func.id
