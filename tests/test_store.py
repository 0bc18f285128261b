"""The store: what is written is read back; what is not whole does not open."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
import zarr
from stores import begin_rows, chunks_of, write_rows

from lenshpc.errors import ConfigError, DataError, IncompleteError
from lenshpc.files import write_sealed
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member
from lenshpc.run.predictions import read_array
from lenshpc.run.samples import open_samples
from lenshpc.store import Pixels, StoreSpec, open_store
from lenshpc.store.layout import compressors

SPEC = StoreSpec(
    dataset="tiny",
    classes=("no", "yes"),
    image=Pixels(shape=(1, 4, 3), dtype="float32", channels=("a",)),
    seed=7,
    chunk_rows=32,
)
NUM_ROWS = 70
IMAGES = np.random.default_rng(0).normal(size=(NUM_ROWS, 1, 4, 3)).astype(np.float32)
ROWS = 70
IMAGES = np.random.default_rng(0).normal(size=(NUM_ROWS, 1, 4, 3)).astype(np.float32)
HASHES = np.random.default_rng(1).integers(0, 256, size=(NUM_ROWS, 32), dtype=np.uint8)
ROWS = pd.DataFrame(
    {
        "id": [f"Ünï/{i} a.npy" for i in range(NUM_ROWS)],
        "label": [i % 2 for i in range(NUM_ROWS)],
        "split": ["train"] * 40 + ["val"] * 20 + ["test"] * 10,
        "group": [str(i // 2) for i in range(NUM_ROWS)],
    }
)


@pytest.fixture
def path(tmp_path):
    write_rows(tmp_path / "store", SPEC, ROWS, IMAGES)
    return tmp_path / "store"


def test_store_gives_back_what_was_written(path):
    store = open_store(path)
    np.testing.assert_array_equal(store.images[:], IMAGES)
    expected = ROWS.assign(sha256=[sha256(image.tobytes()).hexdigest() for image in IMAGES])
    assert store.rows.to_dict("list") == expected.to_dict("list")
    assert (store.dataset, store.classes, store.channels) == ("tiny", ("no", "yes"), ("a",))
    assert (store.image_shape, store.dtype, store.scale) == ((1, 4, 3), np.float32, 1.0)
    assert store.attributes["counts"] == {
        "train": {"no": 20, "yes": 20},
        "val": {"no": 10, "yes": 10},
        "test": {"no": 5, "yes": 5},
    }


@pytest.mark.parametrize(
    "rows",
    [slice(3, 9), slice(None), np.array([69, 2, 2, 40]), np.array([], int), np.arange(70) % 7 == 0],
    ids=["slice", "all", "unsorted", "none", "mask"],
)
def test_read_gives_the_rows_asked_for(rows, path):
    pixels = open_store(path).read(rows)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, IMAGES[rows])


def test_read_beyond_the_end_is_refused(path):
    with pytest.raises(DataError, match="has 70 rows"):
        open_store(path).read(np.array([70]))


def test_pairs_and_columns_are_given_back(tmp_path):
    spec = replace(
        SPEC,
        target=Pixels(shape=(1, 8, 6), dtype="float64", channels=("a",)),
        columns=("mass", "shear"),
        chunk_rows=8,
    )
    targets = np.random.default_rng(1).normal(size=(NUM_ROWS, 1, 8, 6))
    values = np.random.default_rng(2).normal(size=(NUM_ROWS, 2))
    values[3, 0] = np.nan
    write_rows(tmp_path / "pairs", spec, ROWS, IMAGES, targets, values)
    store = open_store(tmp_path / "pairs")
    np.testing.assert_array_equal(store.read_raw_targets(slice(5, 50)), targets[5:50])
    np.testing.assert_array_equal(store.rows[["mass", "shear"]], values)


def test_targets_of_a_store_without_pairs_are_refused(path):
    with pytest.raises(DataError, match="holds no pairs; prepare a dataset that has a target"):
        open_store(path).read_raw_targets(slice(0, 1))


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_pixels_are_those_that_zarr_reads(dtype, codec, tmp_path):
    spec = replace(
        SPEC, image=replace(SPEC.image, dtype=dtype), codec=codec, chunk_rows=8, shard_rows=32
    )
    images = (IMAGES * 10).astype(dtype)
    images[8:24] = 0  # chunks that zarr would leave out if it were not told to keep them
    write_rows(tmp_path / "store", spec, ROWS, images)
    store = open_store(tmp_path / "store")
    rows = np.random.default_rng(0).permutation(NUM_ROWS)
    np.testing.assert_array_equal(store.read_raw(rows), store.images[:][rows], strict=True)
    np.testing.assert_array_equal(store.read_raw(rows), images[rows], strict=True)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_shards_are_those_that_zarr_writes(dtype, codec, tmp_path):
    spec = replace(
        SPEC, image=replace(SPEC.image, dtype=dtype), codec=codec, chunk_rows=8, shard_rows=32
    )
    images = (IMAGES * 10).astype(dtype)
    write_rows(tmp_path / "store", spec, ROWS, images)
    array = zarr.create_array(
        tmp_path / "zarr",
        shape=images.shape,
        dtype=dtype,
        chunks=(8, 1, 4, 3),
        shards=(32, 1, 4, 3),
        compressors=compressors(codec),
    )
    array[:] = images
    shards = {path.name: path for path in (tmp_path / "zarr/c").iterdir()}
    assert sorted(shards) == ["0", "1", "2"]
    for name, shard in shards.items():
        ours = tmp_path / "store/images/c" / name / "0/0/0"
        assert ours.read_bytes() == (shard / "0/0/0").read_bytes()


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_content_hash_ignores_codec_and_shards(codec, path, tmp_path):
    spec = replace(SPEC, codec=codec, chunk_rows=4, shard_rows=16)
    write_rows(tmp_path / "small", spec, ROWS, IMAGES)
    small = open_store(tmp_path / "small")
    assert (small.chunk_rows, small.shard_rows, small.num_shards) == (4, 16, 5)
    np.testing.assert_array_equal(small.read_raw(slice(None)), IMAGES)
    assert small.content_hash == open_store(path).content_hash


def test_content_hash_sees_the_rows(path, tmp_path):
    write_rows(tmp_path / "other", SPEC, ROWS.assign(label=0), IMAGES)
    assert open_store(tmp_path / "other").content_hash != open_store(path).content_hash


@pytest.mark.parametrize(
    ("num_rows", "shape", "dtype", "expected"),
    [
        (1, (3, 64, 64), "float32", 32),
        (33, (3, 64, 64), "float32", 64),
        (10**6, (3, 64, 64), "float32", 1344),
        (500_000, (1, 64, 64), "uint8", 2048),
        (10**6, (1, 64, 64), "uint8", 3904),
        (10**7, (1, 8, 8), "float32", 38912),
        (10**6, (1, 150, 150), "float64", 352),
        (10**6, (3, 9000, 9000), "float64", 32),
    ],
)
def test_shard_is_short_for_few_rows_and_large_images(num_rows, shape, dtype, expected):
    channels = tuple("abc"[: shape[0]])
    image = Pixels(shape=shape, dtype=dtype, channels=channels)
    spec = StoreSpec(dataset="many", classes=("no", "yes"), image=image)
    assert spec.rows_a_shard(num_rows) == expected


def test_shard_that_is_no_whole_number_of_chunks_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="a shard of 40 rows is not a multiple of its chunks of 32"
    ):
        begin_rows(tmp_path / "store", replace(SPEC, shard_rows=40), ROWS, settings={})
    assert list(tmp_path.iterdir()) == []


def small_draft(path):
    return begin_rows(path, replace(SPEC, shard_rows=32), ROWS, settings={"root": "x"})


def files_of(path):
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def test_draft_goes_on_where_it_was_left_and_ends_in_equal_bytes(tmp_path):
    first = small_draft(tmp_path / "store")
    first.write(1, chunks_of(first, 1, IMAGES))
    second = small_draft(tmp_path / "store")
    assert (second.folder, second.missing()) == (first.folder, [0, 2])
    assert second.rows(2)["id"].to_pylist() == ROWS["id"].tolist()[64:]
    for shard in (2, 0, 1):  # writing one again does no harm
        second.write(shard, chunks_of(second, shard, IMAGES))
    second.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    straight = begin_rows(tmp_path / "straight", replace(SPEC, shard_rows=32), ROWS, settings={})
    for shard in range(3):
        straight.write(shard, chunks_of(straight, shard, IMAGES))
    straight.finish()
    assert files_of(tmp_path / "store") == files_of(tmp_path / "straight")


def test_draft_that_lacks_a_shard_does_not_finish(tmp_path):
    draft = small_draft(tmp_path / "store")
    draft.write(1, chunks_of(draft, 1, IMAGES))
    with pytest.raises(
        IncompleteError, match=r"2 of 3 shards of .*store are not converted; repeat"
    ):
        draft.finish()
    with pytest.raises(DataError, match="no store at"):
        open_store(tmp_path / "store")
    assert not draft.store.joinpath("zarr.json").exists()


def test_draft_of_other_rows_or_settings_lies_elsewhere(tmp_path):
    spec = replace(SPEC, shard_rows=32)
    drafts = [
        small_draft(tmp_path / "store"),
        begin_rows(tmp_path / "store", spec, ROWS.assign(label=0), settings={"root": "x"}),
        begin_rows(tmp_path / "store", spec, ROWS, settings={"root": "y"}),
        begin_rows(tmp_path / "store", replace(spec, seed=8), ROWS, settings={"root": "x"}),
        begin_rows(tmp_path / "other", spec, ROWS, settings={"root": "x"}),
    ]
    assert len({draft.folder for draft in drafts}) == 5
    assert drafts[3].spec.seed == 8
    assert drafts[2].settings == {"root": "y"}


def set_attribute(path, name, value):
    zarr.open_group(path, mode="a").attrs[name] = value


def write_attributes(path, attributes):
    document = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(document | {"attributes": attributes}))


def write_array(path, values):
    zarr.open_array(path, mode="r+")[...] = values


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


BROKEN = {
    "absent": (shutil.rmtree, "no store at"),
    "other folder": (
        lambda path: (path / "zarr.json").unlink(),
        "is no store: zarr.json is missing",
    ),
    "incomplete": (lambda path: write_attributes(path, {"lenshpc_store": 5}), "is incomplete"),
    "no seal": (
        lambda path: write_attributes(path, {"lenshpc_store": 5, "complete": True}),
        "is damaged: zarr.json has no hash",
    ),
    "statistics": (
        lambda path: set_attribute(path, "train_mean", [0.0]),
        "is damaged: zarr.json does not match its hash",
    ),
    "text": (lambda path: (path / "zarr.json").write_text("[[" * 10**5), "is damaged: zarr.json:"),
    "null": (
        lambda path: (path / "zarr.json").write_text("null"),
        "is zarr but not a lenshpc store",
    ),
    "older layout": (
        lambda path: write_attributes(path, {"lenshpc_store": 4, "complete": True}),
        "has layout 4, not 5: another version of lenshpc made it; prepare it again under another",
    ),
    "metadata": (lambda path: truncate(path / "zarr.json"), "is damaged: zarr.json"),
    "codec": (
        lambda path: (path / "images/zarr.json").write_text("{}"),
        "is damaged: images/zarr.json does not match its hash",
    ),
    "shard missing": (
        lambda path: (path / "images/c/0/0/0/0").unlink(),
        "is damaged: images/c/0/0/0/0 is missing",
    ),
    "shard cut": (
        lambda path: truncate(path / "images/c/0/0/0/0"),
        "is damaged: images/c/0/0/0/0 has",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_store_does_not_open(name, path):
    change, complaint = BROKEN[name]
    change(path)
    with pytest.raises(DataError) as error:
        open_store(path)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


DAMAGED = {
    "array": (
        "moments",
        lambda path: shutil.rmtree(path / "moments"),
        "is damaged: moments/zarr.json is missing",
    ),
    "labels": (
        "label",
        lambda path: shutil.rmtree(path / "label/c"),
        "is damaged: label/c/0 is missing",
    ),
    "values": (
        "moments",
        lambda path: write_array(path / "moments", 1),
        "is damaged: moments/c/0/0/0 does not match its hash; prepare it again under another name",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_column_is_refused_when_it_is_asked_for(name, path):
    column, change, complaint = DAMAGED[name]
    change(path)
    store = open_store(path)
    assert store.text("id").to_pylist() == ROWS["id"].tolist()
    for rows in (None, slice(3, 5)):
        with pytest.raises(DataError) as error:
            store.column(column, rows)
        assert complaint in str(error.value)
        assert "\n" not in str(error.value)


def hide(file):
    """Put a link that leads to itself in a file's place: the system does not hand it out."""
    file.unlink()
    file.symlink_to(file.name)


