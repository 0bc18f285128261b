"""The decoded copy of a store that a node's ranks share."""

import tempfile

import numpy as np
import pytest

from lenshpc.data.cache import decoded_shape, open_images

NAME = "abc-0"


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def opened(store, size=None, barrier=lambda: None):
    return open_images(store, size, token=NAME, fills=True, barrier=barrier)


@pytest.mark.usefixtures("scratch")
def test_images_are_those_of_the_store(spots):
    images = opened(spots)
    assert np.array_equal(images, spots.read(slice(None)))
    assert (images.dtype, images.shape) == (np.float32, (120, *decoded_shape(spots, None)))
    assert not images.flags.writeable


@pytest.mark.usefixtures("scratch")
def test_smaller_images_are_means_over_areas(spots):
    images = opened(spots, 16)
    blocks = spots.read(slice(None)).reshape(120, 1, 16, 2, 16, 2)
    np.testing.assert_allclose(images, blocks.mean(axis=(3, 5)), rtol=1e-5)


@pytest.mark.usefixtures("scratch")
def test_larger_images_keep_their_mean(spots):
    images = opened(spots, 64)
    assert images.shape == (120, 1, 64, 64)
    own = spots.read(slice(None)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), own, rtol=0.01)


def test_file_is_there_between_the_barriers_and_gone_after(spots, scratch):
    seen = []
    images = opened(spots, barrier=lambda: seen.append(sorted(p.name for p in scratch.iterdir())))
    assert seen == [["lenshpc-abc-0.npy"]] * 2
    assert list(scratch.iterdir()) == []
    assert np.isfinite(images[119]).all()


def test_other_rank_maps_what_the_first_has_filled(spots, scratch):
    del scratch
    others = []

    def join():
        if not others:
            others.append(None)  # the inner call has barriers of its own
            others[0] = open_images(spots, None, token=NAME, fills=False, barrier=lambda: None)

    assert np.array_equal(opened(spots, barrier=join), others[0])
