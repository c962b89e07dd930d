"""Losses of tokens against closed forms: what a unigram model loses, what a copy is worth, what others' z cost."""

import math

import pytest
import torch
from planted import gaussian_data, optimum, probe
from planted_text import KINDS, LONGEST, Spelling, answers, blocks, copying, ignoring, spelled

from vaecollapse.batch import Batch
from vaecollapse.detectors.answers import Answers, unigram_entropy
from vaecollapse.detectors.base import Detector, Finding
from vaecollapse.detectors.decoder_reliance import DecoderReliance
from vaecollapse.detectors.latent_tokens import LatentTokens
from vaecollapse.evaluation import read
from vaecollapse.tokens import EOS
from vaecollapse.vae import VAE


def found(vae: VAE, batches: list[Batch], detector: Detector | None = None) -> dict[str, Finding]:
    return read(vae, batches, {"it": detector or Answers()})[0]


def test_what_looks_at_nothing_loses_the_entropy_of_the_tokens():
    """Whatever z is given it."""
    given = blocks()
    reading = found(ignoring(given), given)
    tokens = torch.cat([batch.x[batch.mask] for batch in given])
    p = torch.bincount(tokens).double() / len(tokens)
    entropy = float(-(p[p > 0] * p[p > 0].log()).sum())
    assert reading["nll_per_token"].value == pytest.approx(entropy, rel=1e-9)
    assert reading["token_entropy"].value == pytest.approx(entropy, rel=1e-9)
    assert reading["perplexity"].value == pytest.approx(math.exp(entropy), rel=1e-9)
    assert reading["saved_on_entropy"].status != "material"
    others = found(ignoring(given), given, DecoderReliance())
    for name in ("zero", "mean", "shuffled", "prior"):
        assert others[f"delta_{name}"].value == pytest.approx(0.0, abs=1e-12)


def test_no_unigram_model_loses_less_than_the_entropy():
    counts = torch.tensor([5.0, 3.0, 2.0]).double()
    for p in torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).double():
        assert float(-(counts / 10 * (p / p.sum()).log()).sum()) >= unigram_entropy(counts) - 1e-12


def test_what_copies_z_writes_every_answer_and_pays_for_anothers_z():
    given = blocks()
    reading = found(copying(), given)
    assert reading["exact_match"].value == 1.0
    assert reading["nll_per_token"].value < 1e-3
    assert reading["perplexity"].value == pytest.approx(1.0, abs=1e-3)
    assert reading["saved_on_entropy"].status == "material"
    others = found(copying(), given, DecoderReliance())
    assert others["delta_zero"].value == pytest.approx(math.log(KINDS), rel=1e-3), "nothing is spelled, all are alike"
    assert others["delta_shuffled"].value > 10


def test_another_z_costs_a_token_what_it_costs_an_answer_over_its_tokens_and_is_decoded_once(monkeypatch):
    """Each token counts the same; the standard error is that of the ratio of sums, by leaving out one."""
    (whole,) = given = blocks(60, 60)
    reading = found(copying_half(), given, DecoderReliance())
    tokens = whole.mask.sum(1).double()
    for name, of in {"shuffled": "gap", "zero": "gap_zero", "mean": "gap_mean", "prior": "gap_prior"}.items():
        assert reading[f"delta_{name}"].value == pytest.approx(reading[of].value / float(tokens.mean()), rel=1e-12)
    z = copying_half().elbo(whole, seed=0).z
    costs = copying_half().distortion(whole, torch.zeros_like(z)) - copying_half().distortion(whole, z)
    left = torch.stack([(costs.sum() - c) / (tokens.sum() - n) for c, n in zip(costs, tokens, strict=True)])
    assert reading["delta_zero"].se == pytest.approx(
        float((left - left.mean()).square().sum() * 59 / 60) ** 0.5, rel=0.05
    )
    decoded = []
    monkeypatch.setattr(Spelling, "distortion", lambda self, batch, z: (decoded.append(1), torch.zeros(len(z)))[1])
    found(copying(), given)
    assert len(decoded) == 1, "its own z"


