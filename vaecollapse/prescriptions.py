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


class Plan(NamedTuple):
    """What of a run's plan its prescriptions start from.

    `weight`: of the KL at the schedule's end; `price`: a nat's, over the ELBO's own (None: not known); `found`: is the
    weight found while training, so that beta is no price of a nat? `held`: the choices that give up what keeps R from
    falling (a floor, a target, a posterior that cannot come near the prior);
    `mechanisms`: causes that are known; `still`: did a probe's training hardly move? `knobs`: the run's own values of
    seed, max_epochs, lr and latent_dim, and usual_lr, the rate that the model would have without being told one.
    `units` of the latent, `numbers` of an example, their standard deviation `spread`; `crowded`: the units explain all
    of the numbers, so that no fitted scale has a best value; `fits`: is the likelihood's scale about its residual's?
    """

    weight: float | None = None
    price: float | None = None
    found: bool = False
    held: tuple[str, ...] = ()
    mechanisms: tuple[str, ...] = ()
    still: bool = False
    knobs: Mapping[str, float] = {}
    units: int = 0
    numbers: float | None = None
    spread: float | None = None
    crowded: bool = False
    fits: bool = False


# by the cause that a probe has named, what goes first
FIRST = {
    "decoder_too_strong": "weaker",
    "lagging_encoder": "ahead",
    "price_too_high": "cheaper",
    "floor_holds_rate": "unheld",
}


def prescribe(state: str, plan: Plan) -> list[Prescription]:
    """The moves against a state, likeliest first; none raises the weight of a KL that is dead. Whoever writes them as
    commands leaves out those that this run cannot take, and keeps three."""
    moves = moves_of(plan)
    unheld = ["unheld"] if plan.held else []
    names = {
        "posterior_collapse": ["cheaper", "weaker", "annealed", "restart"],
        "fake_rate": [*unheld, "cheaper", "annealed", "restart"],
        "bypassed_latent": ["weaker", *unheld, "annealed", "restart", "ahead"],
        "partial_collapse": ["cheaper", "slower", "ahead"],
        "rate_pinned": unheld or ["cheaper"],
        "overfit": ["shorter", "narrower"],
        "decoder_variance_collapse": scaled(plan),
        "variance_collapse": ["dearer"],
        "prior_hole": ["dearer", "prior"] if (plan.price or 1.0) < 0.5 else ["prior"],
        "over_compressed": ["cheaper", "slower"],
        "underfit": paced(plan),
        "inert_penalty": ["plain"],
        "diverged": ["gentler", "clipped"],
        "healthy": ["again"],
    }.get(state, ["longer"])
    likely = [FIRST[cause] for cause in plan.mechanisms if cause in FIRST and state in DEAD]
    names = [name for name in dict.fromkeys([*likely, *names]) if name in moves]
    different: dict[tuple[str, ...], Prescription] = {}
    for name in names:
        different.setdefault(moves[name].overrides, moves[name])
    return list(different.values()) or [moves["longer"]]


def scaled(plan: Plan) -> list[str]:
    """Against a scale that runs away: one fitted to the residual helps where the scale lies below it, not where there
    is no residual."""
    return ["fewer", "fixed"] if plan.crowded else ["fixed"] if plan.fits else ["optimal", "fixed"]


def paced(plan: Plan) -> list[str]:
    """Against a training that gets nowhere: the model's own rate, where the run's is far from it."""
    lr, usual = (plan.knobs.get(name) for name in ("lr", "usual_lr"))
    if lr and usual and lr > FAR * usual:
        return ["gentler", "longer"]
    slow = bool(lr and usual and lr < usual / FAR)
    return ["bolder", "longer"] if plan.still or slow else ["longer", "gentler"]


FAR = 3.0  # a learning rate by which a model's own is off is another plan, not a finer choice
NOISE = 0.1  # of the data's variance, for a scale that nothing is known of: between an autoencoder's and a dear price
DEAD = ("posterior_collapse", "fake_rate", "bypassed_latent", "partial_collapse")  # z is worth less than it could be


