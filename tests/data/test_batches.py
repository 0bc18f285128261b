"""Which rows a rank sees, and in which order."""

import numpy as np
import pytest
import torch

from lenshpc.data.batches import ImageRows, Source, evaluation_batches, load, training_batches

ROWS = np.arange(1000, 1103)  # 103 rows: 6 steps of 16, and 7 over


def steps(world_size, epoch=0, seed=0):
    """Return each step's rows over all ranks, sorted, and check that no rank shares a row."""
    shares = [
        training_batches(ROWS, 16, seed=seed, epoch=epoch, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    merged = [np.concatenate(step) for step in zip(*shares, strict=True)]
    assert {len(batch) for share in shares for batch in share} == {16 // world_size}
    return [sorted(step.tolist()) for step in merged]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_training_row_comes_at_most_once_an_epoch(world_size):
    seen = [row for step in steps(world_size) for row in step]
    assert len(seen) == len(set(seen)) == 96
    assert set(seen) <= set(ROWS.tolist())


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_take_the_steps_of_one(world_size):
    assert steps(world_size) == steps(1)


def test_order_belongs_to_seed_and_epoch():
    assert steps(1, epoch=3) == steps(1, epoch=3)
    assert steps(1, epoch=3) != steps(1, epoch=4)
    assert steps(1, seed=1) != steps(1, seed=2)


def test_every_row_trains_in_some_epoch():
    seen = {row for epoch in range(6) for step in steps(1, epoch) for row in step}
    assert seen == set(ROWS.tolist())


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_rows", [1, 3, 16, 64, 103])
def test_evaluation_covers_all_rows_in_equal_shares(num_rows, world_size):
    rows = ROWS[:num_rows]
    shares = [
        evaluation_batches(rows, 16, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    lengths = {tuple(len(batch) for batch in share) for share in shares}
    assert len(lengths) == 1
    assert all(0 < length <= 16 for length in lengths.pop())
    seen = np.concatenate([batch for share in shares for batch in share])
    assert set(seen.tolist()) == set(rows.tolist())
    assert len(seen) - num_rows < world_size


def test_batch_holds_normalised_images_labels_and_rows():
    images = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 2, 2)
    source = Source(
        images=images,
        labels=np.array([5, 6, 7]),
        mean=np.array([1.0, 2.0], dtype=np.float32),
        deviation=np.array([2.0, 4.0], dtype=np.float32),
    )
    loaded = load(ImageRows(source), [np.array([2, 0])], num_workers=0, pin_memory=False)
    (batch,) = list(loaded)
    expected = (images[[2, 0]] - np.array([[[1]], [[2]]])) / np.array([[[2]], [[4]]])
    assert torch.equal(batch["image"], torch.from_numpy(expected.astype(np.float32)))
    assert batch["image"].dtype == torch.float32
    assert (batch["label"].tolist(), batch["row"].tolist()) == ([7, 5], [2, 0])
