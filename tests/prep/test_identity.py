"""What a store's hash covers, what `prepare` keeps of sources that changed, and what is refused."""

import json
import os
import tempfile

import numpy as np
import pandas as pd
import pytest
import zarr
from astropy.io import fits
from source_sets import TINY, fill, tiny

from lenshpc.data.decoded import Decoded
from lenshpc.data.shared import open_shared_images
from lenshpc.errors import DataError, IncompleteError
from lenshpc.files import sha256
from lenshpc.prep.convert import Options, convert, convert_shards, draft_store
from lenshpc.prep.verify import verify
from lenshpc.run.sections import Data
from lenshpc.store import open_store
from lenshpc.store.identity import RowTally, seal
from lenshpc.worker import convert_share, join_shards

OPTIONS = Options(shard_rows=32)


def files_of(path):
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def fits_set(root, *, sci, wht):
    """Write eight images a class, each with the two planes."""
    for name in ("no", "yes"):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(8):
            planes = [fits.ImageHDU(plane + number, name=key) for key, plane in (sci, wht)]
            fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(folder / f"{number}.fits")


def test_stores_of_two_hdus_of_one_set_are_two_stores(tmp_path):
    plane = np.arange(30, dtype=np.float32).reshape(6, 5)
    fits_set(tmp_path / "source", sci=("SCI", plane), wht=("WHT", plane[::-1].copy()))
    image = {"format": "fits", "shape": [1, 6, 5], "dtype": "float32", "axes": "hw"}
    image["channels"] = ["i"]
    stores = [
        convert(tiny(image=image | {"hdu": hdu}, holdout=None), tmp_path / "source", tmp_path / hdu)
        for hdu in ("SCI", "WHT")
    ]
    assert stores[0].content_hash != stores[1].content_hash


def shared_files(folder):
    return {path.name for path in folder.glob("lenshpc-images-*")}


