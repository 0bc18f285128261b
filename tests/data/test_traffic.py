"""What passes between CPU and GPU in an epoch: pixels once a step, all else once an epoch."""

import numpy as np
import pandas as pd
import pytest
import torch
from accelerator import GPU, pretend_gpu

from lenshpc.data.augment import Augmenter
from lenshpc.data.batches import BatchSource, Preparation, Targets
from lenshpc.data.fold import FoldData, Unlabelled
from lenshpc.data.order import TrainingOrder, UnlabelledOrder, evaluation_batches
from lenshpc.data.readers import InMemory, OnDevice
from lenshpc.data.smote import SyntheticPairs
from lenshpc.run.augmentations import AUGMENTATIONS
from lenshpc.run.sections import Data

CPU = torch.device("cpu")
NUM_ROWS, NUM_STEPS = 48, 6
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (NUM_ROWS, 1, 12, 12)).astype(np.uint8)
TARGETS = RNG.random((NUM_ROWS, 1, 24, 24), dtype=np.float32)
LABELS = np.arange(NUM_ROWS) % 4
EVERY = sorted(AUGMENTATIONS)
# What comes with the images, and how they are prepared.
KINDS = {
    "plain": {},
    "pairs": {"with_targets": True},
    "synthetic": {"num_synthetic": 8},
    "unlabelled": {"with_views": True},
    "rare": {"augment_minority": ["noise", "flips"]},
    "by image": {"each_image": True},
    "stretched": {"stretch": "asinh"},
    "coloured": {"repeats": 3},
}


def reader(images, device, resident):
    if resident:
        return OnDevice(torch.from_numpy(images.copy()).to(device))
    return InMemory(images, device)


def pairs(num):
    first, second = (np.arange(num) % NUM_ROWS for _ in range(2))
    weights = np.full(num, 0.25, np.float32)
    return SyntheticPairs(num_rows=NUM_ROWS, firsts=first, seconds=second[::-1], weights=weights)


def fold(
    device,
    augment,
    *,
    resident=False,
    with_targets=False,
    num_synthetic=0,
    with_views=False,
    augment_minority=(),
    repeats=1,
    **prepared,
):
    labels = np.concatenate([LABELS, np.ones(num_synthetic, np.int64)])
    mean, std = np.full(repeats, 0.3, np.float32), np.full(repeats, 0.2, np.float32)
    source = BatchSource(
        reader=reader(IMAGES, device, resident),
        labels=labels,
        preparation=Preparation(scale=1 / 255, mean=mean, std=std, repeats=repeats, **prepared),
        device=device,
        pairs=pairs(num_synthetic),
        targets=Targets(reader=reader(TARGETS, device, resident), scale=1.0)
        if with_targets
        else None,
    )
    data = Data(augment=augment, augment_minority=augment_minority)
    views = Unlabelled(
        order=UnlabelledOrder(rows=np.arange(20), num_labels=len(labels), num_a_step=16, seed=1),
        strong=Augmenter((*data.augment, *Data(augment=["contrast"]).augment), 1),
    )
    rows = np.arange(len(labels))
    return FoldData(
        store=None,
        source=source,
        training=TrainingOrder(rows=rows, labels=labels, batch_size=8, seed=1, sampling="balanced"),
        val_rows=np.arange(20),
        scored=pd.DataFrame(),
        augmenter=Augmenter(data.augment, 1, data.augment_minority, labels == 2),
        unlabelled=views if with_views else None,
    )


def train(data, epoch):
    """Return the batches of an epoch, from its second step on."""
    return [*data.training_batches(epoch, rank=0, world_size=1, done=1)]


@pytest.mark.parametrize("augment", [["d4"], EVERY, []], ids=["d4", "every", "none"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resident", [False, True], ids=["in RAM", "on the GPU"])
def test_an_epoch_sends_pixels_once_a_step_and_waits_for_nothing(augment, kind, resident):
    expected = train(fold(CPU, augment, **KINDS[kind]), 1)
    readers = 2 if kind == "pairs" else 1
    with pretend_gpu() as traffic:
        data = fold(GPU, augment, resident=resident, **KINDS[kind])
        # An epoch's first copies are constants, which the next epochs have already.
        train(data, 0)
        traffic.clear()
        found = train(data, 1)
        # Its values are one copy, and the rows of each reader's resident images one more.
        pixels = readers if resident else readers * len(found)
        assert (traffic.sent, traffic.fetched, traffic.reads) == (1 + pixels, 0, 0), traffic.where
        found = [{key: value.cpu() for key, value in batch.items()} for batch in found]
    assert len(found) == len(expected) == (6 if kind == "synthetic" else 5)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], rtol=0, atol=2e-4, msg=key)


@pytest.mark.parametrize("resident", [False, True], ids=["in RAM", "on the GPU"])
def test_evaluation_sends_pixels_once_a_batch(resident):
    batches = evaluation_batches(np.arange(20), 6, rank=0, world_size=1)
    with pretend_gpu() as traffic:
        source = fold(GPU, ["d4"], resident=resident).source
        list(source.batches(batches[:1]))
        traffic.clear()
        found = list(source.batches(batches))
        pixels = 1 if resident else len(batches)
        assert (traffic.sent, traffic.fetched, traffic.reads) == (1 + pixels, 0, 0), traffic.where
        assert [batch["row"].cpu().tolist() for batch in found] == [
            some.tolist() for some in batches
        ]


def test_constants_are_sent_once_a_training():
    with pretend_gpu() as traffic:
        data = fold(GPU, ["d4"])
        counts = []
        for epoch in range(3):
            traffic.clear()
            train(data, epoch)
            counts.append(traffic.sent)
    assert counts == [
        5 + 1 + 2,
        5 + 1,
        5 + 1,
    ]  # pixels of each step, an epoch's values, mean and std


def test_an_epoch_of_many_blocks_gives_the_same_batches(monkeypatch):
    """A survey's epoch is drawn block by block."""
    whole = train(fold(CPU, EVERY, **KINDS["rare"]), 1)
    monkeypatch.setattr("lenshpc.data.batches.BLOCK_VISITS", 16)
    for one, other in zip(whole, train(fold(CPU, EVERY, **KINDS["rare"]), 1), strict=True):
        assert all(torch.equal(value, other[key]) for key, value in one.items())
