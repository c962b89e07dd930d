"""Somebody else's run directory, read without running anything that it holds.

Its configuration may name classes of known kinds from known packages and nothing else; its checkpoints are read as
tensors and plain values. torch and Lightning are imported late, so that a mistyped folder is refused at once.
"""

import importlib
import inspect
import json
import os
import shlex
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf

from .refusal import Refused
from .resuming import LAST, PREVIOUS

PACKAGES = ("vaecollapse.", "torch.nn.", "torch.optim.", "lightning.pytorch.")
NEEDED = ("model", "dataset", "regularizer")
LONGEST_TEXT, LONGEST_VALUE, DEEPEST = 2**20, 10_000, 32  # bytes, characters, levels
LONGEST_KEPT = 2**26  # bytes
PLACES = ("dirpath", "save_dir", "dir", "directory", "filename", "log_dir", "default_root_dir", "root_dir", "path")
ENTRIES = 100_000  # of a checkpoint


def run_directory(directory: Path | str, key: str = "run") -> Path:
    """The directory as a path. Refused, in the words of the `key` it was given by, where it is no training run's."""
    root = Path(os.path.expanduser(directory))
    if not root.is_dir():
        raise Refused(f"{key}={root} is no folder: give a run directory, such as outputs/train/<time>")
    if not (root / "config.yaml").exists():
        jobs = sorted(path.parent for path in root.glob("*/config.yaml"))
        example = f"of those in it, such as {printable(str(jobs[0]))}" if jobs else "such as outputs/train/<time>"
        raise Refused(f"{key}={root} is no run directory (it has no config.yaml): give one {example}")
    return root


def printable(text: str) -> str:
    """What a stranger wrote, without what would steer a terminal."""
    return text if text.isprintable() else ascii(text)


def is_ours(command: object) -> bool:
    """Is it a training's command and nothing else? (It is shown to be pasted into a shell.)"""
    if not isinstance(command, str) or not command.isprintable():
        return False
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    return words[:1] == ["vaecollapse-train"] and shlex.join(words) == command


def inside(directory: Path, name: str) -> Path:
    """The file of this name. Refused where it is no regular file, or a link leads to it out of the directory."""
    file = directory / name
    try:
        whole = file.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise Refused(f"{file} cannot be found ({error}): copy the run directory again") from error
    if not whole:
        raise Refused(f"{file} is a link that leads out of the run directory: put the file itself there")
    if not file.is_file():
        raise Refused(f"{file} is no regular file: copy the run directory again")
    return file


def read_text(directory: Path, name: str, most: int = LONGEST_TEXT) -> str:
    """A text file of the run, in UTF-8, of at most so many bytes."""
    file = inside(directory, name)
    try:
        with file.open("rb") as opened:
            content = opened.read(most + 1)
        if len(content) > most:
            raise Refused(f"{file} is larger than {most >> 20} MB, which no run writes: copy the run directory again")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file} cannot be read ({error}): copy the run directory again") from error


def kept_text(directory: Path, name: str) -> str | None:
    """What a dataset kept in the run; None where the file is absent."""
    return read_text(directory, name, LONGEST_KEPT) if os.path.lexists(directory / name) else None


def read_json(directory: Path, name: str) -> dict:
    """A JSON object of the run; an empty one where the file is absent."""
    if not (directory / name).exists():
        return {}
    try:
        content = json.loads(read_text(directory, name))
    except (ValueError, RecursionError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"{directory / name} is no JSON: copy the run directory again, or remove the file") from error
    return content if isinstance(content, dict) else {}


# ---- config.yaml


Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's where it is there: five times faster


class _Plain(yaml.SafeLoader):
    """Safe YAML in which a time is a text."""


_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@lru_cache(4096)
def _scalar(text: str) -> Any:
    """What an unquoted word means. (A sweep's configurations have the same thousand words.)"""
    loader = _Plain("")
    return loader.construct_object(yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text))


