"""Laws of the text models: what sees which tokens, and p(answer|z, prompt) as a distribution."""

import itertools

import pytest
import torch

from vaecollapse.batch import Batch
from vaecollapse.detectors.decoder_reliance import DecoderReliance
from vaecollapse.detectors.information_rank import InformationRank
from vaecollapse.detectors.mutual_information import MutualInformation
from vaecollapse.detectors.prior_samples import PriorSamples
from vaecollapse.detectors.rate import Rate
from vaecollapse.detectors.temperature import Temperature
from vaecollapse.diagnosis import Facts, diagnose
from vaecollapse.distributions.posteriors import FlowPosterior, NormalPosterior
from vaecollapse.distributions.priors import FlowPrior, NormalPrior
from vaecollapse.distributions.tokens import pick
from vaecollapse.elbo import ELBO
from vaecollapse.evaluation import read, reconstruction
from vaecollapse.models.text import TextVAE
from vaecollapse.models.text_lstm import RecurrentVAE
from vaecollapse.models.text_tokens import TokenVAE
from vaecollapse.preflight import survey
from vaecollapse.refusal import Refused
from vaecollapse.sampling import decode
from vaecollapse.tokens import EOS, PAD

VOCAB, LONGEST = 12, 6
SMALL = {"event_shape": (LONGEST,), "context_shape": (4,), "vocab_size": VOCAB, "latent_dim": 5, "capacity": 1,
         "posterior": NormalPosterior, "prior": NormalPrior}  # fmt: skip
EVERY = [
    (TokenVAE, {"layers": 2, "tokens": 3, "conditioning": conditioning, "context": context})
    for conditioning in ("cross_attention", "prefix", "both")
    for context in ("latents_only", "prompt_and_latents")
] + [(RecurrentVAE, {"context": context}) for context in ("latents_only", "prompt_and_latents")]
KINDS = [EVERY[1], EVERY[5], EVERY[7]]  # one that attends, one with all, one that recurs; all see the prompt
every = pytest.mark.parametrize(("kind", "options"), EVERY)
kinds = pytest.mark.parametrize(("kind", "options"), KINDS)


def model(kind: type[TextVAE], **options) -> TextVAE:
    torch.manual_seed(0)
    return kind(**SMALL | options).double().eval()


def answers(*lengths: int, seed: int = 0) -> torch.Tensor:
    """Random tokens, so many and EOS, padded."""
    x = torch.randint(EOS + 1, VOCAB, (len(lengths), max(lengths) + 1), generator=torch.Generator().manual_seed(seed))
    for row, length in zip(x, lengths, strict=True):
        row[length], row[length + 1 :] = EOS, PAD
    return x


def examples(count: int = 4) -> Batch:
    """Answers of 5, 2, 4 … tokens to prompts of 1, 4, 3 … ones."""
    x = answers(*([5, 2, 4, 3] * count)[:count])
    asked = answers(*([1, 4, 3, 4] * count)[:count], seed=1)[:, :4]
    return Batch(x, asked.where(asked > EOS, PAD), x != PAD, torch.arange(count))


def padded(batch: Batch, *, x: int, context: int) -> Batch:
    """The same with more padding."""
    pad = torch.nn.functional.pad
    assert batch.context is not None and batch.mask is not None
    return Batch(pad(batch.x, (0, x)), pad(batch.context, (0, context)), pad(batch.mask, (0, x)), batch.index)


# ---- the likelihood


@every
def test_a_token_depends_on_nothing_after_it(kind, options) -> None:
    vae, batch = model(kind, **options), examples()
    z = vae.elbo(batch, seed=0).z
    before = vae.decode(z, batch.context).token_log_prob(batch.x)
    for place in range(1, LONGEST):
        other = batch.x.clone()
        other[:, place:] = EOS + 1 + (other[:, place:] + 1) % (VOCAB - EOS - 1)
        after = vae.decode(z, batch.context, batch.mask).token_log_prob(other)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=1e-12, atol=1e-12)
    changed = vae.decode(z, batch.context).token_log_prob(other.where(other > 0, EOS))
    assert not torch.allclose(changed[:, -1], before[:, -1])


