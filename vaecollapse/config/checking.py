"""What a composed configuration is refused for, before anything is built from it."""

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..refusal import Refused
from .schema import KNOBS, DiagnoseSchema, EvaluateSchema, Knobs, ReadSchema, ReportSchema, listed

# what cannot be left out, and what may hold several by their names
ONE = ("dataset", "model", "regularizer", "optimizer", "trainer")
SEVERAL = ("detector", "callback", "logger")
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def check(cfg: DictConfig) -> None:
    """Raises Refused where a knob is out of range, a value is missing or an interpolation leads nowhere."""
    if gone := [knob for knob in KNOBS if knob not in cfg]:
        raise Refused(f"{gone[0]} is needed and was taken out: leave ~{gone[0]} away")
    for root in (*KNOBS, *(str(key) for key in cfg if key not in KNOBS)):
        try:
            resolved(cfg, root)
        except (OmegaConfBaseException, RecursionError) as error:
            # a composed configuration is checked outside a job too, where ${hydra:…} has no value yet
            if "HydraConfig was not set" not in str(error):
                raise Refused(f"{root} cannot be resolved: {str(error).splitlines()[0]}") from error
    try:
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Knobs), OmegaConf.masked_copy(cfg, list(KNOBS))))
    except OmegaConfBaseException as error:
        key, reason = error.full_key or "a knob", str(error).splitlines()[0]
        raise Refused(f"{key} has a value of another kind than it needs: {reason}") from error
    leaves = list(dotted(OmegaConf.to_container(cfg)))
    if missing := [key for key, value in leaves if value == MISSING]:
        raise Refused(f"{missing[0]} has no value and no default: type {missing[0]}=…")
    if undefined := [key for key, value in leaves if value != value]:
        raise Refused(f"{undefined[0]} is nan, which is no number to work with: type {undefined[0]}=… with a number")
    _check_nodes(cfg)


def _check_nodes(cfg: DictConfig) -> None:
    """Raises Refused where a group does not hold what is built from it."""
    for name in ONE:
        if not _builds(cfg.get(name)):
            raise Refused(f"{name} must be one option with a class to build (_target_): see ls conf/{name}, or --help")
    for name in SEVERAL:
        members = cfg.get(name)
        if members is not None and not isinstance(members, DictConfig):
            raise Refused(f"{name} must hold options by their names: {name}=[…], see ls conf/{name}, or --help")
        for key, member in (members or {}).items():
            if not _builds(member):
                raise Refused(
                    f"{name}.{key} must be an option with a class to build (_target_): leave it out with ~{name}.{key}"
                )
    if not cfg.get("detector") and "collapse_monitor" in (cfg.get("callback") or {}):
        raise Refused(
            "detector names no reading, so there could be no verdict: leave it out for all of them, "
            "or type ~callback.collapse_monitor to train without a verdict"
        )


def _builds(node: Any) -> bool:
    return isinstance(node, DictConfig) and isinstance(node.get("_target_"), str)


def check_kinds(cfg: DictConfig) -> None:
    """Raises Refused where a class of ours, or of Lightning and torch, is given a value of another kind than it asks
    for. Imports these classes."""
    for path, node in dotted(OmegaConf.to_container(cfg, resolve=True)):
        target = node.get("_target_") if isinstance(node, dict) else None
        if isinstance(target, str) and target.startswith(("vaecollapse.", "lightning.", "torch.optim.")):
            _check_arguments(path, target, node)


def _check_arguments(path: str, target: str, node: Mapping[str, Any]) -> None:
    try:
        named = hydra.utils.get_object(target)
        parameters = inspect.signature(named).parameters
        hints = typing.get_type_hints(getattr(named, "__init__", None))
    except (HydraException, ImportError, AttributeError, TypeError, ValueError, NameError):
        return  # whoever builds it says what is wrong with it
    for name in [name for name in node if name in parameters and name in hints]:
        value, default = node[name], parameters[name].default
        shown = "null" if value is None else value
        advice = f"try {path}.{name}={default}" if isinstance(default, int | float | str) else "give another"
        if value != default and not _fits(value, hints[name]):
            kind = KINDS.get(hints[name], "what is needed there")
            raise Refused(f"{path}.{name}={shown} is not {kind}: {advice}")
        numbers = [n for n in listed(value) if isinstance(n, int | float)]
        if target.startswith("vaecollapse.") and not all(-(2**63) <= n < 2**63 for n in numbers):
            raise Refused(f"{path}.{name}={shown} is beyond any number it could take: {advice}")


