"""Bands, their linter and the two sets that ship; resuming: test_acting.py."""

from unittest.mock import Mock

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer

from vaecollapse import config
from vaecollapse.batch import Batch
from vaecollapse.callbacks.expected_ranges import Band, ExpectedRanges, bands_of, lint
from vaecollapse.elbo import ELBO, Progress
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.run import Run
from vaecollapse.tasks import train

FLOOR = 0.005


def shipped(name: str) -> list[Band]:
    return bands_of(config.compose([f"callback=[{name}]"]).callback[name].expected)


def band(metric: str, low: float, high: float, first: int = 0, last: float = 2.0, stage: str = "2") -> Band:
    return Band(stage, first, last, metric, low, high, "warning")


def kinds(metric: str, low: float, high: float, klr: tuple[float, float] = (0.02, 0.025)) -> list[str]:
    return [each.kind for each in lint([band("klr", *klr), band(metric, low, high)], FLOOR)]


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (20.0, 25.0, []),  # 100 floor/KLr is 25 to 20 here
        (25.0, 30.0, ["warns"]),  # part of it cannot be
        (25.1, 30.0, ["rejects"]),
        (15.0, 25.0, ["warns"]),  # with tokens under the floor alone
        (15.0, 30.0, ["warns", "warns"]),
    ],
)
def test_fb_percent_is_held_against_floor_over_klr(low: float, high: float, found: list) -> None:
    assert kinds("fb_percent", low, high) == found


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.015, 0.020, []),  # KLr − floor
        (0.005, 0.0149, ["rejects"]),
        (0.026, 0.030, ["rejects"]),
        (0.010, 0.020, ["warns"]),  # less than KLr − floor cannot be
        (0.015, 0.018, ["warns"]),  # KLr's upper part puts KLa above it
        (0.015, 0.024, ["warns"]),  # with tokens under the floor alone
        (0.015, 0.026, ["warns", "warns"]),
    ],
)
def test_kla_is_held_between_klr_less_the_floor_and_klr(low: float, high: float, found: list) -> None:
    assert kinds("kla", low, high) == found


def test_bands_of_other_stages_and_epochs_are_not_held_together() -> None:
    impossible = band("fb_percent", 90.0, 95.0)
    assert lint([band("klr", 0.02, 0.025, 3, 5.0), impossible], FLOOR) == []
    assert lint([band("klr", 0.02, 0.025, stage="health"), impossible], FLOOR) == []
    assert [each.kind for each in lint([band("klr", 0.02, 0.025, 2, 5.0), impossible], FLOOR)] == ["rejects"]


def test_the_linter_says_what_is_inconsistent_in_the_practitioners_bands() -> None:
    """At floor .005 fb% is at most 25–20, 20–14.3, 16.7–11.1, 14.3–9.1 and 12.5–6.25 over their KLr bands, and KLa at
    least .035–.075 in stage 3, where they want at most .070. Nothing of it is impossible."""
    complaints = lint(shipped("expected_practitioner"), FLOOR)
    assert {each.kind for each in complaints} == {"warns"}
    said = {(each.band.stage, each.band.first, each.band.metric, each.says) for each in complaints}
    most = {("2", 0): "25", ("2", 3): "20", ("2", 8): "16.7", ("2", 13): "14.3", ("3", 16): "12.5", ("health", 0): "25"}
    for (stage, first), limit in most.items():
        assert any(
            each[:3] == (stage, first, "fb_percent") and each[3].startswith(f"fb% above {limit} ") for each in said
        )
    under = {each[:2]: each[3] for each in said if "below" in each[3]}
    assert {key: text.split()[2] for key, text in under.items()} == {("2", 8): "11.1", ("3", 16): "6.25"}
    (kla,) = [each[3] for each in said if each[2] == "kla"]
    assert kla == "KLa is at least 0.075 where KLr is 0.08: KLr's band is not met above 0.075"


def test_the_consistent_bands_have_nothing_against_them() -> None:
    assert lint(shipped("expected_consistent"), FLOOR) == []
    two, ours = shipped("expected_practitioner"), shipped("expected_consistent")
    klr = [[each for each in bands if each.metric == "klr" and each.stage != "health"] for bands in (two, ours)]
    assert klr[0] == klr[1]


