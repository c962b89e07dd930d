"""Practitioners' cases from their own numbers: what must be named, refuted, asked for, and never prescribed."""

import re

import pytest

from vaecollapse import diagnose
from vaecollapse.diagnosis import Verdict


def said(verdict: Verdict) -> str:
    return "\n".join([*verdict.findings, *verdict.refuted, *verdict.missing])


def moves(verdict: Verdict) -> str:
    return "\n".join(prescription.why for prescription in verdict.prescriptions)


def prices(verdict: Verdict) -> list[float]:
    return [float(number) for number in re.findall(r"take (\S+) (?:times the KL|in place of)", moves(verdict))]


# ---- A: "Free bits does nothing."


@pytest.mark.parametrize("rate", [0.02, 0.09])
def test_a_floor_above_a_collapsed_rate_exerts_no_force(rate: float) -> None:
    values = {"rate": rate, "units": 16, "floor": 0.01, "distortion": 8.7, "distortion_kind": "other", "beta": 1.0}
    verdict = diagnose(values=values)
    assert verdict.verdict == "posterior_collapse"
    assert verdict.confidence == "low"
    assert "value of z" in said(verdict)
    assert all(price < 1.0 for price in prices(verdict))


def test_a_kl_that_is_still_falling_with_the_warm_up_is_not_settled(tmp_path) -> None:
    """KL high early, then collapsing as its weight warms up."""
    rows = [f"{step},{60 * (1 - step / 120):.4f},{8.7 + 5 * step / 100:.3f},{step / 100}" for step in range(100)]
    file = tmp_path / "log.csv"
    file.write_text("step,rate,distortion,weight_applied\n" + "\n".join(rows))
    verdict = diagnose(log=file, values={"units": 16})
    assert verdict.verdict == "inconclusive"
    assert verdict.confidence == "low"
    assert "not settled" in said(verdict)


# ---- B: "KLr 0.022, the penalty is inert."

TOKENS = {"units": 1536, "free_bits_form": "hinge", "free_bits_groups": 6}


@pytest.mark.parametrize("mean", [0.021, 0.022, 0.024])
@pytest.mark.parametrize("after", [0.001, 0.004])
def test_b_the_rate_is_pinned_at_its_floor(mean: float, after: float) -> None:
    verdict = diagnose(values={**TOKENS, "kl_mean_per_unit": mean, "kl_after_floor": after, "floor": 0.02})
    assert verdict.verdict == "rate_pinned"
    assert verdict.readings["rate"].value == pytest.approx(1536 * mean)
    assert verdict.readings["fb_percent"].value == pytest.approx(100 * (mean - after) / mean)
    assert "a lower floor takes the KL down" in said(verdict)
    assert "a higher weight" in said(verdict), "KLr low ⇒ raise the weight has its sign inverted"
    assert all(price < 1.0 for price in prices(verdict))


def test_b_the_low_number_is_34_nats() -> None:
    verdict = diagnose(values={**TOKENS, "kl_mean_per_unit": 0.022, "kl_after_floor": 0.002, "floor": 0.02})
    assert verdict.readings["rate"].value == pytest.approx(33.8, abs=0.01)
    assert "33.8 nats" in said(verdict)


@pytest.mark.parametrize(("mean", "most"), [(0.020, 25.0), (0.022, 22.7), (0.025, 20.0)])
def test_b_the_planned_floor_can_free_at_most_so_much(mean: float, most: float) -> None:
    verdict = diagnose(values={**TOKENS, "kl_mean_per_unit": mean, "floor": 0.005})
    assert verdict.readings["fb_percent_at_most"].value == pytest.approx(most, abs=0.05)
    assert f"at most {most:.3g} % free" in said(verdict)


def test_b_its_twin_is_a_partial_collapse() -> None:
    verdict = diagnose(values={**TOKENS, "kl_mean_per_unit": 0.022, "kl_after_floor": 0.0187, "floor": 0.02})
    assert verdict.verdict == "partial_collapse"
    assert verdict.readings["fb_percent"].value == pytest.approx(15)
    assert verdict.readings["floor_saturation"].value <= 1 / 6
    assert verdict.readings["floor_saturation"].status == "measured"


# ---- C: "σ collapsed, so force 64 nats."

RAIN = {
    "rate": 12.48, "units": 128, "beta": 0.01, "diversity_posterior": 0.0001, "diversity_prior": 0.0057,
    "diversity_at_temperature": {3: 0.0517}, "distortion": 2.23, "distortion_kind": "l1",
    "distortion_reduction": "mean", "event_size": 20592,
}  # fmt: skip


