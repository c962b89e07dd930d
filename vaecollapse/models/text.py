"""What the text models share: which tokens encoder, prior and decoder see, and p(answer|z, prompt)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Batch, lengths
from ..distributions.arrays import as_rows, side_by_side
from ..distributions.flows import FlowDistribution
from ..distributions.posteriors import NormalPosterior
from ..distributions.tokens import Next, TokenSequence
from ..nn.parts import Part
from ..refusal import Refused
from ..tokens import BOS, EOS, PAD, SEP
from ..vae import VAE

SEEN_BY = {
    "posterior_input": ("prompt", "answer", "both"),
    "prior_input": ("nothing", "prompt"),
    "context": ("latents_only", "prompt_and_latents"),
    "conditioning": ("cross_attention", "prefix", "both"),
}
PART = 16  # examples of like length that are read together
Latent = Float[Tensor, "batch *unit"]


class TextVAE(VAE):
    """x (batch, time) the answer's tokens and EOS, context (batch, prompt) those of the prompt, both padded with PAD;
    the loss is on the answer and its EOS. A text model makes `reader`, and `prior_reader` if `prior_input` is prompt,
    nets of (ids, valid) to (batch, rows, features), and a `decoder`; its latent is (rows, latent_dim), or with
    `rows` None a vector.

    `posterior_input`: q(z|·) sees the prompt, the answer or both. `prompt` alone is a bottleneck and no autoencoder:
    z never sees what is scored. `prior_input`: with prompt p(z|c) is a Gaussian of its own reading of the prompt, the
    base of the prior's flow where there is one. `context`: what the decoder sees beside the tokens before each. Where
    the data have no prompts there is none to see.

    While training a share `word_dropout` of the tokens before is hidden from the decoder (Bowman 2016). Read, it sees
    them all, so that D of validation is another quantity than that of training, and may be the smaller one.
    """

    autoregressive = True
    reader: nn.Module
    prior_reader: nn.Module | None
    decoder: Any

    def __init__(
        self,
        *,
        vocab_size: int | None,
        event_shape: tuple[int, ...],
        context_shape: tuple[int, ...] | None,
        rows: int | None,
        latent_dim: int,
        features: int,
        posterior: Callable[..., nn.Module],
        prior: Callable[..., nn.Module],
        posterior_input: str,
        prior_input: str,
        context: str,
        word_dropout: float,
    ) -> None:
        super().__init__()
        if vocab_size is None:
            raise Refused(
                "a text model takes tokens, but these data have none: type dataset=arithmetic, dataset=qa_csv, "
                "dataset=text_lines or dataset=gsm8k"
            )
        tokens = 1 if rows is None else rows
        for name, size in {"latent_dim": latent_dim, "model.tokens": tokens, "capacity": features}.items():
            if size < 1:
                raise Refused(f"a text model needs {name} of at least 1, but got {size}: type {name}=6")
        check_words(posterior_input=posterior_input, prior_input=prior_input, context=context)
        check_share("word_dropout", word_dropout, most=1.0)
        refuse_inputs(posterior_input, prior_input, context, prompts=context_shape is not None)
        self.kinds, self.longest, self.prompts = vocab_size + 1, event_shape[0], context_shape is not None
        self.posterior_input, self.prior_input, self.context = posterior_input, prior_input, context
        self.rows, self.word_dropout, self.hidden = rows, word_dropout, False
        self.posterior_heads = nn.ModuleList(posterior(features=features, units=latent_dim) for _ in range(tokens))
        self.prior_head = prior(units=tokens * latent_dim)
        self.prior_heads = (
            nn.ModuleList(NormalPosterior(features=features, units=latent_dim) for _ in range(tokens))
            if prior_input == "prompt"
            else None
        )

    # ---- what sees which tokens

    def encode(
        self,
        x: Int[Tensor, "batch time"],
        context: Int[Tensor, "batch prompt"] | None = None,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Distribution:
        answer = x if mask is None else x.masked_fill(~mask, PAD)
        prompted = self.prompts and self.posterior_input != "answer"
        head = start(x, self.prompt_of(context) if prompted else None)
        return self.gaussians(
            self.posterior_heads, self.reader, [*head, *[answer] * (self.posterior_input != "prompt")]
        )

    def prior(self, context: Int[Tensor, "batch prompt"] | None = None) -> Distribution:
        own = self.prior_head(None)
        own = own if self.rows is None else as_rows(own, self.rows)
        if self.prior_heads is None or self.prior_reader is None:
            return own
        prompt = self.prompt_of(context)
        base = self.gaussians(self.prior_heads, self.prior_reader, start(prompt, prompt))
        return own.rebased(base) if isinstance(own, FlowDistribution) else base

    def gaussians(self, heads: nn.ModuleList, reader: nn.Module, parts: list[Tensor]) -> Distribution:
        """Each row of the latent by its own head."""
        ids, valid = joined(*parts)
        found = reader(ids, valid) if self.training else read_alike(reader, ids, valid)
        rows = [head(row) for head, row in zip(heads, found.unbind(1), strict=True)]
        return rows[0] if self.rows is None else side_by_side(rows)

    def decode(
        self,
        z: Latent,
        context: Int[Tensor, "batch prompt"] | None = None,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> TokenSequence:
        prompted = self.prompts and self.context == "prompt_and_latents"
        ids, valid = joined(*start(z, self.prompt_of(context) if prompted else None))
        told = self.told(z)
        return TokenSequence(
            partial(self.given, told, ids, valid), partial(self.begin, told, ids, valid),
            batch=len(z), longest=self.longest, mask=mask,
        )  # fmt: skip

    def given(self, z: Latent, ids: Tensor, valid: Tensor, x: Int[Tensor, "batch time"]) -> Tensor:
        """Logits of each token of x, by the decoder that is shown those before it."""
        whole, _ = joined(ids, self.shown(x[:, :-1]))
        first = valid.sum(1, keepdim=True) - 1
        return self.decoder(whole, z, first + torch.arange(x.shape[1], device=x.device))

    def begin(self, z: Latent, ids: Tensor, valid: Tensor) -> tuple[Tensor, Next]:
        logits, following = self.decoder.begin(ids, valid, z)
        return logits, lambda token: following(self.shown(token[:, None])[:, 0])

    def distortion(self, batch: Batch, z: Latent) -> Float[Tensor, " batch"]:
        """But in training, examples of like length are decoded together: nothing is spent on padding."""
        decoded = super().distortion
        if self.training or len(z) < 2:
            return decoded(batch, z)
        where, costs = zip(*((rows, decoded(part, z[rows])) for rows, part in batch.alike(PART)), strict=True)
        return torch.cat(costs)[torch.cat(where).argsort()]

    def told(self, z: Latent) -> Latent:
        """z as the decoder sees it."""
        return z

    def shown(self, x: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
        """The tokens as the decoder sees them; the last kind of its own stands for a hidden one."""
        if self.hidden:
            return torch.where(x == PAD, x, self.kinds - 1)
        if not (self.training and self.word_dropout):
            return x
        dropped = torch.rand(x.shape, device=x.device) < self.word_dropout
        return torch.where(dropped & (x != PAD), self.kinds - 1, x)

    def prompt_of(self, context: Tensor | None) -> Int[Tensor, "batch prompt"]:
        if context is None:
            raise Refused(
                f"this model sees prompts (posterior_input={self.posterior_input}, prior_input={self.prior_input}, "
                f"context={self.context}), but none was given: give one to each answer"
            )
        return context

    # ---- what others ask

    def condition(self, batch: Batch) -> Tensor | None:
        """The prompt where decoder or prior see it; else it is nothing but what the encoder reads."""
        sees = self.context == "prompt_and_latents" or self.prior_input == "prompt"
        return batch.context if sees and self.prompts else None

    @property
    def bottleneck(self) -> bool:
        """Does z see the prompt alone, and not what is scored?"""
        return self.posterior_input == "prompt"

    @property
    def weaken(self) -> Callable[[], None]:
        """Hides the words before a word from the decoder for good."""
        return self._hide

    def _hide(self) -> None:
        self.hidden = True

    def parameter_table(self) -> list[Part]:
        """Their sum is the whole model's."""
        learned = [("prior reader", self.prior_reader), ("prior heads", self.prior_heads)]
        return [
            Part.of(
                "reader",
                self.reader,
                f"sees {'prompt and answer' if self.posterior_input == 'both' else self.posterior_input}",
            ),
            Part.of("posterior", self.posterior_heads),
            Part.of("prior", self.prior_head),
            *(Part.of(name, part, "sees the prompt") for name, part in learned if part is not None),
            Part.of("decoder", self.decoder, f"sees {self.context.replace('_', ' ')}"),
        ]


