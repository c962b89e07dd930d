"""Run directories as a training leaves them, written in milliseconds, for the report to read."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from vaecollapse import __version__

NAME = "vaecollapse-train"
CONFIG = """beta: {beta}
free_bits: 0.1
capacity: {capacity}
lr: 0.001
batch_size: 16
seed: {seed}
max_epochs: 10
dataset:
  _target_: vaecollapse.datasets.gaussian.GaussianData
  examples: 4096
  seed: {seed}
model:
  _target_: vaecollapse.models.linear.LinearVAE
  likelihood:
    _target_: vaecollapse.distributions.likelihoods.NormalLikelihood
    scale_mode: fixed
regularizer:
  _target_: vaecollapse.regularizers.beta.Beta
  weight:
    _target_: vaecollapse.regularizers.coefficients.Constant
    value: {beta}
"""


def reading(value: float, se: float | None = None, status: str = "measured", threshold: float | None = None) -> dict:
    return {"value": value, "se": se, "n": 512, "status": status, "threshold": threshold, "note": ""}


def plant(
    directory: Path, *, beta: float = 1.0, capacity: int = 8, seed: int = 0, steps: int = 40, units: int = 4,
    looks: int = 5, verdict: str | None = None, more: str = "", padding: str = "",
) -> Path:  # fmt: skip
    """A finished run of a linear model at this price: its R and D follow the closed form of one direction of variance
    6, its verdict is healthy below that and posterior_collapse from there on. `more` stands wherever text does;
    `padding` makes config.yaml as long as a real one."""
    directory.mkdir(parents=True)
    rate = max(0.0, 0.5 * math.log(6 / beta)) + 0.001 * seed
    distortion = 9 + min(beta, 6.0) / 2 + 0.01 * seed + 0.1 / capacity
    word = verdict or ("healthy" if beta < 6 else "posterior_collapse")
    overrides = ["model=linear", f"beta={beta:g}", f"capacity={capacity}", f"seed={seed}"]
    (directory / "config.yaml").write_text(CONFIG.format(beta=beta, capacity=capacity, seed=seed) + padding)
    (directory / "overrides.txt").write_text("".join(f"{line}\n" for line in [*overrides, *([more] if more else [])]))
    data = {"files": 0, "bytes": 0, "hash": f"{seed:064x}"}
    contents: dict[str, Any] = {
        "provenance.json": {"vaecollapse": __version__, "seed": seed, "data": data, "git": more or None},
        "preflight.json": {"units": units, "steps": steps, "beta": beta, "directions": 3, "forecast": {"e": beta}},
        "trained.json": {"steps": steps, "seconds": 1.5, "parameters": 98},
        "verdict.json": {
            "verdict": word, "confidence": "medium", "mechanisms": ["unused_units"],
            "findings": [f"R is {rate:.3g} nats {more}"], "refuted": [f"variance_collapse {more}"], "missing": [],
            "readings": {
                "gap": reading(2 * rate, 0.1, "material" if rate else "absent", 0.1), "rate": reading(rate, 0.03),
                "distortion": reading(distortion, 0.1), "information_rank": reading(float(rate > 0)),
            },
            "prescriptions": [{"command": f"{NAME} model=linear seed=1", "overrides": [], "why": f"again {more}"}],
            "deciding": ["gap", "rate", "information_rank"],
        },
    }  # fmt: skip
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content, indent=1))
    rows = [
        {"step": step, "train/distortion": distortion + 1 / (1 + step), "train/latent/rate": rate,
         "train/objective/total": distortion + beta * rate, "train/objective/penalty": beta * rate,
         "train/objective/weight_applied": beta * min(1, step / 9), "train/lr": 0.001}
        for step in range(0, steps, 4)
    ]  # fmt: skip
    at = [steps * (i + 1) // looks for i in range(looks)]
    rows += [{"step": step, "val/latent/gap": 2 * rate, "val/latent/information_rank": 1.0} for step in at]
    rows += [{"step": step, "val/distortion": distortion, "val/selection": distortion + rate} for step in at]
    rows.sort(key=lambda row: row["step"])
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        f"{step // 10},{step},{unit},{name},{rate / (1 + unit) + 1 / step}\n"
        for step in at
        for unit in range(units)
        for name in ("kl", "sigma", "var_mean")
    ]
    (directory / "units.csv").write_text("epoch,step,unit,reading,value\n" + "".join(lines))
    events = [
        {"step": at[0], "epoch": 0, "event": "alarm", "alarm": f"kl_is_low {more}"},
        {"step": at[-1], "epoch": 1, "event": "verdict", "from": None, "to": word, "findings": [more]},
    ]
    (directory / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in events))
    return directory


def add_sounds(directory: Path) -> None:
    """A second of 440 Hz and its reconstruction, as a training leaves them."""
    folder = directory / "samples" / "epoch_009"
    folder.mkdir(parents=True)
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    for name in ("real_0", "reconstruction_0", "prior_0"):
        sf.write(folder / f"{name}.wav", wave, 8000, subtype="PCM_16")


def add_evaluation(directory: Path, run: Path, more: str = "", **scores: Any) -> None:
    """An evaluation of a run, as vaecollapse-evaluate leaves it. `more` stands wherever text does."""
    directory.mkdir(parents=True)
    told = {"run": str(run.resolve()), "checkpoint": f"last.ckpt{more}", "step": 40, "split": "test", "examples": 512}
    figures = {"iw_nll": reading(1.5, 0.1)}
    if more:
        figures[more] = reading(2.0) | {"note": more}
        score = {"name": more, "value": 1.0, "se": 0.1, "blocks": 21, "truth": 2.0, "note": more}
        scores = {"scored": more, "set": {"word": more, "why": [more]}, "notes": [more], "scores": [score]}
    (directory / "config.yaml").write_text("run: somewhere\n")
    (directory / "provenance.json").write_text(json.dumps({"evaluated": told}))
    (directory / "evaluation.json").write_text(json.dumps(told | {"verdict": "healthy", "figures": figures} | scores))
