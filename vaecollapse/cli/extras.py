"""What is installed only when it is asked for."""

import importlib.util
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Extra(NamedTuple):
    """What pip installs, and where it is then found."""

    name: str
    plugin: str


EXTRAS = {
    "hydra/launcher=joblib": Extra("sweep", "hydra_plugins.hydra_joblib_launcher"),
    "hydra/launcher=submitit_local": Extra("sweep", "hydra_plugins.hydra_submitit_launcher"),
    "hydra/launcher=submitit_slurm": Extra("sweep", "hydra_plugins.hydra_submitit_launcher"),
    "hydra/sweeper=optuna": Extra("optuna", "hydra_plugins.hydra_optuna_sweeper"),
    "logger=tensorboard": Extra("tensorboard", "tensorboard"),
}


def missing_extras(lines: Iterable[str]) -> Iterator[str]:
    """A sentence for each override that needs what is not installed."""
    for line in lines:
        if (extra := EXTRAS.get(line)) and not _importable(extra.plugin):
            yield f"{line} comes with an extra: pip install -c constraints.txt '.[{extra.name}]'"


def _importable(name: str) -> bool:
    """Is it there? (find_spec raises where the package it would lie in is not.)"""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
