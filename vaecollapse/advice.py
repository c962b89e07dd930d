"""What to try next, for those to whom our keys mean nothing."""

from collections.abc import Sequence

from .prescriptions import Prescription

MOST = 3
IN_WORDS = {
    "warmup": "raise the weight of the KL from 0 over the first half of training",
    "regularizer": "take away the floor or target on the KL: a plain weight",
    "prior": "learn the prior (a flow, or a VampPrior)",
    "likelihood=normal_optimal": "let the likelihood's scale be the residual's own",
    "likelihood=normal": "fix the likelihood's scale",
    "trainer.gradient_clip_val": "clip the gradient's norm at 1",
    "model.pixel_dropout": "weaken the decoder (word or pixel dropout, a smaller field of view)",
    "callback=[*,aggressive]": "train the encoder alone for some steps before each of the decoder's",
    "callback=[*,pretrain_reset]": "train without the KL first, then start the decoder anew",
    "seed": "train once more from another seed",
}
BY_SIZE = {  # where the value is below the one that a run of ours would have had, and above
    "max_epochs": (10, "stop at a quarter of the epochs", "train twice as long"),
    "lr": (1e-3, "take a tenth of the learning rate", "take ten times the learning rate"),
}


def in_words(moves: Sequence[Prescription], weight: float | None, price: float | None = None) -> list[Prescription]:
    """The first three prescriptions as sentences. `weight` is the KL's that they start from, 1 where it is not known;
    then `price`, what a nat was measured to cost, says what a share of it is.

    >>> [move.why for move in in_words([Prescription(("beta=0.1",), "cheaper")], None, 0.02)]
    ["take 0.1 times the KL's weight (about 0.002: a nat costs 0.02 now): cheaper"]
    """
    said = []
    for move in moves:
        words = [spoken(override, weight, price) for override in move.overrides]
        if all(words):
            said.append(Prescription((), f"{', and '.join(map(str, words))}: {move.why}"))
    return said[:MOST]


def spoken(override: str, weight: float | None, price: float | None) -> str | None:
    """One override in words; None where there are none."""
    key, _, given = override.partition("=")
    if key == "beta":
        share = float(given) / (weight or 1.0)
        if weight:
            return f"take {float(given):.3g} in place of {weight:.3g} as the KL's weight"
        now = f" (about {share * price:.3g}: a nat costs {price:.3g} now)" if price and price > 0 else ""
        return f"take {share:.3g} times the KL's weight{now}"
    if key == "latent_dim":
        return f"take {float(given) / 16:.2g} times the units"
    if key == "likelihood.scale":
        return f"at {float(given):.3g}"
    if key in BY_SIZE:
        usual, less, more = BY_SIZE[key]
        return less if float(given) < usual else more
    return IN_WORDS.get(override, IN_WORDS.get(key))
