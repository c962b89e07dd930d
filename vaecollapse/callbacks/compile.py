"""torch.compile for the networks alone: losses, densities and readings stay as they are."""

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from ..refusal import Refused
from ..training import Training


class Compile(Callback):
    """Compiles the model's `parts` in place, so that checkpoints keep their names.

    Spectral distances stay outside (complex STFTs have no compiled code). On a processor this takes a minute and gains
    nothing measured; it is meant for accelerators.
    """

    def __init__(
        self, *, parts: Sequence[str] = ("encoder", "decoder"), backend: str = "inductor", mode: str | None = None
    ) -> None:
        super().__init__()
        self.parts, self.backend, self.mode = list(parts), backend, mode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        vae = pl_module.vae if isinstance(pl_module, Training) else pl_module
        for name in self.parts:
            part = getattr(vae, name, None)
            if part is None:
                own = ", ".join(child for child, _ in vae.named_children())
                raise Refused(f"the model has no part {name} to compile: set callback.compile.parts to some of {own}")
            part.compile(backend=self.backend, mode=self.mode)
