"""Any torch model, read through up to three functions: `encode(x[, c])`, `decode(z[, c])`, `log_likelihood(x, y)`."""

import dis
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..batch import Batch
from ..callbacks.foreign import foreseen, whole_event
from ..callbacks.monitor import all_detectors
from ..detectors.base import Finding
from ..detectors.conditions import are_groups, labels
from ..elbo import gaussian
from ..evaluation import blocks_of, quiet, read
from ..refusal import Refused
from ..vae import PART, VAE
from .base import Evidence, known
from .examples import C, examples_of, splits_of

BLOCK = 256  # as the monitor reads its probes
FUNCTIONS = ("encode", "decode", "log_likelihood", "distance", "prior")
DEPTH, MANY = 6, 1000  # how far, and among how many, a model's torch modules are looked for


def imported(key: str, place: str) -> Any:
    """What `package.module:name` names. Refused where it cannot be imported."""
    module, _, name = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # somebody else's module may raise anything while it is imported
        said = (str(error).splitlines() or [""])[0]
        raise Refused(
            f"{key}={place} cannot be imported from here ({type(error).__name__}: {said}): run where the package is, "
            "and name it as my_pkg.my_module:name"
        ) from error
    return found


def made(key: str, what: Any) -> Any:
    """The object, or what the factory gives. Refused in one sentence where the factory raises."""
    if isinstance(what, str):
        what = imported(key, what)
        if not callable(what) or isinstance(what, nn.Module):
            return what
    elif not (inspect.isroutine(what) or inspect.isclass(what)):
        return what
    try:
        return what()
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        name = getattr(what, "__name__", str(what))
        raise Refused(
            f"{key}: {name}() raised {type(error).__name__}: {said}: call it once in Python to see where; it takes no "
            "arguments"
        ) from error


class Functions(NamedTuple):
    """What is known of a model, and the torch modules within it."""

    encode: Callable[..., Any]
    decode: Callable[..., Any] | None
    log_likelihood: Callable[..., Any] | None
    distance: Callable[..., Any] | None
    prior: Callable[..., Any] | None
    modules: list[nn.Module]


def functions_of(built: Any) -> Functions:
    """From an object with these methods, a map of functions, or (module, functions). Refused without `encode`."""
    source = built
    if isinstance(built, tuple) and len(built) == 2 and isinstance(built[0], nn.Module):
        source = built[1]
    found = {
        name: source.get(name) if isinstance(source, Mapping) else getattr(source, name, None) for name in FUNCTIONS
    }
    for name, function in found.items():
        if function is not None and not callable(function):
            if name in ("encode", "decode"):
                raise Refused(f"module: {name} is a {type(function).__name__} and no function: give {name}(…)")
            found[name] = None  # somebody's attribute of that name
    if found["encode"] is None:
        raise Refused(
            f"module: a {type(built).__name__} has no encode(x): give an object (or a map of functions) with encode(x) "
            "→ Normal(mean, scale), decode(z) → what it decodes to, and log_likelihood(x, decoded) of a density"
        )
    modules = within([built, *found.values()])
    return Functions(found["encode"], *(found[name] for name in FUNCTIONS[1:]), modules)  # pyright: ignore[reportArgumentType, reportCallIssue]


def within(first: Iterable[Any]) -> list[nn.Module]:
    """The torch modules that objects hold or functions reach: attributes, containers, closures, bound and partial
    arguments, and the globals that a function names. The nearest come first."""
    found: dict[int, nn.Module] = {}
    seen: dict[int, Any] = {}  # kept, so that no id is given twice
    left = list(first)
    for _ in range(DEPTH):
        fresh = list({id(part): part for part in left if id(part) not in seen}.values())
        seen |= {id(part): part for part in fresh}
        found |= {id(part): part for part in fresh if isinstance(part, nn.Module)}
        left = [held for part in fresh if id(part) not in found for held in held_by(part)]
    return list(found.values())


