"""Train variational autoencoders and say, from measurement, whether their latent is alive.

Importing this imports nothing heavy: the public names are fetched when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch import Batch
    from .callbacks.monitor import CollapseMonitor
    from .detectors.rate import kl_is_low
    from .elbo import ELBO, Objective, Progress
    from .evidence import diagnose
    from .vae import VAE

__version__ = "0.1.0"
__all__ = ["ELBO", "VAE", "Batch", "CollapseMonitor", "Objective", "Progress", "diagnose", "kl_is_low"]

_HOME = {
    "Batch": "batch",
    "CollapseMonitor": "callbacks.monitor",
    "ELBO": "elbo",
    "Objective": "elbo",
    "Progress": "elbo",
    "VAE": "vae",
    "diagnose": "evidence",
    "kl_is_low": "detectors.rate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
