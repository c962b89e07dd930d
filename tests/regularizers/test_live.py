"""What may be moved while training is kept in checkpoints, and what checkpoints are compared at stays."""

import torch
from torch.distributions import Independent, Normal

from vaecollapse.elbo import ELBO, Progress
from vaecollapse.regularizers.beta import Beta
from vaecollapse.regularizers.coefficients import Coefficient, Linear
from vaecollapse.regularizers.free_bits import FreeBits


def built() -> FreeBits:
    return FreeBits(weight=Linear(value=2.0, warmup=0.5), floor=0.3)


def test_a_moved_weight_and_floor_survive_a_checkpoint_and_the_end_stays() -> None:
    moved, twin = built(), built()
    moved.weight.value, moved.floor = 0.25, 0.1
    twin.load_state_dict(moved.state_dict())
    assert (twin.weight(Progress(10, 10)), twin.floor) == (0.25, 0.1)
    assert twin.weight.end == 2.0
    assert [twin.weight.settled(Progress(step, 10)) for step in (4, 5)] == [False, True]


def test_the_mean_of_a_step_under_way_survives_beside_the_floor() -> None:
    one, twin = built(), built()
    one.step.before = torch.rand(1, 3)
    twin.load_state_dict(one.state_dict())
    assert torch.equal(twin.step.before.float(), one.step.before)


class Ear(Coefficient):
    """Keeps what it is told."""

    listens = True

    def __init__(self) -> None:
        super().__init__(value=1.0)
        self.told: list[float] = []

    def ramp(self, share: float) -> float:
        return 1.0

    def observe(self, rate, progress) -> None:
        self.told.append(float(rate))


def test_a_coefficient_that_listens_is_told_the_rate() -> None:
    regularizer = Beta(weight=Ear())
    assert regularizer.listens and not Beta(weight=Linear(value=1.0)).listens
    q = Independent(Normal(torch.zeros(2, 1), torch.ones(2, 1)), 1)
    regularizer(ELBO(torch.ones(2), torch.ones(2, 1), torch.zeros(2, 1), q, q), Progress())
    assert regularizer.weight.told == []  # pricing tells nothing: a reading must not move a controller
    regularizer.observe(torch.tensor(5.0), torch.tensor(3.0), Progress())
    assert regularizer.weight.told == [3.0]
