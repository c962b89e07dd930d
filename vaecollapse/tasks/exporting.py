"""`vaecollapse-export`: a trained run's functions as programs for processes that have never heard of this package."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf

from ..batch import Batch, collate
from ..elbo import gaussian
from ..evaluation import quiet, spread
from ..evidence.recorded import Recorded, recorded
from ..exporting import INPUTS, OUTPUTS, Programs, checked, given_for, nats_by_unit, padding_differs
from ..exporting import made as programs_made
from ..files import whole
from ..refusal import Refused
from ..run import Run
from ..vae import PART
from .building import made
from .measuring import Opened, opened
from .recording import provenance, record_start

log = logging.getLogger(__name__)
EXAMPLES = 512  # that the order of the units is read on


class Exported(NamedTuple):
    """What was written, which files, and where they lie."""

    what: str
    files: list[str]
    directory: Path


def export(cfg: DictConfig, directory: Path, overrides: Sequence[str]) -> Exported:
    """Writes a run's programs and what is to be known of them, from its directory alone. Raises Refused, and leaves
    nothing, where that cannot be read or the model is no function of tensors."""
    said = recorded(cfg.run)
    run_ = opened(cfg)
    vae, batches = run_.module.vae, batches_of(run_, cfg.split)
    sounds = "sample_rate" in run_.data.facts
    programs = Programs(vae, padded=sounds and batches[0].mask is not None)
    with quiet(vae, run_.seed):
        given = made("the programs", lambda: given_for(programs, batches[0], run_.seed))
        files = made("the programs", lambda: programs_made(programs, given, cfg.format))
        off = made("the programs", lambda: checked(files, programs, given))
        nats = nats_by_unit(vae, batches)
        silent = silence_told(programs, batches) if programs.padded else None
        gaussians = {"posterior": gaussian(programs.posterior(given.x)), "prior": gaussian(vae.prior())}
    for line in said.notes:
        log.warning("warning: %s", line)
    run, count = Run(directory), sum(len(batch.x) for batch in batches)
    record_start(run, cast(DictConfig, OmegaConf.merge(cfg, {"seed": run_.seed})), overrides, run_.data)
    told = run_.told(cfg.split, count)
    run.write("provenance.json", run.read("provenance.json") | {"exported": told, "trained": run_.provenance})
    for name, content in files.items():
        with whole(directory / name, sync=True) as temporary:
            temporary.write_bytes(content)
    run.write("export.json", {
        "format": cfg.format,
        "functions": {name: {"file": "model.ts" if "model.ts" in files else f"{name}.pt2", "inputs": INPUTS[name],
                             "outputs": OUTPUTS[name]} for name in INPUTS},
        "shapes": {name: ["batch", *getattr(given, name).shape[1:]] for name in given._fields},
        "dtype": str(given.x.dtype).removeprefix("torch."),
        "device": str(given.x.device),
        "sample_rate": run_.data.facts.get("sample_rate"),
        "length": given.x.shape[-1] if sounds else None,
        "normalise": getattr(run_.data, "normalise", None),
        "trim": getattr(run_.data, "trim", None),
        "padding": "the zeros at a clip's end" if programs.padded else None,
        "padding_differs": silent,
        **{name: "flow" if found is None else "gaussian" for name, found in gaussians.items()},
        "latent_dim": nats.numel(),
        "order": nats.argsort(descending=True, stable=True).tolist(),
        "nats_by_unit": nats.tolist(),
        "verdict": judged(said),
        "largest_difference": off,
        **provenance(), **told, "seed": run_.seed,
    })  # fmt: skip
    return Exported(f"{', '.join(INPUTS)} of {run_.named(cfg.run)}", [*files, "export.json"], directory)


def batches_of(run_: Opened, split: str) -> list[Batch]:
    """Examples spread over a split. Refused where it has too few."""
    dataset = run_.split(split)
    if len(dataset) < 2:
        raise Refused(f"the {split} split of this run has {len(dataset)} examples, 2 are needed: type split=train")
    rows = spread(len(dataset), EXAMPLES)
    return [
        collate([dataset[i] for i in rows[start : start + PART]]).like(run_.module)
        for start in range(0, len(rows), PART)
    ]


def silence_told(programs: Programs, batches: Sequence[Batch]) -> dict[str, float]:
    """How far the programs are from the run where recordings end in zeros, which x alone cannot tell from padding."""
    found = padding_differs(programs, batches)
    if found.clips:
        log.warning(
            "warning: %.0f %% of these clips end in zeros that are no padding to the run; of them the programs, given "
            "x alone, make another z, off by up to %.2g of the largest number: train with dataset.trim=60, say",
            100 * found.clips, found.largest,
        )  # fmt: skip
    return found._asdict()


def judged(said: Recorded) -> dict[str, Any]:
    """The verdict with the numbers that decided it, and whether it is the last word."""
    content = said.verdict.as_dict()
    deciding = {name: content["readings"].get(name) for name in said.verdict.deciding}
    kept = {name: content[name] for name in ("verdict", "confidence", "findings", "mechanisms")}
    return {**kept, "final": said.final, "deciding": deciding}
