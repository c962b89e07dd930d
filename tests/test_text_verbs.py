"""A run on text: what its logs, its evaluation and its samples say, held against what is known of the data."""

import json
import math
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from vaecollapse import config, tasks
from vaecollapse.datasets.base import VAEData
from vaecollapse.detectors.base import Finding
from vaecollapse.diagnosis import beaten_by
from vaecollapse.nulls import Pair, null_losses
from vaecollapse.refusal import Refused
from vaecollapse.tasks.measuring import rebuilt_data
from vaecollapse.tokens import EOS

TYPED = ["model=text_lstm", "capacity=2", "latent_dim=4", "dataset.numbers=7", "dataset.operations=['+','*']",
         "max_epochs=2", "seed=3", "callback=[collapse_monitor]", "callback.collapse_monitor.final_examples=64",
         "detector=[rate,decoder_reliance,answers,latent_tokens]", "trainer.accelerator=cpu",
         "trainer.log_every_n_steps=2"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    typed = [*TYPED, f"logger.csv.directory={folder}"]
    tasks.train(config.compose(typed), folder, typed)
    return folder


@pytest.fixture(scope="module")
def data(run) -> VAEData:
    cfg = composed("evaluate", f"run={run}")
    return rebuilt_data(tasks.measuring.loading.read_config(cfg.run), run)


def composed(verb: str, *typed: str) -> DictConfig:
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), job_name=verb, version_base="1.3"):
        return hydra.compose(verb, list(typed))


def pairs(dataset) -> list[Pair]:
    return [Pair(dataset[i].x.tolist(), dataset[i].context.tolist()) for i in range(len(dataset))]


def test_every_validation_says_what_a_token_costs_and_what_the_null_models_pay(run, data):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validations = [row for row in rows if "val/distortion" in row]
    tokens = sum(len(pair.answer) for pair in pairs(data.splits.validation)) / len(data.splits.validation)
    assert len(validations) == 2
    for row in validations:
        assert row["val/nll_per_token"] == pytest.approx(row["val/distortion"] / tokens, rel=1e-5)
        assert row["val/perplexity"] == pytest.approx(math.exp(row["val/nll_per_token"]))
    assert json.loads((run / "trained.json").read_text())["tokens_per_second"] > 0
    (last, *_) = [row for row in rows if "val/null/prompt" in row]
    expected = null_losses(pairs(data.splits.train), pairs(data.splits.validation), kinds=260 - EOS)
    assert last["val/null/prompt"] == pytest.approx(expected["prompt"].per_token())
    assert last["val/null/unigram"] == pytest.approx(expected["unigram"].per_token())


def test_the_verdict_holds_the_loss_against_null_models(run):
    verdict = json.loads((run / "verdict.json").read_text())
    names = {"nll_per_token", "perplexity", "token_entropy", "exact_match", "null_unigram", "null_prompt",
             "answer_entropy", "answer_entropy_given_prompt", "delta_zero", "delta_mean", "delta_shuffled",
             "delta_prior"}  # fmt: skip
    assert names <= set(verdict["readings"])
    rate, entropy, share = (verdict["readings"][name]["value"] for name in ("rate", "answer_entropy",
                                                                            "rate_over_answer_entropy"))  # fmt: skip
    assert share == pytest.approx(rate / entropy)
    assert "token_cosine" not in verdict["readings"], "z is one vector"
    assert any("an n-gram that sees the prompt" in said for said in verdict["findings"]), "after two epochs"


