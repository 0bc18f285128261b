"""What networks make of new images, on planted images and of trained members."""

from types import SimpleNamespace

import numpy as np
import pytest
from pairs_run import images_of, make_pairs_run, write_pairs
from toy_run import results_of, train

from lenshpc.inference.load import load_ensemble
from lenshpc.inference.trained import open_trained
from lenshpc.registry import Request
from lenshpc.run.plan import load_plan, load_splits
from lenshpc.run.trained import make_readout
from lenshpc.tasks.super_resolution.images import open_images

SMALL = {"width": 4, "blocks": 1}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return make_pairs_run(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def readout(pairs):
    return make_readout(open_trained(pairs.paths.root), Request())


def merged_test_rows(results):
    """Return the report's images and spread of the test rows, and the rows."""
    run = results.run
    images = open_images(run, results.plan, results.splits, results.store)
    places = np.flatnonzero(images.rows["split"] == "test")
    return images.merge(places)[images.headline], images.rows["row"].to_numpy()[places]


def test_images_of_test_rows_and_their_spread_are_those_of_the_report(pairs, readout):
    stack, rows = merged_test_rows(results_of(pairs))
    tested = pairs.splits.loc[pairs.splits["split"] == "test", "row"].to_numpy()
    outputs = []
    for member in pairs.plan.members:
        oof = pairs.splits.loc[pairs.splits["fold"] == member.fold, "row"].to_numpy()
        drawn = images_of(pairs.store, member, np.concatenate([oof, tested]))
        outputs.append({"sr": drawn[len(oof) :]})
    assert rows.tolist() == tested.tolist()
    found = readout.table(outputs)
    np.testing.assert_allclose(found["sr"], stack.mean, atol=1e-6)
    np.testing.assert_allclose(found["spread"], stack.std, atol=1e-6)


def test_table_has_the_mean_image_its_spread_and_how_uncertain_it_is(readout):
    # Two models of two members; a row of one image with two pixels.
    pixels = [[1, 0], [3, 0], [5, 0], [7, 4]]
    outputs = [{"sr": np.array(pair, np.float32).reshape(1, 1, 1, 2)} for pair in pixels]
    found = readout.table(outputs)
    assert readout.arrays == ("sr", "spread")
    assert {name: column.ravel().tolist() for name, column in found.items()} == {
        "sr": [4, 1],
        "spread": [pytest.approx(np.sqrt(20 / 3)), 2],
        "score": [pytest.approx((np.sqrt(20 / 3) + 2) / 2)],
    }
    assert {name: column.dtype.name for name, column in found.items()} == {
        "sr": "float32",
        "spread": "float32",
        "score": "float64",
    }


def test_a_single_member_has_no_spread(pairs):
    trained = open_trained(pairs.paths.root, ["rcan"])
    one = trained.spec.model_copy(update={"members": trained.spec.members[:1]})
    readout = make_readout(SimpleNamespace(spec=one, arrays={}), Request())
    found = readout.table([{"sr": np.ones((2, 1, 1, 2), np.float32)}])
    assert found["spread"].ravel().tolist() == [0, 0, 0, 0]
    assert found["score"].tolist() == [0, 0]


@pytest.mark.slow
def test_trained_members_draw_the_test_rows_as_the_report_does(tmp_path):
    store = write_pairs(tmp_path / "pairs")
    run = train(tmp_path, store, "super-resolution", ("edsr", "rcan"), method=SMALL)
    plan = load_plan(run)
    results = results_of(SimpleNamespace(paths=run, plan=plan, splits=load_splits(run, plan)))
    stack, rows = merged_test_rows(results)
    ensemble = load_ensemble(run.root, device="cpu")
    found = ensemble.predict(store.read_raw(rows))
    assert found.shape == (20, 1, 32, 32)
    np.testing.assert_allclose(found, stack.mean, atol=1e-6)