def joined(*parts: Int[Tensor, "batch _"]) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Right-padded sequences one after the other without gaps, so that all padding is last; and what is none.

    >>> joined(torch.tensor([[5, 0]]), torch.tensor([[6, 7]]))[0].tolist()
    [[5, 6, 7, 0]]
    """
    ids = torch.cat(parts, 1)
    order = (ids == PAD).int().argsort(dim=1, stable=True)
    ids = ids.gather(1, order)
    return ids, ids != PAD


def read_alike(
    reader: nn.Module, ids: Int[Tensor, "batch time"], valid: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch rows features"]:
    """Sequences of like length together, without the padding of longer ones."""
    length = lengths(valid)
    where = length.argsort().split(PART)
    found = [reader(ids[rows, :end], valid[rows, :end]) for rows in where for end in [int(length[rows].max())]]
    return torch.cat(found)[torch.cat(where).argsort()]


def start(like: Tensor, prompt: Tensor | None) -> list[Tensor]:
    """What stands before an answer: BOS, and the prompt between it and SEP where there is one."""

    def mark(kind: int) -> Tensor:
        return torch.full((len(like), 1), kind, dtype=torch.long, device=like.device)

    return [mark(BOS)] if prompt is None else [mark(BOS), prompt, mark(SEP)]


def written_kinds(vocab_size: int | None) -> int:
    """How many ids an answer is made of: those from EOS up."""
    return (vocab_size or EOS + 1) - EOS


def check_words(**options: str) -> None:
    """Refused for a word that the option does not know."""
    for name, word in options.items():
        if word not in SEEN_BY[name]:
            raise Refused(
                f"model.{name}={word} is none of {', '.join(SEEN_BY[name])}: type model.{name}={SEEN_BY[name][0]}"
            )


def check_share(name: str, share: float, *, most: float) -> None:
    if not 0 <= share <= most:
        raise Refused(f"model.{name} is a share from 0 to {most:g}, but got {share:g}: try model.{name}=0.3")


def refuse_inputs(posterior_input: str, prior_input: str, context: str, *, prompts: bool) -> None:
    """Refused where z could tell nothing, or where there is no prompt to see."""
    if not prompts and "prompt" in (posterior_input, prior_input):
        raise Refused(
            "these data have no prompts, but model.posterior_input or model.prior_input is prompt: type "
            "model.posterior_input=answer model.prior_input=nothing, or data with prompts"
        )
    if posterior_input != "prompt":
        return
    if context == "prompt_and_latents":
        raise Refused(
            "model.posterior_input=prompt with model.context=prompt_and_latents: the decoder sees all that z is made "
            "of, so that z can carry nothing: type model.context=latents_only, or model.posterior_input=both"
        )
    if prior_input == "prompt":
        raise Refused(
            "model.posterior_input=prompt with model.prior_input=prompt: the prior sees all that the posterior sees, "
            "so that z costs nothing whatever it carries: type model.prior_input=nothing, or model.posterior_input=both"
        )
