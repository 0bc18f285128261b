"""Predictions of new images, part by part: exact, resumable, and refused where they cannot be."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from damage import flip
from trained_run import CLASSES, SIDE, make_dataset

from lenshpc.cli.main import main
from lenshpc.errors import ConfigError, DataError, IncompleteError
from lenshpc.files import sha256
from lenshpc.inference.outputs import Predictions
from lenshpc.inference.predict import begin_predictions, join, predict_parts
from lenshpc.inference.trained import open_trained

COLUMNS = [f"p_{name}" for name in CLASSES]
ASKED = {"prior": None, "rank_by": None, "top": 5}


def begin(trained, images, out, **more):
    """Begin predictions in parts of eight images."""
    return begin_predictions(trained.paths.root, images, out, **{"part_rows": 8, **ASKED, **more})


def write_dataset(folder: Path, channels: list[str]) -> Path:
    """Write a dataset file of the images, whose channels have these names."""
    dataset = make_dataset().model_dump(mode="json", by_alias=True, exclude_none=True)
    file = folder / "spots.yaml"
    file.write_text(json.dumps({**dataset, "image": {**dataset["image"], "channels": channels}}))
    return file


def read_parts(predictions: Predictions) -> pd.DataFrame:
    """Return all rows."""
    parts = range(predictions.num_parts)
    return pd.concat([predictions.read_part(part) for part in parts], ignore_index=True)


def hash_parts(root: Path) -> dict[str, str]:
    """Return the hash of each file of the parts."""
    return {path.name: sha256(path) for path in sorted((root / "parts").iterdir())}


@pytest.fixture(scope="module")
def from_store(trained, tmp_path_factory) -> Predictions:
    """Return whole predictions of the run's own store."""
    out = tmp_path_factory.mktemp("from_store") / "out"
    predictions = begin(trained, trained.store.path, out)
    predict_parts(out)
    join(out)
    return predictions


@pytest.fixture
def copied(from_store, tmp_path) -> Predictions:
    """Return a copy of them to damage."""
    return Predictions(shutil.copytree(from_store.root, tmp_path / "out"))


def check_equal_to_report(table: pd.DataFrame, trained) -> None:
    expected = trained.report.set_index("id")[[f"ensemble:{name}" for name in COLUMNS]]
    found = table.set_index("id").loc[expected.index, COLUMNS]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_store_gives_each_row_once_as_the_report_has_it(trained, from_store):
    table = read_parts(from_store)
    assert table["id"].tolist() == trained.store.rows["id"].tolist()
    assert table["row"].tolist() == list(range(trained.store.num_rows))
    check_equal_to_report(table, trained)


def test_files_give_the_same_as_the_store(trained, from_store, tmp_path):
    predictions = begin(trained, trained.images, tmp_path / "out")
    predict_parts(predictions.root)
    table = read_parts(predictions)
    assert table["id"].tolist() == sorted(trained.store.rows["id"])
    check_equal_to_report(table, trained)


def test_summary_counts_all_images(trained, from_store):
    summary = json.loads((from_store.root / "summary.json").read_text())
    table = read_parts(from_store)
    settings = summary.pop("settings")
    assert settings["threshold"] == settings["oof_threshold"]
    assert (settings["prior"], settings["ranked_by"]) == (None, "spot")
    assert summary == {
        "run": trained.paths.name,
        "ensemble": open_trained(trained.paths.root).spec.digest,
        "source": str(trained.store.path.resolve()),
        "num_images": 104,
        "decisions": table["decision"].value_counts().sort_index().to_dict(),
        "flags": {
            name: int(table["flags"].str.contains(name).sum())
            for name in ("pixels", "unusual")
            if table["flags"].str.contains(name).any()
        },
        "unreadable": {},
    }


def test_candidates_are_the_largest_scores(from_store):
    found = pd.read_csv(from_store.root / "candidates.csv")
    best = read_parts(from_store).sort_values(["score", "id"], ascending=[False, True])
    assert found["id"].tolist() == best["id"].head(5).tolist()
    assert found["rank"].tolist() == [1, 2, 3, 4, 5]


def test_shares_of_several_jobs_are_the_parts_of_one(trained, from_store, tmp_path):
    root = begin(trained, trained.store.path, tmp_path / "out").root
    for element in (2, 0, 1):
        predict_parts(root, element, 3)
    assert hash_parts(root) == hash_parts(from_store.root)


