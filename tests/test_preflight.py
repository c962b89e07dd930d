"""Forecast and refusals before step 1."""

import pytest
import torch
from planted import EIGENVALUES, gaussian_data, optimum, probe

from vaecollapse.preflight import critical_price, forecast, rehearse
from vaecollapse.refusal import Refused
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Constant
from vaecollapse.regularizers.free_bits import FreeBits


@pytest.mark.parametrize("e", [0.05, 0.15, 0.35, 0.5, 1.0, 2.0, 5.0, 7.0])
@pytest.mark.parametrize("units", [1, 5, 8, 20])
def test_the_forecast_counts_what_the_closed_form_keeps_alive(e: float, units: int) -> None:
    clear = sum(value > 1.15 * e for value in EIGENVALUES)
    most = sum(value > e for value in EIGENVALUES)
    assert min(units, clear) <= forecast(gaussian_data(20_000), e=e, units=units) <= min(units, most)


def test_few_examples_raise_the_bar() -> None:
    values = torch.tensor(EIGENVALUES)
    assert critical_price(values, 10, 1.0) > critical_price(values, 1000, 1.0) == pytest.approx(1.1, abs=0.1)
    assert forecast(torch.randn(50, 40), e=1.0, units=40) == 0, "pure noise at its own price offers nothing"


def test_rehearsal_moves_nothing_and_refuses_what_cannot_be_priced() -> None:
    vae, batch = optimum(3, e=1.0).train(), probe(gaussian_data(64))[0]
    state = torch.get_rng_state()
    objective = rehearse(vae, Beta(weight=Constant(value=1.0)), batch)
    assert torch.isfinite(objective.loss) and vae.training and torch.equal(state, torch.get_rng_state())
    with pytest.raises(Refused, match="groups=token"):
        rehearse(vae, FreeBits(weight=Constant(value=1.0), floor=0.1, groups="token"), batch)
    with torch.no_grad():
        vae.decoder.weight.fill_(torch.inf)
    with pytest.raises(Refused, match="objective of the untrained model"):
        rehearse(vae, Beta(weight=Constant(value=1.0)), batch)