def _fits(value: Any, hint: Any) -> bool:
    """Could a value of a configuration be what the annotation asks for? True where the annotation does not tell."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    if hint in (str, bool, types.NoneType):
        return isinstance(value, hint)
    if origin in (list, tuple, Sequence):
        fixed = origin is tuple and ... not in parts
        counted = isinstance(value, list) and (not fixed or len(value) == len(parts))
        return counted and all(_fits(item, parts[i] if fixed else parts[0]) for i, item in enumerate(value))
    if isinstance(value, dict) or hint is Any or isinstance(hint, typing.TypeVar):
        return True
    return value is None and hint is None


def check_evaluation(cfg: DictConfig, schema: type = EvaluateSchema) -> None:
    """Raises Refused where the configuration of an evaluation (or, by its schema, of another verb that reads a run) is
    out of range or has no value."""
    if OmegaConf.select(cfg, "file") is not None:
        _check_file(cfg)
    elif given := [name for name in ("variable", "truth") if cfg.get(name) is not None]:
        raise Refused(f"{given[0]} names a variable of file=, and no file is given: leave it out")
    _check_folders(cfg)
    if missing := [str(key) for key in cfg if OmegaConf.is_missing(cfg, key)]:
        raise Refused(f"{missing[0]} has no value: type {missing[0]}=outputs/train/<time>, a run directory")
    _hold_to(schema, cfg)


def check_report(cfg: DictConfig) -> None:
    """Raises Refused where the configuration of a report names no runs or is out of range."""
    if OmegaConf.is_missing(cfg, "runs"):
        raise Refused("runs has no value: type runs=outputs/train/<time>, a folder of runs, or runs='outputs/train/*'")
    _hold_to(ReportSchema, cfg)


def _check_file(cfg: DictConfig) -> None:
    """Of a file there is no run; Refused where one is given, or what only a run reads."""
    if not OmegaConf.is_missing(cfg, "run"):
        raise Refused(f"run={cfg.run} and file={cfg.file}: give one of the two, a run or an ensemble in a file")
    cfg.run = ""
    for name in ("examples", "members", "mode", "temperature", "seed"):
        if cfg.get(name) is not None:
            raise Refused(f"{name} is of a run's own ensemble and has no effect with file={cfg.file}: leave it out")


def _check_folders(cfg: DictConfig) -> None:
    """Of two folders there is no run; Refused where one is given, or what only a run reads, or one folder alone."""
    given = {name: cfg.get(name) for name in ("real", "generated")}
    if not any(given.values()):
        return
    if missing := [name for name, value in given.items() if not value]:
        raise Refused(f"{missing[0]} is missing: give both real=path/to/recordings and generated=path/to/samples")
    if cfg.get("file") is not None or not OmegaConf.is_missing(cfg, "run"):
        other = "file" if cfg.get("file") is not None else "run"
        raise Refused(f"{other}={cfg.get(other)} and real={cfg.real}: give one of the two")
    cfg.run = ""
    for name in ("members", "mode", "temperature"):
        if cfg.get(name) is not None:
            raise Refused(f"{name} is of a run's own samples and has no effect with real={cfg.real}: leave it out")


def _hold_to(schema: type, cfg: DictConfig) -> None:
    """Refused where a key was taken out, leads nowhere or is out of range."""
    if gone := [each.name for each in fields(schema) if each.name not in list(cfg)]:
        raise Refused(f"{gone[0]} is needed and was taken out: leave ~{gone[0]} away")
    try:
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), cfg))
    except (OmegaConfBaseException, RecursionError) as error:
        key = getattr(error, "full_key", None) or "this command line"
        raise Refused(f"{key} cannot be resolved: {(str(error).splitlines() or ['it refers to itself'])[0]}") from error


def check_diagnosis(cfg: DictConfig) -> None:
    """Raises Refused where the configuration of a diagnosis is out of range; the rest of an evaluation's keys belong to
    a run that is measured."""
    _hold_to(DiagnoseSchema, cfg)
    of_run = {name: cfg[name] for name in ("split", "checkpoint", "device", "trust", "overrides")}
    _hold_to(ReadSchema, OmegaConf.create({**of_run, "run": cfg.run or "", "seed": cfg.seed}))
    plain = DiagnoseSchema()
    if not cfg.measure:
        if moved := [name for name, value in of_run.items() if value != getattr(plain, name)]:
            raise Refused(
                f"{moved[0]} is of a run that is measured: add run=outputs/train/<time> measure=true, or leave it"
            )
    elif cfg.run is None:
        raise Refused("measure belongs to run=outputs/train/<time>: leave measure away")
    model = cfg.module is not None or cfg.encode is not None
    if not model and cfg.examples != plain.examples:
        raise Refused("examples is how many of data are read with module=… or encode=…: leave it away")
    if not model and cfg.seed is not None and not cfg.measure:
        raise Refused(
            "seed is of the noise that a model is read with, module=…, encode=… or measure=true: leave it away"
        )


def resolved(cfg: DictConfig, root: str) -> Any:
    part = cfg[root]
    return OmegaConf.to_container(part, resolve=True) if OmegaConf.is_config(part) else part


def dotted(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a plain configuration, dotted, with its value; interpolations are not followed."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}", value
        yield from dotted(value, f"{prefix}{key}.")
