"""The states a verdict can name, what each means, and what to try next: at most three moves, likeliest first."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

State = Literal[
    "posterior_collapse",
    "fake_rate",
    "bypassed_latent",
    "overfit",
    "decoder_variance_collapse",
    "variance_collapse",
    "prior_hole",
    "over_compressed",
    "partial_collapse",
    "underfit",
    "rate_pinned",
    "inert_penalty",
    "diverged",
    "too_early",
    "healthy",
    "inconclusive",
]
STATES: tuple[str, ...] = get_args(State)

# what a run without a price on the KL can still be told
UNPRICED = ("overfit", "decoder_variance_collapse", "variance_collapse", "underfit", "diverged", "healthy")

MEANING = {
    "posterior_collapse": "the posterior is the prior: z carries nothing",
    "fake_rate": "KL is paid for a z that carries nothing",
    "bypassed_latent": "z informs, but the decoder does not listen",
    "overfit": "z serves the training examples and is worth little or nothing on held-out ones",
    "decoder_variance_collapse": "the likelihood's scale is gone: D falls without end",
    "variance_collapse": "the posterior's noise is gone: an autoencoder",
    "prior_hole": "z is sound, but what the prior draws is not what the encoder gives",
    "over_compressed": "a bottleneck: the price leaves far less of z than the data offers",
    "partial_collapse": "only part of the latent the data could fill is alive",
    "underfit": "even without a price on the KL the decoder does not learn: it is not the latent",
    "inert_penalty": "the penalty on the KL exerts no force",
    "rate_pinned": "the KL sits at its floor; what lies under it is undecided",
    "diverged": "training left the finite or the sensible numbers",
    "too_early": "too little training to say anything",
    "healthy": "z carries information and the decoder uses it",
    "inconclusive": "the evidence does not decide",
}


class Prescription(NamedTuple):
    """Overrides to add to the run's own, and why; `command` is filled in by whoever knows the run's own."""

    overrides: tuple[str, ...]
    why: str
    command: str | None = None


def prescribe(
    state: str, weight: float | None, *, floored: bool, knobs: Mapping[str, float] | None = None
) -> list[Prescription]:
    """The moves against a state reached at this final KL weight; none raises the weight of a KL that is dead.

    `floored`: did a floor act; `knobs`: the run's own values of seed, max_epochs, lr and latent_dim.
    """
    own = {"seed": 0, "max_epochs": 10, "lr": 1e-3, "latent_dim": 16, **(knobs or {})}
    weight = 1.0 if weight is None else weight
    lower, higher, slower = f"beta={weight / 10:.3g}", f"beta={max(weight * 10, 1e-3):.3g}", "warmup=0.5"
    narrower, longer = f"latent_dim={max(2, int(own['latent_dim']) // 4)}", f"max_epochs={2 * int(own['max_epochs'])}"
    shorter = f"max_epochs={max(1, int(own['max_epochs']) // 4)}"
    again, gentler = f"seed={int(own['seed']) + 1}", f"lr={own['lr'] / 10:.3g}"
    unfloored = Prescription(("regularizer=beta", lower), "the floor keeps R up, whatever carries it")
    cheaper = Prescription((lower,), "a nat costs more than the data pays for it: R and the gap should rise")
    annealed = Prescription((lower, slower), "and give z half of training before the full price")
    moves = {
        "posterior_collapse": [cheaper, annealed],
        "fake_rate": [unfloored, cheaper, annealed] if floored else [cheaper, annealed],
        "bypassed_latent": [Prescription((lower, slower), "let the decoder learn to listen before z costs in full")],
        "partial_collapse": [cheaper, Prescription((slower,), "slowly, so that more directions live")],
        "rate_pinned": [unfloored],
        "overfit": [
            Prescription((shorter,), "stop before the training clips are known by heart; more data would serve best"),
            Prescription((narrower,), "less to remember with"),
        ],
        "decoder_variance_collapse": [
            Prescription(("likelihood=normal_optimal",), "a scale that is the residual's own cannot run away"),
            Prescription(("likelihood=normal",), "or a fixed one, whose nats have a price"),
        ],
        "variance_collapse": [Prescription((higher,), "σ is free: raise its price")],
        "prior_hole": [
            Prescription(("prior=nsf",), "a prior that is learned can take the shape of q(z)"),
        ],
        "over_compressed": [cheaper],
        "underfit": [
            Prescription((longer,), "more steps: R, β and floors are not the matter"),
            Prescription((gentler,), "or smaller ones"),
        ],
        "inert_penalty": [Prescription(("regularizer=beta",), "a plain weight acts on every nat")],
        "diverged": [
            Prescription((gentler,), "smaller steps"),
            Prescription(("trainer.gradient_clip_val=1",), "bound every single step"),
        ],
        "healthy": [Prescription((again,), "the same from another start: a verdict worth having holds")],
    }
    if weight == 0:  # there is no price to lower
        moves = {name: moves[name] for name in UNPRICED if name in moves}
    return moves.get(state, [Prescription((longer,), "more training, and another look")])
