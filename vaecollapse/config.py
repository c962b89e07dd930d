"""The configuration before anything heavy is imported: where it lies, what is refused, what has no effect.

Knows Hydra and OmegaConf and nothing else of the package.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from .prescriptions import STATES
from .refusal import Refused

# what a run is built from: an override that changes none of these changes nothing
ROOTS = ("model", "regularizer", "dataset", "optimizer", "trainer", "callback", "seed")
# readings, their output and the exit code are no part of what is built
EXEMPT = ("detector", "logger", "fail_on", "preflight", "hydra")
ELSE = "another value"


def folder() -> Path:
    """`conf/`: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


@dataclass
class Knobs:
    """The numbers people sweep. Their meaning, unit and default stand in conf/train.yaml, their range here."""

    beta: float = MISSING
    free_bits: float = MISSING
    capacity: int = MISSING
    latent_dim: int = MISSING
    pool: str | None = None
    warmup: float = MISSING
    lr: float = MISSING
    lr_end: float = MISSING
    batch_size: int = MISSING
    seed: int = MISSING
    max_epochs: int = MISSING
    preflight: str = "run"
    fail_on: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.warmup > 1:
            raise Refused(
                f"warmup={self.warmup:g} is a share of training, so the warm-up would end after training: "
                "give a number from 0 to 1, such as warmup=0.3"
            )
        if self.lr_end > 1:
            raise Refused(f"lr_end={self.lr_end:g} is the share of lr left at the end: give a number from 0 to 1")
        for name, low, advice in (
            ("lr_end", 0.0, "give the share of lr left at the end, such as lr_end=0.1"),
            ("beta", 0.0, "try beta=1"),
            ("free_bits", 0.0, "try free_bits=0.1, or free_bits=0 for no floor"),
            ("capacity", 1, "try capacity=8"),
            ("latent_dim", 1, "try latent_dim=16"),
            ("warmup", 0.0, "give the share of training, such as warmup=0.1"),
            ("batch_size", 1, "try batch_size=16"),
            ("seed", 0, "try seed=0"),
            ("max_epochs", 1, "try max_epochs=10"),
        ):
            value = getattr(self, name)
            if not low <= value < math.inf:
                raise Refused(f"{name} must be a finite number of at least {low:g}, but {name}={value:g}: {advice}")
        if self.seed >= 2**32:
            raise Refused(f"seed must lie below 2**32, but seed={self.seed}: try seed=0")
        if not 0 < self.lr < math.inf:
            raise Refused(f"lr must be a finite number above 0, but lr={self.lr:g}: try lr=0.001")
        if self.preflight not in ("run", "only"):
            raise Refused(f"preflight={self.preflight} is neither run nor only: preflight=only stops before step 1")
        if unknown := [name for name in self.fail_on if name not in STATES]:
            near = _nearest(unknown[0], STATES)
            raise Refused(f"fail_on={unknown[0]} is no verdict{near}: take some of {', '.join(STATES)}")


@dataclass
class TrainSchema(Knobs):
    """conf/train.yaml: the knobs, and one open node per group."""

    dataset: Any = None
    posterior: Any = None
    prior: Any = None
    likelihood: Any = None
    regularizer: Any = None
    optimizer: Any = None
    trainer: Any = None
    model: Any = None
    detector: Any = None
    callback: Any = None
    logger: Any = None


KNOBS = tuple(knob.name for knob in fields(Knobs))


def register() -> None:
    """Gives Hydra the schema; call it before anything is composed."""
    ConfigStore.instance().store(name="schema", node=TrainSchema)


def check(cfg: DictConfig) -> None:
    """Raises Refused where a knob is out of range, a value is missing or an interpolation leads nowhere."""
    OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Knobs), OmegaConf.masked_copy(cfg, list(KNOBS))))
    if missing := [key for key, value in _dotted(OmegaConf.to_container(cfg)) if value == MISSING]:
        raise Refused(f"{missing[0]} has no value and no default: type {missing[0]}=…")
    for root in ROOTS:
        try:
            _resolved(cfg, root)
        except InterpolationResolutionError as error:
            # a composed configuration is checked outside a job too, where ${hydra:…} has no value yet
            if "HydraConfig was not set" not in str(error):
                raise Refused(f"{root} cannot be resolved: {str(error).splitlines()[0]}") from error


def _resolved(cfg: DictConfig, root: str) -> Any:
    part = cfg[root]
    return OmegaConf.to_container(part, resolve=True) if OmegaConf.is_config(part) else part