@pytest.mark.parametrize(
    "name", ["zarr.json", "label/zarr.json", "label/c/0", "images/zarr.json", "images/c/0/0/0/0"]
)
def test_file_that_the_system_does_not_hand_out_is_not_called_damaged(name, path):
    hide(path / name)
    with pytest.raises(DataError) as error:
        open_store(path).column("label")
    assert str(error.value) == (
        f"{path / name} cannot be read: Too many levels of symbolic links; "
        "check its permissions and the file system, then repeat the command"
    )


def test_shard_that_the_system_does_not_hand_out_is_not_called_damaged(path):
    store = open_store(path)
    hide(path / "images/c/0/0/0/0")
    for act in (lambda: store.read(slice(0, 1)), lambda: store.check_shard(0)):
        with pytest.raises(DataError, match=r"images/c/0/0/0/0 cannot be read: Too many levels"):
            act()


def test_store_that_is_moved_while_it_is_open_is_not_called_damaged(path):
    store = open_store(path)
    path.rename(path.with_name("elsewhere"))
    for act in (lambda: store.read(slice(0, 1)), lambda: store.check_shard(0)):
        with pytest.raises(DataError, match=r"^no store at .*store; make it with: lenshpc prepare"):
            act()


def test_store_below_a_file_is_absent(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="no store at"):
        open_store(tmp_path / "file/store")


