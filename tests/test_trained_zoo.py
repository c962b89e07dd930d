"""One seed of the trained zoo, and what its sick runs are told to type; five seeds: benchmarks/zoo.py --trained."""

from pathlib import Path

import pytest
from trained_zoo import TRAINED, named, train

# a run shows what it is long before the plan's own end
SHORTER = {"decoder_variance_collapse": ["max_epochs=60", "lr_end=1"]}
FIRST = {"decoder_variance_collapse": "latent_dim=4", "underfit": "lr=0.03", "diverged": "lr=0.03"}
KNOWN = ("posterior_collapse_0", "healthy_0")  # trained by test_recovery.py
QUICK = [
    pytest.param(condition, plan, id=f"{condition}_{number}")
    for condition, plans in TRAINED.items()
    for number, plan in enumerate(plans)
    if "model=linear" in plan and condition != "prior_hole" and f"{condition}_{number}" not in KNOWN
]


@pytest.mark.parametrize(("condition", "plan"), QUICK)
def test_a_short_training_ends_in_the_condition_it_was_planned_for(condition: str, plan: list, tmp_path: Path) -> None:
    verdict = train([*plan, *SHORTER.get(condition, []), "seed=0"], tmp_path)
    assert named(condition, verdict) == condition, verdict.findings
    if condition in FIRST:
        assert (verdict.prescriptions[0].command or "").split()[-1] == FIRST[condition]