def moves_of(plan: Plan) -> dict[str, Prescription]:
    """Every move that this plan leaves open, by name."""
    own = {"seed": 0, "max_epochs": 10, "lr": 1e-3, "latent_dim": 16, **plan.knobs}
    weight, price = 1.0 if plan.weight is None else plan.weight, plan.price
    lower, dear = f"beta={weight / 10:.3g}", price is not None and price > 2
    why_lower = "a nat costs more than the data pays for it: R and the gap should rise"
    if price is not None and dear:
        lower, why_lower = (
            f"beta={weight / price:.3g}",
            f"the ELBO's own price, where a nat costs {price:.3g} times that",
        )
    cheap = price is not None and 0 < price < 0.5
    higher = f"beta={max(weight / price if price is not None and cheap else weight * 10, 1e-3):.3g}"
    lr, usual = own["lr"], own.get("usual_lr")
    larger, smaller = max(10 * lr, 1e-3), min(lr / 10, 1e-3)
    if usual:
        larger = usual if lr < usual / FAR else 10 * lr
        smaller = usual if lr > FAR * usual else lr / 10
    plain = ("regularizer=beta",) if plan.found else ()
    promise = tuple(choice for choice in plan.held if choice.startswith("posterior="))  # of a KL to N(0, I) alone
    at = () if plan.spread is None else (f"likelihood.scale={plan.spread * NOISE**0.5:.3g}",)
    twice, quarter = 2 * int(own["max_epochs"]), max(1, int(own["max_epochs"]) // 4)
    listed = {
        "weaker": (("model.pixel_dropout=0.5",), "a decoder that sees less of x has to ask z"),
        "ahead": (("callback=[*,aggressive]",), "an encoder that trains ahead of the decoder (He 2019)"),
        "restart": (
            ("callback=[*,pretrain_reset]", "warmup=0.5"),
            "a z that is worth something before it costs anything, and a decoder that starts anew (Li 2019)",
        ),
        "slower": (("warmup=0.5",), "slowly, so that more directions live"),
        "shorter": (
            (f"max_epochs={quarter}",),
            "stop before the examples are known by heart; more data would serve best",
        ),
        "narrower": ((f"latent_dim={max(2, int(own['latent_dim']) // 4)}",), "less to remember with"),
        "optimal": (("likelihood=normal_optimal",), "a scale that is the residual's own cannot run away"),
        "fixed": (
            ("likelihood=normal", *at),
            f"a fixed scale, whose nats have a price{f': {NOISE:.0%} of the variance are noise' if at else ''}",
        ),
        "prior": ((*promise, "prior=nsf"), "a prior that is learned can take the shape of q(z)"),
        "longer": ((f"max_epochs={twice}",), "more training, and another look"),
        "bolder": ((f"lr={larger:.3g}",), "the model's own steps" if larger == usual else "larger steps"),
        "gentler": ((f"lr={smaller:.3g}",), "the model's own steps" if smaller == usual else "smaller steps"),
        "clipped": (("trainer.gradient_clip_val=1",), "bound every single step"),
        "plain": (("regularizer=beta",), "a plain weight acts on every nat"),
        "again": ((f"seed={int(own['seed']) + 1}",), "the same from another start: a verdict worth having holds"),
    }
    if weight > 0:  # else there is no price to lower
        listed |= {
            "cheaper": ((*plain, lower), why_lower),
            "annealed": ((*plain, lower, "warmup=0.5"), "and give z half of training before the full price"),
            "unheld": ((*plan.held, lower), "R is held up, whatever carries it"),
        }
    if plan.crowded and plan.numbers and plan.units and weight > 0:
        half = own["latent_dim"] * plan.numbers / (2 * weight * plan.units)
        listed["fewer"] = ((f"latent_dim={max(1, int(half))}",), "units that leave half of the numbers a residual")
    raised = "a nat costs so little that q(z) is where it likes" if cheap else "σ is free: raise its price"
    listed["dearer"] = ((*plain, higher), raised)
    return {name: Prescription(*move) for name, move in listed.items()}
