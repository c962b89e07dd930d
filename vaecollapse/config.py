"""The configuration before anything heavy is imported: where it lies, what is refused, what has no effect.

Knows Hydra and OmegaConf and nothing else of the package.
"""

import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from .prescriptions import STATES
from .refusal import Refused

# what a run is built from: an override that changes none of these changes nothing
ROOTS = ("model", "regularizer", "dataset", "optimizer", "trainer", "callback", "seed")
# readings, their output and the exit code are no part of what is built
EXEMPT = (
    *("detector", "logger", "fail_on", "preflight", "probe", "report"),
    *("resume", "init_from", "trust", "search", "sweep", "hydra"),
)
# what cannot be left out, and what may hold several by their names
ONE = ("dataset", "model", "regularizer", "optimizer", "trainer")
SEVERAL = ("detector", "callback", "logger")
EVALUATED = ("metric",)  # groups of an evaluation, none of a training
ELSE = "another value"
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


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
    probe: bool = False
    report: bool = True
    resume: str | None = None
    init_from: str | None = None
    trust: list[str] = field(default_factory=list)
    fail_on: Any = field(default_factory=list)  # one verdict or a list

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
        check_verdicts(self.fail_on)


@dataclass
class SearchSchema:
    """What hydra/sweeper=optuna is told of a run."""

    objective: str = MISSING
    verdicts: Any = MISSING
    min_rank: float = MISSING
    penalty: float = MISSING

    def __post_init__(self) -> None:
        check_verdicts(self.verdicts, "search.verdicts")
        if not 0 <= self.min_rank < math.inf:
            raise Refused(f"search.min_rank must be 0 or more, but search.min_rank={self.min_rank:g}: try 1")
        if not 0 < self.penalty < math.inf:
            raise Refused(f"search.penalty must be above 0, but search.penalty={self.penalty:g}: try 1e6")


@dataclass
class SweepSchema:
    """Of a sweep as a whole."""

    resume: str | None = None


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
    search: SearchSchema = MISSING
    sweep: SweepSchema = MISSING


def listed(value: Any) -> list[Any]:
    """One thing as a list of one, null as none."""
    return [] if value is None else list(value) if isinstance(value, list | ListConfig) else [value]


def check_verdicts(words: Any, key: str = "fail_on") -> None:
    """Refused unless these are verdicts."""
    if unknown := [name for name in listed(words) if name not in STATES]:
        near = _nearest(str(unknown[0]), STATES)
        raise Refused(f"{key}={unknown[0]} is no verdict{near}: take some of {', '.join(STATES)}")


@dataclass
class ReadSchema:
    """What every verb that reads a run directory asks for: which checkpoint, on which split."""

    run: str = MISSING
    split: str = MISSING
    checkpoint: str = MISSING
    device: str = MISSING
    seed: int | None = None
    trust: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.check_one_of("split", ("train", "validation", "test"))
        self.check_one_of("checkpoint", ("best", "last", "ema", "healthy"))
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise Refused(f"seed must lie from 0 to below 2**32, but seed={self.seed}: try seed=0")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise Refused(f"device={self.device} is not known: try device=cpu or device=cuda")
        if wrong := [name for name in self.trust if not name.isidentifier()]:
            raise Refused(f"trust={wrong[0]} is no top-level package: give its bare name, such as trust=[my_pkg]")
        if wrong := [line for line in self.overrides if not re.fullmatch(r"dataset(\.[A-Za-z]\w*)+=.*", line)]:
            raise Refused(
                f"overrides={wrong[0]} is no key of the run's dataset: give such as "
                "\"overrides=['dataset.root=/new/place']\"; what else the run was stays as it was"
            )

    def check_one_of(self, name: str, options: Sequence[str]) -> None:
        """Refused where this value is none of the options."""
        if (value := getattr(self, name)) not in options:
            raise Refused(f"{name}={value}{_nearest(value, options)} is none of {', '.join(options)}")

    def check_counts(self, **examples: int) -> None:
        """Refused where one of these is given and below 1."""
        for name, example in examples.items():
            if (value := getattr(self, name)) is not None and value < 1:
                raise Refused(f"{name} must be at least 1, but {name}={value}: try {name}={example}")


