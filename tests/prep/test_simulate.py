"""The simulator: deterministic, in the original layout, with lenses that obey the lens equation."""

import csv
import hashlib

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from source_sets import tiny

from lenshpc.cli.simulate import simulate as command
from lenshpc.errors import ConfigError, DataError
from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import load_dataset
from lenshpc.prep.render import Camera, trace
from lenshpc.prep.scene import Lens, draw_lens
from lenshpc.prep.simulate import Counts, simulate

DATASET = load_dataset("lens_finding")
COUNTS = Counts(lenses=3, nonlenses=4, test_lenses=1, test_nonlenses=2)


def hashes(root):
    files = sorted(path for path in root.rglob("*.npy"))
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_images_have_the_original_layout_and_range(tmp_path):
    assert simulate(DATASET, tmp_path / "out", COUNTS) == 10
    assert list(hashes(tmp_path / "out")) == [
        *(f"test_lenses/{i}.npy" for i in (1,)),
        *(f"test_nonlenses/{i}.npy" for i in (1, 2)),
        *(f"train_lenses/{i}.npy" for i in (1, 2, 3)),
        *(f"train_nonlenses/{i}.npy" for i in (1, 2, 3, 4)),
    ]
    for name in hashes(tmp_path / "out"):
        image = np.load(tmp_path / "out" / name)
        assert (image.shape, image.dtype) == ((3, 64, 64), np.float32)
        assert image.min((1, 2)).tolist() == [0, 0, 0]
        assert image.max((1, 2)).tolist() == [1, 1, 1]
    store = convert(DATASET, tmp_path / "out", tmp_path / "store")
    assert store.attributes["counts"] == {
        "train": {"nonlens": 4, "lens": 3},
        "test": {"nonlens": 2, "lens": 1},
    }


def test_equal_seed_gives_equal_images_and_more_leave_the_first(tmp_path):
    for name, counts, seed in (
        ("a", COUNTS, 5),
        ("b", COUNTS, 5),
        ("more", Counts(lenses=6, nonlenses=5, test_lenses=2, test_nonlenses=3), 5),
        ("other", COUNTS, 6),
    ):
        simulate(DATASET, tmp_path / name, counts, seed=seed)
    first = hashes(tmp_path / "a")
    assert hashes(tmp_path / "b") == first
    assert (tmp_path / "a/truth.csv").read_bytes() == (tmp_path / "b/truth.csv").read_bytes()
    assert hashes(tmp_path / "more").items() >= first.items()
    assert not set(hashes(tmp_path / "other").values()) & set(first.values())
    assert len(set(first.values())) == 10


def test_truth_lies_beside_the_images(tmp_path):
    simulate(DATASET, tmp_path / "out", COUNTS)
    with (tmp_path / "out/truth.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["id"] for row in rows} == set(hashes(tmp_path / "out"))
    for row in rows:
        is_lens = row["id"].startswith(("train_lenses", "test_lenses"))
        assert (row["kind"] == "lens") == is_lens == bool(row["theta_e_arcsec"])
        assert not is_lens or 0.7 <= float(row["theta_e_arcsec"]) <= 2.5


def test_ring_of_a_centred_source_has_the_einstein_radius():
    camera = Camera(survey=DATASET.simulate, num_pixels=64)
    source = draw_lens(DATASET.simulate, np.random.default_rng(0)).lens.source
    lens = Lens(x=0, y=0, theta_e=1.5, axis_ratio=1, angle=0, gamma1=0, gamma2=0, source=source)
    angle = np.linspace(0, 6, 50)
    beta = trace(lens, 1.5 * np.cos(angle), 1.5 * np.sin(angle))
    np.testing.assert_allclose(beta, 0, atol=1e-8)
    assert camera.num_pixels == 64


def test_blurring_keeps_flux_and_a_single_pixel_gets_the_declared_width():
    camera = Camera(survey=DATASET.simulate, num_pixels=64)
    image = np.zeros((3, 64, 64))
    image[:, 32, 32] = 1
    blurred = camera.blurred(image)
    np.testing.assert_allclose(blurred.sum((1, 2)), 1, rtol=1e-3)
    offsets = (np.arange(64) - 32) * 0.168
    width = np.sqrt((blurred.sum(1) * offsets**2).sum(1)) * 2.3548
    np.testing.assert_allclose(width, DATASET.simulate.psf_fwhm_arcsec, rtol=1e-2)


def test_orientations_are_uniform():
    angles = [
        draw_lens(DATASET.simulate, np.random.default_rng(seed)).galaxies[0].angle
        for seed in range(2000)
    ]
    counts, _ = np.histogram(angles, bins=8, range=(0, np.pi))
    assert counts.sum() == 2000
    assert np.abs(counts - 250).max() < 4 * np.sqrt(250)


@pytest.mark.parametrize(
    ("counts", "complaint"),
    [
        (Counts(lenses=0, nonlenses=3), "at least one lens and one nonlens"),
        (Counts(lenses=1, nonlenses=1, test_lenses=1), "or neither"),
    ],
)
def test_counts_that_leave_a_class_empty_are_refused(counts, complaint, tmp_path):
    with pytest.raises(ConfigError, match=complaint):
        simulate(DATASET, tmp_path / "out", counts)
    assert list(tmp_path.iterdir()) == []


def test_dataset_without_a_simulator_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="tiny has no simulator; known: lens_finding"):
        simulate(tiny(), tmp_path / "out", COUNTS)


def test_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        simulate(DATASET, tmp_path, COUNTS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_interruption_leaves_nothing(tmp_path):
    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(DATASET, tmp_path / "out", COUNTS, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_command_writes_the_images(tmp_path):
    arguments = ["lens_finding", str(tmp_path / "out"), "--num-lenses", "2"]
    result = CliRunner().invoke(command, [*arguments, "--num-nonlenses", "1"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "3 images in" in result.stderr
    assert len(hashes(tmp_path / "out")) == 3


def radial_features(images):
    y, x = np.mgrid[:64, :64] - 31.5
    radius = np.hypot(x, y).astype(int).ravel()
    counts = np.bincount(radius)[:20]
    flat = np.sqrt(images).reshape(-1, 64 * 64)
    means = np.stack([np.bincount(radius, image)[:20] / counts for image in flat])
    return means.reshape(len(images), -1)


def test_lenses_are_learnable_from_500_images_but_not_by_the_median(tmp_path):
    counts = Counts(lenses=250, nonlenses=250, test_lenses=100, test_nonlenses=100)
    simulate(DATASET, tmp_path / "out", counts)

    def load(folder, number):
        return np.stack(
            [np.load(tmp_path / "out" / folder / f"{i + 1}.npy") for i in range(number)]
        )

    train = np.concatenate([load("train_lenses", 250), load("train_nonlenses", 250)])
    test = np.concatenate([load("test_lenses", 100), load("test_nonlenses", 100)])
    labels = np.repeat([1, 0], 100)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(radial_features(train), np.repeat([1, 0], 250))
    assert roc_auc_score(labels, model.decision_function(radial_features(test))) > 0.8
    assert 0.3 < roc_auc_score(labels, -np.median(test, axis=(1, 2, 3))) < 0.75