def test_exact_match_is_the_share_of_answers_that_are_written_whole():
    """Whatever z spells at the third place, an end is written: answers of three letters are lost."""
    given = blocks()

    def cut(z):
        logits = 40 * z.clone()
        logits[:, 2, 0] = 1000.0
        return logits

    short = sum(int((batch.x[:, 2:] > EOS).any(1).sum()) for batch in given)
    assert found(Spelling(cut), given)["exact_match"].value == pytest.approx(1 - short / 600)


def test_each_token_counts_the_same_and_padding_not_at_all():
    given = blocks(count=60, size=60)
    (whole,) = given
    vae = ignoring(given)
    long = [whole.part(whole.mask.sum(1) == LONGEST), whole.part(whole.mask.sum(1) < LONGEST)]
    one, two = found(vae, [whole]), found(vae, long)
    assert one["nll_per_token"].value == pytest.approx(two["nll_per_token"].value, rel=1e-12)
    assert one["nll_per_token"].se == pytest.approx(two["nll_per_token"].se, rel=1e-9)


def test_the_standard_error_is_that_of_repetitions():
    readings = [found(copying_half(), blocks(200, 200, seed=seed))["nll_per_token"] for seed in range(40)]
    spread = float(torch.tensor([reading.value for reading in readings]).std())
    error = sum(reading.se for reading in readings) / 40
    assert error == pytest.approx(spread, rel=0.35)


def copying_half() -> Spelling:
    return Spelling(lambda z: 3 * z)


@pytest.mark.parametrize("detector", [Answers, LatentTokens])
def test_other_data_are_passed_over(detector):
    assert found(optimum(4, e=0.5), probe(gaussian_data(100)), detector()) == {}


def test_light_reads_the_loss_alone():
    light = Answers().light()
    assert {*found(copying(), blocks(), light)} == {"nll_per_token", "perplexity", "token_entropy", "saved_on_entropy"}


# ---- the latent's tokens


def test_tokens_that_say_the_same_and_tokens_that_stand_still_are_found():
    def twins(x):
        mean = spelled(x)
        return torch.stack([mean[:, 0], 2 * mean[:, 0], mean[:, 1], torch.full_like(mean[:, 0], 0.5)], 1)

    reading = found(Spelling(lambda z: z, twins), blocks(), LatentTokens())
    assert reading["token_cosine"].value == pytest.approx(1.0)
    assert (reading["token_cosine"].status, reading["token_cosine"].note) == ("material", "tokens 0 and 1")
    assert (reading["token_std"].status, reading["token_std"].note) == ("material", "token 3")
    assert reading["token_std"].value == 0.0


def test_tokens_that_tell_different_things_are_neither():
    reading = found(copying(), blocks(), LatentTokens())
    assert reading["token_cosine"].status == reading["token_std"].status == "absent"


def test_the_kl_of_the_tokens_adds_up_to_the_rate():
    """½(μ² + σ² − 1 − ln σ²) per unit; only what is spelled has a mean."""
    (whole,) = blocks(300, 300)
    reading = found(copying(), [whole], LatentTokens())
    idle = 0.5 * (0.05**2 - 1 - math.log(0.05**2)) * KINDS
    shares = [float((whole.mask[:, place]).double().mean()) for place in range(LONGEST)]
    assert reading["token_kl_max"].value == pytest.approx(idle + 0.5, rel=1e-9), "the first is always spelled"
    assert reading["token_kl_min"].value == pytest.approx(idle + 0.5 * shares[-1], rel=1e-9)
    assert reading["klr"].value == pytest.approx((idle + 0.5 * sum(shares) / LONGEST) / KINDS, rel=1e-9)


def test_answers_are_as_planted():
    batch = answers(50)
    assert ((batch.x == EOS).sum(1) == 1).all()
    assert (batch.mask.sum(1) >= 2).all()