class Spy:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def write_version_2(path, spy=None):
    """Write an array of zarr version 2, plain or with a chunk that is a pickle."""
    path.mkdir(parents=True)
    (path.parent / ".zgroup").write_text('{"zarr_format": 2}')
    facts = {
        "zarr_format": 2,
        "shape": [1],
        "chunks": [1],
        "dtype": "<f8",
        "compressor": {"id": "pickle", "protocol": 5} if spy else None,
        "fill_value": 0,
        "order": "C",
        "filters": None,
    }
    (path / ".zarray").write_text(json.dumps(facts))
    (path / "0").write_bytes(pickle.dumps(spy) if spy else np.zeros(1).tobytes())


@pytest.mark.parametrize("has_pickle", [False, True])
def test_array_of_zarr_version_2_is_refused_unread(has_pickle, path, tmp_path):
    spy = Spy(tmp_path / "ran") if has_pickle else None
    run, member = RunPaths(tmp_path / "run"), Member(index=0, model="m", fold=0, seed=0)
    arrays = run.member(member.name).arrays
    write_version_2(arrays / "embedding", spy)
    pd.DataFrame({"row": [0]}).to_parquet(arrays.parent / "predictions.parquet")
    files = [path for path in arrays.parent.rglob("*") if path.is_file()]
    hashes = {
        str(path.relative_to(arrays.parent)): sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    write_sealed(arrays.parent / "done.json", {**member.model_dump(), "files": hashes})
    with pytest.raises(DataError, match="has no array 'embedding' that can be read"):
        read_array(run, member, "embedding", np.array([0]))
    write_version_2(run.samples / "member0_seed0", spy)
    with pytest.raises(DataError, match=r"member0_seed0 holds no samples that can be read"):
        open_samples(run, None, member, 0)
    write_version_2(tmp_path / "old" / "images", spy)
    with pytest.raises(DataError, match=r"is no store: zarr.json is missing"):
        open_store(tmp_path / "old")
    shutil.rmtree(path / "moments")
    write_version_2(path / "moments", spy)
    with pytest.raises(DataError, match=r"is damaged: moments/zarr\.json is missing"):
        open_store(path).column("moments")
    assert not (tmp_path / "ran").exists()


def test_foreign_zarr_does_not_open(tmp_path):
    zarr.create_group(tmp_path / "foreign")
    with pytest.raises(DataError, match="is zarr but not a lenshpc store"):
        open_store(tmp_path / "foreign")


def flip_a_bit(shard):
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize("shard_rows", [32, 64])
@pytest.mark.parametrize("first", [0, 64])
def test_flipped_bit_is_found_on_reading_any_part_of_a_shard(first, shard_rows, tmp_path):
    write_rows(tmp_path / "store", replace(SPEC, shard_rows=shard_rows), ROWS, IMAGES)
    name = f"images/c/{first // shard_rows}/0/0/0"
    flip_a_bit(tmp_path / "store" / name)
    store = open_store(tmp_path / "store")
    for rows in (slice(first, first + 1), slice(first, first + 64), np.array([first]), slice(None)):
        with pytest.raises(DataError, match=f"is damaged: {name}: "):
            store.read(rows)


def test_flipped_bit_is_found_by_the_hash_of_its_shard(tmp_path):
    draft = small_draft(tmp_path / "store")
    for shard in range(3):
        draft.write(shard, chunks_of(draft, shard, IMAGES))
    draft.finish()
    flip_a_bit(tmp_path / "store/images/c/1/0/0/0")
    store = open_store(tmp_path / "store")
    store.check_shard(0)
    with pytest.raises(DataError, match="damaged: images/c/1/0/0/0 does not match its hash"):
        store.check_shard(1)


def test_complete_is_the_last_attribute(path):
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    assert list(attributes)[-1] == "complete"
    assert attributes["complete"] is True
