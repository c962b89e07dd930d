"""What a logger is handed beside scalars, in the form it takes; one that takes nothing of the kind is passed over."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from ..writers.text import page


def takes(logger: Logger, method: str) -> bool:
    """Has the logger's writer this method (TensorBoard's `add_audio`, `add_histogram` …)?"""
    return hasattr(getattr(logger, "experiment", None), method)


def offer_sounds(logger: Logger, sounds: dict[str, np.ndarray], rate: int, step: int) -> None:
    """Waveforms (clips, time) by name."""
    taker: Any = logger
    for name, waveforms in sounds.items():
        if hasattr(taker, "log_audio"):
            taker.log_audio(f"samples/{name}", list(waveforms), step=step, sample_rate=[rate] * len(waveforms))
        elif takes(logger, "add_audio"):
            for i, waveform in enumerate(waveforms):
                taker.experiment.add_audio(f"samples/{name}_{i}", torch.from_numpy(waveform)[None], step, rate)


def offer_picture(logger: Logger, name: str, picture: np.ndarray, step: int) -> None:
    """Bytes (height, width, 3)."""
    taker: Any = logger
    if hasattr(taker, "log_image"):
        taker.log_image(name, [picture], step=step)
    elif takes(logger, "add_image"):
        taker.experiment.add_image(name, picture, step, dataformats="HWC")


def offer_texts(logger: Logger, name: str, rows: Sequence[Mapping[str, str]], step: int) -> None:
    """Texts by column: a table, or as they are read."""
    taker: Any = logger
    if hasattr(taker, "log_table"):
        taker.log_table(name, columns=list(rows[0]), data=[list(row.values()) for row in rows], step=step)
    else:
        offer_text(logger, name, "".join(page(number, dict(row)) for number, row in enumerate(rows)), step)


def offer_histogram(logger: Logger, name: str, values: np.ndarray, step: int) -> None:
    """One number per latent unit."""
    if takes(logger, "add_histogram"):
        logger.experiment.add_histogram(name, values.ravel(), step)  # pyright: ignore[reportAttributeAccessIssue]


def offer_text(logger: Logger, name: str, text: str, step: int) -> None:
    """Lines; angle brackets and the like stay what they are, TensorBoard renders markdown."""
    if takes(logger, "add_text"):
        shown = "\n".join(f"    {line}" for line in text.rstrip().splitlines())
        logger.experiment.add_text(name, shown, step)  # pyright: ignore[reportAttributeAccessIssue]