@every
def test_padding_and_the_other_examples_change_no_number(kind, options) -> None:
    vae, batch = model(kind, **options), examples()
    whole, wide = vae.elbo(batch, seed=0), vae.elbo(padded(batch, x=3, context=2), seed=0)
    singles = []
    for row in range(len(batch.x)):
        one, length = batch.part(slice(row, row + 1)), int(batch.mask[row].sum())
        asked = int((batch.context[row] > 0).sum())
        alone = Batch(one.x[:, :length], one.context[:, :asked], one.mask[:, :length], one.index)
        singles.append(vae.elbo(alone, seed=0))
    for part in ("distortion", "kl", "z"):
        expected = getattr(whole, part)
        torch.testing.assert_close(getattr(wide, part), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.cat([getattr(one, part) for one in singles]), expected, rtol=1e-10, atol=1e-10)


@kinds
def test_examples_read_in_parts_of_like_length_are_those_read_at_once(kind, options) -> None:
    """In their own order, gradients included; 20 of them make two parts."""
    vae, batch = model(kind, **options), examples(20)
    with torch.no_grad():
        posterior = vae.encode(batch.x, batch.context, batch.mask)
    z = posterior.mean.requires_grad_()
    parts, whole = vae.distortion(batch, z), -vae.decode(z, batch.context, batch.mask).log_prob(batch.x)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(cost.square().sum(), z)[0] for cost in (parts, whole)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)
    vae.train()  # then it reads at once
    vae.word_dropout = 0.0
    torch.testing.assert_close(vae.encode(batch.x, batch.context, batch.mask).mean, z, rtol=1e-12, atol=1e-12)


@kinds
def test_prompts_that_are_all_empty_are_read_as_if_one_were_not(kind, options) -> None:
    """Of like length they share a batch, whose context has no place at all."""
    vae, batch = model(kind, **options), examples()
    nothing = batch._replace(context=torch.zeros(4, 0, dtype=torch.long))
    padded_ = batch._replace(context=torch.full((4, 2), PAD))
    found, expected = vae.elbo(nothing, seed=0), vae.elbo(padded_, seed=0)
    torch.testing.assert_close(found.distortion, expected.distortion, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.kl, expected.kl, rtol=1e-12, atol=1e-12)
    readings, _ = read(vae, [nothing], {"gap": DecoderReliance(), "mi": MutualInformation()})
    assert readings["gap"].value is not None and readings["mi"].value is not None


@kinds
def test_the_answers_that_are_written_are_found_in_one_pass(kind, options) -> None:
    """Those that a sample at temperature 0 gives back whole, whatever stands in the padding."""
    vae, batch = model(kind, **options), examples(20)
    z = vae.elbo(batch, seed=0).z.detach()
    written = vae.decode(z, batch.context).sample(temperature=0.0)
    spoilt = written.clone()
    spoilt[::2, 1] = EOS + 1 + (spoilt[::2, 1] + 1) % (VOCAB - EOS - 1)
    x = spoilt.where(written != PAD, PAD)
    decoded = vae.decode(z, batch.context, x != PAD)
    same = ((written == x) | (x == PAD)).all(1)
    assert torch.equal(decoded.writes(x), same) and 0 < int(same.sum()) < 20


@every
def test_cached_decoding_is_decoding_from_the_start(kind, options) -> None:
    """Each step's logits are those of one pass over all tokens before, within rounding of float32."""
    vae, batch = model(kind, **options).float(), examples()
    z = vae.elbo(batch, seed=0).z
    decoded = vae.decode(z, batch.context)
    x = answers(5, 5, 5, 5, seed=3)
    whole = decoded.given(x)
    logits, following = decoded.begin()
    for place in range(LONGEST):
        torch.testing.assert_close(logits, whole[:, place], rtol=1e-5, atol=1e-5)
        logits = following(x[:, place])


@kinds
def test_the_probabilities_of_all_answers_sum_to_one(kind, options) -> None:
    """Those that have ended, and those that go on, of a vocabulary of two words."""
    vae, longest = model(kind, **options, vocab_size=EOS + 3), 4
    asked = torch.tensor([[4, 5, 5]])
    ended = [[*said, EOS] for n in range(longest) for said in itertools.product((4, 5), repeat=n)]
    going = [list(said) for said in itertools.product((4, 5), repeat=longest)]
    x = torch.tensor([row + [PAD] * (longest - len(row)) for row in ended + going])
    (z,) = vae.elbo(Batch(x[:1], asked, None, torch.tensor([0])), seed=0).z.detach()
    z = z.expand(len(x), *z.shape)
    with torch.no_grad():
        log_prob = vae.decode(z, asked.expand(len(x), -1)).log_prob(x)
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert vae.decode(z[:1], asked).log_prob(torch.tensor([[1, EOS]])).item() == -torch.inf, "BOS is never written"


