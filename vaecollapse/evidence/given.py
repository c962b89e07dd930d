"""The words for numbers that are given and not measured, and what they may be. Imports nothing heavy."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..refusal import Refused

INPUTS = ("run", "module", "encode", "arrays", "log", "values")
OF_PROGRAMS = ("decode", "distance", "sample_rate", "length")  # beside encode
WHOLE = ("units", "examples", "mutual_information_examples", "event_size")  # at least 1
POSITIVE = ("floor", "beta", "weight_applied", "active_units", "sigma_mean", "sigma_min", "gap_se", "step",
            "kl_mean_per_unit", "kl_after_floor", "diversity_posterior", "diversity_prior",
            "diversity_reference")  # fmt: skip
ANY = ("rate", "distortion", "mutual_information", "gap", "autoencoder_distortion", "data_entropy")
TEXTS = {
    "distortion_kind": ("nll", "l1", "l2", "other"),
    "distortion_reduction": ("sum", "mean"),
    "free_bits_form": ("batch_unit", "sample_unit", "sample_unit_mask", "sample_total", "batch_total", "hinge"),
}
GROUPINGS = ("unit", "token", "all")
OTHER = ("free_bits_groups", "diversity_at_temperature")
NAMES = (*ANY, *WHOLE, *POSITIVE, *TEXTS, *OTHER)
# what of our own metrics.jsonl stands for a name; any other file is read by the names themselves, or by `columns`
OUR_COLUMNS = {
    "rate": "val/latent/rate",
    "gap": "val/latent/gap",
    "mutual_information": "val/latent/mi",
    "active_units": "val/latent/active_units",
    "sigma_min": "val/latent/sigma_min",
    "distortion": "val/distortion",
    "weight_applied": "train/objective/weight_applied",
    "floor": "train/objective/floor",
}
SPLITS = {"training": ("train", "training"), "held-out": ("val", "valid", "validation", "test", "eval", "held_out")}


def near(name: str, options: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, options, n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def split_of(name: str) -> str | None:
    """The split that a name such as `val/mi` or `train_kl` says it is of.

    >>> split_of("train/kl"), split_of("valid_mi"), split_of("kl_loss")
    ('training', 'held-out', None)
    """
    words = re.split(r"[^A-Za-z]+", name.lower())
    for split, known in SPLITS.items():
        if any(word in words for word in known) or "held_out" in name:
            return split
    return None


def one_input(given: Mapping[str, Any]) -> str:
    """The one input that is given. `values` may stand beside a log and add what it does not hold."""
    named = [name for name in INPUTS if given.get(name) is not None]
    if named == ["log", "values"]:
        return "log"
    if len(named) != 1:
        said = "none is given" if not named else f"{' and '.join(named)} are given"
        raise Refused(f"one of {', '.join(INPUTS)} is diagnosed, but {said}: give one of them")
    return named[0]


def checked_values(values: Any, *, whole: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """Numbers by name, each of its kind, and the split of those that were written as `train/rate` or `val/rate`.

    `whole`: they are all there is, so that a rate must be among them.
    """
    if not isinstance(values, Mapping) or not values:
        raise Refused("values is a map of names to numbers: write values='{rate: 12.48, units: 128, beta: 0.01}'")
    found: dict[str, Any] = {}
    splits: dict[str, str] = {}
    for written, value in values.items():
        prefix, _, name = str(written).rpartition("/")
        split = split_of(prefix) if prefix else None
        if name not in NAMES or (prefix and split is None):
            raise Refused(
                f"values.{written}{near(name, NAMES)} is no name of a number: take some of {', '.join(NAMES)}"
            )
        if name in found:
            raise Refused(f"values.{name} is given twice: give one number, of the split that is to be judged")
        if value is None:
            continue
        found[name] = checked(name, value)
        splits |= {name: split} if split else {}
    if whole:
        refuse_orphans(found, "values")
    return found, splits


def checked(name: str, value: Any) -> Any:
    """One number (text, map) of its kind. Refused otherwise."""
    if name in TEXTS:
        if value not in TEXTS[name]:
            raise Refused(f"{name}={value}{near(str(value), TEXTS[name])} is none of {', '.join(TEXTS[name])}")
        return value
    if name == "free_bits_groups" and isinstance(value, str):
        if value not in GROUPINGS:
            raise Refused(f"{name}={value} is no grouping: give {', '.join(GROUPINGS)}, or how many groups there are")
        return value
    if name == "diversity_at_temperature":
        if not isinstance(value, Mapping) or not value:
            raise Refused(f"{name}={value} is no map of temperatures: write {{3: 0.0517}}")
        return {number(f"{name}: a temperature", key): number(f"{name}.{key}", each) for key, each in value.items()}
    value = number(name, value)
    if name in (*WHOLE, "free_bits_groups") and (value < 1 or value != int(value)):
        raise Refused(f"{name}={value:g} is no count: give a whole number of at least 1")
    if name in POSITIVE and value < 0:
        raise Refused(f"{name}={value:g} cannot be below 0: give the raw number")
    return int(value) if name in (*WHOLE, "free_bits_groups") and name != "event_size" else value


def number(name: str, value: Any) -> float:
    try:
        found = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise Refused(f"{name}={value} is no finite number: give one, or leave {name} away")
    return found


def refuse_orphans(found: Mapping[str, Any], where: str) -> None:
    """Refused where there is no number that says anything of the latent's rate."""
    if "rate" in found or {"kl_mean_per_unit", "units"} <= set(found):
        return
    missing = "units" if "kl_mean_per_unit" in found else "rate"
    raise Refused(
        f"{where} has no {missing}: give rate (the KL in nats per example, summed over units, unweighted), or "
        "kl_mean_per_unit together with units"
    )