@dataclass
class EvaluateSchema(ReadSchema):
    """conf/evaluate.yaml: its meanings and defaults stand there, the ranges here."""

    samples: int = MISSING
    examples: int | None = None
    file: str | None = None
    variable: str | None = None
    truth: str | None = None
    real: str | None = None
    generated: str | None = None
    members: int | None = None
    mode: str | None = None
    temperature: float | None = None
    metric: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts(samples=64, examples=512, members=10)
        if self.mode is not None:
            self.check_one_of("mode", ("prior", "posterior"))
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise Refused(f"temperature must be finite, 0 or more, but temperature={self.temperature:g}: try 1")


SAMPLE_MODES = ("prior", "posterior", "interpolate", "traverse")
# what is asked of some modes only
OF_MODES = {"steps": ("interpolate", "traverse"), "draws": ("posterior",), "temperature": ("prior", "posterior")}


@dataclass
class SampleSchema(ReadSchema):
    """conf/sample.yaml: its meanings and defaults stand there, the ranges here."""

    mode: str = MISSING
    n: int | None = None
    steps: int | None = None
    draws: int | None = None
    temperature: float | None = None
    tokens: float | None = None
    top_p: float | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_one_of("mode", SAMPLE_MODES)
        self.check_counts(n=16, draws=3)
        for name, modes in OF_MODES.items():
            if getattr(self, name) is not None and self.mode not in modes:
                raise Refused(f"{name} has no effect with mode={self.mode}: type mode={' or mode='.join(modes)}")
        if self.steps is not None and self.steps < 2:
            raise Refused(f"steps must be at least 2, from one end to the other, but steps={self.steps}: try steps=7")
        for name, example in (("temperature", 0.7), ("tokens", 0.7)):
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise Refused(
                    f"{name} must be a finite number of at least 0, but {name}={value:g}: try {name}={example:g}"
                )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise Refused(f"top_p must be above 0 and at most 1, but top_p={self.top_p:g}: try top_p=0.9")
        if self.top_p is not None and not self.tokens:
            raise Refused("top_p has no effect where each token is the likeliest: type tokens=1 beside it")


@dataclass
class ExportSchema(ReadSchema):
    """conf/export.yaml: its meanings and defaults stand there, the ranges here."""

    format: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_one_of("format", ("torchscript", "export"))


@dataclass
class DiagnoseSchema:
    """conf/diagnose.yaml: its meanings and defaults stand there, the ranges here. What an input holds is checked by
    `evidence.given`."""

    run: str | None = None
    measure: bool = False
    split: str = "test"
    checkpoint: str = "best"
    module: str | None = None
    data: str | None = None
    encode: str | None = None
    decode: str | None = None
    distance: str | None = None
    sample_rate: int | None = None
    length: int | None = None
    arrays: str | None = None
    log: str | None = None
    columns: Any = None
    values: Any = None
    examples: int = 512
    device: str = "cpu"
    seed: int | None = None
    trust: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    format: str = "table"
    fail_on: Any = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.format not in ("table", "json"):
            raise Refused(f"format={self.format}{_nearest(self.format, ('table', 'json'))} is neither table nor json")
        if self.examples < 2:
            raise Refused(f"examples must be at least 2, but examples={self.examples}: try examples=512")
        check_verdicts(self.fail_on)


@dataclass
class ReportSchema:
    """conf/report.yaml: its meanings and defaults stand there. What `runs` names is checked by `report.folders`."""

    runs: Any = MISSING
    format: str = "html"
    out: str | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        if self.format not in ("html", "markdown"):
            near = _nearest(self.format, ("html", "markdown"))
            raise Refused(f"format={self.format}{near} is neither html nor markdown")
        named = listed(self.runs)
        if not named or not all(isinstance(each, str) and each and "\0" not in each for each in named):
            raise Refused(
                "runs must be one path or a list of them: type runs=outputs/train/<time> or runs='outputs/train/*'"
            )


KNOBS = tuple(knob.name for knob in fields(Knobs))


@functools.cache
def register() -> None:
    """Gives Hydra the schema; call it before anything is composed."""
    ConfigStore.instance().store(name="schema", node=TrainSchema)
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateSchema)
    ConfigStore.instance().store(name="sample_schema", node=SampleSchema)
    ConfigStore.instance().store(name="export_schema", node=ExportSchema)
    ConfigStore.instance().store(name="diagnose_schema", node=DiagnoseSchema)
    ConfigStore.instance().store(name="report_schema", node=ReportSchema)


