"""An image's augmentation belongs to (seed, epoch, row) and nothing else."""

import numpy as np
import pytest

from lenshpc.data.augment import Augmenter

IMAGE = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)


def symmetries(image):
    """Return the eight images that turns and mirrors make of one."""
    turns = [np.rot90(image, k, axes=(1, 2)) for k in range(4)]
    return [turned for turn in turns for turned in (turn, turn[:, :, ::-1])]


@pytest.mark.parametrize("names", [["d4"], ["affine"], ["d4", "affine"]])
def test_equal_seed_epoch_and_row_give_the_same_image(names):
    first, second = Augmenter(names, seed=5), Augmenter(names, seed=5)
    for other_row in range(3):  # what came before does not matter
        second(IMAGE, 9, other_row)
    assert np.array_equal(first(IMAGE, 2, 17), second(IMAGE, 2, 17))


@pytest.mark.parametrize("names", [["d4"], ["affine"]])
@pytest.mark.parametrize("what", ["seed", "epoch", "row"])
def test_other_seed_epoch_or_row_gives_another_image(names, what):
    images = []
    for value in range(12):
        key = {"seed": 0, "epoch": 0, "row": 0, what: value}
        images.append(Augmenter(names, key["seed"])(IMAGE, key["epoch"], key["row"]).tobytes())
    assert len(set(images)) > 3


def test_d4_gives_all_symmetries_and_nothing_else():
    augmenter = Augmenter(["d4"], seed=0)
    known = {image.tobytes() for image in symmetries(IMAGE)}
    assert len(known) == 8
    assert {augmenter(IMAGE, 0, row).tobytes() for row in range(200)} == known


def test_d4_keeps_the_pixels_and_their_channels():
    turned = Augmenter(["d4"], seed=1)(IMAGE, 3, 4)
    pixels = [sorted(map(tuple, image.reshape(3, -1).T.tolist())) for image in (IMAGE, turned)]
    assert pixels[0] == pixels[1]
    assert (turned.dtype, turned.shape) == (np.float32, IMAGE.shape)


def test_affine_keeps_shape_and_scale():
    turned = Augmenter(["affine"], seed=1)(IMAGE + 1000, 0, 0)
    assert (turned.dtype, turned.shape) == (np.float32, IMAGE.shape)
    assert abs(float(turned.mean()) - 1000) < 1


def test_single_channel_keeps_its_axis():
    assert Augmenter(["d4", "affine"], seed=0)(IMAGE[:1], 0, 0).shape == (1, 8, 8)
