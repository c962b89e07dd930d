"""Laws of the order that puts like lengths together: nothing is lost, little is padded, everything can be replayed."""

from itertools import chain

import numpy as np
import pytest
import torch

from vaecollapse.batch import Batch, collate
from vaecollapse.datasets.base import EpochSampler, WholeBatchSampler
from vaecollapse.datasets.buckets import tiled, wasted
from vaecollapse.datasets.text_arithmetic import ArithmeticData

SIZES = [(1000, 16, 1), (1003, 8, 2), (50, 16, 3), (33, 32, 1), (10_000, 4, 1)]


def lengths(count: int, parts: int = 2) -> np.ndarray:
    return np.random.default_rng(count).geometric(0.02, (count, parts))


def order(count: int, epoch: int = 0, parts: int = 2, **settings: int) -> list[int]:
    sampler = EpochSampler(count, seed=1, epoch=epoch, lengths=lengths(count, parts), **settings)
    return [int(position) for position in sampler]


@pytest.mark.parametrize(("count", "size", "world"), SIZES)
def test_ranks_share_every_example_once_as_without_buckets(count: int, size: int, world: int) -> None:
    ranks = [order(count, batch_size=size, world=world, rank=rank) for rank in range(world)]
    plain = [EpochSampler(count, batch_size=size, world=world, rank=rank, seed=1) for rank in range(world)]
    assert [len(rank) for rank in ranks] == [len(rank) for rank in plain]
    seen = list(chain(*ranks))
    assert len(set(seen)) == len(seen)
    assert sorted(seen) == sorted(chain(*(map(int, rank) for rank in plain)))


@pytest.mark.parametrize("parts", [1, 2])
def test_order_is_a_function_of_seed_and_epoch_and_can_be_taken_up(parts: int) -> None:
    first = order(500, epoch=2, parts=parts, batch_size=8)
    assert first == order(500, epoch=2, parts=parts, batch_size=8)
    assert first[5 * 8 :] == order(500, epoch=2, parts=parts, batch_size=8, skip=5)
    assert first != order(500, epoch=3, parts=parts, batch_size=8)


@pytest.mark.parametrize("parts", [1, 2])
def test_like_lengths_share_a_batch(parts: int) -> None:
    known, plain = lengths(4000, parts), np.random.default_rng(0).permutation(4000)
    mine = np.array(order(4000, parts=parts, batch_size=16))
    assert wasted(known, mine, 16) < wasted(known, plain, 16) / (20 if parts == 1 else 3)
    steps = known[mine[: 4000 // 16 * 16]].reshape(-1, 16, parts).sum((1, 2))
    assert abs(np.corrcoef(steps, np.arange(len(steps)))[0, 1]) < 0.2  # short ones do not come first


def test_equal_lengths_waste_nothing_and_distinct_ones_are_sorted() -> None:
    assert wasted(np.full((10, 2), 7), np.arange(10), 4) == 0
    assert tiled(np.arange(10)[::-1, None].copy(), np.arange(10), 3).tolist() == list(range(10))[::-1]


@pytest.mark.parametrize("world", [1, 2])
def test_evaluation_reads_every_example_once_whatever_the_ranks(world: int) -> None:
    def batches(rank: int, world: int) -> list[tuple[int, ...]]:
        mine = list(WholeBatchSampler(101, batch_size=8, rank=rank, world=world, lengths=lengths(101)))
        return [tuple(mine[start : start + 8]) for start in range(0, len(mine), 8)]

    alone = batches(0, 1)
    assert sorted(chain(*alone)) == list(range(101))
    assert sorted(chain(*(batches(rank, world) for rank in range(world)))) == sorted(alone)


def test_the_knob_changes_the_order_and_nothing_else() -> None:
    pair = [ArithmeticData(numbers=6, batch_size=16, buckets=buckets) for buckets in (True, False)]
    orders = [[int(i) for i in data.train_dataloader().sampler] for data in pair]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    padded = [sum(int((~batch.mask).sum()) for batch in data.train_dataloader()) for data in pair]
    assert padded[0] < 0.5 * padded[1]
    evaluated = [torch.cat([batch.index for batch in data.val_dataloader()]).tolist() for data in pair]
    assert sorted(evaluated[0]) == sorted(evaluated[1]) == evaluated[1]


def test_collate_pads_at_the_end_and_keeps_what_is_of_one_length() -> None:
    def one(size: int) -> Batch:
        ones = torch.ones(size, dtype=torch.bool)
        return Batch(torch.full((size,), 9), torch.full((4 - size,), 8), ones, torch.tensor(size))

    batch = collate([one(1), one(3)])
    assert batch.x.tolist() == [[9, 0, 0], [9, 9, 9]]
    assert batch.context.tolist() == [[8, 8, 8], [8, 0, 0]]
    assert batch.mask.tolist() == [[True, False, False], [True, True, True]]
    assert collate([Batch(torch.ones(2, 3)), Batch(torch.ones(2, 3))]).x.shape == (2, 2, 3)
    with pytest.raises(RuntimeError):
        collate([Batch(torch.ones(2, 3)), Batch(torch.ones(2, 2))])
