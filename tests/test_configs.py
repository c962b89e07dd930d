"""conf/ walked: everything composes, every class exists and takes its keys, no knob is dead, the command line wins."""

import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vaecollapse import config
from vaecollapse.refusal import Refused

CONF = config.folder()
GROUPS = config.options([CONF])
SEVERAL = ("detector", "callback")
TREE = ["dataset", "posterior", "prior", "likelihood", "regularizer", "optimizer", "trainer", "model", "detector",
        "callback", "logger"]  # fmt: skip
BUILT = ("posterior", "prior", "likelihood", "regularizer", "coefficient", "optimizer", "detector", "trainer")
NEEDS = {
    ("model", "custom"): ["model._target_=vaecollapse.models.linear.LinearVAE"],
    ("model", "latent_prior"): ["dataset.run=somewhere"],
    ("dataset", "latents"): ["model=latent_prior", "dataset.run=somewhere"],
    ("dataset", "audio_folder"): ["dataset.root=somewhere"],
    ("dataset", "image_folder"): ["dataset.root=somewhere"],
    ("dataset", "idx"): ["dataset.images=somewhere"],
    ("dataset", "qa_csv"): ["dataset.path=somewhere.csv"],
    ("dataset", "text_lines"): ["dataset.path=somewhere.txt"],
    ("dataset", "gsm8k"): ["dataset.root=somewhere"],
    ("dataset", "precipitation"): ["dataset.target.path=somewhere"],
    ("regularizer", "geco"): ["regularizer.kappa=10.0"],
    ("coefficient", "staged"): ["callback=[stages]"],
    ("coefficient", "pretrain_reset"): ["callback=[pretrain_reset]"],
}


def overrides_for(group: str, option: str) -> list[str]:
    key = "coefficient@regularizer.weight" if group == "coefficient" else group
    value = f"[{option}]" if group in SEVERAL else option
    return [f"{key}={value}", *NEEDS.get((group, option), [])]


OPTIONS = [(group, option) for group, names in GROUPS.items() if group not in config.EVALUATED for option in names]
walk = pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: value)


def targets(node: Any, path: str = "") -> list[tuple[str, dict]]:
    """Every (path, node) that names a class; interpolations are not followed."""
    if isinstance(node, list):
        return [hit for i, item in enumerate(node) for hit in targets(item, f"{path}.{i}")]
    if not isinstance(node, dict):
        return []
    own = [(path, node)] if "_target_" in node else []
    return own + [hit for key, value in node.items() for hit in targets(value, f"{path}.{key}".lstrip("."))]


def located(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@walk
def test_every_option_composes_into_the_same_tree_of_classes_that_take_its_keys(group, option):
    cfg = config.compose(overrides_for(group, option))
    assert set(cfg) == {*config.KNOBS, *TREE, "search", "sweep"}
    for path, node in targets(OmegaConf.to_container(cfg, resolve=False)):
        found = located(node["_target_"])
        assert inspect.isclass(found), f"{path}: {node['_target_']} is no class"
        parameters = inspect.signature(found.__init__).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        unknown = set(node) - {"_target_", "_partial_", "_convert_", "_recursive_"} - set(parameters)
        assert not unknown, f"{path}: {found.__name__} does not take {sorted(unknown)}"
    if group in BUILT and option not in ("gpu", "mps", "fsdp"):
        build(group, cfg["regularizer" if group == "coefficient" else group])


def build(group: str, node: DictConfig) -> None:
    """With the shapes checked, as in every test."""
    built = instantiate(node, logger=False) if group == "trainer" else instantiate(node)
    if group == "posterior":
        assert list(built(features=6, units=4).parameters())
    if group == "prior":
        assert built(units=4)().event_shape == (4,)


@pytest.mark.parametrize("group", ["detector", "callback"])
def test_options_of_which_several_are_chosen_are_keyed_by_their_own_name(group):
    for option in set(GROUPS[group]) - {"all"}:
        assert [key for key in OmegaConf.load(CONF / group / f"{option}.yaml") if key != "defaults"] == [option]


def test_all_detectors_are_all():
    assert {*config.compose([]).detector} == {*GROUPS["detector"]} - {"all"}


def test_every_yaml_says_what_it_is():
    for path in CONF.rglob("*.yaml"):
        lines = [line for line in path.read_text("utf-8").splitlines() if "@package" not in line]
        assert re.match(r"# \w.+", lines[0]), path


# ---- the command line wins over what a model picks


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=linear"], {"dataset": "GaussianData", "likelihood": "NormalLikelihood", "regularizer": "Beta"}),
        (["model=linear", "dataset=drums"], {"dataset": "DrumsData"}),
        (["dataset=drums", "model=linear"], {"dataset": "DrumsData"}),
        (["model=linear", "likelihood=laplace"], {"likelihood": "LaplaceLikelihood"}),
        (["model=linear", "regularizer=free_bits"], {"regularizer": "FreeBits"}),
        (["model=audio_nf"], {"posterior": "FlowPosterior", "prior": "FlowPrior", "likelihood": "SpectralLikelihood"}),
        (["model=audio_nf", "posterior=normal", "prior=normal"],
         {"posterior": "NormalPosterior", "prior": "NormalPrior"}),
        (["model=image"], {"dataset": "DigitsData", "likelihood": "NormalLikelihood", "posterior": "NormalPosterior"}),
        (["model=image_ar"], {"dataset": "DigitsData", "likelihood": "BernoulliLikelihood", "regularizer": "Beta"}),
        (["model=image_ar", "posterior=delta"], {"posterior": "DeltaPosterior", "prior": "NormalPrior"}),
        (["model=image", "dataset=drums", "likelihood=bernoulli"],
         {"dataset": "DrumsData", "likelihood": "BernoulliLikelihood"}),
        (["model=text_tokens"], {"dataset": "ArithmeticData", "regularizer": "Beta", "posterior": "NormalPosterior"}),
        (["model=text_lstm", "dataset=gsm8k", "dataset.root=x", "posterior=realnvp"],
         {"dataset": "GSM8KData", "posterior": "FlowPosterior"}),
        (["model=audio", "prior=nsf"], {"prior": "FlowPrior", "posterior": "NormalPosterior"}),
    ],
)  # fmt: skip
def test_a_model_picks_its_parts_and_the_command_line_wins(overrides, expected):
    cfg = config.compose(overrides)
    assert {group: cfg[group]._target_.rpartition(".")[2] for group in expected} == expected


