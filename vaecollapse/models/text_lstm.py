"""The classical bench of posterior collapse: LSTMs and one latent vector."""

from collections.abc import Callable

from torch import nn

from ..nn.recurrent import RecurrentDecoder, RecurrentReader
from .text import TextVAE, written_kinds

WIDTH = 16  # per unit of capacity


class RecurrentVAE(TextVAE):
    """z (batch, latent_dim) of an LSTM's last output; an LSTM decoder that starts from z and reads it at every step
    (Bowman 2016, as He 2019 has it), both of width 16 × `capacity`; see `TextVAE` for what sees what."""

    def __init__(
        self,
        *,
        event_shape: tuple[int, ...],
        latent_dim: int,
        posterior: Callable[..., nn.Module],
        prior: Callable[..., nn.Module],
        vocab_size: int | None = None,
        context_shape: tuple[int, ...] | None = None,
        capacity: int = 8,
        posterior_input: str = "both",
        prior_input: str = "nothing",
        context: str = "latents_only",
        word_dropout: float = 0.0,
    ) -> None:
        width = WIDTH * capacity
        super().__init__(
            vocab_size=vocab_size,
            event_shape=event_shape,
            context_shape=context_shape,
            rows=None,
            latent_dim=latent_dim,
            features=width,
            posterior=posterior,
            prior=prior,
            posterior_input=posterior_input,
            prior_input=prior_input,
            context=context,
            word_dropout=word_dropout,
        )
        self.reader = RecurrentReader(kinds=self.kinds, width=width)
        self.prior_reader = RecurrentReader(kinds=self.kinds, width=width) if prior_input == "prompt" else None
        self.decoder = RecurrentDecoder(
            kinds=self.kinds, written=written_kinds(vocab_size), width=width, told=latent_dim
        )
