"""Generated images judged: lines of members and of their mixture, memorisation."""

import numpy as np
import pandas as pd
import pytest
import zarr
from generation_run import FAULT, NUM_FEATURES, make_generation_run

from lenshpc.data.decoded import Decoded
from lenshpc.errors import DataError
from lenshpc.run.completion import hash_outputs, mark_done
from lenshpc.statistics.image_metrics import blur
from lenshpc.tasks.diffusion.judge import powers, read_images, score_images
from lenshpc.tasks.diffusion.memorisation import measure_memorisation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_generation_run(tmp_path_factory.mktemp("generation"))


@pytest.fixture(scope="module")
def scores(run):
    return score_images(*run)


def test_lines_are_members_on_both_splits_and_the_mixture(scores, run):
    _, plan, *_ = run
    names = [member.name for member in plan.members]
    assert [(one.name, one.split, one.num_rows) for one in scores.lines] == [
        (names[0], "oof", 32),
        (names[0], "test", 32),
        (names[1], "oof", 32),
        (names[1], "test", 32),
        ("unet", "test", 32),
    ]
    assert scores.head.name == "unet"


def test_distances_stand_between_floor_and_control(scores):
    for line in scores.lines:
        one = line.measure("FD-lens")
        assert one.floor.mean < one.generated.mean < one.control.mean
        assert one.over_floor == one.generated.mean / one.floor.mean
        assert one.num_features == NUM_FEATURES
        assert one.whole == pytest.approx(NUM_FEATURES, rel=0.6)
        one = line.measure("KID-lens")
        assert one.floor.mean < one.generated.mean < one.control.mean


def test_members_take_turns_in_the_mixture(scores, run):
    parts = [read_images(*run, member, "test") for member in run[1].members]
    mixture = scores.images.pixels["sample"]
    for at in range(len(mixture)):
        assert np.array_equal(mixture[at], parts[at % 2].pixels["sample"][at])


def test_constant_fault_shows_in_pixels_and_profile(scores):
    for name in ("pixels", "radial profile"):
        one = scores.head.measure(name)
        assert one.floor.mean + FAULT / 4 < one.generated.mean < one.floor.mean + 2 * FAULT


def test_blurred_control_lacks_power_at_high_frequencies():
    noise = np.random.default_rng(0).normal(size=(50, 1, 32, 32)).astype(np.float32)
    before, after = (powers(images).mean(axis=0) for images in (noise, blur(noise)))
    assert before[-1] == pytest.approx(1, rel=0.1)
    assert after[-1] < 0.1


def test_copies_of_training_images_are_noticed_also_when_turned(tmp_path):
    paths, plan, splits, store = make_generation_run(tmp_path, folds=1, copies=True)
    images = read_images(paths, plan, splits, store, plan.members[0], "test")
    training = splits.loc[splits["split"] == "dev", "row"].to_numpy()
    decoded = Decoded(store, plan.recipe.data)
    found = measure_memorisation(images.pixels["sample"], images.pixels["real"], training, decoded)
    assert found.share_close == 1
    assert found.generated.distance.max() < 1e-6 < found.held_out.distance.min()
    copied = store.read(found.generated.row)[:, :, ::-1]
    np.testing.assert_allclose(copied, images.pixels["sample"], atol=1e-6)


def test_new_images_are_no_copies(scores, run):
    _, plan, splits, store = run
    training = splits.loc[splits["split"] == "dev", "row"].to_numpy()
    pixels = scores.images.pixels
    clean = pixels["sample"] - np.float32(FAULT)
    found = measure_memorisation(clean, pixels["real"], training, Decoded(store, plan.recipe.data))
    assert found.ratio == pytest.approx(1, abs=0.3)
    assert found.share_close < 0.3


def test_images_that_are_not_finite_are_refused(tmp_path):
    run = make_generation_run(tmp_path, folds=1)
    paths, plan, *_ = run
    array = zarr.open_array(paths.member(plan.members[0].name).arrays, path="sample", mode="r+")
    array[0, 0, 0, 0] = np.nan
    mark_done(paths, plan, plan.members[0], hash_outputs(paths.member(plan.members[0].name)), {})
    with pytest.raises(DataError, match="has an array 'sample' that is not finite everywhere"):
        score_images(*run)


@pytest.mark.parametrize(
    ("at", "column", "fault"),
    [
        ([0, 0], ["row", "id", "split"], "more than once"),
        ([1, 0], ["id"], "another id or split than the manifest"),
    ],
)
def test_images_whose_rows_are_not_the_members_are_refused(tmp_path, at, column, fault):
    run = make_generation_run(tmp_path, folds=1)
    paths, plan, *_ = run
    files = paths.member(plan.members[0].name)
    frame = pd.read_parquet(files.predictions)
    frame.loc[[0, 1], column] = frame.loc[at, column].to_numpy()
    frame.to_parquet(files.predictions, index=False)
    mark_done(paths, plan, plan.members[0], hash_outputs(files), {})
    with pytest.raises(DataError, match=fault):
        score_images(*run)
