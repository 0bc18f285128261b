"""Batches as the network sees them."""

import numpy as np
import pytest
import torch

from lenshpc.data.augment import Augmenter
from lenshpc.data.batches import Source
from lenshpc.data.readers import InMemory
from lenshpc.recipe import Data

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 2, 8, 8)).astype(np.uint8)


def source(images, scale, mean, deviation):
    return Source(
        reader=InMemory(images, CPU),
        scale=scale,
        labels=np.arange(100, 100 + len(images)),
        mean=np.array(mean, dtype=np.float32),
        deviation=np.array(deviation, dtype=np.float32),
        device=CPU,
    )


def test_batch_holds_normalised_images_labels_and_rows():
    images = IMAGES.astype(np.float32)
    (batch,) = source(images, 1.0, [1, 2], [2, 4]).batches([np.array([2, 0])])
    expected = (images[[2, 0]] - np.array([[[1]], [[2]]])) / np.array([[[2]], [[4]]])
    assert torch.equal(batch["image"], torch.from_numpy(expected.astype(np.float32)))
    assert batch["image"].dtype == torch.float32
    assert (batch["label"].tolist(), batch["row"].tolist()) == ([102, 100], [2, 0])


@pytest.mark.parametrize(("mean", "deviation"), [([0, 0], [1, 1]), ([0.5, 0.4], [0.2, 0.3])])
@pytest.mark.parametrize("augment", [(), ("contrast",)])
def test_bytes_are_scaled_before_all_else(mean, deviation, augment):
    rows = [np.array([3, 1]), np.array([5])]
    augmenter = Augmenter(Data(augment=augment).augment, 0) if augment else None
    found = source(IMAGES, 1 / 255, mean, deviation).batches(rows, augmenter)
    floats = IMAGES.astype(np.float32) / np.float32(255)
    expected = source(floats, 1.0, mean, deviation).batches(rows, augmenter)
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
