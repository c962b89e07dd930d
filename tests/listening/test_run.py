"""Samples of a run beside its held-out clips: whose state was planted is told."""

import hydra
import pytest
import torch
from planted_sounds import tones
from torch.distributions import Independent, Normal

from vaecollapse import config
from vaecollapse.batch import Batch
from vaecollapse.datasets.base import Splits, VAEData
from vaecollapse.detectors.base import Finding
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.tasks.listening import heard
from vaecollapse.tasks.measuring import silent
from vaecollapse.tasks.scoring import scored
from vaecollapse.training import Training
from vaecollapse.vae import VAE

LENGTH = 1600


class Player(VAE):
    """Decodes z to the clip that its first unit points at, of those it holds."""

    def __init__(self, clips: torch.Tensor) -> None:
        super().__init__()
        self.clips = torch.nn.Parameter(clips)

    def encode(self, x, context=None, mask=None):
        return Independent(Normal(x[:, :1], torch.ones_like(x[:, :1])), 1)

    def prior(self, context=None):
        return Independent(Normal(torch.zeros(1), torch.ones(1)), 1)

    def decode(self, z, context=None, mask=None):
        place = (torch.special.ndtr(z[:, 0]) * len(self.clips)).long().clamp(max=len(self.clips) - 1)
        return Independent(Normal(self.clips[place], torch.ones(()), validate_args=False), 1, validate_args=False)


class Tones(VAEData):
    """Generated tones, padded under a mask."""

    def __init__(self) -> None:
        super().__init__(batch_size=8)

    @property
    def facts(self):
        return {"event_shape": (LENGTH,), "sample_rate": 8000}

    def fingerprint(self):
        return {}

    def make_splits(self):
        return Splits(*(clips(seed) for seed in range(3)))


def clips(seed: int) -> list[Batch]:
    made = []
    for number, wave in enumerate(tones(120, seed)):
        x, mask = torch.zeros(LENGTH), torch.arange(LENGTH) < len(wave)
        x[mask] = torch.from_numpy(wave[:LENGTH])
        made.append(Batch(x, mask=mask, index=torch.tensor(number)))
    return made


def composed(*typed: str):
    config.register()
    with hydra.initialize_config_dir(str(config.folder()), job_name="evaluate", version_base="1.3"):
        return hydra.compose("evaluate", ["run=x", "metric=[embedding,fad,precision_recall,vendi]", *typed])


def told(vae: VAE, *typed: str, silent: bool = False):
    module, data = Training(vae=vae, regularizer=Beta(weight=Constant(value=1.0)), optimizer=torch.optim.Adam), Tones()
    return heard(module, data, composed(*typed), range(120), seed=0, silent=silent)


def held(seed: int = 7) -> torch.Tensor:
    """What the decoder holds: its clips go on under the padding, where no loss ever acted."""
    return torch.stack([each.x + 0.3 * torch.randn(LENGTH) * ~each.mask for each in clips(seed)])


@pytest.mark.parametrize(("words", "kinds"), [(("alike", "undecided"), 120), (("collapsed",), 1), (("collapsed",), 5)])
def test_samples_are_told_by_how_many_kinds_there_are_and_not_by_their_padding(words, kinds) -> None:
    found = told(Player(held()[:kinds]))
    assert found is not None and found.judged is not None and found.judged.word in words, found.judged
    assert "prior samples at temperature 1 against" in found.what and "test clips" in found.what
    assert any("lengths are not the model's" in said for said in found.said)


def test_a_temperature_of_0_is_a_collapse_and_noise_is_no_likeness() -> None:
    assert told(Player(held()), "temperature=0").judged.word == "collapsed"
    assert told(Player(held() + 0.1 * torch.randn(120, LENGTH))).judged.word == "bad"


def test_a_buzz_that_differs_by_noise_alone_is_a_collapse_where_z_is_known_to_say_nothing() -> None:
    one, white = held()[:1], torch.randn(120, LENGTH, generator=torch.Generator().manual_seed(0))
    buzz = one + 10**0.5 * one.square().mean().sqrt() * white
    heard_alone, known = told(Player(buzz)), told(Player(buzz), silent=True)
    assert heard_alone.judged.word == "bad" and "neither heard nor ruled out" in heard_alone.judged.why[0]
    assert known.judged.word == "collapsed" and "their z is worth nothing" in known.judged.why[-1]
    assert told(Player(held()), silent=True).judged.word != "collapsed", "what is varied is varied"


@pytest.mark.parametrize(
    ("gap", "rate", "mi", "says_nothing"),
    [
        (("absent", 0.001), 3.0, 0.1, True),  # fake nats
        (("undecided", 0.01), 0.05, 0.1, True),
        (("undecided", 0.01), 0.0999, 0.1, False),  # by its interval
        (("undecided", 0.01), None, 0.1, False),
        (("material", 1.0), 3.0, 0.1, False),
    ],
)
def test_z_says_nothing_where_its_value_is_absent_or_r_leaves_nothing_that_matters(gap, rate, mi, says_nothing) -> None:
    found = [Finding("gap", gap[1], 0.01, 300, status=gap[0]), Finding("rate", rate, 0.001, 300),
             Finding("mi", 0.0, 0.01, 300, threshold=mi)]  # fmt: skip
    assert silent({each.name: each for each in found}) is says_nothing


def test_the_posterior_is_labelled_and_broken_samples_are_counted() -> None:
    broken = held()
    broken[::10] = torch.nan
    found = told(Player(broken), "mode=posterior")
    assert found is not None and "posterior samples, which have seen the clips" in found.what
    assert any("have samples that are not finite" in said for said in found.said)
    with pytest.raises(Refused, match=r"none of the .* is a sound"):
        told(Player(held() * torch.nan))


def test_members_are_of_fields_and_no_metric_is_no_comparison() -> None:
    made = Training(vae=Player(held()), regularizer=Beta(weight=Constant(value=1.0)), optimizer=torch.optim.Adam)
    with pytest.raises(Refused, match="members has no effect"):
        scored(made, Tones(), composed("members=3"), range(3), seed=0)
    with pytest.raises(Refused, match=r"metric=crps has no effect: .* are sounds; metric=audio"):
        scored(made, Tones(), composed("metric=[crps,fad]"), range(3), seed=0, overrides=["metric=[crps,fad]"])
    assert told(Player(held()), "metric=[crps]") is None
