"""Which rows a rank sees, and in which order."""

from collections import Counter

import numpy as np
import pytest

from lenshpc.data.order import TrainingOrder, evaluation_batches, window_rows

NUM_ROWS = 6000
LABELS = (np.random.default_rng(0).random(NUM_ROWS) < 0.1).astype(np.int64)
FOLD = np.flatnonzero(np.random.default_rng(1).random(NUM_ROWS) < 0.8)  # a subset with gaps
FEW = np.arange(1000, 1103)  # 103 rows: 6 steps of 16, and 7 over
WAYS = pytest.mark.parametrize("window", [None, 512], ids=["resident", "stream"])


def steps(order, world_size, epoch=0):
    """Return each step's rows over all ranks, sorted; all ranks have equally many."""
    shares = [order.batches(epoch, rank=rank, world_size=world_size) for rank in range(world_size)]
    merged = [np.concatenate(step) for step in zip(*shares, strict=True)]
    assert {len(batch) for share in shares for batch in share} == {order.batch_size // world_size}
    return [sorted(step.tolist()) for step in merged]


def made(rows=FEW, batch_size=16, **settings):
    return TrainingOrder(
        **{"rows": rows, "labels": LABELS, "batch_size": batch_size, "seed": 0} | settings
    )


@WAYS
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("rows", [FEW, FOLD], ids=["few", "fold"])
def test_row_trains_at_most_once_an_epoch_and_all_but_the_last_step_do(window, world_size, rows):
    order = made(rows, window=window)
    seen = [row for step in steps(order, world_size) for row in step]
    assert len(seen) == len(set(seen)) == order.num_steps * 16 == len(rows) // 16 * 16
    assert set(seen) <= set(rows.tolist())


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_resident_ranks_together_take_the_steps_of_one(world_size, sampling):
    order = made(FOLD, sampling=sampling)
    assert steps(order, world_size) == steps(order, 1)


@WAYS
def test_order_belongs_to_seed_and_epoch(window):
    order = made(FOLD, window=window)
    assert steps(order, 1, epoch=3) == steps(made(FOLD, window=window), 1, epoch=3)
    assert steps(order, 1, epoch=3) != steps(order, 1, epoch=4)
    assert steps(order, 1) != steps(made(FOLD, window=window, seed=1), 1)


@WAYS
def test_every_row_trains_in_some_epoch(window):
    order = made(window=window)
    seen = {row for epoch in range(9) for step in steps(order, 1, epoch) for row in step}
    assert seen == set(FEW.tolist())


@pytest.mark.parametrize("world_size", [1, 2])
def test_stream_reads_each_block_in_one_window_of_one_rank(world_size):
    """Blocks of 32 rows; a cut between windows or ranks shares at most one block."""
    order = made(np.arange(NUM_ROWS), window=512)
    windows = []
    for rank in range(world_size):
        batches = order.batches(0, rank=rank, world_size=world_size)
        length = 512 // len(batches[0])
        parts = (batches[start : start + length] for start in range(0, len(batches), length))
        windows += [np.unique(np.concatenate(part) // 32) for part in parts]
    assert max(map(len, windows)) <= 18
    times = Counter(np.concatenate(windows).tolist())
    assert set(times) == set(range(-(-NUM_ROWS // 32)))
    assert sum(times.values()) - len(times) < len(windows)


def test_stream_mixes_within_a_window():
    """A batch of 16 out of a window of 16 blocks of 32 rows comes from about ten blocks."""
    batches = made(np.arange(NUM_ROWS), window=512).batches(0, rank=0, world_size=1)
    expected = 16 * (1 - (15 / 16) ** 16)
    assert np.mean([len(set(batch // 32)) for batch in batches]) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize(
    ("image_bytes", "rows"),
    [(1, 2048), (3 * 64 * 64 * 4, 2048), (2**17, 2048), (2**18, 1024), (2**19, 512), (2**24, 512)],
)
def test_window_is_bounded_in_bytes_but_keeps_sixteen_chunks(image_bytes, rows):
    assert window_rows(image_bytes) == rows


@WAYS
@pytest.mark.parametrize("world_size", [1, 4])
def test_balanced_epoch_draws_classes_equally_and_a_row_again_only_when_all_have_come(
    window, world_size
):
    order = made(FOLD, batch_size=4, sampling="balanced", window=window)
    visits = np.concatenate(steps(order, world_size))
    rows, times = visits % NUM_ROWS, visits // NUM_ROWS
    assert set(rows) <= set(FOLD.tolist())
    drawn = np.bincount(LABELS[rows])
    assert abs(int(drawn[0]) - int(drawn[1])) <= 4  # the rest below a step is left out
    rare = FOLD[LABELS[FOLD] == 1]
    counts = Counter(rows[LABELS[rows] == 1].tolist())
    whole = len(FOLD) // 2 // len(rare)
    assert set(counts) == set(rare.tolist())
    assert {abs(count - whole) <= 1 for count in counts.values()} == {True}
    assert Counter(rows[LABELS[rows] == 0].tolist()).most_common(1)[0][1] == 1
    assert len(set(visits.tolist())) == len(visits)  # the n-th visit of a row has the number n
    assert times.max() in (whole, whole - 1)


def test_balanced_epochs_draw_other_rows_of_the_large_class():
    order = made(FOLD, sampling="balanced")
    first, second = (
        {
            row
            for step in steps(order, 1, epoch)
            for row in step
            if row < NUM_ROWS and not LABELS[row]
        }
        for epoch in (0, 1)
    )
    assert first != second


def test_balanced_sampling_of_equal_classes_takes_every_row_once():
    rows = np.concatenate([np.flatnonzero(label == LABELS)[:40] for label in (0, 1)])
    seen = np.concatenate(steps(made(rows, sampling="balanced"), 1)).tolist()
    assert sorted(seen) == sorted(rows.tolist())


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_rows", [1, 3, 16, 64, 103])
def test_evaluation_covers_all_rows_in_equal_shares(num_rows, world_size):
    rows = FEW[:num_rows]
    shares = [
        evaluation_batches(rows, 16, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    lengths = {tuple(len(batch) for batch in share) for share in shares}
    assert len(lengths) == 1
    assert all(0 < length <= 16 for length in lengths.pop())
    seen = np.concatenate([batch for share in shares for batch in share])
    assert set(seen.tolist()) == set(rows.tolist())
    assert len(seen) - num_rows < world_size
