"""Members' images merged and measured."""

import cv2
import numpy as np
import pandas as pd
import pytest
import zarr
from pairs_run import FAULT, NOISE, PairsRun, images_of, make_pairs_run

from lenshpc.errors import DataError
from lenshpc.run.completion import hash_outputs, mark_done
from lenshpc.tasks.super_resolution.images import MAX_BLOCK_ROWS, RunImages, open_images
from lenshpc.tasks.super_resolution.judge import score_images


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> PairsRun:
    return make_pairs_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def run(tmp_path) -> PairsRun:
    return make_pairs_run(tmp_path)


def opened(run: PairsRun, missing=()) -> RunImages:
    return open_images(run.paths, run.plan, run.splits, run.store, missing)


@pytest.fixture(scope="module")
def judged(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged") / "sr.zarr"
    return score_images(opened(whole), folder), zarr.open_group(folder, mode="r")


def expected_images(run: PairsRun, row: int, test: bool, models=("edsr", "rcan")) -> np.ndarray:
    """Return the mean of the images that the members made of a row."""
    splits = run.splits
    found = []
    for member in run.plan.members:
        oof = splits.loc[splits["fold"] == member.fold, "row"].to_numpy()
        testing = splits.loc[splits["split"] == "test", "row"].to_numpy()
        rows = np.concatenate([oof, testing])
        if member.model in models and row in (testing if test else oof):
            found.append(images_of(run.store, member, rows)[np.flatnonzero(rows == row)[0]])
    return np.mean(found, axis=0)


def test_merged_images_are_means_over_the_members_of_a_row(whole, judged):
    scores, group = judged
    array = group["sr"]
    assert scores.headline == "ensemble"
    assert array.shape == (50, 1, 32, 32)
    rows = scores.rows
    for at in (0, 17, 49):
        expected = expected_images(whole, rows["row"][at], rows["split"][at] == "test")
        np.testing.assert_allclose(array[at], expected, atol=1e-6)
    assert group["row"][:].tolist() == rows["row"].tolist()
    assert array.shards[0] == MAX_BLOCK_ROWS


def test_lines_are_the_interpolations_the_models_and_their_ensemble(judged):
    scores, _ = judged
    assert [(one.name, one.kind) for one in scores.lines] == [
        *((name, "baseline") for name in ("nearest", "bilinear", "bicubic", "Lanczos")),
        ("edsr", "model"),
        ("rcan", "model"),
        ("ensemble", "ensemble"),
    ]


def test_psnr_is_the_mean_over_images_of_what_the_faults_give(judged):
    scores, _ = judged
    # Test rows average two members a model, four in the ensemble; out-of-fold rows one and two.
    for name, num_oof, num_test in (("edsr", 1, 2), ("rcan", 1, 2), ("ensemble", 2, 4)):
        line = scores.line(name)
        for quality, num in ((line.oof, num_oof), (line.test, num_test)):
            assert quality.psnr == pytest.approx(-10 * np.log10(FAULT**2 / num), abs=0.1)
            assert quality.num_covered == quality.num_rows
            low, high = quality.intervals["psnr"]
            assert low < quality.psnr < high
    assert scores.line("edsr").ensemble_gain_db == pytest.approx(10 * np.log10(2), abs=0.1)
    assert scores.line("ensemble").ensemble_gain_db == pytest.approx(10 * np.log10(4), abs=0.1)


def test_gain_is_measured_against_opencv_bicubic(whole, judged):
    scores, _ = judged
    rows = scores.rows
    testing = rows["split"] == "test"
    store_rows = rows.loc[testing, "row"].to_numpy()
    low, high = whole.store.read(store_rows), whole.store.read_raw_targets(store_rows)
    large = [cv2.resize(one[0], (32, 32), interpolation=cv2.INTER_CUBIC) for one in low]
    psnr = -10 * np.log10(((np.stack(large) - high[:, 0]) ** 2).mean(axis=(1, 2)))
    np.testing.assert_allclose(rows.loc[testing, "bicubic:psnr"], psnr, rtol=1e-5)
    edsr = scores.line("edsr").test
    assert edsr.gain_db == pytest.approx(edsr.psnr - psnr.mean(), abs=1e-4)
    assert scores.line("bicubic").test.gain_db == 0
    assert edsr.intervals["gain_db"][0] > 0


def test_rings_move_little_in_good_images(judged):
    scores, _ = judged
    edsr, nearest = scores.line("edsr").test, scores.line("nearest").test
    assert edsr.ring_shift_px < 0.02
    assert edsr.ring_shift_px < nearest.ring_shift_px
    assert edsr.profile_mse < nearest.profile_mse


def test_spectrum_knows_noise_and_correlation(judged):
    scores, _ = judged
    truth, edsr = scores.truth, scores.line("edsr").spectrum
    assert truth.noise == pytest.approx(NOISE**2, rel=0.1)
    assert 0.1 < truth.knee < 0.45
    below = truth.frequency < truth.knee
    np.testing.assert_allclose(edsr.ratio[below], 1, atol=0.12)
    assert (edsr.correlation[below] > 0.95).all()
    bicubic = scores.line("bicubic").spectrum
    assert (np.abs(bicubic.correlation[-3:]) < 0.5).all()
    # Of noise that two images share in part, correlation is the shared part of the deviations.
    shared = NOISE / np.hypot(NOISE, FAULT / np.sqrt(2))
    assert edsr.correlation[-3:].mean() == pytest.approx(shared, abs=0.05)


def test_spread_of_independent_faults_is_calibrated(judged):
    scores, _ = judged
    found = scores.line("ensemble").calibration
    assert found.num_members == 4
    assert found.counts.sum() == 20 * 32 * 32
    # The spread is one member's, the error that of the mean of four.
    total = np.sqrt(np.average(found.predicted**2, weights=found.counts))
    assert total == pytest.approx(FAULT, rel=0.02)
    error = np.sqrt(np.average(found.observed**2, weights=found.counts))
    assert error == pytest.approx(FAULT / 2, rel=0.02)


def test_missing_members_leave_rows_without_a_value(whole, tmp_path):
    members = whole.plan.members
    gone = [one for one in members if one.fold == 0]
    scores = score_images(opened(whole, gone), tmp_path / "sr.zarr")
    folds = whole.splits.set_index("row").loc[scores.rows["row"], "fold"].to_numpy()
    np.testing.assert_array_equal(scores.rows["edsr:psnr"].isna(), folds == 0)
    edsr = scores.line("edsr")
    assert (edsr.oof.num_rows, edsr.oof.num_covered) == (30, 15)
    assert edsr.test.num_covered == 20
    assert edsr.calibration is None


def test_images_of_other_rows_name_the_member_and_the_remedy(run):
    files = run.paths.member(run.plan.members[1].name)
    frame = pd.read_parquet(files.predictions)
    frame.loc[3, "id"] = "LR/other.npy"
    frame.to_parquet(files.predictions)
    mark_done(run.paths, run.plan, run.plan.members[1], hash_outputs(files), {})
    with pytest.raises(
        DataError, match=r"another id or split than the manifest; rerun it with: rm .*done.json"
    ):
        opened(run)


def test_member_without_images_is_named(run):
    files = run.paths.member(run.plan.members[0].name)
    (files.arrays / "sr" / "zarr.json").unlink()
    with pytest.raises(DataError, match=r"sr/zarr\.json cannot be read: No such file"):
        opened(run)
    mark_done(run.paths, run.plan, run.plan.members[0], hash_outputs(files), {})
    with pytest.raises(DataError, match="has no array 'sr' that can be read"):
        opened(run)