def test_c_sigma_has_not_collapsed_and_the_decoder_does_not_listen() -> None:
    verdict = diagnose(values=RAIN)
    assert (verdict.verdict, verdict.confidence) == ("bypassed_latent", "low")
    (refuted,) = [line for line in verdict.refuted if line.startswith("variance_collapse")]
    assert "525 nats" in refuted
    assert "at most 3" in refuted
    assert "0.706" in refuted
    assert not any(line.startswith("partial_collapse") for line in verdict.refuted)
    assert any("value of z" in line for line in verdict.missing)
    assert any("KL of each unit" in line for line in verdict.missing)
    assert "says nothing" in said(verdict), "the diversity of reconstructions"


@pytest.mark.parametrize(("beta", "effective"), [(0.01, 92), (0.05, 462)])
def test_c_the_effective_price_before_and_after_the_fix(beta: float, effective: float) -> None:
    verdict = diagnose(values={**RAIN, "beta": beta})
    assert verdict.readings["beta_effective"].value == pytest.approx(effective, abs=0.5)
    assert re.search(rf"\b{effective}(\.\d+)? times", said(verdict))


def test_c_64_is_what_the_clamp_prints_for_a_dead_latent() -> None:
    assert "prints 64 nats" in said(diagnose(values={**RAIN, "floor": 0.5, "beta": 0.05}))


@pytest.mark.parametrize("more", [{}, {"floor": 0.5}, {"floor": 0.5, "beta": 0.05}])
def test_c_nothing_prescribed_raises_the_price_or_adds_a_floor(more: dict) -> None:
    values = {**RAIN, **more}
    verdict = diagnose(values=values)
    assert all(price <= values["beta"] for price in prices(verdict))
    assert not re.search(r"\b(add|raise) \S* ?(floor|target)", moves(verdict))


# ---- D: "Is this collapse, or is it just not learning?"


def test_d_a_settled_kl_without_a_gap_acquits_nobody() -> None:
    verdict = diagnose(values={"rate": 9.0, "units": 128, "distortion": 5.2, "distortion_kind": "other"})
    assert verdict.verdict == "inconclusive"
    assert any("value of z" in line for line in verdict.missing)


def test_d_a_flow_is_read_from_its_draws() -> None:
    """128 units of a flow: no KL per unit, yet rank and gap decide."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 4, generator=generator, dtype=torch.float64)
    z = 2 * x[:, None] + 0.5 * torch.randn(600, 16, 4, generator=generator, dtype=torch.float64)
    own = (x - z[:, 0] / 2).square().sum(1)
    arrays = {
        "samples": z, "kl": torch.full((600,), 5.0), "distortion": own, "normalised": 0,
        "distortion_permuted": (x - z[:, 0].roll(1, 0) / 2).square().sum(1),
    }  # fmt: skip
    verdict = diagnose(arrays=arrays)
    assert verdict.readings["gap"].status == "material"
    assert verdict.readings["information_rank"].value == 4
    assert "dead_units" not in verdict.readings or verdict.readings["dead_units"].value is None
    dead = arrays | {"samples": torch.randn(600, 16, 4, generator=generator, dtype=torch.float64)}
    assert diagnose(arrays=dead).readings["information_rank"].value == 0, "undebiased it would read 4"


# ---- E: the textbook


def test_e_a_rate_of_nothing_is_a_posterior_collapse() -> None:
    verdict = diagnose(values={"rate": 0.004, "units": 32, "beta": 1.0, "distortion": 110.0, "distortion_kind": "nll"})
    assert verdict.verdict == "posterior_collapse"
    assert all(price < 1.0 for price in prices(verdict))
    assert prices(verdict)
    assert "over the first half of training" in moves(verdict)


# ---- F: selection picks the collapsed epoch


def test_f_a_warm_up_that_outlasts_the_log_is_said(tmp_path) -> None:
    file = tmp_path / "log.csv"
    rows = [f"{step},20.0,{step / 200}" for step in range(100)]
    file.write_text("step,rate,weight_applied\n" + "\n".join(rows))
    verdict = diagnose(log=file, values={"units": 16, "beta": 1.0})
    assert verdict.confidence == "low"
    assert "schedule_not_applied" in verdict.mechanisms


# ---- G: KL alone misleads

LINE = {"train/rate": 49.0, "val/mutual_information": 0.027, "val/active_units": 0, "units": 32}


def test_g_a_large_kl_that_carries_nothing_is_a_fake_rate() -> None:
    verdict = diagnose(values=LINE)
    assert (verdict.verdict, verdict.confidence) == ("fake_rate", "medium")
    assert "different splits" in said(verdict)
    assert verdict.readings["kl_is_low"].value == 0


def test_g_the_splits_are_known_from_a_log_too(tmp_path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("train_kl,val_mi,val_au\n" + "49.0,0.027,0\n" * 20)
    columns = {"rate": "train_kl", "mutual_information": "val_mi", "active_units": "val_au"}
    verdict = diagnose(log=file, columns=columns)
    assert verdict.verdict == "fake_rate"
    assert "rate of training examples" in said(verdict)