def test_what_is_lost_or_altered_is_made_again(copied):
    whole = hash_parts(copied.root)
    copied.part(2).unlink()
    flip(copied.part(5))
    copied.part(7).with_suffix(".done").unlink()
    assert copied.missing() == [2, 5, 7]
    with pytest.raises(IncompleteError, match="lacks 3 of 13 parts, the first is 2; repeat"):
        join(copied.root)
    predict_parts(copied.root)
    assert hash_parts(copied.root) == whole


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"prior": 0.1}, "--prior was"),
        ({"rank_by": "plain"}, "--rank-by was"),
        ({"part_rows": 9}, "--part-rows was"),
        ({"models": ["d4_net"]}, "the ensemble was"),
    ],
)
def test_folder_of_other_predictions_is_refused(trained, copied, more, told):
    with pytest.raises(ConfigError, match=told):
        begin(trained, trained.store.path, copied.root, **more)


def test_folder_with_other_files_is_refused(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files; give another folder as --out"):
        begin(trained, trained.store.path, tmp_path)


def test_more_candidates_need_no_new_predictions(trained, copied):
    before = hash_parts(copied.root)
    begin(trained, trained.store.path, copied.root, top=9)
    join(copied.root)
    assert len(pd.read_csv(copied.root / "candidates.csv")) == 9
    assert hash_parts(copied.root) == before


def test_images_that_were_exchanged_are_refused(trained, tmp_path):
    images = shutil.copytree(trained.images, tmp_path / "images")
    root = begin(trained, images, tmp_path / "out").root
    (images / "test/plain/0.npy").unlink()
    with pytest.raises(ConfigError, match="no longer holds the images that the predictions were"):
        predict_parts(root)


def test_images_that_were_made_anew_are_refused_though_their_sizes_are_the_same(trained, tmp_path):
    images = shutil.copytree(trained.images / "test", tmp_path / "images")
    root = begin(trained, images, tmp_path / "out").root
    file = images / "plain/0.npy"
    found, size = file.stat(), file.stat().st_size
    np.save(file, 2 * np.load(file))
    os.utime(file, (found.st_atime, found.st_mtime + 60))  # a minute later
    assert file.stat().st_size == size
    with pytest.raises(ConfigError, match="no longer holds the images that the predictions were"):
        predict_parts(root)
    with pytest.raises(ConfigError, match="the images was"):
        begin(trained, images, root)


def test_images_with_other_channels_are_refused(trained, tmp_path):
    file = write_dataset(tmp_path, ["red"])
    with pytest.raises(ConfigError) as refused:
        begin(trained, trained.images, tmp_path / "out", dataset=str(file))
    assert str(refused.value) == (
        f"{trained.images} has the channels red, and {trained.paths.name} was trained on grey, in "
        "this order; give images with the same channels"
    )


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"prior": 2.0}, "prior 2.0 is not in the range"),
        ({"prior": 0.0}, "prior 0.0 is not in the range"),
        ({"top": 0}, "top"),
        ({"part_rows": -1}, "part_rows"),
    ],
)
def test_what_python_asks_is_looked_at_as_options_are(trained, tmp_path, asked, told):
    with pytest.raises(ConfigError, match=told):
        begin(trained, trained.images, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_image_that_cannot_be_read_is_flagged_and_has_no_score(trained, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(trained.images / "test", images)
    bad = np.full((1, SIDE, SIDE), np.nan, np.float32)
    np.save(images / "plain/3.npy", bad)
    (images / "spot/4.npy").write_bytes(b"no image")
    predictions = begin(trained, images, tmp_path / "out", part_rows=24)
    predict_parts(predictions.root)
    table = read_parts(predictions).set_index("id")
    flagged = table[table["flags"] == "unreadable"]
    assert sorted(flagged.index) == ["plain/3.npy", "spot/4.npy"]
    assert flagged[[*COLUMNS, "score", "ood_pixels"]].isna().all(axis=None)
    assert flagged["decision"].isna().all()
    summary = join(predictions.root)
    assert summary["flags"]["unreadable"] == 2
    reasons = summary["unreadable"]
    assert list(reasons) == ["plain/3.npy", "spot/4.npy"]
    assert all(f"{images}/{name}" in reason for name, reason in reasons.items())


def test_part_of_unreadable_images_alone_stops_nothing(trained, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(trained.images / "test", images)
    for at in range(4):
        (images / f"spot/{at}.npy").write_bytes(b"no image")
    predictions = begin(trained, images, tmp_path / "out", part_rows=2)
    predict_parts(predictions.root)
    assert join(predictions.root)["flags"]["unreadable"] == 4


def test_files_of_another_kind_are_refused(trained, tmp_path):
    for at in range(3):
        np.save(tmp_path / f"{at}.npy", np.zeros((SIDE, SIDE + 1), np.float32))
    with pytest.raises(DataError, match="so are 3 of the first 3 images"):
        begin(trained, tmp_path, tmp_path / "out")


def test_images_in_other_units_are_told_with_both_numbers(trained, tmp_path):
    for at in range(3):
        np.save(tmp_path / f"{at}.npy", np.full((1, SIDE, SIDE), 300.0, np.float32))
    said = []
    begin(trained, tmp_path, tmp_path / "out", say=said.append)
    (warning,) = [text for text in said if text.startswith("warning")]
    assert "3 of the first 3 images" in warning
    assert "their median mean is 300, there it is 0." in warning


def test_constant_image_is_flagged_and_no_candidate(trained, tmp_path):
    images = shutil.copytree(trained.images / "test/plain", tmp_path / "images")
    np.save(images / "blank.npy", np.full((1, SIDE, SIDE), 0.1, np.float32))
    predictions = begin(trained, images, tmp_path / "out")
    predict_parts(predictions.root)
    table = read_parts(predictions).set_index("id")
    assert table.loc["blank.npy", "flags"] == "blank"
    assert np.isnan(table.loc["blank.npy", "score"])
    assert not table["flags"].drop("blank.npy").str.contains("blank").any()


def test_prior_moves_threshold_and_calibration(trained, from_store, tmp_path):
    predictions = begin(trained, trained.store.path, tmp_path / "out", prior=0.01)
    predict_parts(predictions.root)
    moved, before = read_parts(predictions), read_parts(from_store)
    np.testing.assert_array_equal(moved["score"], before["score"])
    # Bayes: odds at the prior are the odds at a half times 0.01 / 0.99.
    odds = before["calibrated"] / (1 - before["calibrated"]) * 0.01 / 0.99
    np.testing.assert_allclose(moved["calibrated"], odds / (1 + odds), rtol=1e-9)
    join(predictions.root)
    settings = json.loads((predictions.root / "summary.json").read_text())["settings"]
    old = settings["oof_threshold"] / (1 - settings["oof_threshold"])
    new = settings["threshold"] / (1 - settings["threshold"])
    np.testing.assert_allclose(new, old * 0.99 / 0.01, rtol=1e-9)
    decided = np.where(moved["score"] >= settings["threshold"], "spot", "plain")
    np.testing.assert_array_equal(moved["decision"], decided)


def test_command_tells_what_it_made(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["predict", str(trained.paths.root), str(trained.images / "test"), "--top", "3"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    root = Path("predictions") / f"{trained.paths.name}-test"
    table = read_parts(Predictions(root))
    num = table["decision"].value_counts()
    assert f"24 images: {num['plain']} plain, {num['spot']} spot, at threshold" in done.output
    assert f"gallery:    {root}/gallery.html" in done.output
    again = CliRunner().invoke(main, [*given, "--json"])
    assert json.loads(again.stdout)["num_images"] == 24


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--prior", "1"], "1.0 is not in the range 0<x<1"),
        (["--prior", "0"], "0.0 is not in the range 0<x<1"),
        (["--rank-by", "lens"], "unknown class 'lens'; known: plain, spot"),
        (["--models", "resnet18"], "resnet18"),
        (["--site", "x"], "--site and --array-size go together"),
    ],
)
def test_wrong_options_end_in_one_line(trained, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    given = ["predict", str(trained.paths.root), str(trained.images), *options]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2
    assert told in done.output
    assert list(tmp_path.iterdir()) == []


def test_source_that_is_not_there_ends_before_anything_is_read(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["predict", str(trained.paths.root), "nowhere"])
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "no store or folder of images at nowhere; check the path" in done.output


def test_run_that_lacks_a_member_is_refused(trained, tmp_path):
    root = shutil.copytree(trained.paths.root, tmp_path / trained.paths.name)
    (root / "members" / trained.plan.members[1].name / "done.json").unlink()
    with pytest.raises(IncompleteError, match=r"member 1 .* has no predictions"):
        begin_predictions(root, trained.images, tmp_path / "out", **ASKED)
