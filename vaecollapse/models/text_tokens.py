"""A transformer VAE of text whose latent is a few tokens."""

from collections.abc import Callable

import torch
from torch import nn

from ..nn.transformer import CausalDecoder, SequenceReader
from ..refusal import Refused
from .text import Latent, TextVAE, check_share, check_words, written_kinds

WIDTH = 8  # per unit of capacity: 32 makes the 256 of Vaswani's smaller models


class TokenVAE(TextVAE):
    """z (batch, tokens, latent_dim) of a pre-LN transformer of width 8 × `capacity`; see `TextVAE` for what sees what.

    Encoder: `layers` blocks, then two in which `tokens` learned queries attend to them, and a head for each. Decoder: a
    causal transformer of `layers` blocks that attends to the latent tokens (`conditioning: cross_attention`), has them
    before its sequence (`prefix`), or both. While training a share `latent_token_dropout` of the latent tokens is 0 to
    the decoder, so that no answer hangs on one of them.
    """

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
        heads: int = 4,
        layers: int = 3,
        tokens: int = 6,
        posterior_input: str = "both",
        prior_input: str = "nothing",
        conditioning: str = "cross_attention",
        context: str = "latents_only",
        word_dropout: float = 0.0,
        latent_token_dropout: float = 0.3,
    ) -> None:
        width = WIDTH * capacity
        super().__init__(
            vocab_size=vocab_size,
            event_shape=event_shape,
            context_shape=context_shape,
            rows=tokens,
            latent_dim=latent_dim,
            features=width,
            posterior=posterior,
            prior=prior,
            posterior_input=posterior_input,
            prior_input=prior_input,
            context=context,
            word_dropout=word_dropout,
        )
        check_words(conditioning=conditioning)
        check_share("latent_token_dropout", latent_token_dropout, most=0.9)
        if layers < 1 or heads < 1 or width % heads:
            raise Refused(
                f"a transformer has at least one layer, and heads that divide its width 8 × capacity = {width}, but "
                f"got model.layers={layers} model.heads={heads}: try model.layers=3 model.heads=4"
            )
        self.latent_token_dropout = latent_token_dropout
        sizes = {"kinds": self.kinds, "width": width, "heads": heads, "layers": layers, "tokens": tokens}
        self.reader = SequenceReader(**sizes)
        self.prior_reader = SequenceReader(**sizes) if prior_input == "prompt" else None
        self.decoder = CausalDecoder(
            **sizes, written=written_kinds(vocab_size), told=latent_dim, conditioning=conditioning
        )

    def told(self, z: Latent) -> Latent:
        if not (self.training and self.latent_token_dropout):
            return z
        return z * (torch.rand(z.shape[:2], device=z.device) >= self.latent_token_dropout).unsqueeze(-1)
