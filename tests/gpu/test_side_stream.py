"""Batches that a side stream prepares while steps are taken are those of the steps' own stream."""

import numpy as np
import pytest
import torch

from lenshpc.data.augment import Augmenter
from lenshpc.data.batches import BatchSource, Preparation
from lenshpc.data.prefetch import prepare_ahead
from lenshpc.data.readers import InMemory, OnDevice
from lenshpc.run.augmentations import AUGMENTATIONS
from lenshpc.run.sections import Data

NUM_ROWS, SIDE = 512, 32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", [False, True], ids=["in RAM", "on the GPU"])
def test_batches_of_a_side_stream_are_those_without_it(resident):
    gpu = torch.device("cuda", 0)
    images = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, 3, SIDE, SIDE)).astype(np.uint8)
    held = torch.from_numpy(images).to(gpu)
    source = BatchSource(
        reader=OnDevice(held) if resident else InMemory(images, gpu),
        labels=np.arange(NUM_ROWS) % 2,
        preparation=Preparation(
            scale=1 / 255, mean=np.full(3, 0.4, np.float32), std=np.full(3, 0.2, np.float32)
        ),
        device=gpu,
    )
    augmenter = Augmenter(Data(augment=sorted(AUGMENTATIONS)).augment, 0)
    visits = [*np.random.default_rng(1).permutation(NUM_ROWS).reshape(-1, 32)]
    expected = [batch["image"].cpu() for batch in source.batches(visits, augmenter)]
    weights = torch.randn(4096, 4096, device=gpu)
    seen = []
    for batch in prepare_ahead(source.batches(visits, augmenter), gpu):
        # A step that is still to come when the next batch is prepared, and takes its memory if it
        # may: the image is read after these products.
        for _ in range(20):
            weights = torch.tanh(weights @ weights)
        seen.append(batch["image"] + 0 * weights[0, 0])
        del batch
    for one, other in zip(expected, seen, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=0, atol=1e-6)