def _plain_yaml(text: str) -> Any:
    """Mappings, lists and plain values. YAMLError on what would grow while it is read, or would be made by a class of
    its own: anchors, aliases, tags, deep nesting, endless values."""
    levels: list[list] = [[]]
    for event in yaml.parse(text, Parser):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.YAMLError("it has anchors or aliases, which no run writes")
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None):
            raise yaml.YAMLError("it has tags, which no run writes")
        if isinstance(event, yaml.ScalarEvent):
            if len(event.value) > LONGEST_VALUE:
                raise yaml.YAMLError(f"it has a value longer than {LONGEST_VALUE} characters")
            levels[-1].append(_scalar(event.value) if event.implicit[0] else event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(levels) >= DEEPEST:
                raise yaml.YAMLError(f"it is nested deeper than {DEEPEST} levels")
            levels.append([])
        elif isinstance(event, yaml.CollectionEndEvent):
            items = levels.pop()
            mapping = isinstance(event, yaml.MappingEndEvent)
            levels[-1].append(dict(zip(items[::2], items[1::2], strict=True)) if mapping else items)
        elif isinstance(event, yaml.DocumentStartEvent) and levels[0]:
            raise yaml.YAMLError("it has several documents, and a run writes one")
    return levels[0][0] if levels[0] else None


def read_config(directory: Path | str, trust: Sequence[str] = ()) -> DictConfig:
    """The run's resolved configuration, of which every `_target_` has been checked (see `check_target`).

    Refused as by `config_content`, and where it names what may not be built. `trust` are top-level packages whose
    classes may be named too.
    """
    content = config_content(directory)
    check_targets(content, run_directory(directory), trust)
    return OmegaConf.create(content)


def config_content(directory: Path | str) -> dict:
    """The run's resolved configuration as plain values, from which nothing is to be built.

    Refused where there is none, where it is no safe YAML of at most 1 MB, or where an interpolation is left in it.
    """
    root = run_directory(directory)
    file, text = root / "config.yaml", read_text(root, "config.yaml")
    try:
        content = _plain_yaml(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise Refused(f"{file} is not read, {printable(said[0])}: take the config.yaml that the run wrote") from error
    parts = content if isinstance(content, dict) else {}
    if absent := [name for name in NEEDED if not isinstance(parts.get(name), dict)]:
        raise Refused(f"{file} has no {absent[0]}, so it describes no trained model: give the directory of a training")
    for path, value in _values(content):
        if not isinstance(value, str | int | float | None):
            raise Refused(f"{file} has a {type(value).__name__} at {path}, which no run writes: restore the line")
        if value == "???":
            raise Refused(f"{file} has no value at {path}, but a run's config.yaml is written whole: restore the line")
        if isinstance(value, str) and "${" in value:
            raise Refused(
                f"{file} has an interpolation at {path}, which would be carried out here; a run's config.yaml is "
                "written resolved: put the value in its place"
            )
    return content


def check_targets(content: dict, directory: Path, trust: Sequence[str] = ()) -> None:
    """Refused where a configuration read or replayed from the run directory names what may not be built."""
    for path, node in _nodes(content):
        _check_node(directory / "config.yaml", path, node, tuple(trust))


def _values(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key and every leaf, with the dotted path to it."""
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if parts is None:
        yield path, node
        return
    for key, value in parts:
        yield path or "its top", key
        yield from _values(value, _below(path, key))


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every dictionary in dictionaries and lists, with the dotted path to it."""
    if isinstance(node, dict):
        yield path, node
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in parts:
        yield from _nodes(value, _below(path, key))


def _below(path: str, key: object) -> str:
    """A path that a terminal can print."""
    name = printable(str(key)[:80])
    return f"{path}.{name}" if path else name


def _check_node(file: Path, path: str, node: Mapping[Any, Any], trust: tuple[str, ...]) -> None:
    """Of Hydra's own keys only `_target_` and, beside it, `_partial_: true` are what our configurations use."""
    for key in ("_args_", "_convert_", "_recursive_", "_partial_"):
        if key in node and not (key == "_partial_" and node[key] is True and "_target_" in node):
            raise Refused(f"{file} has {key} at {path}, which no run of ours writes: take the line out")
    if "_target_" not in node:
        if path in NEEDED:
            raise Refused(f"{file} names no class at {path}._target_: restore the line")
        return
    try:
        check_target(node["_target_"], path, trust)
    except Refused as error:
        raise Refused(f"{file}, {path}._target_: {error}") from error


def check_target(target: object, path: str = "", trust: Sequence[str] = ()) -> type:
    """The class a loaded `_target_` names, to stand at the dotted `path`.

    Refused unless it is a class, never a function; a model, detector, dataset, optimizer, schedule, callback or logger
    (at `model`, `regularizer`, `dataset`, `detector` of that very kind: those are built); and defined in this package,
    torch.nn, torch.optim, lightning.pytorch or a package of `trust`. Nothing is imported from anywhere else.
    """
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise Refused(f"{str(target)[:80]!r} names no class: restore the line")
    module, _, name = target.rpartition(".")
    if not _allowed(f"{module}.", trust):
        package = target.partition(".")[0]
        advice = f"type trust=[{package}] if you trust that package"
        if package in sys.stdlib_module_names:
            advice = "no run of ours names it, so trust nothing in this directory"
        raise Refused(f"{target} is of a package that a loaded run may not name, and was not imported: {advice}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Refused(
            f"{target} cannot be imported from here ({type(error).__name__}: {error}): run where its package is"
        ) from error
    if not inspect.isclass(found):
        raise Refused(f"{target} is a {type(found).__name__} and no class, and is never called: restore the line")
    if not issubclass(found, _kinds(path)) or not _allowed(f"{found.__module__}.", trust):
        raise Refused(f"{target} is no class that a run builds at {path or 'this place'}: restore the line")
    return found


def _allowed(module: str, trust: Sequence[str]) -> bool:
    return module.startswith(PACKAGES) or module.partition(".")[0] in trust


def _kinds(path: str) -> tuple[type, ...]:
    """What may stand at this path; a trainer only in its own place, where no loaded run builds it."""
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import Logger
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torchmetrics import Metric

    from .datasets.base import VAEData
    from .regularizers.base import Regularizer
    from .vae import VAE

    built = {"model": nn.Module, "regularizer": nn.Module, "dataset": pl.LightningDataModule, "detector": Metric}
    # what is built at the top of a group is of our own contracts: anything else would be built only to be refused
    tops = {"trainer": pl.Trainer, "model": VAE, "regularizer": Regularizer, "dataset": VAEData}
    if path in tops:
        return (tops[path],)
    every = (nn.Module, Metric, Optimizer, LRScheduler, pl.LightningDataModule, pl.Callback, Logger)
    group = path.partition(".")[0]
    return (built[group],) if group in built else every


# ---- checkpoints


class Weights(NamedTuple):
    """What a checkpoint holds: parameters and buffers by name, and the epoch (from 0) and step they are of."""

    state: dict[str, Any]
    epoch: int
    step: int
    file: Path
    total: int | None = None  # steps of the plan its schedules follow


def checkpoint_of(directory: Path | str, which: str = "best", key: str = "run") -> Path:
    """The file of the `best`, `last`, `ema` or `healthy` checkpoint. Refused where there is none yet."""
    root = run_directory(directory, key)
    name = f"checkpoints/{which}.ckpt"
    if (root / name).is_symlink() or (root / name).exists():
        return inside(root, name)
    other = next(
        (each for each in ("best", "last", "ema", "healthy") if (root / f"checkpoints/{each}.ckpt").exists()), None
    )
    advice = f"type checkpoint={other}" if other and key == "run" else "wait for its first validation, or train again"
    raise Refused(f"{key}={root} has no {which} checkpoint: {advice}")


def load_weights(path: Path | str) -> Weights:
    """The tensors of a checkpoint of Lightning's, on the CPU and mapped from the file, not copied.

    Nothing in the file is executed (`weights_only`), and a file is refused before it is loaded unless it is a zip as
    torch writes it: entries stored and not compressed, within one folder, together no larger than the file.
    """
    import torch

    file = Path(path)
    _check_zip(file)
    try:
        content = torch.load(str(file), map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        said = next((line for line in str(error).splitlines() if "GLOBAL" in line), type(error).__name__)
        raise _bad(file, f"cannot be loaded as weights alone ({said.strip()[:200]})") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and type(tensor) is torch.Tensor and tensor.layout == torch.strided and tensor.is_cpu
        for name, tensor in state.items()
    ):
        raise _bad(file, "holds no state_dict of tensors")
    claimed = next((name for name, each in state.items() if each.nbytes > each.untyped_storage().nbytes()), None)
    if claimed is not None:
        raise _bad(file, f"claims more numbers for {claimed} than it holds")
    epoch, step = content.get("epoch"), content.get("global_step")
    if type(epoch) is not int or type(step) is not int or not (0 <= epoch < 2**31 and 0 <= step < 2**63):
        raise _bad(file, "does not say which epoch and step it is of")
    return Weights(state, epoch, step, file)


def load_state(directory: Path) -> tuple[Path | None, dict[str, Any]]:
    """The newest whole checkpoint of a run that is to go on, and its content; (None, {}) where there is none yet."""
    import torch

    folder = directory / "checkpoints"
    bad = None
    for name in (LAST, PREVIOUS):
        if not (folder / name).exists():
            continue
        file = inside(directory, f"checkpoints/{name}")
        try:
            _check_zip(file)
            state = torch.load(str(file), map_location="cpu", weights_only=True, mmap=True)
            if not _goes_on(state):
                raise _bad(file, "is no checkpoint to go on from")
            return file, state
        except Exception as error:  # torn, or hostile: the one before may be whole
            bad = bad or (
                error if isinstance(error, Refused) else _bad(file, f"cannot be read ({type(error).__name__})")
            )
    if bad:
        raise bad
    return None, {}


def _goes_on(state: Any) -> bool:
    """Does it hold what is read before Lightning takes over: counts, and sizes of files?"""
    try:
        counts = [
            state["global_step"], state["epoch"], state["training"]["total"], *state["files"].values(),
            state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"],
        ]  # fmt: skip
    except (KeyError, TypeError, AttributeError):
        return False
    return isinstance(state["state_dict"], dict) and all(type(each) is int and 0 <= each < 2**62 for each in counts)


def refuse_links(directory: Path) -> None:
    """Refused where something in a directory that will be written to leads out of it."""
    root = directory.resolve()
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder) / name
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise Refused(f"{path} is a link that leads out of the run directory: put the file itself there")


def refuse_other_places(content: dict, directory: Path, trust: Sequence[str] = ()) -> None:
    """Refused where a callback, logger or trainer of a replayed configuration would write outside its directory."""
    root = directory.resolve()
    for group in ("callback", "logger", "trainer"):
        for path, node in _nodes(content.get(group)):
            target = str(node.get("_target_", ""))
            if (target.startswith("vaecollapse.") and group != "logger") or target.partition(".")[0] in trust:
                continue
            for name, value in node.items():
                place = isinstance(value, str) and (
                    name in PLACES or os.path.isabs(value) or value.startswith("~") or ".." in Path(value).parts
                )
                if place and not (Path.cwd() / value).resolve().is_relative_to(root):
                    raise Refused(
                        f"{group}.{path + '.' if path else ''}{name}={value} of this run lies outside its directory: "
                        "start anew with init_from, or type that override again"
                    )


def _bad(file: Path, what: str) -> Refused:
    return Refused(f"{file} {printable(what)}: copy the run directory again, or take another checkpoint of it")


def _check_zip(file: Path) -> None:
    """Refused unless the file is a zip as torch makes them; only its directory is read."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(4)
        with zipfile.ZipFile(file) as archive:
            entries, comment = archive.infolist(), archive.comment
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise _bad(file, f"is no checkpoint, or a truncated one ({error})") from error
    names = [entry.filename for entry in entries]
    folders = {name.partition("/")[0] for name in names}
    if len(names) > ENTRIES or len(set(names)) < len(names) or any(_escapes(name) for name in names):
        raise _bad(file, "has entries that no checkpoint has (names twice, or that lead out of it)")
    if start != b"PK\x03\x04" or comment or len(folders) != 1 or f"{min(folders)}/data.pkl" not in names:
        raise _bad(file, "is a zip that torch did not write")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise _bad(file, "has compressed entries, which torch does not write")
    if (claimed := sum(entry.file_size for entry in entries)) > size:
        raise _bad(file, f"claims {claimed:,} bytes of content in a file of {size:,}")


def _escapes(name: str) -> bool:
    return name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/") or "/" not in name


def fill(module: Any, weights: Weights, prefix: str) -> None:
    """Copies the checkpoint's `prefix.*` into the module.

    Refused where names or shapes differ, naming the first, and where a number is not finite.
    """
    import torch

    held = {name.removeprefix(prefix): t for name, t in weights.state.items() if name.startswith(prefix)}
    own = module.state_dict()
    said = f"{weights.file} holds another model than this configuration describes"
    advice = "take both from one run, and data of the shape it was trained on"
    for name, tensor in own.items():
        if name not in held:
            raise Refused(f"{said} ({prefix}{name} is not in the checkpoint): {advice}")
        if held[name].shape != tensor.shape and not name.endswith("_extra_state"):
            shapes = f"{tuple(held[name].shape)} in the checkpoint and {tuple(tensor.shape)} in the model"
            raise Refused(f"{said} ({prefix}{name} is {shapes}): {advice}")
    if more := [name for name in held if name not in own]:
        raise Refused(f"{said} ({prefix}{printable(more[0])} is not in the model): {advice}")
    for name, tensor in held.items():
        if not torch.isfinite(tensor).all():
            raise Refused(
                f"{weights.file} holds numbers that are not finite ({prefix}{name}): the run diverged; "
                "train again with a smaller lr"
            )
    try:
        module.load_state_dict(held)
    except RuntimeError as error:
        raise _bad(weights.file, f"does not fit its model ({str(error).splitlines()[0]})") from error
