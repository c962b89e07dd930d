"""Laws of order and division: what a split holds and when it is seen depends on the seed and the epoch alone."""

import pickle
from itertools import chain

import pytest
import torch
from torch.utils.data import Dataset

from vaecollapse.batch import Batch
from vaecollapse.datasets.base import (
    EpochSampler,
    Splits,
    StoredExamples,
    VAEData,
    Visit,
    WholeBatchSampler,
    check_fractions,
    partition,
    partition_groups,
)
from vaecollapse.refusal import Refused

SIZES = [(2, 2), (10, 3), (17, 4), (33, 32), (100, 8), (101, 10), (64, 1)]


class Visits(Dataset[Batch]):
    """Answers with the epoch it is visited in."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, position: int) -> Batch:
        return Batch(x=torch.tensor([float(getattr(position, "epoch", -1))]), index=torch.tensor(int(position)))


class Data(VAEData):
    def __init__(self, sizes: tuple[int, int, int] = (10, 5, 3), **settings: int) -> None:
        super().__init__(**{"batch_size": 4, **settings})
        self.sizes = sizes

    @property
    def facts(self) -> dict[str, object]:
        return {"event_shape": (2,)}

    def make_splits(self) -> Splits:
        return Splits(*(StoredExamples(torch.full((size, 2), float(size))) for size in self.sizes))


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return [int(position) for position in sampler]


@pytest.mark.parametrize(("count", "batch_size"), SIZES)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_every_example_once_in_equally_many_steps(count: int, batch_size: int, world: int) -> None:
    ranks = [EpochSampler(count, batch_size=batch_size, seed=1, rank=rank, world=world) for rank in range(world)]
    parts = [order(rank, epoch=2) for rank in ranks]
    assert [len(part) for part in parts] == [len(rank) for rank in ranks]
    assert len({-(-len(part) // batch_size) for part in parts}) == 1
    seen = list(chain(*parts))
    assert len(set(seen)) == len(seen)
    left = count % (batch_size * world)
    dropped = left if left // world < min(2, batch_size) else 0
    assert len(seen) == count - dropped
    assert batch_size == 1 or all(len(part) % batch_size != 1 for part in parts)


@pytest.mark.parametrize(("count", "batch_size"), SIZES)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_shards_are_the_whole_batches_of_one_process(count: int, batch_size: int, world: int) -> None:
    def batches(rank: int, world: int) -> list[tuple[int, ...]]:
        mine = list(WholeBatchSampler(count, batch_size=batch_size, rank=rank, world=world))
        return [tuple(mine[start : start + batch_size]) for start in range(0, len(mine), batch_size)]

    alone = batches(0, 1)
    assert list(chain(*alone)) == list(range(count))
    assert sorted(chain(*(batches(rank, world) for rank in range(world)))) == sorted(alone)


def test_training_order_is_a_function_of_seed_and_epoch() -> None:
    first, second = (EpochSampler(50, batch_size=7, seed=3) for _ in range(2))
    forward = [order(first, epoch) for epoch in range(3)]
    assert [order(second, epoch) for epoch in (2, 1, 0)] == forward[::-1]
    assert order(first, 1) == forward[1]
    assert len({tuple(each) for each in forward}) == 3
    assert order(EpochSampler(50, batch_size=7, seed=4), 0) != forward[0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_epoch_reaches_the_dataset_in_every_process(num_workers: int) -> None:
    data = Data(num_workers=num_workers)
    data._splits = Splits(Visits(), Visits(), Visits())
    loader = data.train_dataloader()
    for epoch in (0, 4):
        loader.sampler.set_epoch(epoch)
        assert {float(value) for batch in loader for value in batch.x} == {epoch}
    assert {float(value) for batch in data.val_dataloader() for value in batch.x} == {-1}
    assert pickle.loads(pickle.dumps(Visit(3, 5))).epoch == 5


def test_loaders_leave_the_global_generator_alone() -> None:
    data = Data()
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_carry_position_and_never_a_batch_of_one() -> None:
    data = Data(sizes=(9, 5, 3))
    assert [len(batch.x) for batch in data.train_dataloader()] == [4, 4]
    assert torch.cat([batch.index for batch in data.val_dataloader()]).tolist() == list(range(5))
    assert data.examples("validation", 3, start=1).index.tolist() == [1, 2, 3]
    assert len(data.examples("test", 100).x) == 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "sizes"), [(3000, (2100, 600, 300)), (72, (51, 14, 7)), (4, (2, 1, 1))])
def test_partition_is_a_division(count: int, sizes: tuple[int, ...], seed: int) -> None:
    parts = partition(count, validation=0.2, test=0.1, seed=seed)
    assert tuple(map(len, parts)) == sizes
    assert sorted(chain(*parts)) == list(range(count))
    assert parts == partition(count, validation=0.2, test=0.1, seed=seed)
    assert count < 10 or parts != partition(count, validation=0.2, test=0.1, seed=seed + 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [[500] * 6, [1000, 10, 10], [1, 1, 1], [40, 30, 20, 10, 5, 5, 5, 5, 3, 2]])
def test_groups_stay_whole_and_fill_every_split(sizes: list[int], seed: int) -> None:
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    parts = partition_groups(groups, validation=0.2, test=0.1, seed=seed)
    assert sorted(chain(*parts)) == list(range(len(groups)))
    held = [{groups[position] for position in part} for part in parts]
    assert all(held)
    assert sum(map(len, held)) == len(sizes)
    if len(sizes) > 6:
        shares = [len(part) / len(groups) for part in parts]
        assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.06)


def test_groups_without_a_test_split() -> None:
    assert partition_groups(["a", "b", "b"], validation=0.3, test=0.0, seed=0)[2] == []


@pytest.mark.parametrize(
    ("sizes", "settings", "words"),
    [
        ((10, 5, 3), {"batch_size": 0}, "batch_size=1"),
        ((10, 5, 3), {"seed": -1}, "seed=0"),
        ((10, 5, 3), {"num_workers": -2}, "num_workers=0"),
        ((1, 5, 3), {}, "1 training examples are too few"),
        ((10, 0, 3), {}, "validation split is empty"),
    ],
)
def test_impossible_data_is_refused(sizes: tuple[int, int, int], settings: dict[str, int], words: str) -> None:
    with pytest.raises(Refused, match=words):
        Data(sizes, **settings).setup()


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.2, -0.1), (0.6, 0.4), (0.2, 0.1, 0.0), (0.2, 0.1, 1.5)])
def test_fractions_that_leave_nothing_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(Refused, match="type"):
        check_fractions(*shares)


def test_an_empty_test_split_is_allowed_until_it_is_asked_for() -> None:
    data = Data((10, 5, 0))
    data.setup()
    with pytest.raises(Refused, match="test split is empty"):
        data.test_dataloader()


def test_too_many_processes_for_one_step_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaecollapse.datasets.base._process", lambda: (0, 4))
    with pytest.raises(Refused, match="4 processes"):
        Data((3, 1, 1)).train_dataloader()
