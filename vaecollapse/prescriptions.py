"""From a state to what to try next: at most three moves, likeliest first."""

from typing import NamedTuple


class Prescription(NamedTuple):
    """Overrides to add to the run's own, and why; `command` is filled in by whoever knows the run's own."""

    overrides: tuple[str, ...]
    why: str
    command: str | None = None


def prescribe(state: str, weight: float | None, *, floored: bool) -> list[Prescription]:
    """The moves against a state reached at this final KL weight; none raises the weight of a KL that is dead."""
    weight = weight or 1.0
    lower, slower = f"beta={weight / 10:.3g}", "warmup=0.5"
    unfloored = Prescription(("regularizer=beta", lower), "the floor keeps R up, whatever carries it")
    cheaper = Prescription((lower,), "a nat costs more than the data pays for it: R and the gap should rise")
    annealed = Prescription((lower, slower), "and give z half of training before the full price")
    moves = {
        "posterior_collapse": [cheaper, annealed],
        "fake_rate": [unfloored, cheaper, annealed] if floored else [cheaper, annealed],
        "bypassed_latent": [Prescription((lower, slower), "let the decoder learn to listen before z costs in full")],
        "partial_collapse": [
            cheaper,
            Prescription((slower,), "slowly, so that more directions live"),
        ],
        "rate_pinned": [unfloored],
        "overfit": [Prescription(("latent_dim=4",), "less to remember with; more data would serve better")],
        "variance_collapse": [Prescription((f"beta={max(weight * 10, 1e-3):.3g}",), "σ is free: raise its price")],
        "diverged": [
            Prescription(("lr=1e-4",), "smaller steps"),
            Prescription(("trainer.gradient_clip_val=1",), "bound every single step"),
        ],
        "healthy": [Prescription(("seed=1",), "the same from another start: a verdict worth having holds")],
    }
    return moves.get(state, [Prescription(("max_epochs=20",), "more training, and another look")])
