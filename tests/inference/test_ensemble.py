"""A trained ensemble says of images what the run's own predictions say."""

import copy

import numpy as np
import pytest
import torch
from trained_run import CLASSES, train_run

from lenshpc.errors import ConfigError
from lenshpc.inference.load import load_ensemble

COLUMNS = [f"ensemble:p_{name}" for name in CLASSES]
VARIED = {
    "bytes": {"dtype": "uint8"},
    "bytes, resized": {"dtype": "uint8", "data": {"image_size": 40}},
    "each image by its own": {"data": {"normalise": "image", "crop": 18}},
    "grey as three, rank mean": {"data": {"grey_to_rgb": True}, "ensemble": "rank_mean"},
    "binary loss": {"method": {"loss": "bce"}, "data": {"stretch": "sqrt"}},
}


@pytest.fixture(scope="module")
def ensemble(trained):
    return load_ensemble(trained.paths.root, device="cpu")


def test_probabilities_are_those_of_the_report(trained, ensemble):
    found = ensemble.predict(trained.pixels)
    np.testing.assert_allclose(found, trained.report[COLUMNS], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", VARIED)
def test_probabilities_are_those_of_the_report_whatever_the_recipe(tmp_path, case):
    run = train_run(tmp_path, **{"folds": 1, **VARIED[case]})
    found = load_ensemble(run.paths.root, device="cpu").predict(run.pixels)
    np.testing.assert_allclose(found, run.report[COLUMNS], atol=1e-6)


def test_models_can_be_chosen(trained):
    found = load_ensemble(trained.paths.root, models=["d4_net"], device="cpu")
    expected = trained.report[[f"d4_net:p_{name}" for name in CLASSES]]
    np.testing.assert_allclose(found.predict(trained.pixels), expected, atol=1e-6)


def test_module_takes_tensors_and_leaves_them_alone(trained, ensemble):
    pixels = torch.from_numpy(trained.pixels[:3])
    before = pixels.clone()
    with torch.no_grad():
        found = ensemble(pixels)
    np.testing.assert_array_equal(found.numpy(), ensemble.predict(trained.pixels[:3]))
    assert torch.equal(pixels, before)


def test_no_images_are_refused(ensemble):
    with pytest.raises(ConfigError, match="no images were given; give at least one"):
        ensemble.predict(np.empty((0, *ensemble.spec.image_shape), np.float32))


def test_other_order_of_bytes_and_double_precision_change_nothing(trained, ensemble):
    expected = ensemble.predict(trained.pixels[:2])
    for dtype in (">f4", "f8", ">f8"):
        np.testing.assert_array_equal(ensemble.predict(trained.pixels[:2].astype(dtype)), expected)


def test_module_that_is_trained_around_it_changes_no_answer(trained, ensemble):
    expected = ensemble.predict(trained.pixels[:4])
    whole = torch.nn.Sequential(ensemble).train()
    assert not any(part.training for part in ensemble.modules())
    whole(torch.from_numpy(trained.pixels))
    np.testing.assert_array_equal(ensemble.predict(trained.pixels[:4]), expected)


def test_copies_of_an_ensemble_answer_alike(trained, ensemble):
    expected = ensemble.predict(trained.pixels[:2])
    np.testing.assert_array_equal(copy.deepcopy(ensemble).predict(trained.pixels[:2]), expected)


def test_one_image_needs_no_further_axes(trained, ensemble):
    expected = ensemble.predict(trained.pixels[:1])
    for image in (trained.pixels[0], trained.pixels[0, 0]):
        np.testing.assert_array_equal(ensemble.predict(image), expected)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((2, 1, 24, 30), np.float32), "images are 1 × 24 × 30"),
        (np.zeros((2, 3, 24, 24), np.float32), "images are 3 × 24 × 24"),
        (np.zeros((2, 1, 24, 24), np.uint8), "images are uint8"),
        (np.zeros((2, 1, 24, 24), np.int16), "images are int16"),
    ],
)
def test_other_images_are_refused(ensemble, images, told):
    with pytest.raises(ConfigError, match=told):
        ensemble.predict(images)
    with pytest.raises(ConfigError, match=told):
        ensemble(torch.from_numpy(images))


def test_table_has_probabilities_decision_and_novelty(trained, ensemble):
    table = ensemble.readout.table(ensemble.columns(trained.pixels))
    assert list(table) == [
        *(f"p_{name}" for name in CLASSES),
        "score",
        "spread",
        "calibrated",
        "decision",
        "ood_distance",
    ]
    cut = ensemble.readout.settings()["threshold"]
    np.testing.assert_allclose(table["score"], trained.report[COLUMNS[1]], atol=1e-6)
    decided = np.where(table["score"] >= cut, CLASSES[1], CLASSES[0])
    np.testing.assert_array_equal(table["decision"], decided)
    assert (table["spread"] > 0).all()
