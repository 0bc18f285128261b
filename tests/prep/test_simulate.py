"""`lenshpc simulate`: every layout, deterministic, with the truth beside the images."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from source_sets import tiny

from lenshpc.cli.main import main
from lenshpc.cli.simulate import simulate as command
from lenshpc.errors import ConfigError, DataError
from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import Dataset, load_dataset
from lenshpc.prep.simulation.counts import parse_counts
from lenshpc.prep.simulation.simulate import simulate

DATASET = load_dataset("lens_finding")
COUNTS = {"train": {"nonlens": 4, "lens": 3}, "test": {"nonlens": 2, "lens": 1}}


def hashes(root):
    files = sorted(path for path in root.rglob("*") if path.suffix in {".npy", ".jpg"})
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_lens_finding_has_the_original_layout_and_range(tmp_path):
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


LAYOUTS = {
    "lens_finding": (["train_lenses/2.npy", "test_nonlenses/1.npy"], (3, 64, 64), np.float32),
    "multiclass": (["train/no/2.npy", "val/vort/1.npy"], (1, 150, 150), np.float64),
    "slc": (["lenses/no_sub/image_2.jpg", "lenses/sub/image_40.jpg"], (150, 150), np.uint8),
    "foundation": (["no_sub/2.npy", "axion/1.npy"], (64, 64), np.float64),
    "diffusion": (["sample2.npy"], (1, 150, 150), np.float64),
    "super_resolution": (["LR/sample2.npy"], (1, 75, 75), np.float64),
}


def load(path):
    return np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_that_of_the_original_and_can_be_prepared(name, tmp_path):
    dataset = load_dataset(name)
    counts = {split: {c.name: 40 for c in dataset.classes} for split in dataset.splits}
    num_images = simulate(dataset, tmp_path / "out", counts, seed=3)
    identifiers, shape, dtype = LAYOUTS[name]
    for identifier in identifiers:
        image = load(tmp_path / "out" / identifier)
        assert (image.shape, image.dtype) == (shape, dtype)
    truth = pd.read_csv(tmp_path / "out/truth.csv")
    store = convert(dataset, tmp_path / "out", tmp_path / "store")
    assert sorted(truth["id"]) == sorted(store.rows["id"])
    assert num_images == len(truth)


def test_low_resolution_of_a_pair_is_an_exposure_of_its_own(tmp_path):
    simulate(load_dataset("super_resolution"), tmp_path / "out", {"train": {"lens": 60}})
    high, low = (
        np.stack([np.load(tmp_path / f"out/{part}/sample{one}.npy")[0] for one in range(1, 61)])
        for part in ("HR", "LR")
    )
    assert (high.shape, low.shape) == ((60, 150, 150), (60, 75, 75))
    assert (high.min(axis=(1, 2)) == 0).all()
    assert (high.max(axis=(1, 2)) == 1).all()
    means = high.reshape(60, 75, 2, 75, 2).mean(axis=(2, 4))
    assert abs((low - means).mean()) < 1e-4
    # of neighbours in a corner, which holds sky alone, the difference is noise
    noise_high, noise_means, noise_low = (
        (one[:, :14, 0:14:2] - one[:, :14, 1:14:2]).ravel() for one in (high, means, low)
    )
    # four pixels of half the exposure
    assert noise_low.var() / noise_high.var() == pytest.approx(1 / 2, rel=0.1)
    assert abs(np.corrcoef(noise_low, noise_means)[0, 1]) < 0.05


def test_equal_seed_gives_equal_images_by_any_workers_and_more_leave_the_first(tmp_path):
    more = {"train": {"lens": 70, "nonlens": 65}, "test": {"lens": 2, "nonlens": 3}}
    for name, counts, seed, workers in (
        ("a", COUNTS, 5, 1),
        ("b", COUNTS, 5, 2),
        ("more", more, 5, 2),
        ("other", COUNTS, 6, 1),
    ):
        simulate(DATASET, tmp_path / name, counts, seed=seed, workers=workers)
    first = hashes(tmp_path / "a")
    assert hashes(tmp_path / "b") == first
    assert (tmp_path / "a/truth.csv").read_bytes() == (tmp_path / "b/truth.csv").read_bytes()
    assert hashes(tmp_path / "more").items() >= first.items()
    assert not set(hashes(tmp_path / "other").values()) & set(first.values())
    assert len(set(first.values())) == 10
    truth = pd.read_csv(tmp_path / "more/truth.csv")
    expected = [f"train_lenses/{i + 1}.npy" for i in range(70)]
    assert list(truth["id"])[:70] == expected


def test_truth_of_lens_finding_lies_beside_the_images(tmp_path):
    simulate(DATASET, tmp_path / "out", COUNTS)
    truth = pd.read_csv(tmp_path / "out/truth.csv")
    assert set(truth["id"]) == set(hashes(tmp_path / "out"))
    is_lens = truth["id"].str.startswith(("train_lenses", "test_lenses"))
    assert list(truth["kind"] == "lens") == list(is_lens) == list(truth["theta_e_arcsec"].notna())
    assert truth["theta_e_arcsec"].dropna().between(0.6, 2.5).all()
    assert not (tmp_path / "out/subhalos.parquet").exists()


def test_subhalos_of_every_image_add_up_to_the_truth(tmp_path):
    dataset = load_dataset("multiclass")
    simulate(dataset, tmp_path / "out", {"train": {"no": 2, "sphere": 70, "vort": 3}})
    truth = pd.read_csv(tmp_path / "out/truth.csv", index_col="id")
    subhalos = pd.read_parquet(tmp_path / "out/subhalos.parquet")
    found = subhalos.groupby("id").agg(
        number=("mass_fraction", "size"), fraction=("mass_fraction", "sum")
    )
    assert not set(found.index) & {"train/no/1.npy", "train/no/2.npy"}
    expected = truth.loc[found.index]
    np.testing.assert_array_equal(found["number"], expected["num_subhalos"])
    np.testing.assert_allclose(found["fraction"], expected["subhalo_mass_fraction"], rtol=1e-5)
    radii = 1.2815 * np.sqrt(subhalos["mass_fraction"])
    np.testing.assert_allclose(subhalos["theta_e_arcsec"], radii, rtol=1e-5)


def test_counts_are_one_number_or_one_for_each_class():
    wanted = {"train": "lens=100,nonlens=300", "val": None, "test": "5"}
    assert parse_counts(DATASET, wanted) == {
        "train": {"nonlens": 300, "lens": 100},
        "test": {"nonlens": 5, "lens": 5},
    }


@pytest.mark.parametrize(
    ("split", "text", "complaint"),
    [
        ("train", "0", "--train 0: expected a number from 1 to 10000000, or nonlens=100,lens=100"),
        ("train", "many", "--train many: expected a number from 1 to 10000000"),
        ("train", "lens=3", "expected a number from 1 to 10000000, or nonlens=100,lens=100"),
        ("train", "lens=3,nonlens=-1", "expected a number from 1 to 10000000"),
        ("train", "lens=3,lens=4", "expected a number from 1 to 10000000"),
        ("train", "lens=3,ring=4", "unknown class 'ring'"),
        ("train", "9" * 20, f"--train {'9' * 20}: expected a number from 1 to 10000000"),
        ("train", "9" * 5000, f"--train {'9' * 60}: expected a number from 1 to 10000000"),
        ("train", f"nonlens=1,lens={10**30}", "expected a number from 1 to 10000000"),
        ("train", "-5", "expected a number from 1 to 10000000"),
        ("train", "٣", "expected a number from 1 to 10000000"),
        ("train", "1e3", "expected a number from 1 to 10000000"),
        ("val", "3", "--val: lens_finding has no folders for val; give images for train, test"),
    ],
)
def test_counts_that_make_no_sense_are_refused(split, text, complaint):
    with pytest.raises(ConfigError) as error:
        parse_counts(DATASET, {split: text})
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--train", "99999999999999999999"),
        ("--val", "9" * 5000),
        ("--test", f"nonlens=1,lens={10**30}"),
        ("--seed", "-1"),
        ("--seed", "9" * 5000),
        ("--workers", "1000000"),
    ],
)
def test_number_beyond_all_bounds_makes_nothing(option, text, tmp_path):
    given = ["--train", "1", option, text]
    result = CliRunner().invoke(main, ["simulate", "lens_finding", str(tmp_path / "out"), *given])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert option in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_dataset_without_a_simulator_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="tiny has no simulator; its file lacks the key simulate"):
        simulate(tiny(), tmp_path / "out", {"train": {"no": 1, "yes": 1}})


def changed(name, **image):
    value = load_dataset(name).model_dump(by_alias=True, exclude_none=True)
    return Dataset.model_validate(value | {"image": value["image"] | image})


@pytest.mark.parametrize(
    ("name", "image", "complaint"),
    [
        ("lens_finding", {"shape": [1, 64, 64], "channels": ["g"]}, "makes 3-band images"),
        ("multiclass", {"shape": [2, 64, 64], "channels": ["g", "r"]}, "makes 1-band images"),
        ("multiclass", {"shape": [1, 64, 32]}, "makes square images"),
        ("multiclass", {"format": "fits"}, "writes formats npy and image"),
        ("super_resolution", {"shape": [1, 64, 64]}, "targets a multiple of their size"),
    ],
)
def test_images_that_no_simulator_makes_are_refused(name, image, complaint):
    with pytest.raises(ValueError, match=complaint):
        changed(name, **image)


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
    arguments = ["lens_finding", str(tmp_path / "out"), "--train", "lens=2,nonlens=1"]
    result = CliRunner().invoke(command, [*arguments, "--workers", "1"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "3 images in" in result.stderr
    assert len(hashes(tmp_path / "out")) == 3