def held_by(part: Any) -> Iterable[Any]:
    """What an object holds, or a function reaches."""
    if isinstance(part, Mapping):
        return list(part.values())[:MANY]
    if isinstance(part, list | tuple | set | frozenset):
        return list(part)[:MANY]
    if inspect.ismethod(part):
        return [part.__self__, part.__func__]
    if isinstance(part, partial):
        return [part.func, *part.args, *part.keywords.values()]
    if inspect.ismodule(part) or isinstance(part, type | Tensor):
        return []
    if not inspect.isfunction(part):
        return list(getattr(part, "__dict__", {}).values())
    codes = list(nested(part.__code__))
    looked = {each.argval for code in codes for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    reached = [value for name, value in part.__globals__.items() if name in looked]
    # of a module that is named, as in `mine.net(x)`, what the function may mean
    named = {name for code in codes for name in code.co_names}
    inner = [value for each in reached if inspect.ismodule(each) for name, value in vars(each).items() if name in named]
    return [*cells(part), *(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values(), *reached, *inner]


def cells(function: Any) -> list[Any]:
    """What a closure holds."""
    held = []
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # still empty
            continue
    return held


def nested(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def takes_condition(function: Callable[..., Any] | None, place: int = 1) -> tuple[bool, bool]:
    """(Does it take a condition as argument `place`, can it not do without?) One with a default must be named so."""
    try:
        named = list(inspect.signature(function).parameters.values()) if function else []
    except (TypeError, ValueError):
        return False, False
    places = [p for p in named if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(places) <= place:
        return False, False
    needed = places[place].default is places[place].empty
    return needed or places[place].name in C, needed


class Shown(VAE):
    """A model that is not ours, as the detectors see it. Its prior is N(0, I) unless it has one of its own."""

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.of = functions
        self.parts = nn.ModuleList(functions.modules)
        self.decodes = functions.decode is not None
        places = {"encode": 1, "decode": 1, "prior": 0}
        self.conditions = {name: takes_condition(getattr(functions, name), place) for name, place in places.items()}
        self.unit: tuple[int, ...] = ()
        self.like = torch.zeros(())  # the numbers of the posterior encoded last
        self.density: bool | None = None  # known from what is decoded first

    @property
    def normalised(self) -> bool:
        return self.density is not False

    @property
    def conditional(self) -> bool:
        return any(takes for takes, _ in self.conditions.values())

    def called(self, name: str, *arguments: Tensor | None) -> Any:
        """One of its functions; what it raises becomes a sentence."""
        function: Any = getattr(self.of, name)
        given = [each for each in arguments if each is not None]
        try:
            return function(*given)
        except Refused:
            raise
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            if "to satisfy the constraint" in said:  # torch's own check of a distribution
                raise Refused(
                    f"module: {name} gives a distribution whose parameters are not finite, or a scale of 0 or less: "
                    "the model has diverged, or the data are not scaled as in its training; load an earlier checkpoint"
                ) from error
            shapes = ", ".join(str(tuple(each.shape)) for each in given)
            raise Refused(
                f"module: {name} of {shapes} raised {type(error).__name__}: {said}: call it once in Python with a "
                "batch of your data"
            ) from error

    def with_condition(self, name: str, *arguments: Tensor | None) -> Any:
        *first, context = arguments
        takes, needed = self.conditions[name]
        if needed and context is None:
            raise Refused(f"module: {name} takes a condition, but the data have none: let the loader yield (x, c)")
        return self.called(name, *first, context if takes else None)

    def encode(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        posterior = self.with_condition("encode", x, context)
        if not isinstance(posterior, Distribution):
            raise Refused(
                f"module: encode(x) gives a {type(posterior).__name__}, where a torch Distribution is needed: return "
                "Normal(mean, scale), with scale = (log_variance / 2).exp()"
            )
        posterior = whole_event(posterior)
        if len(posterior.batch_shape) != 1 or posterior.batch_shape[0] != len(x) or not posterior.event_shape:
            shape = (*posterior.batch_shape, *posterior.event_shape)
            raise Refused(
                f"module: encode of {len(x)} examples gives a distribution of shape {tuple(shape)}: its first axis "
                "must be the examples, and at least one axis of units must follow"
            )
        self.unit = tuple(posterior.event_shape)
        parameters = gaussian(posterior)
        self.like = parameters[0][:1] if parameters else posterior.sample()[:1]
        return posterior

    def prior(self, context: Tensor | None = None) -> Distribution:
        if self.of.prior is None:
            zero = torch.zeros(self.unit, dtype=self.like.dtype, device=self.like.device)
            return Independent(Normal(zero, torch.ones_like(zero)), len(self.unit))
        prior = self.with_condition("prior", context)
        if not isinstance(prior, Distribution):
            raise Refused(
                f"module: prior gives a {type(prior).__name__}: return a torch Distribution such as Normal(…)"
            )
        return Independent(prior, missing) if (missing := len(self.unit) - len(prior.event_shape)) > 0 else prior

    def decode(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Any:
        return self.with_condition("decode", z, context)

    def distortion(self, batch: Batch, z: Tensor) -> Tensor:
        if not self.decodes:
            return torch.full((len(z),), torch.nan, dtype=z.dtype, device=z.device)
        if not torch.is_grad_enabled() and len(z) > PART:
            rows = [slice(start, start + PART) for start in range(0, len(z), PART)]
            return torch.cat([self.distortion(batch.part(part), z[part]) for part in rows])
        decoded = self.decode(z, batch.context)
        if self.of.log_likelihood is not None:
            self.density, cost = True, -per_example("log_likelihood", self.called("log_likelihood", batch.x, decoded))
        elif isinstance(decoded, Distribution) and self.of.distance is None:
            self.density, cost = True, -per_example("decode(z).log_prob", self.log_prob(decoded, batch.x))
        else:
            self.density, cost = False, self.away(batch.x, decoded)
        if cost.shape != z.shape[:1]:
            raise Refused(
                f"module: what decoding costs has shape {tuple(cost.shape)}, but {len(z)} examples were decoded"
            )
        return cost

    def log_prob(self, decoded: Distribution, x: Tensor) -> Tensor:
        try:
            return decoded.log_prob(x)
        except (ValueError, RuntimeError) as error:
            said = str(error).splitlines()[0]
            raise Refused(
                f"module: decode(z) gives a distribution that x has no density under ({said}): give "
                "log_likelihood(x, decoded)"
            ) from error

    def away(self, x: Tensor, decoded: Any) -> Tensor:
        """The distance of x to what was decoded; the squared error, summed, where none is given."""
        decoded = decoded.mean if isinstance(decoded, Distribution) else decoded
        if self.of.distance is not None:
            return per_example("distance", self.called("distance", x, decoded))
        if not isinstance(decoded, Tensor) or decoded.shape != x.shape:
            what = tuple(decoded.shape) if isinstance(decoded, Tensor) else f"a {type(decoded).__name__}"
            raise Refused(
                f"module: decode(z) gives {what}, which is not of the shape of x, {tuple(x.shape)}: return that, a "
                "Distribution, or give distance(x, decoded) → one number for each example"
            )
        return (x - decoded).square().flatten(1).sum(1)

    def between(self, batch: Batch, z: Tensor, other: Tensor) -> Tensor | None:
        """The distance of two examples; None of a density, and where a distance takes no second example."""
        if self.normalised:
            return None
        try:
            return self.away(batch.x, batch.x[other.to(batch.x.device)])
        except Refused:
            return None


def per_example(name: str, cost: Any) -> Tensor:
    if not isinstance(cost, Tensor) or not cost.ndim:
        raise Refused(
            f"module: {name} gives one number for all, where one for each example is needed: sum over x alone"
        )
    return cost.flatten(1).sum(1) if cost.ndim > 1 else cost


# ---- its readings


def from_model(module: Any, data: Any, *, examples: int = 512, seed: int = 0) -> Evidence:
    """Every detector's reading of a model on held-out examples, and on training ones where the data tell them apart."""
    built = made("module", module)
    vae = built if isinstance(built, VAE) else Shown(functions_of(built))
    notes = []
    seen = vae.of.modules if isinstance(vae, Shown) else [vae]
    if any(part.training for each in seen for part in each.modules()):
        notes.append("the module was in training mode (dropout, batch statistics): it is read in evaluation mode")
    held, train, told = splits_of(made("data", data))
    blocks = {
        name: blocks_for(vae, each, examples) for name, each in (("held", held), ("train", train)) if each is not None
    }
    if not told:
        notes.append("the data do not say of which split they are: they are taken for held-out ones")
    if isinstance(vae, Shown) and not vae.of.modules:
        check_repeats(vae, next(iter(blocks.values()))[0])
    found = {name: readings(vae, batches, seed) for name, batches in blocks.items()}
    held_out = found.get("held") or found["train"]
    if isinstance(vae, Shown) and vae.density is False and vae.of.distance is None:
        notes.append("decode gives a tensor and there is no log_likelihood: the distance is the squared error, summed")
    first = next(iter(blocks.values()))
    event = first[0].x[0].numel()
    plan = foreseen(vae, blocks.get("train", first), held_out)
    decides = plan is not None and plan.decides
    facts = known(
        forecast=plan.directions if plan and decides else None,
        beta_effective=plan.beta_effective if plan and decides else None,
        forecast_at_one=plan.at_one if plan and decides else None,
        units=int(held_out["units"].value or 0) if "units" in held_out else None,
        held_out="held" in found,
        distortion_kind="nll" if vae.decodes and vae.normalised else None,
        event_size=float(event),
    )
    if plan and plan.directions is not None:
        held_out["forecast_directions"] = Finding("forecast_directions", float(plan.directions))
    if vae.decodes:
        held_out["event_size"] = Finding("event_size", float(event))
    name = module if isinstance(module, str) else type(module).__name__
    count = sum(len(batch.x) for batch in blocks.get("held", first))
    return Evidence(
        held_out, found.get("train") if "held" in found else None, facts, f"{name}: {count} examples", notes
    )


def check_repeats(vae: Shown, batch: Batch) -> None:
    """Refused where the same example gives something else the second time, and there is no module to still."""
    few = batch.part(slice(0, 16))
    drawn, costs = [], []
    with torch.no_grad(), torch.random.fork_rng():
        for call in (1, 2):
            torch.manual_seed(call)
            posterior = vae.encode(few.x, few.context)
            torch.manual_seed(0)
            drawn.append(posterior.sample())
            torch.manual_seed(call)
            costs.append(vae.distortion(few, drawn[0]))
    for name, (one, other) in (("encode", drawn), ("decode", costs)):
        if not torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise Refused(
                f"module: {name} gives the same examples something else each time, and no torch module was found to "
                "put in evaluation mode: call .eval() on yours first, or give (module, functions)"
            )


def blocks_for(vae: VAE, data: Any, examples: int) -> list[Batch]:
    batch = examples_of(data, examples, conditional=getattr(vae, "conditional", True)).like(vae)
    if len(batch.x) < 2:
        raise Refused("data has one example (or copies of one): give at least 64 different ones")
    if batch.context is not None and are_groups(batch.context):  # those who may exchange their z in one block
        batch = batch.part(labels(batch.context).argsort(stable=True))
    return [batch.part(rows) for rows in blocks_of(len(batch.x), BLOCK)]


def readings(vae: VAE, blocks: list[Batch], seed: int) -> dict[str, Finding]:
    """The detectors' findings. Refused where what the model gives is not finite, or cannot be sampled."""
    try:
        with quiet(vae, seed):
            first = vae.elbo(blocks[0], seed=seed)  # also finds out what is decoded
    except (ValueError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, Refused):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refused(
            f"module: its posterior cannot be read ({type(error).__name__}: {said}): encode must give a distribution "
            "with finite parameters that can be sampled by rsample"
        ) from error
    named = {"z": first.z, "the KL": first.kl, "what decoding costs": first.distortion}
    for name, value in named.items() if vae.decodes else list(named.items())[:2]:
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value.reshape(len(value), -1)).all(1)).sum())
            raise Refused(
                f"module: {name} is not finite for {bad} of {len(value)} examples: the model has diverged, or the "
                "data are not scaled as in its training; load an earlier checkpoint"
            )
    return read(vae, blocks, all_detectors(), seed=seed)[0]
