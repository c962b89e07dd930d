"""Decoding with what has been seen kept, against decoding each token from the start.

    python benchmarks/text_decoding.py [--tokens 128] [--batch 16] [--capacity 32]

Greedy, untrained weights and no early end, a text_tokens model of 6 x 256 latents; both ways in turns, three times,
one thread. Prints a markdown table; the target is 5 times as fast at 128 tokens. The tokens of both are compared.
"""

import argparse
import statistics
import time

import torch

from vaecollapse.distributions.posteriors import NormalPosterior
from vaecollapse.distributions.priors import NormalPrior
from vaecollapse.distributions.tokens import TokenSequence
from vaecollapse.models.text_tokens import TokenVAE
from vaecollapse.tokens import EOS, PAD

TARGET, TURNS = 5, 3


def kept(decoded: TokenSequence, tokens: int) -> torch.Tensor:
    """One token at a time."""
    logits, following = decoded.begin()
    said = []
    for _ in range(tokens):
        said.append(logits[:, 1:].argmax(-1) + EOS + 1)  # never the end
        logits = following(said[-1])
    return torch.stack(said, 1)


def anew(decoded: TokenSequence, tokens: int) -> torch.Tensor:
    """The whole prefix for each token."""
    (count,) = decoded.batch_shape
    x = torch.full((count, 1), PAD)
    for _ in range(tokens):
        x[:, -1] = decoded.given(x)[:, -1, 1:].argmax(-1) + EOS + 1
        x = torch.nn.functional.pad(x, (0, 1), value=PAD)
    return x[:, :-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--capacity", type=int, default=32, help="an eighth of the width")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vae = TokenVAE(event_shape=(given.tokens,), context_shape=(16,), vocab_size=2048, latent_dim=256,
                   capacity=given.capacity, context="prompt_and_latents",
                   posterior=NormalPosterior, prior=NormalPrior).eval()  # fmt: skip
    ways = {"kept": kept, "anew": anew}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    said = {}
    with torch.no_grad():
        decoded = vae.decode(torch.randn(given.batch, 6, 256), torch.randint(4, 2048, (given.batch, 16)))
        for _ in range(TURNS):
            for name, way in ways.items():
                started = time.perf_counter()
                said[name] = way(decoded, given.tokens)
                seconds[name].append(time.perf_counter() - started)
    one, all_ = (statistics.median(seconds[name]) for name in ways)
    same = float((said["kept"] == said["anew"]).double().mean())
    print(
        f"\n{given.tokens} tokens, batch {given.batch}, width {8 * given.capacity}, one thread; target {TARGET} times\n"
    )
    print("| | seconds | tokens a second |\n|---|---|---|")
    for name, spent in (("with what was seen kept", one), ("from the start each time", all_)):
        print(f"| {name} | {spent:.2f} | {given.batch * given.tokens / spent:,.0f} |")
    print(f"\n{all_ / one:.1f} times as fast; {same:.1%} of the tokens are the same")


if __name__ == "__main__":
    main()
