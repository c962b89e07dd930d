"""`vaecollapse-diagnose`: the verdict on a run, a model that is not ours, arrays, a log, or a few numbers."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf

from .. import __version__, loading
from ..diagnosis import Verdict
from ..evidence import gather, given, judged
from ..evidence.recorded import recorded
from ..run import Run
from .measuring import evaluate
from .recording import git_revision

HASHED = 2**28  # bytes of an input beyond which its hash is not worth the wait


class Diagnosed(NamedTuple):
    """The verdict, of what it is, and where it lies."""

    verdict: Verdict
    source: str
    directory: Path


def diagnose(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Diagnosed:
    """Judges one input. Raises Refused where it cannot be read or says nothing of a latent."""
    inputs = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    which = given.check(inputs)
    if which == "run":
        verdict, source = (measured if cfg.measure else read)(cfg, directory, overrides)
    else:
        evidence = gather(which, inputs, examples=cfg.examples, seed=cfg.seed or 0)
        verdict, source = judged(evidence), evidence.source
    record(Run(directory), cfg, overrides, verdict, source, which)
    return Diagnosed(verdict, source, directory)


def read(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> tuple[Verdict, str]:
    """The verdict that a run has recorded."""
    found = recorded(cfg.run)
    return found.verdict._replace(findings=[*found.verdict.findings, *found.notes]), found.source


def measured(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> tuple[Verdict, str]:
    """The verdict of an evaluation of the run; of one that has no best checkpoint yet, of its last."""
    checkpoints = loading.run_directory(cfg.run) / "checkpoints"
    which = cfg.checkpoint
    if which == "best" and not (checkpoints / "best.ckpt").exists() and (checkpoints / "last.ckpt").exists():
        which = "last"
    names = ("run", "split", "device", "seed", "trust", "overrides")
    asked = {**{name: cfg[name] for name in names}, "checkpoint": which, "samples": 1, "examples": None}
    outcome = evaluate(OmegaConf.create(asked), directory, overrides)
    return outcome.verdict, outcome.what


def record(run: Run, cfg: DictConfig, overrides: Sequence[str], verdict: Verdict, source: str, which: str) -> None:
    """verdict.json, config.yaml, overrides.txt, and where it comes from."""
    provenance: dict[str, Any] = {"vaecollapse": __version__, "git": git_revision(), "input": which, "source": source}
    if which in ("arrays", "log", "encode"):
        provenance |= fingerprint(Path(str(cfg[which])).expanduser())
    if (run.directory / "provenance.json").exists():  # that of the measurement
        provenance = run.read("provenance.json") | provenance
    run.write("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    run.write("overrides.txt", "".join(f"{line}\n" for line in overrides))
    run.write("provenance.json", provenance)
    run.write("verdict.json", verdict.as_dict())


def fingerprint(file: Path) -> dict[str, Any]:
    """Which file was read."""
    size = file.stat().st_size
    told: dict[str, Any] = {"file": str(file.resolve()), "bytes": size}
    if size <= HASHED:
        with file.open("rb") as opened:
            told["sha256"] = hashlib.file_digest(opened, "sha256").hexdigest()
    return told
