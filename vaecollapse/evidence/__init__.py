"""What can be diagnosed, and how it becomes readings: one file per kind of input. Nothing heavy is imported here."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import given

if TYPE_CHECKING:
    from ..diagnosis import Verdict
    from .base import Evidence


def diagnose(
    *,
    run: Path | str | None = None,
    module: Any = None,
    data: Any = None,
    arrays: Path | str | Mapping[str, Any] | None = None,
    log: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
    encode: Path | str | None = None,
    decode: Path | str | None = None,
    distance: Any = None,
    sample_rate: int | None = None,
    length: int | None = None,
    examples: int = 512,
    seed: int = 0,
) -> "Verdict":
    """The verdict on one input, as `vaecollapse-diagnose` gives it.

    `run`: a run directory, whose recorded verdict is read. `module` with `data`: a model that is not ours, an object
    with encode, decode and log_likelihood (or a factory of one, or "package.module:factory"), and its examples.
    `encode`, `decode`: programs (TorchScript, or .pt2 of torch.export) of an audio autoencoder, one file where it holds
    both; `data` is then a folder of recordings, which they take at `sample_rate` Hz in clips of `length` samples, and
    `distance(x, y)` → one number for each clip (the multi-scale spectral one unless given).
    `arrays`: an .npz or a map of arrays. `log`: a .csv or .jsonl, `columns` its names for ours. `values`: numbers by
    name, which may also add to a log what it does not hold. `examples` and `seed` are those of a model's readings.

    >>> diagnose(values={"rate": 0.001, "units": 16}).verdict
    'posterior_collapse'
    """
    inputs = {"run": run, "module": module, "data": data, "arrays": arrays, "log": log, "columns": columns,
              "values": values, "encode": encode, "decode": decode, "distance": distance, "sample_rate": sample_rate,
              "length": length}  # fmt: skip
    which = given.check(inputs)
    if which == "run":
        from .recorded import recorded

        found = recorded(run or "")
        return found.verdict._replace(findings=[*found.verdict.findings, *found.notes])
    return judged(gather(which, inputs, examples=examples, seed=seed))


def gather(which: str, inputs: Mapping[str, Any], *, examples: int = 512, seed: int = 0) -> "Evidence":
    """The readings of an input other than a run."""
    if which == "module":
        from .models import from_model

        return from_model(inputs["module"], inputs["data"], examples=examples, seed=seed)
    if which == "encode":
        from .programs import from_programs

        more = {name: inputs.get(name) for name in given.OF_PROGRAMS}
        return from_programs(inputs["encode"], data=inputs["data"], **more, examples=examples, seed=seed)
    if which == "arrays":
        from . import archive, arrays

        source = inputs["arrays"]
        if isinstance(source, Mapping):
            return arrays.from_arrays(source)
        file = given.checked_file("arrays", source)
        return arrays.from_arrays(archive.load(file), f"the arrays {file}")
    if which == "log":
        from .logs import read_log

        more = given.checked_values(inputs["values"], whole=False) if inputs.get("values") else ({}, {})
        file = given.checked_file("log", inputs["log"])
        log = read_log(file, inputs.get("columns"), more[0])
        from .numbers import from_log

        return from_log(log._replace(splits=log.splits | more[1]), file)
    from .numbers import from_values

    return from_values(*given.checked_values(inputs["values"]))


def judged(evidence: "Evidence") -> "Verdict":
    """The verdict on readings, with the sentences on how they were read."""
    from ..advice import in_words
    from ..diagnosis import diagnose as decide

    held_out, _, facts, _, notes = evidence
    verdict = decide(held_out, evidence.training, facts)
    priced = held_out.get("price_of_a_nat")
    weight = facts.beta if facts.weight is None else facts.weight
    moves = in_words(verdict.prescriptions, weight, priced and priced.value)
    return verdict._replace(findings=[*verdict.findings, *notes], prescriptions=moves)
