"""From configuration to objects: what a class objects to becomes one sentence."""

import importlib
import inspect
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from .. import loading
from ..batch import Batch, collate
from ..callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from ..datasets.base import VAEData
from ..evaluation import spread
from ..refusal import Refused
from ..regularizers.base import Regularizer
from ..training import Training
from ..vae import VAE


def made(name: str, build: Callable[[], Any], kind: type = object) -> Any:
    """What a config node builds; what its class objects to becomes one sentence, and so does another kind of thing."""
    try:
        built = build()
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(error, Refused) or isinstance(cause, Refused):
            raise
        lines = str(cause).splitlines() or ["no message"]
        raise Refused(f"{name} cannot be built from its configuration: {type(cause).__name__}: {lines[0]}") from error
    if not isinstance(built, kind):
        raise Refused(f"{name}._target_ gives a {type(built).__name__}, where a {kind.__name__} is needed")
    return built


def imported(target: str) -> Any:
    """The class a `_target_` names; Refused where it cannot be imported."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Refused(
            f"model._target_={target} cannot be imported from here ({type(error).__name__}: {error}): name a "
            "class as package.Class, and run where the package is"
        ) from error


def prepared(data: VAEData, source: Path | str | None = None) -> VAEData:
    """The dataset with its splits, made with what it kept in the run directory `source`."""
    if source:
        data.recall(partial(loading.kept_text, Path(source)))
    data.prepare_data()
    data.setup("fit")
    refuse_small_shared_memory(data)
    return data


def refuse_small_shared_memory(data: VAEData) -> None:
    """Refused where loader processes have no room for the batches they hand over."""
    shared = Path("/dev/shm")
    if not data.num_workers or not shared.is_dir():
        return
    example = sum(part.nbytes for part in spread_examples(data.splits.train, 1) if isinstance(part, torch.Tensor))
    needed = 2**18 + 2 * 2 * data.num_workers * data.batch_size * example  # two loaders, each two batches ahead
    if (free := shutil.disk_usage(shared).free) < needed:
        raise Refused(
            f"dataset.num_workers={data.num_workers} needs {needed / 2**20:.1f} MiB of shared memory, but {shared} has "
            f"{free / 2**20:.1f} left: type dataset.num_workers=0, or give the container more (--shm-size=1g)"
        )


class Bounded(TorchDispatchMode):
    """Refuses the tensor that would take what is made within beyond `most` numbers, before its memory is asked for.

    (A configuration is a few letters: latent_dim=100000000 must be one sentence and not the machine's end.)
    """

    def __init__(self, most: int, refusal: str) -> None:
        super().__init__()
        self.left, self.most, self.refusal = most, most, refusal

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shape = args[0] if args else ()
        if func.namespace == "aten" and isinstance(shape, Sequence) and all(type(side) is int for side in shape):
            self.left -= math.prod(shape)
            if self.left < 0:
                raise Refused(self.refusal)
        return func(*args, **(kwargs or {}))


def numbers_that_fit() -> int:
    """How many float32 parameters this machine trains: each has a gradient and two moments beside it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16


class Described(NamedTuple):
    """Facts of data that are not there."""

    facts: dict[str, object]


def build_model(cfg: DictConfig, data: VAEData | Described, weights: loading.Weights | None = None) -> VAE:
    """The model, given those of the data's facts that its constructor names.

    Refused where it is larger than this machine's memory, or far larger than the `weights` it is to be filled with.
    """
    most, refusal = numbers_that_fit(), (
        "this model is larger than this machine's memory: lower latent_dim or capacity, or the size of the examples"
    )  # fmt: skip
    if weights:
        most = 2**22 + 4 * sum(tensor.numel() for tensor in weights.state.values())
        refusal = (
            f"the model of this configuration is far larger than what {weights.file} holds: take both from one run, "
            "and data of the shape it was trained on"
        )
    with Bounded(most, refusal):
        return _build_model(cfg, data)


def _build_model(cfg: DictConfig, data: VAEData | Described) -> VAE:
    parameters = inspect.signature(imported(cfg.model._target_).__init__).parameters
    facts = {name: fact for name, fact in data.facts.items() if name in parameters and name not in cfg.model}
    # facts go in by a plain call: Hydra would turn a tuple among them into a list
    build = made("model", lambda: instantiate(cfg.model, _partial_=True, _convert_="all"))
    vae = made(f"model._target_={cfg.model._target_}", lambda: build(**facts))
    if not isinstance(vae, VAE):
        raise Refused(
            f"model._target_={cfg.model._target_} gives a {type(vae).__name__}, which is no vaecollapse.VAE: "
            "derive it from vaecollapse.VAE, or watch it in its own trainer with CollapseMonitor(latents=…)"
        )
    return vae


def build_module(cfg: DictConfig, vae: VAE) -> Training:
    """The model under its regularizer and optimizer; the optimizer is tried once, so that it refuses before step 1."""
    regularizer = made("regularizer", lambda: instantiate(cfg.regularizer), Regularizer)
    optimizer = made("optimizer", lambda: instantiate(cfg.optimizer))
    made("optimizer", lambda: optimizer([torch.nn.Parameter(torch.zeros(1))]), torch.optim.Optimizer)
    return Training(vae=vae, regularizer=regularizer, optimizer=optimizer, seed=cfg.seed)


def build_callbacks(cfg: DictConfig) -> dict[str, pl.Callback]:
    """The run's callbacks by their names."""
    callbacks = made("callback", lambda: dict(instantiate(cfg.callback) or {}))
    for name, callback in callbacks.items():
        made(f"callback.{name}", lambda callback=callback: callback, pl.Callback)
    return callbacks


def build_trainer(cfg: DictConfig, directory: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """The trainer with the run's checkpoints: the last one, and the best by the selection value."""
    loggers = made("logger", lambda: instantiate(cfg.logger) or {})
    for name, logger in loggers.items():
        made(f"logger.{name}", lambda logger=logger: logger, Logger)
    trainer = made("trainer", lambda: instantiate(
        cfg.trainer,
        callbacks=[*callbacks, *([] if any(isinstance(c, Checkpoints) for c in callbacks) else [Checkpoints()])],
        plugins=[AtomicCheckpointIO()],
        logger=list(loggers.values()),
        default_root_dir=str(directory),
    ), pl.Trainer)  # fmt: skip
    refuse_impossible(trainer)
    return trainer


def refuse_impossible(trainer: pl.Trainer) -> None:
    """Refused where the trainer would take no step, or start more processes than there is hardware for."""
    for name, value in (("limit_train_batches", trainer.limit_train_batches), ("max_steps", trainer.max_steps)):
        if value == 0:
            raise Refused(f"trainer.{name}=0 trains nothing: leave it out, or type preflight=only for the forecast")
    if trainer.check_val_every_n_epoch is not None and trainer.check_val_every_n_epoch < 1:
        raise Refused(
            f"trainer.check_val_every_n_epoch must be at least 1, but got {trainer.check_val_every_n_epoch}: type 1"
        )
    most = 4 * (os.cpu_count() or 1)  # of accelerators Lightning itself gives no more than there are
    if trainer.num_devices > most:
        raise Refused(
            f"trainer.devices={trainer.num_devices} is more than four processes for each of this machine's cores: type "
            "trainer.devices=1"
        )


def spread_examples(dataset: Any, wanted: int) -> Batch:
    """Examples spread evenly over a split, for what is fixed before step 1."""
    return collate([dataset[i] for i in spread(len(dataset), wanted)])


def affordable(data: VAEData, wanted: int) -> int:
    """So many examples, or as many as hold a few million numbers where each is long."""
    length = math.prod(cast(Any, data.facts).get("event_shape", (1,)))
    return max(32, min(wanted, 2**22 // max(1, length)))


def quiet_lightning() -> None:
    """Our own lines say what runs where; Lightning's banners and hints about loaders do not help."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for module, message in (
        ("lightning", ".*LeafSpec.*"),
        ("lightning", ".*smaller than the logging interval.*"),
        ("lightning", ".*does not have many workers.*"),
        ("lightning", ".*returned `None`.*"),
        ("lightning", ".*srun.* command is available.*"),  # on a cluster's front node; its jobs are made by a launcher
        ("lightning", ".*your dataloader is not resumable.*"),  # it is: VAEData says where it stands
        ("lightning", ".*sync_dist=True.*"),  # our metrics are the same on all processes when they are logged
    ):
        warnings.filterwarnings("ignore", message=message, module=module)


@contextmanager
def logged(trainer: pl.Trainer, cfg: DictConfig) -> Iterator[None]:
    """Within it the loggers run, each told the configuration; at its end those that started are closed. Refused in one
    sentence where one does not start (W&B without a key)."""
    resolved, started = cast(dict, OmegaConf.to_container(cfg, resolve=True)), []
    try:
        for logger in trainer.loggers:
            made("logger", lambda logger=logger: logger.log_hyperparams(resolved))
            started.append(logger)
        yield
    finally:
        finish(started)


def finish(loggers: Sequence[Logger]) -> None:
    """Closes what a logger keeps open (a W&B run): the next job of a sweep in this process gets one of its own."""
    for logger in loggers:
        end = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(end):
            end()