GIVEN = {"stage": 2, "epochs": [0, 2], "metric": "klr", "low": 0.02, "high": 0.03, "severity": "info"}


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({"epochs": [2, 4]}, True),
        ({"epochs": [3, None]}, False),
        ({"epochs": [2, 4], "metric": "kla"}, False),
        ({"epochs": [2, 4], "stage": "health"}, False),
    ],
)
def test_two_bands_of_one_stage_and_metric_do_not_overlap(more: dict, refused: bool) -> None:
    if not refused:
        assert len(bands_of([GIVEN, GIVEN | more])) == 2
        return
    with pytest.raises(Refused, match="two expected ranges"):
        bands_of([GIVEN, GIVEN | more])


@pytest.mark.parametrize("more", [{"epochs": [3, 2]}, {"low": 1.0}, {"severity": "loud"}, {"size": 1}])
def test_a_band_that_is_none_is_refused(more: dict) -> None:
    with pytest.raises(Refused, match="expected range 1"):
        ExpectedRanges(expected=[GIVEN | more])


def test_out_of_range_readings_are_events_and_what_was_never_read_is_missing(tmp_path) -> None:
    """R of one validated epoch in four; the KL of a model at β = 2 is above a billionth of a nat."""
    expected = ("[{stage: 2, epochs: [0, 2], metric: klr, low: 0, high: 1e-9, severity: info},"
                "{stage: 2, epochs: [1, 3], metric: answer, low: 0, high: 1, severity: error},"
                "{stage: 2, epochs: [0, null], metric: val/latent/rate, low: 1000, high: 2000, severity: info},"
                "{stage: health, epochs: [0, null], metric: rate, low: 0, high: 1e9, severity: error}]")  # fmt: skip
    line = ["model=linear", "dataset.examples=128", "dataset.val_examples=64", "max_epochs=4", "batch_size=64",
            "callback=[collapse_monitor,checkpoints,expected_consistent]", "detector=[rate]", "trainer.accelerator=cpu",
            f"callback.expected_consistent.expected={expected}", f"logger.csv.directory={tmp_path}"]  # fmt: skip
    train(config.compose(line), tmp_path, line)
    rows = [row for row in Run(tmp_path).lines("events.jsonl") if row["event"] == "expected"]
    found = [(row["epoch"], row["metric"], row["reading"]) for row in rows]
    assert found == [(0, "klr", "above"), (1, "klr", "above"), (2, "klr", "above"), (3, "answer", "missing"),
                     (3, "val/latent/rate", "below")]  # fmt: skip


def test_the_nll_of_a_token_is_over_the_epochs_tokens_and_goes_on_from_a_checkpoint() -> None:
    """Padding is no token: 3 and 2 nats of two batches, over five tokens of three examples."""
    ours = ExpectedRanges(expected=[])
    given = [(Batch(torch.tensor([[5, 6, 3], [3, 0, 0]])), [2.0, 1.0]), (Batch(torch.tensor([[3]])), [2.0])]
    for x, distortion in given:
        kl = torch.zeros(len(distortion), 1)
        elbo = ELBO(torch.tensor(distortion), kl, kl, None, None)
        ours.means.heard(price := Beta(weight=Constant(value=1.0)), (elbo,), price(elbo, Progress()))
        ours.on_train_batch_end(Mock(spec=Trainer), Mock(spec=LightningModule), None, x, 0)
        twin = ExpectedRanges(expected=[])
        twin.load_state_dict(ours.state_dict())
        ours = twin
    assert ours.read()["nll_per_token"] == pytest.approx(5 / 5)
    assert "nll_per_token" not in ours.read()


def test_the_shipped_bands_are_of_what_a_run_logs() -> None:
    known = {"klr", "kla", "fb_percent", "nll_per_token", "val/nll_per_token"}
    assert {each.metric for name in ("expected_practitioner", "expected_consistent") for each in shipped(name)} <= known


def test_both_sets_go_side_by_side() -> None:
    both = config.compose(["callback=[expected_practitioner,expected_consistent]"]).callback
    assert len({instantiate(node).state_key for node in both.values()}) == 2