def test_stores_of_two_orders_of_axes_share_no_decoded_copy(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for name in ("no", "yes"):
        (tmp_path / "source/train" / name).mkdir(parents=True)
        for number in range(4):
            cube = random.normal(size=(8, 8, 8)).astype(np.float32)
            np.save(tmp_path / f"source/train/{name}/{number}.npy", cube)
    image = TINY["image"] | {"shape": [8, 8, 8], "channels": list("abcdefgh")}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hashes, names = set(), []
    for axes in ("chw", "hwc"):
        dataset = tiny(image=image | {"axes": axes}, holdout=None)
        store = convert(dataset, tmp_path / "source", tmp_path / axes)
        hashes.add(store.content_hash)
        with open_shared_images(Decoded(store, Data())) as images:
            names.append(shared_files(tmp_path))
            np.testing.assert_array_equal(images, store.images[:])
    assert len(hashes) == 2
    assert [len(found) for found in names] == [1, 1]
    assert names[0] != names[1]


def test_store_with_one_other_value_of_truth_is_another_store(tmp_path):
    identifiers = sorted(fill(tmp_path / "source"))
    dataset = tiny(truth={"columns": ["mass"]})
    hashes = []
    for value in (1.0, 1.0, np.nextafter(1.0, 2)):
        table = pd.DataFrame({"id": identifiers, "mass": 1.0})
        table.loc[5, "mass"] = value
        table.to_csv(tmp_path / "source/truth.csv", index=False, float_format="%.17g")
        store = convert(dataset, tmp_path / "source", tmp_path / str(len(hashes)))
        hashes.append(store.content_hash)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.fixture
def half_done(tmp_path):
    """Leave a draft that has three of its four shards: one image of the last one is broken."""
    images = fill(tmp_path / "source", num_images=32)
    last = draft_store(tiny(), tmp_path / "source", tmp_path / "store", OPTIONS).rows(3)["id"]
    victim = tmp_path / "source" / last[-1].as_py()
    image = np.load(victim)
    np.save(victim, np.full_like(image, np.nan))
    with pytest.raises(DataError, match=last[-1].as_py()):
        convert(tiny(), tmp_path / "source", tmp_path / "store", OPTIONS)
    draft = draft_store(tiny(), tmp_path / "source", tmp_path / "store", OPTIONS)
    assert draft.missing() == [3]
    np.save(victim, image)
    return images, draft


def check_equals_straight(tmp_path):
    store = convert(tiny(), tmp_path / "source", tmp_path / "store", OPTIONS)
    straight = convert(tiny(), tmp_path / "source", tmp_path / "straight", OPTIONS)
    assert files_of(store.path) == files_of(straight.path)
    verify(store.path, against=tmp_path / "source")


def test_images_made_anew_under_the_same_names_are_all_read(half_done, tmp_path):
    for name, image in half_done[0].items():
        np.save(tmp_path / "source" / name, image + 1)
    check_equals_straight(tmp_path)


def test_changed_image_of_equal_size_and_times_is_read_again(half_done, tmp_path):
    images, draft = half_done
    name = draft.rows(1)["id"][0].as_py()
    path = tmp_path / "source" / name
    times = path.stat()
    np.save(path, images[name] + 1)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    check_equals_straight(tmp_path)


def test_what_is_made_of_unchanged_images_is_kept(half_done, tmp_path):
    _, draft = half_done
    parts = {path.name: path.stat().st_mtime_ns for path in (draft.folder / "parts").iterdir()}
    convert_shards(draft, range(4), workers=1)
    found = {path.name: path.stat().st_mtime_ns for path in (draft.folder / "parts").iterdir()}
    assert (len(parts), len(found)) == (3, 4)
    assert parts.items() <= found.items()


def test_elements_of_an_array_look_at_their_shares_and_the_last_job_joins(half_done, tmp_path):
    images, draft = half_done
    name = draft.rows(1)["id"][0].as_py()
    np.save(tmp_path / "source" / name, images[name] + 1)
    for element in range(3):
        convert_share(str(draft.folder), element, 3, 1)
    join_shards(str(draft.folder))
    straight = convert(tiny(), tmp_path / "source", tmp_path / "straight", OPTIONS)
    assert files_of(tmp_path / "store") == files_of(straight.path)
    with pytest.raises(DataError, match=r"partial is no draft of a store, .*; repeat the lenshpc"):
        join_shards(str(draft.folder))


def test_damaged_shard_counts_as_not_converted_where_the_parts_are_joined(half_done, tmp_path):
    _, draft = half_done
    convert_shards(draft, [3], workers=1)
    shard = draft.folder / "shards/images-000001"
    content = bytearray(shard.read_bytes())
    content[7] ^= 1
    shard.write_bytes(content)
    with pytest.raises(IncompleteError, match=r"1 of 4 shards of .* are not converted; repeat"):
        draft.finish()
    assert draft.missing() == [1]
    check_equals_straight(tmp_path)


@pytest.fixture
def path(tmp_path):
    fill(tmp_path / "source")
    return convert(tiny(), tmp_path / "source", tmp_path / "store").path


def reseal(path, **attributes):
    """Write attributes, and all hashes of files, as if the store had been made so."""
    document = json.loads((path / "zarr.json").read_text())
    kept = document["attributes"] | attributes
    kept["files"] = {name: sha256(path / name) for name in kept["files"]}
    document["attributes"] = kept
    document["attributes"]["seal"] = seal(document)
    (path / "zarr.json").write_text(json.dumps(document))
    return kept


def change_last(values):
    """Change the last value of an array in its last bit."""
    values.reshape(-1).view(np.uint8)[-values.dtype.itemsize] ^= 1


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("moments", "has not the pixels, or moments, of its row"),
        ("pixel_sha256", "has not the pixels, or moments, of its row"),
        ("label", "counts is "),
        ("split", "counts is "),
        ("size", "manifest_hash is "),
        ("sha256", "manifest_hash is "),
    ],
)
def test_verify_computes_columns_again(name, complaint, path):
    array = zarr.open_array(path / name, mode="r+")
    values = array[:]
    if name == "moments":
        values[-1] *= 1 + 1e-6
    else:
        change_last(values)
    array[...] = values
    reseal(path)
    store, tally = open_store(path), RowTally(())
    for block in store.blocks(*store.row_columns):
        tally.add(block, 0)
    # As if the hash of all had been taken of these values: what follows from pixels does not.
    reseal(path, content_hash=tally.content_hash(store.attributes))
    with pytest.raises(DataError, match=complaint):
        verify(path)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("train_mean", [0.0, 0.0], "train_mean is "),
        ("train_std", [1.0, 1.1], "train_std is "),
        ("counts", {"train": {"no": 8, "yes": 9}}, "counts is "),
        ("manifest_hash", "0" * 64, "manifest_hash is "),
        ("content_hash", "0" * 64, "the content hash is not that of its columns"),
        ("seed", 1, "the content hash is not that of its columns"),
    ],
)
def test_verify_computes_attributes_again(name, value, complaint, path):
    verify(path)
    reseal(path, **{name: value})
    with pytest.raises(DataError, match=f"is damaged: {complaint}"):
        verify(path)


def test_file_that_is_not_the_stores_is_named_by_verify(path):
    (path / "label/c/7").write_bytes(b"")
    open_store(path)
    with pytest.raises(DataError, match=r"^label/c/7 does not belong to the store .*; move them"):
        verify(path)


def test_shard_of_another_store_is_named_when_it_is_read(tmp_path):
    options = Options(codec="none")  # so that their files are equally long
    for identifier, image in fill(tmp_path / "source").items():
        other = tmp_path / "other" / identifier
        other.parent.mkdir(parents=True, exist_ok=True)
        np.save(other, 2 * image)
    stores = [
        convert(tiny(), tmp_path / name, tmp_path / f"{name}.store", options)
        for name in ("source", "other")
    ]
    name = "images/c/0/0/0/0"
    (stores[0].path / name).write_bytes((stores[1].path / name).read_bytes())
    told = rf"{name}: .* fail their checksum; prepare it again under another name"
    # Also of a store that was opened before: a whole chunk is not enough, it must be this store's.
    for store in (stores[0], open_store(stores[0].path)):
        with pytest.raises(DataError, match=told):
            store.read(slice(0, 1))
    assert open_store(stores[1].path).read(slice(0, 1)).shape == (1, 2, 6, 5)
