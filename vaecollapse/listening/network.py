"""The user's own network as an embedding of clips."""

import logging
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..refusal import Refused

log = logging.getLogger(__name__)


class Network:
    """A program of torch.export (`.pt2`) or a TorchScript file: (1, time) to (1, size) or (size,).

    `time`: clips are cut or padded with zeros to so many samples; None leaves their own. Refused where it cannot be
    loaded, does not take such a clip, or gives other than `size` numbers.
    """

    def __init__(self, path: Path | str, *, size: int, time: int | None) -> None:
        self.path, self.size, self.time = Path(path), size, time
        self.program = loaded(self.path)

    def __call__(self, x: Float[Tensor, " time"]) -> Float[Tensor, " size"]:
        if self.time is not None:
            x = F.pad(x, (0, self.time - len(x)))  # a negative width cuts
        try:
            with torch.no_grad():
                found = self.program(x[None])
        except Exception as error:  # it is theirs, and may raise anything
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            fixed = "" if self.time else "; if it takes one length only, declare it with metric.embedding.seconds"
            raise Refused(f"{self.path} does not take a clip of (1, {len(x)}) samples ({said}){fixed}") from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape not in ((1, self.size), (self.size,)):
            raise Refused(
                f"{self.path} gives {shape} for one clip, and metric.embedding.size={self.size} is declared: declare "
                f"what it gives, or export a network that gives (1, {self.size})"
            )
        return found.detach().flatten().float()


def loaded(path: Path, key: str = "metric.embedding.path") -> torch.nn.Module:
    """The program of a file. Refused, in the words of the `key` it was given by, where there is none."""
    if not path.is_file():
        raise Refused(f"{key}={path} is not there: give a .pt2 of torch.export, or a TorchScript file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix == ".pt2":
                return torch.export.load(path).module()
            return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # both raise whatever reading a zip, a pickle or a schema raises
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise Refused(
            f"{key}={path} is neither a .pt2 of torch.export nor a TorchScript file ({said}): save it "
            "with torch.export.save or torch.jit.save"
        ) from error
