"""What a person would listen to, each validation: wav files, a sheet of spectrograms, and the same in every logger."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile as sf
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..batch import Batch
from ..evaluation import quiet
from ..pictures import grid, spectrogram, write_png
from ..refusal import check_least
from ..sampling import aggregate, decode, interpolation, prior_samples, reconstructions, traversals
from ..training import Training
from .offers import offer_picture, offer_sounds
from .probes import own_probe


class AudioSamples(Callback):
    """Real clips, their reconstructions, reconstructions from another clip's z, prior samples, the mean z, traversals
    of the three most informative directions, and an interpolation through the prior's base space.

    They go to `samples/epoch_NNN/` of the run directory and to every logger that takes audio or images, after every
    `every_n_validations`th validation and at the end. Does nothing for data without a sample rate.
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

    def sample_rate(self, trainer: Trainer) -> int | None:
        return cast(Any, trainer).datamodule.facts.get("sample_rate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(pl_module, Training):
            return
        if pl_module.fault:  # nothing to listen to
            return
        rate = self.sample_rate(trainer)
        self.validations += 1
        if rate is None or self.validations % self.every:
            return
        if self.batch is None:
            loader: Any = trainer.val_dataloaders
            self.batch = own_probe(pl_module, loader, self.examples, self.examples, {}).blocks[0]
        sounds = self.sounds(pl_module, self.batch.like(pl_module))
        folder = Path(trainer.default_root_dir) / "samples" / f"epoch_{trainer.current_epoch:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, waveforms in sounds.items():
            for i, waveform in enumerate(waveforms):
                sf.write(folder / f"{name}_{i}.wav", waveform, rate, subtype="PCM_16")
        sheet = grid([[spectrogram(waveform) for waveform in waveforms] for waveforms in sounds.values()])
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
