"""The keys of each verb, their types and ranges."""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, ListConfig

from ..prescriptions import STATES
from ..refusal import Refused, nearest

# readings, their output and the exit code are no part of what is built
EXEMPT = (
    *("detector", "logger", "fail_on", "preflight", "probe", "report"),
    *("resume", "init_from", "trust", "search", "sweep", "hydra"),
)
EVALUATED = ("metric",)  # groups of an evaluation, none of a training


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
        near = nearest(str(unknown[0]), STATES)
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
            raise Refused(f"{name}={value}{nearest(value, options)} is none of {', '.join(options)}")

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
            raise Refused(f"format={self.format}{nearest(self.format, ('table', 'json'))} is neither table nor json")
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
            near = nearest(self.format, ("html", "markdown"))
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