@kinds
def test_what_is_drawn_follows_the_density(kind, options) -> None:
    """E[−ln p(x|z)] over samples is the entropy along them; the likeliest token is what temperature 0 draws."""
    vae = model(kind, **options)
    z = vae.prior(examples().context).sample()[None] if kind is RecurrentVAE else vae.prior().sample()[None]
    z, asked = z.expand(600, *z.shape[1:]), examples().context[:1].expand(600, -1)
    decoded = vae.decode(z, asked)
    torch.manual_seed(1)
    with torch.no_grad():
        x = decoded.sample()
        logits = decoded.given(x).log_softmax(-1)
        counts = x != PAD
        entropy = (-(logits.exp() * logits).sum(-1) * counts).sum(1)
        cut = -decoded.log_prob(x) - entropy
        best = decoded.sample(temperature=0.0)
    assert abs(cut.mean()) < 4 * cut.std() / 600**0.5
    assert bool((x[:, 1:][~counts[:, 1:]] == PAD).all()) and x.shape == (600, LONGEST)
    assert bool(((x == EOS).sum(1) <= 1).all()), "nothing is said after the end"
    written = best[best[:, 0] > 0]
    assert torch.equal((decoded.given(best).argmax(-1) + EOS)[written != PAD], written[written != PAD])
    assert tuple(decoded.sample((2,), top_p=0.5).shape) == (2, 600, LONGEST)


def test_top_p_keeps_the_fewest_likeliest_words() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, 4)
    torch.manual_seed(0)
    for top_p, kept in ((0.4, 1), (0.79, 2), (0.81, 3), (1.0, 4)):
        assert set(pick(logits, 1.0, top_p).tolist()) == set(range(kept))
    shares = pick(logits, 1.0, 0.79).bincount(minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.375, 0, 0]), atol=0.03, rtol=0)
    cold = pick(logits, 0.5, 1.0).bincount(minlength=4) / 4000
    torch.testing.assert_close(cold, torch.tensor([0.25, 0.09, 0.0225, 0.0025]) / 0.365, atol=0.03, rtol=0)


@pytest.mark.parametrize("asked", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_an_impossible_way_to_draw_is_refused(asked) -> None:
    vae = model(RecurrentVAE)
    with pytest.raises(Refused, match="temperature=1 top_p"):
        vae.decode(torch.zeros(1, 5, dtype=torch.float64)).sample(**asked)


# ---- who sees what


def moved(vae: TextVAE, of: str, *, prompt: bool) -> bool:
    """Does another prompt (else another answer) change this part of the bound?"""
    batch = examples()
    z = vae.elbo(batch, seed=0).z
    other = batch._replace(context=batch.context.where(batch.context == PAD, 5)) if prompt else batch._replace(
        x=batch.x.where(batch.x <= EOS, 5))  # fmt: skip
    parts = {
        "posterior": lambda each: vae.encode(each.x, each.context, each.mask).log_prob(z),
        "prior": lambda each: vae.prior(each.context).log_prob(z),
        "decoder": lambda each: vae.decode(z, each.context, batch.mask).log_prob(batch.x),
    }
    return not torch.allclose(parts[of](batch), parts[of](other))


@pytest.mark.parametrize("kind", [TokenVAE, RecurrentVAE])
@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"posterior_input": "both"}, {("posterior", True), ("posterior", False)}),
        ({"posterior_input": "answer"}, {("posterior", False)}),
        ({"posterior_input": "prompt"}, {("posterior", True)}),
        ({"posterior_input": "answer", "prior_input": "prompt"}, {("posterior", False), ("prior", True)}),
        ({"posterior_input": "answer", "context": "prompt_and_latents"}, {("posterior", False), ("decoder", True)}),
    ],
)
def test_each_part_sees_what_it_is_said_to_see(kind, options, seen) -> None:
    vae = model(kind, **options)
    parts = itertools.product(("posterior", "prior", "decoder"), (True, False))
    found = {each for each in parts if each != ("decoder", False) and moved(vae, each[0], prompt=each[1])}
    assert found == seen
    conditional = bool({("decoder", True), ("prior", True)} & seen)
    assert (vae.condition(examples()) is not None) == conditional
    assert vae.bottleneck == (options["posterior_input"] == "prompt")


