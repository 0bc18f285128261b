"""Bad pixels from raw images to the answer: filled and masked as those of the training were."""

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from torch import nn
from trained_run import CLASSES, SIDE, train_run

from lenshpc.data.filling import Filling
from lenshpc.inference.export import export_run
from lenshpc.inference.load import load_ensemble
from lenshpc.inference.predict import begin_predictions, join, predict_parts
from lenshpc.inference.programs import export_programs
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.pixels import clean

COLUMNS = [f"ensemble:p_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Return a run on filled images, whose networks see the masks, cropped and resized."""
    return train_run(
        tmp_path_factory.mktemp("masked"),
        bad_pixels={"fill": "median"},
        models=("test_resnet", "d4_net"),
        folds=1,
        data={"mask_channels": True, "crop": 20, "image_size": 16},
    )


@pytest.fixture(scope="module")
def raw(masked):
    """Return the test images as they lie in their files."""
    return np.stack([np.load(masked.images / name) for name in masked.report["id"]])


def test_raw_images_get_the_answers_of_the_report(masked, raw):
    assert np.isnan(raw).any()
    assert np.isinf(raw).any()
    found = load_ensemble(masked.paths.root, device="cpu").predict(raw)
    np.testing.assert_allclose(found, masked.report[COLUMNS], atol=1e-6)


def test_masks_reach_the_networks(masked, raw):
    """Filled images without their gaps are other images to them."""
    ensemble = load_ensemble(masked.paths.root, device="cpu")
    found = ensemble.predict(masked.pixels)
    whole = ~(np.isnan(raw) | np.isinf(raw)).any(axis=(1, 2, 3))
    differs = np.abs(found - masked.report[COLUMNS].to_numpy()).max(axis=1) > 1e-6
    assert not differs[whole].any()
    assert differs[~whole].mean() > 0.9


@pytest.mark.parametrize("source", ["images", "store"])
def test_files_and_store_give_the_answers_of_the_report(masked, tmp_path, source):
    images = masked.images if source == "images" else masked.store.path
    predictions = begin_predictions(
        masked.paths.root, images, tmp_path / "out", prior=None, rank_by=None, top=5
    )
    predict_parts(tmp_path / "out")
    join(tmp_path / "out")
    table = pd.concat([predictions.read_part(part) for part in range(predictions.num_parts)])
    expected = masked.report.set_index("id")
    found = table.set_index("id").loc[expected.index, [f"p_{name}" for name in CLASSES]]
    np.testing.assert_allclose(found, expected[COLUMNS], atol=1e-6)


@pytest.mark.slow
def test_programs_take_raw_images(masked, raw, tmp_path):
    export_run(masked.paths, tmp_path / "export", kinds=("torch", "onnx"))
    again = load_ensemble(tmp_path / "export", device="cpu").predict(raw)
    module = torch.export.load(tmp_path / "export/programs/ensemble.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "export/programs/ensemble.onnx")
    with torch.no_grad():
        found = [
            again,
            module(torch.from_numpy(raw)).numpy(),
            session.run(None, {"pixels": raw})[0],
        ]
    for answers in found:
        np.testing.assert_allclose(answers, masked.report[COLUMNS], atol=1e-5)


def test_image_without_a_good_pixel_has_no_answer(masked, raw, tmp_path):
    lost = raw.copy()
    lost[1] = np.nan
    found = load_ensemble(masked.paths.root, device="cpu").predict(lost)
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), np.arange(len(raw)) == 1)


class _Filled(nn.Module):
    """What an ensemble begins with, and sums of it."""

    def __init__(self, fill):
        super().__init__()
        self.filling = Filling(fill)

    def forward(self, pixels):
        filled, masks = self.filling(pixels)
        return torch.stack([filled.sum(dim=(1, 2, 3)), masks.sum(dim=(1, 2, 3))], dim=1)


@pytest.mark.parametrize("fill", ["median", 0.3])
def test_filling_is_a_part_of_programs(fill, tmp_path):
    rng = np.random.default_rng(4)
    images = rng.normal(size=(5, 2, 6, 5)).astype(np.float32)
    images[rng.random(images.shape) < 0.3] = np.nan
    images[0, 0, 0, :2] = np.inf, -np.inf
    found = export_programs(_Filled(fill), torch.from_numpy(images), tmp_path, ("torch", "onnx"))
    assert set(found) == {"torch", "onnx"}
    assert max(found.values()) < 1e-6


@pytest.mark.parametrize("fill", ["median", 0.3, -2.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_filling_is_that_of_prepare_to_the_bit(fill, dtype):
    rng = np.random.default_rng(2)
    images = rng.normal(size=(40, 3, 7, 5)).astype(dtype)
    images[rng.random(images.shape) < np.linspace(0, 0.9, 40)[:, None, None, None]] = np.nan
    images[3:5, 1, 2, 2] = np.inf, -np.inf
    images[:, :, 0, 0] = 0.5  # no channel is lost
    image = ImageFormat(
        format="npy", shape=(3, 7, 5), dtype=dtype, channels=tuple("gri"), bad_pixels={"fill": fill}
    )
    expected, masks = clean("a", images, image)
    found, found_masks = Filling(fill)(torch.from_numpy(images))
    assert found.numpy().tobytes() == expected.tobytes()
    np.testing.assert_array_equal(found_masks.numpy(), masks)


def test_channel_without_a_median_is_lost_and_half_precision_is_filled():
    images = torch.ones(2, 2, SIDE, SIDE, dtype=torch.float16)
    images[0, 1] = torch.nan
    images[1, 0, 2, 3] = torch.inf
    found, masks = Filling("median")(images)
    assert found.isnan().flatten(2).any(dim=2).tolist() == [[False, True], [False, False]]
    assert found[1].eq(1).all()
    assert masks.sum(dim=(1, 2, 3)).tolist() == [SIDE * SIDE, 1]