def compose(overrides: Sequence[str]) -> DictConfig:
    """The configuration these overrides give, checked as a command would be; Refused where it is no valid command.

    Works inside a running job (whose --config-dir it then sees) and outside.
    """
    register()
    if not GlobalHydra.instance().is_initialized():
        with hydra.initialize_config_dir(str(folder()), job_name="train", version_base="1.3"):
            return compose(overrides)
    try:
        cfg = hydra.compose("train", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(f"{' '.join(overrides)} is no valid command: {str(error).splitlines()[0]}") from error
    choices, sources = dict(cfg.hydra.runtime.choices), folders(cfg.hydra.runtime.config_sources)
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    check(cfg)
    if dead := without_effect(cfg, overrides, choices, sources):
        raise Refused(dead[0])
    return cfg


def folders(config_sources: Sequence[Any]) -> list[Path]:
    """The folders of `hydra.runtime.config_sources` that hold yaml files."""
    return [Path(source.path) for source in config_sources if source.schema == "file"]


# ---- the dead-knob law


def without_effect(
    cfg: DictConfig, overrides: Sequence[str], choices: Mapping[str, Any], sources: Sequence[Path]
) -> list[str]:
    """One sentence for each override that changes nothing that is built.

    An override is given another value (a group choice: another content), everything is resolved, and the roots are
    compared. `choices` are Hydra's chosen options by group, `sources` the folders where readers are looked for.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    before = _built(plain)
    sentences = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        group = f"{key}@{override.package}" if override.package else key
        path = (override.package or key.replace("/", ".")) if group in choices else key
        if override.is_delete() or path.split(".")[0] in EXEMPT or OmegaConf.select(cfg, path, default=ELSE) == ELSE:
            continue
        if _built(plain, path) == before:
            name = override.input_line if group in choices else key
            sentences.append(f"{name} has no effect {_reason(path, choices, sources)}")
    return sentences


def _built(plain: Any, changed: str | None = None) -> list[Any]:
    """The resolved roots, without what is exempt; `changed` is the path that gets another value."""
    cfg = OmegaConf.create(plain)
    assert isinstance(cfg, DictConfig)
    if changed is not None:
        OmegaConf.update(cfg, changed, ELSE, merge=False)
    for name in EXEMPT:
        cfg[name] = {}
    values = []
    for root in ROOTS:
        try:
            values.append(_resolved(cfg, root))
        except InterpolationResolutionError as error:
            values.append(repr(error))
    return values


def _reason(path: str, choices: Mapping[str, Any], sources: Sequence[Path]) -> str:
    """`with regularizer=beta: regularizer=free_bits would read it`, as far as the yaml files tell."""
    parts = path.split(".")
    prefixes = "|".join(re.escape(".".join(parts[: n + 1])) for n in range(len(parts)))
    readers = _options_that_match(sources, rf"\$\{{({prefixes})\}}")
    for group, options in sorted(readers.items()):
        for choice in sorted(name for name in choices if name.split("@")[0] == group):
            if choices[choice] not in options:
                would = " or ".join(f"{choice}={option}" for option in options)
                return f"with {choice}={choices[choice]}: {would} would read it"
    if readers:
        return "here: what would read it is replaced by another override, so leave one of the two out"
    chosen = ", ".join(f"{name}={choices[name]}" for name in ("model", "regularizer", "dataset") if name in choices)
    return f"with {chosen}: nothing that is built reads it, so leave it out"


def _options_that_match(sources: Sequence[Path], pattern: str) -> dict[str, list[str]]:
    """The options by group whose yaml matches the pattern."""
    found: dict[str, list[str]] = {}
    for group, names in options(sources).items():
        files = {name: next(f for s in sources if (f := s / group / f"{name}.yaml").is_file()) for name in names}
        matching = [name for name, file in files.items() if re.search(pattern, file.read_text("utf-8"), re.M)]
        if matching and group not in EXEMPT:
            found[group] = matching
    return found


def options(sources: Sequence[Path]) -> dict[str, list[str]]:
    """Every group with its options, by the yaml files in these folders."""
    found: dict[str, set[str]] = {}
    for source in sources:
        for file in source.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


def sweeps_a_group(overrides: Sequence[str], groups: Sequence[str]) -> bool:
    """Do these overrides of a multirun try several options of a group?"""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return any(override.is_sweep_override() and override.key_or_group in groups for override in parsed)


# ---- did you mean


def suggestions(overrides: Sequence[str], sources: Sequence[Path]) -> list[str]:
    """The nearest names for what cannot be overridden; empty where nothing is near."""
    groups = options(sources)
    parsed = list(_parsed(overrides))
    valid = [o.input_line or "" for o in parsed if _is_choice(o, groups) and not o.is_sweep_override()]
    known = [key for key, _ in _dotted(OmegaConf.to_container(_composed(valid, sources)))]
    found = []
    for override in parsed:
        key = override.key_or_group
        if key in groups:
            unknown = (value for value in _values(override) if value not in groups[key])
            found += [f"{key}={value}{near}" for value in unknown if (near := _nearest(value, groups[key]))]
        elif key not in known and not override.is_add() and not key.startswith("hydra"):
            found += _about(key, [*known, *groups], sources)
    return found


def _about(key: str, names: Sequence[str], sources: Sequence[Path]) -> list[str]:
    group, _, rest = key.partition(".")
    if rest and (owners := _options_that_match(sources, rf"^{re.escape(rest)}:").get(group)):
        return [f"{key} exists with {' or '.join(f'{group}={owner}' for owner in owners)}"]
    near = _nearest(key, names)
    return [f"{key}{near}"] if near else []


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _parsed(overrides: Sequence[str]) -> Iterator[Override]:
    for line in overrides:
        try:
            yield OverridesParser.create().parse_override(line)
        except OverrideParseException:
            continue


def _values(override: Override) -> list[str]:
    """The options an override names: one, a list, or the choices of a sweep."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()] if override.is_choice_sweep() else []
    value = override.value()
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def _is_choice(override: Override, groups: Mapping[str, Sequence[str]]) -> bool:
    names = groups.get(override.key_or_group, ())
    return override.package is None and bool(names) and all(value in names for value in _values(override))


def _composed(overrides: Sequence[str], sources: Sequence[Path]) -> DictConfig:
    register()
    more = [f"file://{path}" for path in sources if path != folder()]
    with hydra.initialize_config_dir(str(folder()), job_name="train", version_base="1.3"):
        try:
            return hydra.compose("train", [*overrides, f"hydra.searchpath=[{','.join(more)}]"])
        except (HydraException, OmegaConfBaseException):
            return hydra.compose("train")


def _dotted(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a plain configuration, dotted, with its value; interpolations are not followed."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}", value
        yield from _dotted(value, f"{prefix}{key}.")