@pytest.mark.parametrize("posterior", [NormalPosterior, FlowPosterior])
@pytest.mark.parametrize("prior", [NormalPrior, FlowPrior])
def test_a_prior_that_sees_the_prompt_is_a_base_for_any_flow(posterior, prior) -> None:
    """Its gradient reaches what reads the prompt, and its density is that of its draws' own base."""
    vae = model(TokenVAE, posterior=posterior, prior=prior, prior_input="prompt", tokens=2)
    batch = examples()
    elbo = vae.elbo(batch)
    (elbo.distortion + elbo.rate).mean().backward()
    assert vae.prior_reader is not None
    assert all(float(p.grad.abs().sum()) > 0 for p in vae.prior_reader.parameters())
    assert tuple(elbo.prior.event_shape) == (2, 5) and elbo.prior.log_prob(elbo.z).shape == (4,)


def test_without_prompts_all_is_answer() -> None:
    """What would see a prompt sees none, and the model is that of the answers alone."""
    batch = examples()._replace(context=None)
    bounds = []
    for options in ({"posterior_input": "both"}, {"posterior_input": "answer", "context": "prompt_and_latents"}):
        vae = model(RecurrentVAE, context_shape=None, **options)
        bounds.append(vae.elbo(batch, seed=0).distortion)
        assert vae.condition(batch) is None
    assert torch.equal(*bounds)


@kinds
def test_z_reaches_every_token_and_words_are_hidden_while_training_alone(kind, options) -> None:
    vae, batch = model(kind, **options, word_dropout=0.5), examples()
    z = vae.elbo(batch, seed=0).z.detach().requires_grad_()
    said = vae.decode(z, batch.context, batch.mask).token_log_prob(batch.x)
    for place in range(3):
        (gradient,) = torch.autograd.grad(said[0, place], z, retain_graph=True)
        assert bool((gradient[0].abs() > 0).all())
    assert torch.equal(vae.decode(z, batch.context).token_log_prob(batch.x), said)
    vae.train()
    if isinstance(vae, TokenVAE):
        vae.latent_token_dropout = 0.0
    draws = [vae.decode(z, batch.context).token_log_prob(batch.x) for _ in range(2)]
    assert not torch.equal(*draws)
    torch.testing.assert_close(draws[0][:, 0], said[:, 0])  # nothing stands before the first
    share = (vae.shown(torch.full((200, 200), 7)) != 7).double().mean()
    assert abs(float(share) - 0.5) < 0.01


def test_latent_tokens_are_dropped_whole_while_training_alone() -> None:
    vae = model(TokenVAE, latent_token_dropout=0.3, tokens=4)
    z = torch.ones(2000, 4, 5, dtype=torch.float64)
    assert torch.equal(vae.told(z), z)
    told = vae.train().told(z)
    assert bool(((told == 0).all(2) | (told == 1).all(2)).all())
    assert abs(float((told == 0).double().mean()) - 0.3) < 0.02


@kinds
def test_a_weakened_decoder_sees_no_word_before(kind, options) -> None:
    vae, batch = model(kind, **options), examples()
    z = vae.elbo(batch, seed=0).z
    vae.weaken()
    decoded = vae.decode(z, batch.context)
    other = decoded.given(batch.x.where(batch.x <= EOS, 5))
    torch.testing.assert_close(decoded.given(batch.x), other)
    logits, following = decoded.begin()
    torch.testing.assert_close(following(batch.x[:, 0]), other[:, 1])
    torch.testing.assert_close(logits, other[:, 0])


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        (TokenVAE, {"vocab_size": None}, "dataset=arithmetic"),
        (TokenVAE, {"posterior_input": "prompt", "context": "prompt_and_latents"}, "z can carry nothing"),
        (TokenVAE, {"posterior_input": "prompt", "prior_input": "prompt"}, "z costs nothing"),
        (TokenVAE, {"context_shape": None, "posterior_input": "prompt"}, "no prompts"),
        (RecurrentVAE, {"context_shape": None, "prior_input": "prompt"}, "no prompts"),
        (TokenVAE, {"conditioning": "film"}, "cross_attention"),
        (RecurrentVAE, {"context": "all"}, "latents_only"),
        (TokenVAE, {"heads": 3}, "model.heads=4"),
        (TokenVAE, {"layers": 0}, "model.layers=3"),
        (TokenVAE, {"tokens": 0}, "model.tokens"),
        (TokenVAE, {"latent_token_dropout": 1.0}, "latent_token_dropout=0.3"),
        (RecurrentVAE, {"word_dropout": 1.5}, "word_dropout=0.3"),
    ],
)
def test_impossible_plans_are_refused_in_a_sentence(kind, options, sentence) -> None:
    with pytest.raises(Refused, match=sentence):
        model(kind, **options)


def test_a_model_that_needs_prompts_says_so_where_none_is_given() -> None:
    vae = model(RecurrentVAE, context="prompt_and_latents")
    with pytest.raises(Refused, match="none was given"):
        vae.decode(torch.zeros(1, 5, dtype=torch.float64))