def test_an_evaluation_gives_every_figure_of_the_test_split(run, data, tmp_path):
    cfg = composed("evaluate", f"run={run}", "samples=4")
    tasks.evaluate(cfg, tmp_path, [])
    content = json.loads((tmp_path / "evaluation.json").read_text())
    figures, readings = (
        {name: each["value"] for name, each in content[part].items()} for part in ("figures", "readings")
    )
    held_out = pairs(data.splits.test)
    tokens = sum(len(pair.answer) for pair in held_out)
    expected = null_losses(pairs(data.splits.train), held_out, kinds=260 - EOS)
    for name, null in expected.items():
        assert figures[f"null_{name}"] == pytest.approx(float(null.nll.mean()))
        assert figures[f"null_{name}_per_token"] == readings[f"null_{name}"] == pytest.approx(null.per_token())
    assert figures["iw_nll_per_token"] == pytest.approx(figures["iw_nll"] * len(held_out) / tokens)
    assert figures["iw_perplexity"] == pytest.approx(math.exp(figures["iw_nll_per_token"]))
    assert figures["bits_per_dim"] == pytest.approx(figures["iw_nll_per_token"] / math.log(2)), "a dimension is a token"
    assert figures["rate_over_answer_entropy"] == pytest.approx(figures["rate"] / data.facts["answer_entropy"])
    assert readings["perplexity"] == pytest.approx(math.exp(readings["nll_per_token"]))
    assert 0 <= readings["exact_match"] <= 1
    assert "mse" not in figures, "tokens have no mean"


def sampled(run: Path, out: Path, *typed: str) -> list[dict]:
    cfg = composed("sample", f"run={run}", *typed)
    config.check_evaluation(cfg, config.SampleSchema)
    tasks.sample(cfg, out, typed)
    return [json.loads(line) for line in (out / "samples" / "samples.jsonl").read_text("utf-8").splitlines()]


def test_reconstructions_stand_under_the_prompt_they_answer(run, data, tmp_path):
    rows = sampled(run, tmp_path, "mode=posterior", "n=5", "draws=1")
    batch = data.examples("test", 5)
    assert [row["number"] for row in rows] == list(range(5))
    assert [row["prompt"] for row in rows] == data.prompt_text(batch.context)  # type: ignore[attr-defined]
    assert [row["real"] for row in rows] == data.text(batch.x)  # type: ignore[attr-defined]
    assert set(rows[0]) == {"number", "prompt", "real", "reconstruction", "draw_1"}
    text = (tmp_path / "samples" / "samples.txt").read_text("utf-8")
    assert f"000003\n  prompt          {rows[3]['prompt']}\n  real            {rows[3]['real']}\n" in text


def test_what_the_decoder_does_not_see_is_not_shown_as_its_prompt(run, tmp_path):
    """It sees latents only, so a sample of the prior answers no question."""
    few, many = (sampled(run, tmp_path / str(n), f"n={n}", "tokens=1") for n in (3, 40))
    assert many[:3] == few
    assert set(few[0]) == {"number", "sample"}
    cold = sampled(run, tmp_path / "cold", "n=40")
    assert cold != many, "a draw of each token, and the likeliest"
    assert sampled(run, tmp_path / "top", "n=40", "tokens=1", "top_p=1e-6") == cold, "no other has that little"


def test_interpolations_go_between_two_answers(run, data, tmp_path):
    rows = sampled(run, tmp_path, "mode=interpolate", "n=2", "steps=3", "format=jsonl")
    assert list(rows[0]) == ["number", "prompt", "first", "step_1", "step_2", "step_3", "last"]
    assert [row["first"] for row in rows] + [rows[-1]["last"]] == data.text(data.examples("test", 3).x)  # type: ignore
    assert not (tmp_path / "samples" / "samples.txt").exists()


def test_a_format_that_text_has_not_is_refused(run, tmp_path):
    with pytest.raises(Refused, match=r"format=wav is none .* type txt or jsonl"):
        sampled(run, tmp_path / "out", "format=wav")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("nll", "said"), [(0.9, []), (1.5, ["an n-gram"]), (3.5, ["a unigram", "an n-gram"])])
def test_null_models_that_lose_no_more_are_named(nll, said):
    held_out = {"nll_per_token": Finding("nll_per_token", nll), "null_unigram": Finding("null_unigram", 3.0),
                "null_prompt": Finding("null_prompt", 1.0)}  # fmt: skip
    sentences = beaten_by(held_out)
    assert len(sentences) == bool(said)
    assert all(each in sentences[0] for each in said)
    assert beaten_by({}) == []
