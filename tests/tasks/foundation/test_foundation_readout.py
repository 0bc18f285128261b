"""Embeddings of new images and their neighbours, on planted ones and of trained members."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from foundation_run import make_foundation_run
from spots import write_store
from toy_run import results_of, train

from lenshpc.errors import DataError
from lenshpc.inference.load import load_ensemble
from lenshpc.inference.trained import open_trained
from lenshpc.registry import Request
from lenshpc.run.plan import load_plan, load_splits, scored_rows
from lenshpc.run.predictions import read_array
from lenshpc.tasks.foundation.readout import EmbeddingReadout

SMALL = {
    "vit": {"patch": 8, "width": 24, "depth": 2, "heads": 2},
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return make_foundation_run(tmp_path_factory.mktemp("fm"))


def test_rows_of_the_validation_fold_are_what_new_images_are_compared_with(pretrained):
    trained = open_trained(pretrained.paths.root)
    own = pretrained.splits["fold"] == pretrained.plan.members[0].fold
    assert trained.spec.fitted["ids"] == pretrained.splits.loc[own, "id"].tolist()
    assert all(one.startswith("train/") for one in trained.spec.fitted["ids"])
    assert {name: one.shape for name, one in trained.arrays.items()} == {
        "embedding/0": (20, 24),
        "embedding/1": (20, 24),
    }


def test_table_has_embedding_neighbours_and_how_unusual_an_image_is():
    # Unit vectors by angle: the distance of two is 2 sin of half the angle between them.
    angles = np.radians([0, 10, 20, 30, 40, 50, 60])
    reference = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    spec = SimpleNamespace(name="fm", members=[SimpleNamespace(index=at) for at in (3, 4)])
    trained = SimpleNamespace(
        values={"ids": [f"row{at}" for at in range(7)]},
        arrays={"embedding/3": reference, "embedding/4": reference},
    )
    readout = EmbeddingReadout(spec, trained, Request())
    new = np.array([[0, 5], [np.cos(0.3), np.sin(0.3)]], np.float16)
    found = readout.table([{"embedding": new}, {"embedding": 2 * new}])
    assert readout.arrays == ("embedding",)
    assert list(found) == [
        "embedding",
        "ood_distance",
        "score",
        *(f"nearest_{at}_{what}" for at in range(1, 6) for what in ("id", "distance")),
    ]
    nearest = [[found[f"nearest_{at}_id"][row] for at in range(1, 6)] for row in (0, 1)]
    assert nearest == [
        ["row6", "row5", "row4", "row3", "row2"],
        ["row2", "row1", "row3", "row0", "row4"],
    ]
    first = [found[f"nearest_{at}_distance"][0] for at in range(1, 6)]
    expected = [2 * np.sin(np.radians(turn) / 2) for turn in (30, 40, 50, 60, 70)]
    np.testing.assert_allclose(first, expected, atol=2e-3)
    # Farther from its sixth neighbour than any row of the reference from its own.
    np.testing.assert_array_equal(found["score"], found["ood_distance"])
    assert found["score"][0] > 1 > found["score"][1]
    assert readout.answer([{"embedding": new}, {"embedding": 2 * new}]) is new
    assert readout.settings() == {"reference_rows": 7}


def test_nothing_that_is_fitted_moves_with_test_rows(tmp_path):
    run = make_foundation_run(tmp_path)
    before = EmbeddingReadout.fit(results_of(run))
    for member in run.plan.members:
        rows = scored_rows(run.plan, run.splits, member)
        tested = (rows["split"] == "test").to_numpy()
        array = zarr.open_group(run.paths.member(member.name).arrays)["embedding"]
        array[:] = np.where(tested[:, None], 7, array[:])
        run.finish(member.index, run.predictions(member.index))
    after = EmbeddingReadout.fit(results_of(run))
    assert after.values == before.values
    for name, values in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[name], values)


def test_validation_fold_of_one_row_is_refused(tmp_path):
    run = make_foundation_run(tmp_path)
    splits = run.splits.copy()
    splits.loc[(splits["fold"] == 0) & (splits["row"] > 2), ["split", "fold"]] = ["excluded", -1]
    with pytest.raises(DataError) as caught:
        EmbeddingReadout.fit(replace(results_of(run), splits=splits))
    assert str(caught.value) == (
        f"run {run.paths.name} validates on fewer than two rows, and new images are compared with "
        "these; submit it with more rows or fewer folds"
    )


@pytest.mark.slow
def test_trained_members_embed_the_test_rows_as_their_files_have_it(tmp_path):
    store = write_store(tmp_path / "spots", np.arange(96) % 2, ["train"] * 64 + ["test"] * 32)
    run = train(tmp_path, store, "foundation", ("mae_vit",), method=SMALL)
    plan = load_plan(run)
    splits = load_splits(run, plan)
    rows = splits.loc[splits["split"] == "test", "row"].to_numpy()
    ensemble = load_ensemble(run.root, device="cpu")
    expected = read_array(run, plan.members[0], "embedding", rows)
    # Kept in half precision, whose steps are 1e-3 of a value.
    found = ensemble.predict(store.read_raw(rows))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    own = splits.loc[splits["fold"] == plan.members[0].fold]
    table = ensemble.readout.table(ensemble.columns(store.read_raw(own["row"].to_numpy())))
    assert table["nearest_1_id"].tolist() == own["id"].tolist()
