"""Conversion: the store equals its source bit for bit, or nothing is left behind."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_sets import TINY, fill, tiny, write_yaml

from lenshpc.errors import DataError, IncompleteError
from lenshpc.prep.convert import Options, convert
from lenshpc.prep.dataset import load_dataset
from lenshpc.store import channel_statistics, open_store

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")


def files_of(store):
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file()
    }


def assert_equals_source(store, root, read):
    for row, (identifier, digest) in enumerate(zip(store.rows.id, store.rows.sha256, strict=True)):
        source = read(root / identifier)
        np.testing.assert_array_equal(store.images[row], source.reshape(store.image_shape))
        assert digest == hashlib.sha256((root / identifier).read_bytes()).hexdigest()


def test_store_holds_every_image_bit_for_bit(tmp_path):
    images = fill(tmp_path / "source", num_images=30)
    store = convert(tiny(), tmp_path / "source", tmp_path / "store")
    assert sorted(store.rows.id) == sorted(images)
    assert_equals_source(store, tmp_path / "source", np.load)
    assert list(dict.fromkeys(store.rows.split)) == ["train", "val", "test"]
    expected = store.rows.id.str.split("/").str[1].map({"no": 0, "yes": 1})
    assert store.rows.label.tolist() == expected.tolist()
    assert store.rows.group.tolist() == store.rows.id.tolist()


def test_moments_and_statistics_are_those_of_the_pixels(tmp_path):
    images = fill(tmp_path / "source")
    store = convert(tiny(), tmp_path / "source", tmp_path / "store")
    pixels = np.stack([images[name] for name in store.rows.id]).astype(float)
    expected = np.stack([pixels.mean((2, 3)), np.square(pixels).mean((2, 3))], axis=-1)
    np.testing.assert_allclose(store.column("moments"), expected, rtol=1e-12)
    train = pixels[store.rows.split == "train"]
    np.testing.assert_allclose(store.attributes["train_mean"], train.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(store.attributes["train_std"], train.std((0, 2, 3)), rtol=1e-12)
    some = np.array([1, 5, 6])
    mean, std = channel_statistics(store.column("moments")[some])
    np.testing.assert_allclose(mean, pixels[some].mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels[some].std((0, 2, 3)), rtol=1e-12)


def test_grey_images_are_scaled_to_one(tmp_path):
    image = {"format": "image", "shape": [1, 4, 4], "dtype": "uint8", "channels": ["i"]}
    for name, level in (("no", 0), ("yes", 255)):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), level, np.uint8)).save(tmp_path / f"train/{name}/1.png")
    store = convert(tiny(image=image), tmp_path, tmp_path / "store.zarr")
    values = dict(zip(store.rows.id, store.read(slice(None)).reshape(2, -1).tolist(), strict=True))
    assert values == {"train/no/1.png": [0.0] * 16, "train/yes/1.png": [1.0] * 16}
    assert sorted(store.column("moments").reshape(2, 2).tolist()) == [[0.0, 0.0], [1.0, 1.0]]


def test_equal_seed_gives_equal_bytes_and_another_seed_another_order(tmp_path):
    fill(tmp_path / "source")
    stores = [
        convert(tiny(), tmp_path / "source", tmp_path / f"store{i}", Options(seed=seed))
        for i, seed in enumerate((3, 3, 4))
    ]
    assert files_of(stores[0].path) == files_of(stores[1].path)
    assert sorted(stores[0].rows.id) == sorted(stores[2].rows.id)
    assert stores[0].rows.id.tolist() != stores[2].rows.id.tolist()
    assert stores[0].content_hash != stores[2].content_hash
    assert stores[0].attributes["manifest_hash"] == stores[2].attributes["manifest_hash"]


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_every_image(workers, tmp_path):
    fill(tmp_path / "source", num_images=36, splits=("train",))
    seen = []
    options = Options(shard_rows=64)
    convert(
        tiny(),
        tmp_path / "source",
        tmp_path / "store",
        options,
        workers=workers,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert (seen[-1], {total for _, total in seen}) == ((72, 72), {72})


def test_existing_store_is_never_overwritten(tmp_path):
    fill(tmp_path / "source")
    store = convert(tiny(), tmp_path / "source", tmp_path / "store")
    before = files_of(store.path)
    with pytest.raises(DataError, match="store exists; use another name"):
        convert(tiny(), tmp_path / "source", tmp_path / "store")
    assert files_of(store.path) == before


def failing_at(number, failure):
    def fail(done, total):
        if done >= number:
            raise failure

    return fail


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError(28, "No space left")])
def test_conversion_interrupted_in_its_first_shard_leaves_nothing(failure, tmp_path):
    fill(tmp_path / "source", num_images=20)
    with pytest.raises((IncompleteError, KeyboardInterrupt, MemoryError)):
        convert(tiny(), tmp_path / "source", tmp_path / "store", progress=failing_at(20, failure))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    with pytest.raises(DataError, match="no store at"):
        open_store(tmp_path / "store")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError(28, "No space left")])
@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_conversion_goes_on_and_ends_in_equal_bytes(workers, failure, tmp_path):
    fill(tmp_path / "source", num_images=40)
    options = Options(shard_rows=32)
    arguments = (tiny(), tmp_path / "source", tmp_path / "store", options)
    with pytest.raises((IncompleteError, KeyboardInterrupt, MemoryError)):
        convert(*arguments, progress=failing_at(100, failure))
    assert sorted(path.name for path in tmp_path.iterdir())[1:] == ["source"]
    totals = set()
    store = convert(*arguments, workers=workers, progress=lambda done, total: totals.add(total))
    assert totals == {160}  # the 96 that were converted are looked at
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "store"]
    straight = convert(tiny(), tmp_path / "source", tmp_path / "straight", options)
    assert files_of(store.path) == files_of(straight.path)


def test_broken_file_fails_the_command_with_one_line_and_no_store(tmp_path):
    from click.testing import CliRunner

    from lenshpc.cli.prepare import prepare

    fill(tmp_path / "source")
    (tmp_path / "source/val/no/3.npy").write_bytes(b"")
    dataset = write_yaml(tmp_path / "tiny.yaml", TINY)
    arguments = [str(dataset), str(tmp_path / "source"), str(tmp_path / "store")]
    result = CliRunner().invoke(prepare, arguments)
    assert isinstance(result.exception, DataError)
    assert "val/no/3.npy is empty (0 bytes)" in str(result.exception)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["source", "store.refused.csv", "tiny.yaml"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--array-size 4", "--site and --array-size go together"),
        ("--site rehearsal", "--site and --array-size go together"),
        (
            "--site local --array-size 4",
            "site local has no scheduler; leave out --site and --array-size to work on this "
            "machine",
        ),
        ("--shard-rows 40", "a shard of 40 rows is not a multiple of its chunks of 32"),
        ("--site nowhere --array-size 2", "nowhere"),
    ],
)
def test_prepare_refuses_options_that_do_not_fit(words, complaint, tmp_path):
    from click.testing import CliRunner

    from lenshpc.cli.main import main

    fill(tmp_path / "source", splits=("train",))
    dataset = write_yaml(tmp_path / "tiny.yaml", TINY)
    arguments = ["prepare", str(dataset), str(tmp_path / "source"), str(tmp_path / "store")]
    result = CliRunner().invoke(main, arguments + words.split())
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "tiny.yaml"]


def test_prepare_then_info_tells_what_is_inside(tmp_path):
    import json

    from click.testing import CliRunner

    from lenshpc.cli.info import info
    from lenshpc.cli.prepare import prepare

    fill(tmp_path / "source", splits=("train",))
    dataset = write_yaml(tmp_path / "tiny.yaml", TINY)
    arguments = [str(dataset), str(tmp_path / "source"), str(tmp_path / "store")]
    result = CliRunner().invoke(prepare, arguments, catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "train      16: 8 no, 8 yes" in result.stderr
    result = CliRunner().invoke(info, [str(tmp_path / "store"), "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["counts"] == {"train": {"no": 8, "yes": 8}}
    assert (found["image_shape"], found["dtype"], found["scale"]) == ([2, 6, 5], "float32", 1.0)


@needs_shared
@pytest.mark.parametrize("name", ["lens_finding", "multiclass"])
def test_genuine_npy_samples_survive_bit_for_bit(name, tmp_path):
    store = convert(load_dataset(name), SHARED / name, tmp_path / "store")
    assert store.num_rows == {"lens_finding": 20, "multiclass": 15}[name]
    assert_equals_source(store, SHARED / name, np.load)


@needs_shared
def test_genuine_slc_images_survive_bit_for_bit(tmp_path):
    for name in ("no_sub", "sub"):
        folder = tmp_path / "lenses" / name
        folder.mkdir(parents=True)
        for path in sorted((SHARED / "slc/lenses" / name).iterdir())[:60]:
            shutil.copy(path, folder)
    store = convert(load_dataset("slc"), tmp_path, tmp_path / "store")
    assert_equals_source(store, tmp_path, lambda path: np.asarray(Image.open(path)))
    assert (store.num_rows, store.dtype, store.scale) == (120, np.uint8, 1 / 255)
    assert set(store.rows.split) == {"train", "test"}
