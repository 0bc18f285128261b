import numpy as np
import pytest

from lenshpc.statistics import radial
from lenshpc.statistics.radial import RADIAL_NUMBERS, radial_numbers, radial_profile

SIDE = 64


def radii(side=SIDE):
    y, x = np.indices((side, side)) - (side - 1) / 2
    return np.hypot(y, x)


def rings(radius, width=2.0, side=SIDE):
    return np.exp(-((radii(side) - radius) ** 2) / (2 * width**2))


def numbers(image):
    return dict(zip(RADIAL_NUMBERS, radial_numbers(image[None, None])[0], strict=True))


@pytest.mark.parametrize("side", [9, 10])
def test_profile_is_the_mean_over_rings_of_one_pixel(side):
    images = np.random.default_rng(0).normal(size=(3, side, side))
    found = radial_profile(images)
    assert found.shape == (3, side // 2)
    for at in range(side // 2):
        ring = (radii(side) >= at) & (radii(side) < at + 1)
        np.testing.assert_allclose(found[:, at], images[:, ring].mean(axis=1))


@pytest.mark.parametrize("radius", [8, 13, 20])
@pytest.mark.parametrize("lens_light", [0.0, 3.0])
def test_ring_is_found_under_a_bright_lens_and_sky(radius, lens_light):
    image = rings(radius) + lens_light * np.exp(-(radii() ** 2) / 8) + 0.5
    found = numbers(image)
    assert found["ring_radius_px"] == pytest.approx(radius, abs=1)
    assert found["ring_height"] == pytest.approx(1, abs=0.1)
    assert found["ring_width_px"] == pytest.approx(2, abs=0.5)
    assert found["inner_slope"] > 0 > found["outer_slope"]
    assert found["total"] == pytest.approx(image.mean())
    assert (found["centre"] > 1) == (lens_light > 0)


def test_numbers_do_not_change_when_the_image_is_turned_or_mirrored():
    images = np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE))
    expected = radial_numbers(images)
    for other in (np.rot90(images, axes=(2, 3)), images[..., ::-1]):
        np.testing.assert_allclose(radial_numbers(other), expected)


def test_channels_count_by_their_mean():
    images = np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE))
    mean = images.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(radial_numbers(images), radial_numbers(mean))


def test_constant_image_has_finite_numbers():
    found = numbers(np.full((4, 4), 2.0))
    assert np.isfinite(list(found.values())).all()
    assert found["total"] == 2


def test_numbers_of_a_store_do_not_depend_on_the_block(spots, monkeypatch):
    whole = radial.read_image_numbers(spots, np.arange(120))
    images = spots.read(slice(0, 120))
    np.testing.assert_allclose(whole.median, np.median(images, axis=(1, 2, 3)))
    np.testing.assert_allclose(whole.radial, radial_numbers(images))
    monkeypatch.setattr(radial, "BLOCK_VALUES", 1)
    said = []
    parts = radial.read_image_numbers(spots, np.arange(120), said.append)
    np.testing.assert_array_equal(parts.radial, whole.radial)
    assert said[-1] == "measured 120 of 120 images for the baselines"
    assert len(said) > 1


def test_large_store_is_seen_in_whole_chunks_chosen_at_random(spots, monkeypatch):
    np.testing.assert_array_equal(radial.choose_rows(spots), np.arange(120))
    size = spots.chunk_rows
    monkeypatch.setattr(radial, "MAX_IMAGES", 3 * size)
    found = radial.choose_rows(spots)
    chunks, counts = np.unique(found // size, return_counts=True)
    assert len(chunks) == 3
    assert (counts[chunks < 120 // size] == size).all()
    assert (np.diff(found) > 0).all()
    images = radial.read_image_numbers(spots, found)
    np.testing.assert_array_equal(
        images.median, radial.read_image_numbers(spots, np.arange(120)).median[found]
    )
