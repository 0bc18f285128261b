"""Batches as the network sees them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lenshpc.data.augment import Augmenter
from lenshpc.data.batches import BatchSource, Preparation, Targets
from lenshpc.data.readers import InMemory
from lenshpc.data.smote import SyntheticPairs
from lenshpc.run.sections import Data

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 2, 8, 8)).astype(np.uint8)


def source(images, scale, mean, std, **more):
    return BatchSource(
        reader=InMemory(images, CPU),
        labels=np.arange(100, 100 + len(images)),
        preparation=Preparation(
            scale=scale,
            mean=np.array(mean, dtype=np.float32),
            std=np.array(std, dtype=np.float32),
            **more,
        ),
        device=CPU,
    )


def test_batch_holds_normalised_images_labels_and_rows():
    images = IMAGES.astype(np.float32)
    (batch,) = source(images, 1.0, [1, 2], [2, 4]).batches([np.array([2, 0])])
    expected = (images[[2, 0]] - np.array([[[1]], [[2]]])) / np.array([[[2]], [[4]]])
    assert torch.equal(batch["image"], torch.from_numpy(expected.astype(np.float32)))
    assert batch["image"].dtype == torch.float32
    assert (batch["label"].tolist(), batch["row"].tolist()) == ([102, 100], [2, 0])


@pytest.mark.parametrize(("mean", "std"), [([0, 0], [1, 1]), ([0.5, 0.4], [0.2, 0.3])])
@pytest.mark.parametrize("augment", [(), ("contrast",)])
def test_bytes_are_scaled_before_all_else(mean, std, augment):
    rows = [np.array([3, 1]), np.array([5])]
    augmenter = Augmenter(Data(augment=augment).augment, 0) if augment else None
    found = source(IMAGES, 1 / 255, mean, std).batches(rows, augmenter)
    floats = IMAGES.astype(np.float32) / np.float32(255)
    expected = source(floats, 1.0, mean, std).batches(rows, augmenter)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one["image"], other["image"], rtol=0, atol=2e-6)


def test_images_of_the_store_stay_as_they_are():
    images = IMAGES.astype(np.float32)
    before = images.copy()
    list(source(images, 1.0, [1, 2], [2, 4]).batches([np.arange(12)]))
    assert np.array_equal(images, before)


def test_row_that_comes_again_is_augmented_anew():
    augmenter = Augmenter(Data(augment=["affine"]).augment, 0)
    visits = np.array([4, 4 + 12, 4 + 24])  # of 12 rows: row 4 for the first, second, third time
    (batch,) = source(IMAGES, 1 / 255, [0, 0], [1, 1]).batches([visits], augmenter)
    assert batch["row"].tolist() == [4, 4, 4]
    assert len({image.numpy().tobytes() for image in batch["image"]}) == 3


def test_targets_are_turned_and_normalised_like_their_images():
    images = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 1, 4, 4)
    targets = images.repeat(2, axis=2).repeat(2, axis=3)
    pairs = replace(
        source(images, 1.0, [3], [2]),
        targets=Targets(reader=InMemory(targets, CPU), scale=1.0),
    )
    augmenter = Augmenter(Data(augment=["d4", "flips"]).augment, 5)
    (batch,) = pairs.batches([np.array([1, 0])], augmenter, epoch=2)
    coarse = batch["target"][:, :, ::2, ::2]
    assert torch.equal(coarse, batch["image"])
    assert not torch.equal(
        batch["image"][:, 0].sort().values[0], (torch.from_numpy(images[1]) - 3) / 2
    )


def test_synthetic_rows_come_with_both_parents_and_their_weights():
    images = IMAGES.astype(np.float32)
    made = SyntheticPairs(
        num_rows=12,
        firsts=np.array([3, 5]),
        seconds=np.array([4, 3]),
        weights=np.array([0.25, 0.5], np.float32),
    )
    mixed = replace(source(images, 1.0, [0, 0], [1, 1]), labels=np.arange(14) % 2, pairs=made)
    (batch,) = mixed.batches([np.array([13, 1, 12])])
    assert torch.equal(batch["image"], torch.from_numpy(images[[5, 1, 3]]))
    assert torch.equal(batch["partner"], torch.from_numpy(images[[3, 1, 4]]))
    assert batch["mix"].tolist() == [0.5, 0, 0.25]
    assert batch["mixed"].tolist() == [0, 2]
    assert (batch["label"].tolist(), batch["row"].tolist()) == ([1, 1, 0], [13, 1, 12])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sqrt", [0, 0, np.sqrt(0.05), 1]),
        ("asinh", [-1, 0, np.arcsinh(1) / np.arcsinh(20), 1]),
        ("log", [0, 0, np.log(2) / np.log(21), 1]),
    ],
)
def test_stretch_keeps_zero_and_one(kind, expected):
    images = np.array([-1, 0, 0.05, 1], np.float32).reshape(1, 1, 2, 2)
    (batch,) = source(images, 1.0, [0], [1], stretch=kind).batches([np.array([0])])
    np.testing.assert_allclose(batch["image"].flatten(), np.array(expected), atol=1e-6)


def test_each_image_is_normalised_by_itself():
    (batch,) = source(IMAGES, 1 / 255, [0, 0], [1, 1], each_image=True).batches([np.arange(12)])
    flat = batch["image"].flatten(2)
    torch.testing.assert_close(flat.mean(2), torch.zeros(12, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(2, correction=0), torch.ones(12, 2), atol=1e-5, rtol=0)


def test_grey_images_become_three_channels_before_normalisation():
    grey = IMAGES[:, :1].astype(np.float32)
    (batch,) = source(grey, 1.0, [1, 2, 3], [1, 2, 4], repeats=3).batches([np.array([2])])
    expected = [(grey[2, 0] - mean) / std for mean, std in ((1, 1), (2, 2), (3, 4))]
    np.testing.assert_allclose(batch["image"][0], np.stack(expected), rtol=1e-6)


def test_rare_rows_get_further_steps_and_the_others_none():
    rare = np.arange(12) % 4 == 0
    augmenter = Augmenter((), 0, Data(augment=["noise"]).augment, rare)
    images = IMAGES.astype(np.float32)
    (batch,) = source(images, 1.0, [0, 0], [1, 1]).batches([np.arange(12)], augmenter)
    changed = (batch["image"] != torch.from_numpy(images)).flatten(1).any(1).numpy()
    assert changed.tolist() == rare.tolist()
