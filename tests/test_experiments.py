"""conf/experiment: practitioners' cases as far as they can be reproduced; benchmarks/cases.py runs them."""

import re

import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vaecollapse import config, help
from vaecollapse.prescriptions import STATES
from vaecollapse.refusal import Refused

CONF = config.folder()
SWEEPS = [
    "audio_capacity",
    "audio_flows",
    "audio_pooling",
    "precip_augmentation",
    "precip_grid",
    "remedies",
    "text_hypotheses",
    "text_units",
]
CASES = [name for name in config.options([CONF])["experiment"] if name not in SWEEPS]
EXPECTED = {"case_a": "posterior_collapse", "case_b": "inconclusive", "case_d": "posterior_collapse",
            "case_e": "posterior_collapse", "case_f": "prior_hole", "precip_v3": "inconclusive",
            "precip_v4": "prior_hole", "precip_works": "healthy"}  # fmt: skip


def text(case: str) -> str:
    return (CONF / "experiment" / f"{case}.yaml").read_text("utf-8")


def test_every_case_says_its_symptom_its_verdict_and_why() -> None:
    assert set(EXPECTED) == set(CASES)
    for case in CASES:
        said = dict(re.findall(r"^# (Symptom|Expected|Why)\b[^:]*: (\w+)", text(case), re.M))
        assert set(said) == {"Symptom", "Expected", "Why"}, case
        assert said["Expected"] == EXPECTED[case] and said["Expected"] in STATES


@pytest.mark.parametrize("case", CASES)
def test_a_case_composes_and_its_parts_can_be_built(case: str) -> None:
    cfg = config.compose([f"experiment={case}"])
    assert "expected" not in cfg and "experiment" not in cfg
    for group in ("regularizer", "likelihood"):
        instantiate(cfg[group])
    data = instantiate(cfg.dataset)
    held_out = cfg.dataset.clips * cfg.dataset.val_fraction if "clips" in cfg.dataset else len(data.splits.validation)
    assert held_out >= 500, "below 500 held-out examples nothing is called absent"


@pytest.mark.parametrize("case", CASES)
def test_the_command_line_wins_over_a_case(case: str) -> None:
    cfg = config.compose([f"experiment={case}", "beta=0.3", "model=audio", "dataset.clips=600", "seed=3"])
    assert (cfg.beta, cfg.dataset.clips, cfg.seed) == (0.3, 600, 3)
    assert cfg.model._target_.endswith("AudioVAE") and cfg.regularizer.weight.value == 0.3
    assert config.compose([f"experiment={case}", "regularizer=free_bits"]).regularizer._target_.endswith("FreeBits")


@pytest.mark.parametrize("case", CASES)
def test_no_line_of_a_case_is_without_effect(case: str) -> None:
    """Its values are given another one each, as if they had been typed."""
    knobs = re.findall(r"^(\w+): ([^\s#]+)", text(case), re.M)
    nested = [(f"{group}.{key}", value) for group, body in re.findall(r"^(\w+):\n((?:  [^-\n]*\n)+)", text(case), re.M)
              for key, value in re.findall(r"^  (\w+): ([^\s#]+)", body, re.M)]  # fmt: skip
    assert knobs and nested
    config.compose([f"experiment={case}", *(f"{key}={value}" for key, value in [*knobs, *nested])])


def test_case_f_with_a_warm_up_longer_than_training_is_refused() -> None:
    with pytest.raises(Refused, match=r"the warm-up would end after training.*warmup=0\.3"):
        config.compose(["experiment=case_f", "coefficient@regularizer.weight=linear", "warmup=1.5"])


def test_an_unknown_case_is_refused_and_help_lists_them_all() -> None:
    with pytest.raises(Refused, match="case_z"):
        config.compose(["experiment=case_z"])
    (lines,) = re.findall(r"^  experiment ((?: .*\n)+?)  \w", help.train_help("vaecollapse-train", [CONF]), re.M)
    assert lines.split() == sorted([*CASES, *SWEEPS])


def trained(cfg: DictConfig) -> str:
    """What is instantiated, whatever the knobs at the top say."""
    parts = {name: cfg[name] for name in ("model", "regularizer", "callback", "dataset")}
    return str([OmegaConf.to_container(part, resolve=True) for part in parts.values()])


@pytest.mark.parametrize("name", SWEEPS)
def test_every_choice_of_a_sweep_composes_and_is_another_run(name: str) -> None:
    """What `-m` would run, choice by choice beside the others' first ones."""
    node = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text("utf-8"))
    params = {key: str(values).split(",") for key, values in node["hydra"]["sweeper"]["params"].items()}
    assert len(params["seed"]) >= 3, "one seed is the seed's as much as the remedy's"
    first = {key: values[0] for key, values in params.items()}
    jobs = {tuple((first | {key: value}).items()) for key, values in params.items() for value in values}
    built = {trained(config.compose([f"experiment={name}", *(f"{key}={value}" for key, value in job)])) for job in jobs}
    assert len(built) == len(jobs)