@pytest.mark.parametrize("model", ["audio_nf", "audio", "image", "image_ar", "linear", "text_tokens", "text_lstm"])
def test_the_command_line_wins_over_a_models_knobs(model):
    wanted = {"beta": 0.3, "max_epochs": 2, "batch_size": 8, "latent_dim": 3, "lr": 0.5}
    cfg = config.compose([f"model={model}", *(f"{knob}={value}" for knob, value in wanted.items())])
    assert {knob: cfg[knob] for knob in wanted} == wanted


def test_audio_is_audio_nf_without_flows():
    with_normal = config.compose(["model=audio_nf", "posterior=normal", "prior=normal"])
    assert config.compose(["model=audio"]) == with_normal


def test_a_trainer_choice_keeps_the_models_precision():
    assert config.compose(["model=linear", "trainer=cpu"]).trainer.precision == "64-true"


@pytest.mark.parametrize("choice", ["csv", "wandb", "[csv,wandb]", "[]"])
def test_loggers_alone_together_and_none(choice):
    names = set(config.compose([f"logger={choice}"]).logger or {})
    assert names == {"csv": {"csv"}, "[]": set()}.get(choice, {"csv", "wandb"})


# ---- no knob is dead


PLAIN = {"free_bits"}  # the floor is of free bits alone; GECO has no weight that beta or a warm-up could be of
IDLE = {"free_bits": set(), "geco": {*PLAIN, "beta", "warmup"}}
FLOWLESS = {"capacity", "pool", "posterior=normal", "prior=normal"}


@pytest.mark.parametrize("regularizer", GROUPS["regularizer"])
@pytest.mark.parametrize("model", ["audio_nf", "audio", "image", "image_ar", "linear", "text_tokens", "text_lstm"])
def test_exactly_the_knobs_that_nothing_reads_are_refused(model, regularizer):
    """Set to the very value it has: what decides is whether another value would build anything else."""
    chosen = [f"model={model}", f"regularizer={regularizer}", *NEEDS.get(("regularizer", regularizer), [])]
    values = OmegaConf.to_container(config.compose(chosen))
    assert isinstance(values, dict)
    lines = [f"{knob}={'null' if values[knob] is None else values[knob]}" for knob in config.KNOBS]
    lines += ["posterior=normal", "prior=normal", "likelihood=normal", "dataset=drums", "optimizer=adam", "trainer=cpu"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", [*chosen, *lines], return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    cfg = OmegaConf.masked_copy(cfg, [*config.KNOBS, *TREE])
    dead = {sentence.split(" has no effect")[0] for sentence in config.without_effect(cfg, lines, choices, [CONF])}
    unread = {"linear": FLOWLESS, "image": {"pool"}, "image_ar": {"pool"}}.get(model, set())
    unread = {"pool", "likelihood=normal"} if model.startswith("text") else unread
    assert dead == unread | IDLE.get(regularizer, PLAIN)


def refusal(overrides: list[str]) -> str | None:
    try:
        config.compose(overrides)
    except Refused as sentence:
        return str(sentence)
    return None


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["regularizer=beta", "free_bits=0.1"],
         "free_bits has no effect with regularizer=beta: regularizer=free_bits would read it"),
        (["model=linear", "capacity=4"],
         "capacity has no effect with model=linear: model=audio or model=audio_nf or"),
        (["model=linear", "prior=maf"],
         "prior=maf has no effect with model=linear: model=audio or model=audio_nf or"),
        (["coefficient@regularizer.weight=constant", "warmup=0.2"],
         "warmup has no effect with coefficient@regularizer.weight=constant"),
        (["coefficient@regularizer.weight=cyclical", "warmup=0.2"],
         "coefficient@regularizer.weight=linear or coefficient@regularizer.weight=logistic would read it"),
        (["model=linear", "+prior.width=3"], "prior.width has no effect with model=linear"),
        (["model=linear", "regularizer=geco", "regularizer.kappa=9", "beta=2"],
         "beta has no effect with model=linear, regularizer=geco, dataset=gaussian: nothing that is built reads it"),
        (["coefficient@regularizer.weight=pid", "warmup=0.2"],
         "warmup has no effect with coefficient@regularizer.weight=pid"),
        (["regularizer.floor=0.1", "free_bits=0.1"], "free_bits has no effect here: what would read it is replaced"),
        (["+width=3"], "width has no effect with model=audio_nf"),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_refused_with_what_would_read_it(overrides, sentence):
    assert sentence in (refusal(overrides) or "")