# ---- what reads it


def test_readings_meet_tokens_honestly() -> None:
    """No forecast, no mean to decode to or to reconstruct, and the rank token by token."""
    vae, batch = model(TokenVAE, tokens=3), examples(64)
    plan = survey(vae, batch, batch, beta=0.7, units=15, steps=10, warmup_ends=1)
    assert plan.forecast is None and plan.beta_effective == 0.7
    assert any("no formula" in line for line in plan.lines())
    found, _ = read(vae, [batch], {"temperature": Temperature(), "prior": PriorSamples(), "rank": InformationRank()})
    assert found["diversity_prior"].status == found["prior_samples"].status == "undefined"
    assert "of the 3 tokens" in found["information_rank"].note
    assert reconstruction(vae, [batch]) == {}
    with pytest.raises(Refused, match="has no mean"):
        decode(vae, torch.zeros(2, 3, 5, dtype=torch.float64))


def test_the_rank_of_tokens_is_that_of_the_token_which_has_most() -> None:
    """Never more than that of all units together, and each token's own."""
    torch.manual_seed(0)
    mean = torch.randn(4000, 3, 4, dtype=torch.float64)
    mean[:, 0, 1:], mean[:, 2, :] = 0, 0  # one direction, four, none
    law = torch.distributions.Independent(torch.distributions.Normal(mean, torch.ones_like(mean)), 2)
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3, 4), torch.ones(3, 4)), 2)
    detector, zero = InformationRank(), torch.zeros(4000)
    detector.update(model(TokenVAE), Batch(zero, index=torch.arange(4000)), ELBO(zero, mean, mean, law, prior))
    rank, *_ = (found := {each.name: each for each in detector.findings()}).values()
    assert rank.value == 4 and rank.status == "measured" and rank.note.endswith("1, 4, 0")
    assert found["directions_at_most"].value == 5


@pytest.mark.parametrize(("options", "conditional"), [({}, False), ({"context": "prompt_and_latents"}, True)])
def test_z_is_exchanged_within_a_prompt_only_where_the_decoder_sees_it(options, conditional) -> None:
    """Where all prompts differ and the decoder sees them, nobody's z can stand in for another's."""
    vae, batch = model(RecurrentVAE, **options), examples(8)
    alike = batch._replace(context=torch.tensor([[5, 6, 0]] * 4 + [[7, 0, 0]] * 4))
    detector = DecoderReliance(interventions=False)
    elbo = vae.elbo(alike, seed=0)
    marked = elbo._replace(z=torch.arange(8.0).double()[:, None].expand(8, 5))
    seen = []
    vae.distortion = lambda part, z: (seen.append(z[:, 0].tolist()), torch.zeros(len(z)))[1]
    detector.update(vae, alike, marked)
    orders = [row for row in seen if set(row) <= set(range(8))]  # the others are at the means
    crossed = any((a < 4) != (i < 4) for row in orders for i, a in enumerate(row))
    assert orders
    assert crossed != conditional


def test_a_squeezed_bottleneck_is_over_compressed_and_no_deaf_decoder() -> None:
    """The readings of a collapse: with an encoder that sees the prompt alone it is the price that stops it."""
    vae, batch = model(RecurrentVAE, posterior_input="prompt"), examples(600)
    with torch.no_grad():
        for head in vae.posterior_heads:
            head.head.weight.zero_(), head.head.bias.zero_()
    found, _ = read(vae, [batch], {"gap": DecoderReliance(), "rate": Rate()})
    assert found["gap"].status == "absent"
    states = [diagnose(found, found, Facts(bottleneck=bottleneck)) for bottleneck in (False, True)]
    assert [state.verdict for state in states] == ["posterior_collapse", "over_compressed"]
    assert "bottleneck" in " ".join(states[1].findings) and "beta=" in str(states[1].prescriptions)


def test_prompts_that_nobody_shares_leave_mutual_information_undefined_in_words() -> None:
    vae, batch = model(TokenVAE, context="prompt_and_latents"), examples(8)
    batch = batch._replace(context=torch.arange(EOS + 1, EOS + 9)[:, None].expand(-1, 2))
    found, _ = read(vae, [batch], {"mi": MutualInformation()})
    assert found["mi"].status == "undefined" and "a prompt, say" in found["mi"].note
    assert read(model(TokenVAE), [batch], {"mi": MutualInformation()})[0]["mi"].value is not None, "it sees none"
