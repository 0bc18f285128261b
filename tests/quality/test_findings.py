"""Planted defects are found, each with its number; a clean set raises nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import monte_carlo_test
from sklearn.metrics import roc_auc_score
from stores import write_rows

from lenshpc.errors import DataError
from lenshpc.quality.findings import find, tabulate
from lenshpc.quality.neighbours import find_copies, noise_level, possible_turns, turn_images
from lenshpc.quality.statistics import orientation, position_angles, shortcuts
from lenshpc.quality.survey import block_means, survey
from lenshpc.store import Pixels, StoreSpec, open_store

SIDE, NUM_TRAIN, NUM_TEST = 32, 160, 80
Y, X = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2


def galaxy(angle_rad, axis_ratio, x, y, flux=1.0, size=3.5):
    """Return an elliptic Gaussian; the angle is counter-clockwise with row 0 at the top."""
    across, up = X - x, -Y - y
    along = across * np.cos(angle_rad) + up * np.sin(angle_rad)
    aside = up * np.cos(angle_rad) - across * np.sin(angle_rad)
    return flux * np.exp(-(along**2 + (aside / axis_ratio) ** 2) / (2 * size**2))


def draw(seed=0, widest_rad=np.pi):
    """Return float32 images (n,1,H,W) of two galaxies each, with noise."""
    rng = np.random.default_rng(seed)
    images = [
        galaxy(rng.uniform(0, widest_rad), rng.uniform(0.3, 0.7), 0, 0, rng.uniform(0.5, 1.5))
        + galaxy(rng.uniform(0, np.pi), 0.8, *rng.uniform(-6, 6, 2), rng.uniform(0, 0.4), 1.5)
        for _ in range(NUM_TRAIN + NUM_TEST)
    ]
    return (np.stack(images)[:, None] + rng.normal(0, 0.01, (len(images), 1, SIDE, SIDE))).astype(
        np.float32
    )


def store_of(tmp_path, images, labels=None, rest="test"):
    num = len(images)
    rows = pd.DataFrame({"label": np.arange(num) % 2 if labels is None else labels})
    rows["split"] = ["train"] * NUM_TRAIN + [rest] * (num - NUM_TRAIN)
    rows["id"] = rows["group"] = [f"{index}.npy" for index in range(num)]
    spec = StoreSpec(
        dataset="planted",
        classes=("dim", "bright"),
        image=Pixels(
            shape=images.shape[1:],
            dtype="float32",
            channels=tuple("gri")[: images.shape[1]],
        ),
    )
    write_rows(tmp_path / "store", spec, rows, images)
    return open_store(tmp_path / "store")


def found_in(store):
    surveyed = survey(store, lambda done, total: None)
    tables = tabulate(store, surveyed, find_copies(store, surveyed))
    return tables, {one.title: one.gravity for one in find(store, tables)}


def leaks(tables):
    """Return (identical, near, turned) of test images against training ones."""
    (one,) = [line for line in tables["comparisons"] if line["query"] != line["reference"]]
    return one["num_identical"], one["num_near"], one["num_turned"]


def test_clean_set_raises_nothing(tmp_path):
    tables, titles = found_in(store_of(tmp_path, draw()))
    assert titles == {}
    assert leaks(tables) == (0, 0, 0)


def test_copies_across_splits_are_told_apart(tmp_path):
    images = draw()
    rng = np.random.default_rng(1)
    images[NUM_TRAIN : NUM_TRAIN + 3] = images[:3]
    noise = rng.normal(0, 0.004, images[3:7].shape)
    images[NUM_TRAIN + 3 : NUM_TRAIN + 7] = images[3:7] + noise
    images[NUM_TRAIN + 7] = images[7, :, ::-1].transpose(0, 2, 1)
    images[NUM_TRAIN + 8] = images[8, :, :, ::-1]
    tables, titles = found_in(store_of(tmp_path, images))
    assert leaks(tables) == (3, 4, 2)
    assert titles == {
        "3 of 80 test images have exactly the same pixels as a training image": "grave",
        "4 of 80 test images differ from a training image by no more than noise": "grave",
        "2 of 80 test images differ from a training image, turned or mirrored, by no more than "
        "noise": "grave",
    }


def test_copies_within_a_split_under_two_labels(tmp_path):
    images = draw()
    images[1] = images[0]
    tables, titles = found_in(store_of(tmp_path, images))
    assert titles == {
        "2 images have exactly the pixels of an image with another label": "grave",
        "2 of 160 training images have exactly the same pixels as another training image": (
            "warning"
        ),
    }
    assert tables["num_identical_files"] == 2


def test_unlabelled_copy_contradicts_no_label(tmp_path):
    images = draw()
    images[NUM_TRAIN] = images[0]
    labels = np.where(np.arange(len(images)) < NUM_TRAIN, np.arange(len(images)) % 2, -1)
    _, titles = found_in(store_of(tmp_path, images, labels, "unlabelled"))
    assert titles == {
        "1 of 80 unlabelled images have exactly the same pixels as a training image": "grave",
    }


def test_preferred_orientation(tmp_path):
    _, titles = found_in(store_of(tmp_path, draw(widest_rad=0.2)))
    (title,) = titles
    assert title.startswith(("100%", "9"))
    assert title.endswith("with random orientations it would be 17%")
    assert titles[title] == "warning"


def test_brightness_gives_the_class_away(tmp_path):
    images = draw()
    images[1::2] += 0.2
    store = store_of(tmp_path, images)
    surveyed = survey(store, lambda done, total: None)
    lines = {line["statistic"]: line for line in shortcuts(store, surveyed, surveyed.features)}
    labels, brightness = np.arange(NUM_TRAIN) % 2, images[:NUM_TRAIN].mean(axis=(1, 2, 3))
    assert lines["mean"]["auc"] == pytest.approx(roc_auc_score(labels, brightness))
    assert (lines["mean"]["higher"], lines["mean"]["lower"]) == ("bright", "dim")
    _, titles = found_in(store)
    assert list(titles.values()) == ["grave"]
    assert "alone separates bright from dim with an AUC of 1.000" in next(iter(titles))


def test_images_scaled_one_by_one(tmp_path):
    images = draw()
    low, high = images.min(axis=(2, 3), keepdims=True), images.max(axis=(2, 3), keepdims=True)
    tables, titles = found_in(store_of(tmp_path, (images - low) / (high - low)))
    assert tables["num_min_max"] == 240
    assert titles == {
        "240 of 240 images were scaled one by one: the image runs from exactly 0 to exactly 1": (
            "warning"
        )
    }


def test_constant_and_nan_images(tmp_path):
    images = draw()
    images[[5, 170]] = 0.5
    images[9, 0, 3, 3] = np.nan
    _, titles = found_in(store_of(tmp_path, images))
    assert titles == {
        "1 of 240 images contain NaN or infinite pixels": "grave",
        "2 of 240 images have the same value in every pixel": "grave",
    }


def test_store_of_constant_images_is_refused(tmp_path):
    store = store_of(tmp_path, np.zeros((NUM_TRAIN + NUM_TEST, 1, SIDE, SIDE), dtype=np.float32))
    with pytest.raises(DataError, match="has 0 images that are neither constant nor NaN"):
        found_in(store)


def test_position_angle_is_counter_clockwise_with_row_0_at_the_top(tmp_path):
    images = np.stack([galaxy(np.radians(angle), 0.5, 0, 0) for angle in (0, 30, 90, 150)] * 60)
    store = store_of(tmp_path, images[:, None].astype(np.float32))
    angles = position_angles(survey(store, lambda done, total: None).ellipticity[:4])
    apart = (angles - [0, 30, 90, 150] + 90) % 180 - 90
    np.testing.assert_allclose(apart, 0, atol=0.05)


def test_rayleigh_p_agrees_with_monte_carlo():
    rng = np.random.default_rng(0)
    angles = rng.vonmises(0, 0.35, 50) / 2 % np.pi
    drawn = monte_carlo_test(
        angles,
        lambda size: rng.uniform(0, np.pi, size),
        lambda values, axis: np.abs(np.exp(2j * values).mean(axis=axis)),
        vectorized=True,
        n_resamples=20000,
        alternative="greater",
    )
    assert orientation(np.degrees(angles))["p"] == pytest.approx(drawn.pvalue, abs=0.01)


def test_block_means_commute_with_turns():
    images = np.random.default_rng(0).random((2, 3, 37, 37), dtype=np.float32)
    for turn in possible_turns(images.shape):
        turned = block_means(np.ascontiguousarray(turn_images(images, turn)))
        np.testing.assert_allclose(turned, turn_images(block_means(images), turn), rtol=1e-5)


def test_block_means_of_whole_blocks():
    images = np.random.default_rng(0).random((1, 1, 32, 64), dtype=np.float32)
    expected = images.reshape(1, 1, 16, 2, 16, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(block_means(images), expected, rtol=1e-5)


def test_noise_level_of_noise_on_a_smooth_image():
    noisy = 50 * galaxy(0.3, 0.8, 0, 0, size=9) + np.random.default_rng(0).normal(
        0, 2, (40, 1, SIDE, SIDE)
    )
    assert noise_level(noisy).mean() == pytest.approx(2, rel=0.02)
