"""Short trainings by vaecollapse-train that end in a known condition: `TRAINED[condition]` are plans, as overrides."""

from collections.abc import Sequence
from pathlib import Path

from planted_zoo import Outcome, by_rules

from vaecollapse import config, tasks
from vaecollapse.diagnosis import Verdict

# Overrides of vaecollapse-train, by the condition that they must end in. The linear VAE is at home on data with the
# eigenvalues 6, 3, 1.5, .8, .4, .3, .2, .1, so a price above 6 collapses it, and as many units as data have numbers
# leave a learned scale no residual. Six directions far above the rest at 52 times the ELBO's price leave three. In
# squared errors of digits a fixed scale of 1 prices nearly everything out. 256 directions of equal variance cannot be
# learned from 800 examples, so that held-out codes lie elsewhere than the prior.
LINEAR = ["model=linear", "max_epochs=40"]
WIDE = f"dataset.eigenvalues=[4.0,3.5,3.0,2.5,2.0,1.5{',0.02' * 26}]"
FLAT = f"dataset.eigenvalues=[1.0{',1.0' * 255}]"
TRAINED = {
    "posterior_collapse": [
        [*LINEAR, "beta=8"],
        [*LINEAR, "beta=20", "likelihood.scale=2.0"],
        ["model=image", "likelihood=normal", "max_epochs=20", "regularizer=beta"],
    ],
    "healthy": [LINEAR, [*LINEAR, "likelihood.scale=0.5"]],
    "over_compressed": [[*LINEAR, WIDE, "latent_dim=8", "likelihood.scale=0.2236", "beta=52"]],
    "variance_collapse": [[*LINEAR, "beta=1e-4", "max_epochs=120"]],
    "decoder_variance_collapse": [
        ["model=linear", "likelihood.scale_mode=learned", "latent_dim=8", "max_epochs=400"],
    ],
    "prior_hole": [
        ["model=linear", FLAT, "dataset.examples=800", "latent_dim=16", "likelihood.scale=0.1", "lr=0.01",
         "max_epochs=400"],
    ],
    "underfit": [[*LINEAR, "lr=1e-6", "probe=true"]],
    "diverged": [[*LINEAR, "lr=1e6"]],
    "rate_pinned": [[*LINEAR, "regularizer=free_bits", "free_bits=1.0", "beta=4"]],
}  # fmt: skip
RULED = {"rate", "active_units"}  # what the rules of thumb go by; a run that diverged at once has neither


def train(overrides: Sequence[str], folder: Path) -> Verdict:
    """The verdict at the end of the package's real path."""
    given = [
        *overrides,
        "trainer.accelerator=cpu",
        "callback=[learning_rate,collapse_monitor]",
        f"logger.csv.directory={folder}",
    ]
    verdict = tasks.train(config.compose(given), folder, given).diagnosis
    assert verdict is not None
    return verdict


def trained(condition: str, overrides: Sequence[str], seed: int, folder: Path) -> Outcome:
    """One run, as the zoo counts it."""
    name = " ".join(overrides)
    verdict = train([*overrides, f"seed={seed}"], folder / f"{abs(hash((name, seed)))}")
    return Outcome(
        condition,
        name,
        seed,
        condition not in ("healthy", "rate_pinned"),
        verdict.verdict,
        named(condition, verdict),
        *(by_rules(verdict.readings) if verdict.readings.keys() >= RULED else ("diverged", "diverged")),
    )


def named(condition: str, verdict: Verdict) -> str:
    """What the run is called; a pinned rate may stand among the mechanisms."""
    pinned = condition == "rate_pinned" and "rate_pinned" in verdict.mechanisms
    return "rate_pinned" if pinned else verdict.verdict