def check(cfg: DictConfig) -> None:
    """Raises Refused where a knob is out of range, a value is missing or an interpolation leads nowhere."""
    if gone := [knob for knob in KNOBS if knob not in cfg]:
        raise Refused(f"{gone[0]} is needed and was taken out: leave ~{gone[0]} away")
    for root in (*KNOBS, *(str(key) for key in cfg if key not in KNOBS)):
        try:
            _resolved(cfg, root)
        except (OmegaConfBaseException, RecursionError) as error:
            # a composed configuration is checked outside a job too, where ${hydra:…} has no value yet
            if "HydraConfig was not set" not in str(error):
                raise Refused(f"{root} cannot be resolved: {str(error).splitlines()[0]}") from error
    try:
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Knobs), OmegaConf.masked_copy(cfg, list(KNOBS))))
    except OmegaConfBaseException as error:
        key, reason = error.full_key or "a knob", str(error).splitlines()[0]
        raise Refused(f"{key} has a value of another kind than it needs: {reason}") from error
    leaves = list(_dotted(OmegaConf.to_container(cfg)))
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


# ---- kinds of values, by the signatures of the classes they go to


def check_kinds(cfg: DictConfig) -> None:
    """Raises Refused where a class of ours, or of Lightning and torch, is given a value of another kind than it asks
    for. Imports these classes."""
    for path, node in _dotted(OmegaConf.to_container(cfg, resolve=True)):
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
    resolved = {root for root, value in before.items() if not isinstance(value, str)}
    sentences = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        group = f"{key}@{override.package}" if override.package else key
        path = (override.package or key.replace("/", ".")) if group in choices else key
        if override.is_delete() or path.split(".")[0] in EXEMPT or OmegaConf.select(cfg, path, default=ELSE) == ELSE:
            continue
        # what stands in a root is built; all else has to be resolved again, which is slow
        if path.split(".")[0] not in resolved and _built(plain, path) == before:
            name = override.input_line if group in choices else key
            sentences.append(f"{name} has no effect {_reason(path, choices, sources)}")
    return sentences


def _built(plain: Any, changed: str | None = None) -> dict[str, Any]:
    """The resolved roots, without what is exempt; `changed` is the path that gets another value."""
    cfg = OmegaConf.create({**plain, **{name: {} for name in EXEMPT}})
    assert isinstance(cfg, DictConfig)
    if changed is not None:
        OmegaConf.update(cfg, changed, ELSE, merge=False)
    values = {}
    for root in ROOTS:
        try:
            values[root] = _resolved(cfg, root)
        except InterpolationResolutionError as error:
            values[root] = repr(error)  # the only text
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
    if any(name.split("@")[0] in readers for name in choices):
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
    groups, found = options(sources), []
    parsed = list(_parsed(overrides))
    for override in parsed:
        names = groups.get(override.key_or_group)
        if names and not override.is_delete() and isinstance(override.value(), int | float | None):
            found.append(f"{override.input_line}: take one of {', '.join(names)}")
    valid = [o.input_line or "" for o in parsed if _is_choice(o, groups) and not o.is_sweep_override()]
    composed = _composed(valid, sources)
    known = [key for key, _ in _dotted(OmegaConf.to_container(composed))] if composed else list(KNOBS)
    for override in parsed:
        key = override.key_or_group
        if key in groups:
            unknown = (value for value in _values(override) if value not in groups[key])
            found += [f"{key}={value}{near}" for value in unknown if (near := _nearest(value, groups[key]))]
        elif key in known or override.is_add() or key.startswith("hydra"):
            continue
        elif composed or "." not in key:
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
        except (HydraException, ValueError):
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


def _composed(overrides: Sequence[str], sources: Sequence[Path]) -> DictConfig | None:
    register()
    more = [f"file://{path}" for path in sources if path != folder()]
    with hydra.initialize_config_dir(str(folder()), job_name="train", version_base="1.3"):
        try:
            return hydra.compose("train", [*overrides, f"hydra.searchpath=[{','.join(more)}]"])
        except (HydraException, OmegaConfBaseException, ValueError):
            return None


def _dotted(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a plain configuration, dotted, with its value; interpolations are not followed."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}", value
        yield from _dotted(value, f"{prefix}{key}.")