@pytest.mark.parametrize(
    "overrides",
    [
        ["free_bits=0.1"],
        ["beta=0.3", "coefficient@regularizer.weight=constant"],
        ["detector=[rate]"],
        ["~detector.mutual_information"],
        ["callback=[]"],
        ["logger=wandb", "logger.wandb.offline=true", "callback.samples.clips=2"],
        ["fail_on=[healthy]"],
        ["seed=3"],
        ["prior.transforms=2"],
        ["trainer.max_epochs=3"],
        ["+model.mels=20", "likelihood=laplace"],
        ["model=custom", "model._target_=my_pkg.MyVAE", "+model.width=${capacity}", "capacity=3"],
        ["hydra.run.dir=elsewhere"],
    ],
    ids=" ".join,
)
def test_what_acts_is_not_refused(overrides):
    assert refusal(overrides) is None


# ---- ranges, missing values, verdict names


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("warmup=1.5", ["warm-up would end after training", "warmup=0.3"]),
        ("warmup=-0.1", ["at least 0", "warmup=0.1"]),
        ("beta=-1", ["beta=-1", "beta=1"]),
        ("beta=nan", ["finite"]),
        ("beta=inf", ["finite"]),
        ("free_bits=-0.5", ["at least 0", "free_bits=0.1"]),
        ("capacity=0", ["at least 1", "capacity=8"]),
        ("latent_dim=0", ["at least 1", "latent_dim=16"]),
        ("lr=0", ["above 0", "lr=0.001"]),
        ("lr=nan", ["finite"]),
        ("batch_size=0", ["at least 1"]),
        ("seed=-1", ["at least 0"]),
        ("max_epochs=0", ["at least 1"]),
        ("fail_on=[posterior_colapse]", ["did you mean posterior_collapse", "fake_rate"]),
    ],
)
def test_a_knob_out_of_its_range_is_refused_in_a_sentence(override, words):
    with pytest.raises(Refused) as sentence:
        config.check(with_knob(override))
    assert all(word in str(sentence.value) for word in words)
    assert "\n" not in str(sentence.value)


@pytest.mark.parametrize("override", ["warmup=0", "warmup=1", "beta=0", "free_bits=0", "latent_dim=1", "beta=1e-9"])
def test_the_ends_of_the_ranges_are_allowed(override):
    config.check(with_knob(override))


@functools.cache
def default() -> DictConfig:
    return config.compose([])


def with_knob(override: str) -> DictConfig:
    return OmegaConf.merge(default(), OmegaConf.from_dotlist([override]))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset=audio_folder", ["dataset.root", "type dataset.root="]),
        ("dataset=idx", ["dataset.images", "type dataset.images="]),
        ("model=custom", ["model._target_"]),
        ("regularizer=geco", ["regularizer.kappa", "type regularizer.kappa="]),
        ("+model.extra=${nowhere}", ["model cannot be resolved", "nowhere"]),
        ("beta=much", ["no valid command", "beta"]),
        ("betta=1", ["no valid command", "betta"]),
    ],
)
def test_what_is_no_whole_command_is_refused_in_a_sentence(override, words):
    sentence = refusal([override])
    assert sentence is not None
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_the_schema_has_every_knob_and_group_of_train_yaml():
    text = (CONF / "train.yaml").read_text("utf-8")
    assert re.findall(r"^(\w+):.*#", text, re.M) == list(config.KNOBS)
    assert set(re.findall(r"^  - (\w+): ", text, re.M)) - {"experiment"} == set(TREE)


# ---- a user's own folder


def test_a_folder_of_ones_own_adds_options_and_their_defaults(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "# @package _global_\n# mine\ndefaults:\n  - override /dataset: gaussian\n"
        "latent_dim: 3\nmodel:\n  _target_: my_pkg.MyVAE\n  width: ${capacity}\n"
    )
    config.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", [f"hydra.searchpath=[file://{tmp_path}]", "model=mine"])
    assert isinstance(cfg, DictConfig)
    assert (cfg.latent_dim, cfg.model.width, cfg.dataset._target_.rpartition(".")[2]) == (3, 8, "GaussianData")
