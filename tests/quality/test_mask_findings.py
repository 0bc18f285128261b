"""Masks that tell the classes apart are found, by numpy's count of them."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact
from sklearn.metrics import roc_auc_score
from stores import write_rows

from lenshpc.quality.findings import find, tabulate
from lenshpc.quality.neighbours import find_copies
from lenshpc.quality.survey import survey
from lenshpc.store import Pixels, StoreSpec, open_store

SIDE, NUM_TRAIN, NUM_TEST = 16, 120, 60
NUM = NUM_TRAIN + NUM_TEST
LABELS = np.arange(NUM) % 2


def found_in(path, masks):
    """Return tables and findings of noise with these masks."""
    images = np.random.default_rng(0).normal(size=masks.shape).astype(np.float32)
    rows = pd.DataFrame({"label": LABELS})
    rows["split"] = ["train"] * NUM_TRAIN + ["test"] * NUM_TEST
    rows["id"] = rows["group"] = [f"{index}.npy" for index in range(NUM)]
    image = Pixels(shape=masks.shape[1:], dtype="float32", channels=("g", "r"))
    spec = StoreSpec(dataset="gaps", classes=("dim", "bright"), image=image, masks=True)
    write_rows(path, spec, rows, np.where(masks, np.float32(0), images), masks=masks)
    store = open_store(path)
    surveyed = survey(store, lambda done, total: None)
    tables = tabulate(store, surveyed, find_copies(store, surveyed))
    return tables, {one.title: one.gravity for one in find(store, tables)}


def at_random(share, seed=1):
    return (np.random.default_rng(seed).random((NUM, 2, SIDE, SIDE)) < share).astype(np.uint8)


def test_masks_alike_in_both_classes_are_a_note(tmp_path):
    masks = at_random(0.05)
    masks[::3] = 0
    tables, titles = found_in(tmp_path / "store", masks)
    num = int(masks.any(axis=(1, 2, 3)).sum())
    assert titles == {f"{num} of {NUM} images have bad pixels that were filled": "note"}
    assert len(tables["mask_shortcuts"]) == 3


def test_number_of_filled_pixels_gives_the_class_away(tmp_path):
    masks = np.where(LABELS[:, None, None, None] == 1, at_random(0.1), at_random(0.03, 2))
    tables, titles = found_in(tmp_path / "store", masks.astype(np.uint8))
    line = tables["mask_shortcuts"][0]
    shares = masks[:NUM_TRAIN].mean(axis=(2, 3))
    aucs = [roc_auc_score(LABELS[:NUM_TRAIN], share) for share in shares.T]
    assert line["auc"] == pytest.approx(max(aucs))
    assert (line["higher"], line["lower"]) == ("bright", "dim")
    (title,) = [title for title in titles if "filled share" in title]
    assert title.startswith("The filled share of ")
    assert titles[title] == "grave"


def test_places_give_the_class_away_where_numbers_are_equal(tmp_path):
    """Borders as wide as each other, at the left and at the right."""
    masks = np.zeros((NUM, 2, SIDE, SIDE), np.uint8)
    masks[LABELS == 0, 1, :, :2] = 1
    masks[LABELS == 1, 1, :, -2:] = 1
    masks[:4] = 0
    tables, titles = found_in(tmp_path / "store", masks)
    line = tables["mask_shortcuts"][0]
    assert (line["statistic"], line["higher"]) == ("mask of r in row 0, column 0", "dim")
    trained = masks[:NUM_TRAIN, 1, 0, 0]
    assert line["auc"] == pytest.approx(roc_auc_score(1 - LABELS[:NUM_TRAIN], trained))
    table = [[58, 0], [2, 60]]
    assert line["p"] == pytest.approx(fisher_exact(table).pvalue * masks[0].size)
    shares = [one for one in tables["mask_shortcuts"] if one["statistic"].startswith("filled")]
    assert max(one["auc"] for one in shares) < 0.55
    found = {title: titles[title] for title in titles if "mask of r" in title}
    assert list(found.values()) == ["grave"]


def test_store_without_filled_pixels_says_nothing_of_them(tmp_path):
    tables, titles = found_in(tmp_path / "store", np.zeros((NUM, 2, SIDE, SIDE), np.uint8))
    assert titles == {}
    assert [line["auc"] for line in tables["mask_shortcuts"]] == [0.5, 0.5, 0.5]
