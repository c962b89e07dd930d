"""What a person would listen to, look at or read, each validation: files of the run directory, and in every logger."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile as sf
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..batch import Batch
from ..evaluation import quiet, spread
from ..files import whole
from ..pictures import named_rows, spectrogram, write_png
from ..refusal import check_least
from ..sampling import aggregate, beside, decode, interpolation, prior_samples, reconstructions, traversals
from ..training import Training
from ..writers.base import Writer
from ..writers.text import page
from .offers import offer_picture, offer_sounds, offer_texts
from .probes import own_probe


class Samples(Callback):
    """Of sounds: real clips, their reconstructions, reconstructions from another clip's z, prior samples, the mean z,
    traversals of the three most informative directions, and an interpolation through the prior's base space.

    Of what the dataset's writer shows at a glance (images, text, fields): held-out examples, and under the condition of
    each its reconstruction, what another one's z makes, and draws from the prior, as `examples.png` or `examples.txt`.

    They go to `samples/epoch_NNN/` of the run directory and to every logger that takes the like, after every
    `every_n_validations`th validation and at the end. Does nothing for other data.
    """

    def __init__(self, *, clips: int = 4, every_n_validations: int = 1, examples: int = 256, seed: int = 0) -> None:
        super().__init__()
        check_least("callback.samples", 1, clips=clips, every_n_validations=every_n_validations, examples=examples)
        check_least("callback.samples", 0, seed=seed)
        self.clips, self.every, self.examples, self.seed = clips, every_n_validations, examples, seed
        self.validations = 0
        self.batch: Batch | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(pl_module, Training):
            return
        if pl_module.fault:  # nothing to listen to
            return
        self.validations += 1
        if self.validations % self.every:
            return
        data: Any = cast(Any, trainer).datamodule
        folder = Path(trainer.default_root_dir) / "samples" / f"epoch_{trainer.current_epoch:03d}"
        writer = data.writer(folder)
        if (rate := data.facts.get("sample_rate")) is not None:
            self.let_hear(trainer, pl_module, folder, rate)
        elif writer.glances:
            self.let_see(trainer, pl_module, folder, writer)

    def probe(self, trainer: Trainer, module: Training) -> Batch:
        """The same held-out examples at each validation."""
        if self.batch is None:
            loader: Any = trainer.val_dataloaders
            self.batch = own_probe(module, loader, self.examples, self.examples, {}).blocks[0]
        return self.batch.like(module)

    def let_see(self, trainer: Trainer, module: Training, folder: Path, writer: Writer) -> None:
        batch = self.probe(trainer, module)
        few = batch.part(torch.tensor(spread(len(batch.x), self.clips), device=batch.x.device))
        with quiet(module.vae, self.seed):
            seen = writer.seen(beside(module.vae, few, seed=self.seed))
        folder.mkdir(parents=True, exist_ok=True)
        if seen.pictures:
            sheet = named_rows(seen.pictures)
            write_png(folder / "examples.png", sheet)
        if seen.texts:
            with whole(folder / "examples.txt") as temporary:
                temporary.write_text("".join(page(number, dict(row)) for number, row in enumerate(seen.texts)), "utf-8")
        for logger in trainer.loggers:
            if seen.pictures:
                offer_picture(logger, "samples/examples", sheet, trainer.global_step)
            if seen.texts:
                offer_texts(logger, "samples/examples", seen.texts, trainer.global_step)

    def let_hear(self, trainer: Trainer, module: Training, folder: Path, rate: int) -> None:
        sounds = self.sounds(module, self.probe(trainer, module))
        folder.mkdir(parents=True, exist_ok=True)
        for name, waveforms in sounds.items():
            for i, waveform in enumerate(waveforms):
                sf.write(folder / f"{name}_{i}.wav", waveform, rate, subtype="PCM_16")
        sheet = named_rows({name: [spectrogram(each) for each in waveforms] for name, waveforms in sounds.items()})
        write_png(folder / "spectrograms.png", sheet)
        for logger in trainer.loggers:
            offer_sounds(logger, sounds, rate, trainer.global_step)
            offer_picture(logger, "samples/spectrograms", sheet, trainer.global_step)

    def sounds(self, module: Training, batch: Batch) -> dict[str, np.ndarray]:
        """Waveforms by kind, (clips, time) each; file names sort by kind and number."""
        vae, few = module.vae, batch.part(slice(0, self.clips))
        with quiet(vae, self.seed):
            found = aggregate(vae, batch)
            elbo = vae.elbo(few, seed=self.seed)
            made: dict[str, Tensor] = reconstructions(vae, few, seed=self.seed)
            made["prior"] = prior_samples(vae, self.clips, tuple(elbo.posterior.event_shape), seed=self.seed)
            dtype = elbo.z.dtype
            made["mean_z"] = decode(vae, found.mean[None].to(dtype))
            for i, walk in enumerate(traversals(vae, found)):
                made[f"traversal_{i + 1}"] = walk
            made["interpolation"] = interpolation(vae, elbo.z[0], elbo.z[-1])
        return {name: waveforms.float().clamp(-1, 1).cpu().numpy() for name, waveforms in made.items()}