def checked_columns(columns: Any) -> dict[str, str]:
    """Name → column of the log."""
    if not isinstance(columns, Mapping):
        raise Refused("columns is a map of our names to the log's: write columns='{rate: kl_loss}'")
    known = [name for name in NAMES if name not in (*TEXTS, *OTHER)]
    for name, column in columns.items():
        if name not in known:
            raise Refused(f"columns.{name}{near(str(name), known)} is no name of a number: take {', '.join(known)}")
        if not isinstance(column, str | int):
            raise Refused(f"columns.{name}={column} is no column: give its name as the log has it")
    return {str(name): str(column) for name, column in columns.items()}


def checked_file(key: str, file: Path | str) -> Path:
    """The file. Refused where there is none."""
    path = Path(file).expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        program = "give a TorchScript file, or a .pt2 of torch.export"
        advice = {
            "encode": program,
            "decode": program,
            "arrays": "give the .npz that numpy.savez wrote",
            "log": "give the .csv or .jsonl that was logged",
        }
        raise Refused(f"{key}={path} is {what}: {advice[key]}")
    return path


def checked_place(key: str, place: Any) -> None:
    """Refused where `package.module:name` is not written so."""
    if isinstance(place, str) and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", place):
        raise Refused(f"{key}={place} names no function: write {key}=my_pkg.my_module:name, importable from here")


def check(given: Mapping[str, Any]) -> str:
    """Refused, before anything heavy is imported, where an input is not what it has to be. Returns its name."""
    which = one_input(given)
    beside = [("columns", "log"), ("measure", "run"), *((name, "encode") for name in OF_PROGRAMS)]
    if which != "encode":
        beside.insert(0, ("data", "module"))
    for name, needed in beside:
        absent = given.get(name) is None or given.get(name) is False
        if not absent and which != needed:
            raise Refused(f"{name} belongs to {needed}=…, but {which} is given: leave {name} away")
    if given.get("module") is not None and given.get("data") is None:
        raise Refused("module needs examples to be read on: give data=my_pkg.my_module:loader")
    if which == "encode" and given.get("data") is None:
        raise Refused("encode needs recordings to be read on: give data=path/to/recordings, a folder")
    for key in ("module", *(["data"] if which == "module" else []), "distance"):
        checked_place(key, given.get(key))
    for key in ("sample_rate", "length"):
        if given.get(key) is not None and given[key] < 1:
            raise Refused(f"{key} must be at least 1, but {key}={given[key]}: leave it out, or give another")
    for key in ("arrays", "log", "encode", "decode"):
        if isinstance(given.get(key), str | Path):
            checked_file(key, given[key])
    if given.get("columns") is not None:
        checked_columns(given["columns"])
    if given.get("values") is not None:
        checked_values(given["values"], whole=which == "values")
    return which
