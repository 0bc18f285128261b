"""Lens parameters of new images, beside what any classification says of them."""

from dataclasses import replace

import numpy as np
import pytest
from lenses_run import LENS, make_lenses_run
from spots import write_store
from toy_run import results_of, train

from lenshpc.inference.load import load_ensemble
from lenshpc.inference.trained import open_trained
from lenshpc.registry import Request
from lenshpc.run.plan import load_plan, load_splits
from lenshpc.run.trained import make_readout
from lenshpc.tasks.physics_guided.lens_parameters import merge_lenses
from lenshpc.tasks.physics_guided.readout import LensReadout
from lenshpc.tasks.supervised.merge import merge


@pytest.fixture(scope="module")
def lenses(tmp_path_factory):
    return make_lenses_run(tmp_path_factory.mktemp("lenses"))


def outputs_of(run, members):
    """Return what members said of the test rows."""
    frames = [run.predictions(one.index) for one in members]
    return [
        {name: part[name].to_numpy() for name in part if name not in ("row", "id", "split")}
        for part in (frame[frame["split"] == "test"] for frame in frames)
    ]


def test_lenses_of_test_rows_are_those_of_the_report_beside_the_classes(lenses):
    trained = open_trained(lenses.paths.root)
    outputs = outputs_of(lenses, trained.spec.members)
    found = make_readout(trained, Request()).table(outputs)
    own = [name for lens in LENS for name in (lens, f"{lens}_std")]
    assert list(found) == ["p_nonlens", "p_lens", "score", "spread", "calibrated", "decision", *own]
    merged = merge_lenses(lenses.paths, lenses.plan, lenses.splits)
    rows = merged.models["resnet18"][(merged.rows["split"] == "test").to_numpy()]
    for name in LENS:
        np.testing.assert_allclose(found[name], rows[name], atol=1e-12)
        values = [one[name].astype(float) for one in outputs]
        np.testing.assert_allclose(found[f"{name}_std"], np.std(values, axis=0), atol=1e-12)
    classes = merge(lenses.paths, lenses.plan, lenses.splits).probabilities["resnet18"]
    np.testing.assert_allclose(found["p_lens"], classes[-60:, 1], atol=1e-12)


def test_members_without_a_lens_have_no_part_in_its_mean(lenses):
    trained = open_trained(lenses.paths.root, ["resnet18", "resnet18+plain"])
    outputs = outputs_of(lenses, trained.spec.members)
    assert len([one for one in outputs if LENS[0] in one]) == 6
    found = make_readout(trained, Request()).table(outputs)
    expected = np.mean([one["gamma1"].astype(float) for one in outputs[:6]], axis=0)
    np.testing.assert_allclose(found["gamma1"], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (("resnet18", "resnet18+plain"), [[0, 1, 2, 3, 4, 5]]),
        (("resnet18+plain", "resnet18"), [[6, 7, 8, 9, 10, 11]]),
        (("resnet18+plain",), [[6, 7, 8, 9, 10, 11]]),
    ],
)
def test_variant_has_no_part_in_the_headline_unless_it_comes_first(lenses, models, expected):
    spec = open_trained(lenses.paths.root, ["resnet18", "resnet18+plain"]).spec
    named = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"models": models})})
    assert named.headline_places == expected
    values = [float(at) for at in range(12)]
    assert named.headline_mean(values) == np.mean(expected)


def test_run_without_lenses_has_the_classification_alone(lenses):
    trained = open_trained(lenses.paths.root, ["resnet18+plain"])
    found = make_readout(trained, Request()).table(outputs_of(lenses, trained.spec.members))
    assert list(found) == ["p_nonlens", "p_lens", "score", "spread", "calibrated", "decision"]


@pytest.mark.slow
def test_nothing_that_is_fitted_moves_with_test_rows(tmp_path):
    run = make_lenses_run(tmp_path)
    before = LensReadout.fit(results_of(run))
    splits = run.splits.copy()
    testing = splits["split"] == "test"
    splits.loc[testing, "label"] = 1 - splits.loc[testing, "label"]
    for member in run.plan.members:
        frame = run.predictions(member.index)
        tested = frame["split"] == "test"
        frame.loc[tested, ["logp_0", "logp_1"]] = frame.loc[tested, ["logp_1", "logp_0"]].to_numpy()
        run.finish(member.index, frame)
    assert LensReadout.fit(replace(results_of(run), splits=splits)) == before


@pytest.mark.slow
def test_trained_members_say_of_the_test_rows_what_the_report_has(tmp_path):
    store = write_store(tmp_path / "spots", np.arange(96) % 2, ["train"] * 64 + ["test"] * 32)
    method = {"physics": {"pixel_scale_arcsec": 0.2, "source_side": 8}}
    run = train(tmp_path, store, "physics-guided", ("test_resnet",), method=method)
    plan = load_plan(run)
    splits = load_splits(run, plan)
    merged = merge(run, plan, splits)
    test = (merged.rows["split"] == "test").to_numpy()
    ensemble = load_ensemble(run.root, device="cpu")
    pixels = store.read_raw(merged.rows.loc[test, "row"].to_numpy())
    expected = merged.probabilities["test_resnet"][test]
    np.testing.assert_allclose(ensemble.predict(pixels), expected, atol=1e-6)
    table = ensemble.readout.table(ensemble.columns(pixels))
    lenses = merge_lenses(run, plan, splits).models["test_resnet"][test]
    for name in LENS:
        np.testing.assert_allclose(table[name], lenses[name], atol=1e-6)
