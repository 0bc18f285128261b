"""Every file of a store, a bit flipped, cut or deleted: named, or nothing that is read changes."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import write_rows

from lenshpc.errors import LensHpcError
from lenshpc.prep.verify import verify
from lenshpc.store import Pixels, StoreSpec, open_store
from lenshpc.store.identity import seal

NUM_ROWS = 20
SPEC = StoreSpec(
    dataset="tiny",
    classes=("no", "yes"),
    image=Pixels(shape=(1, 6, 5), dtype="float32", channels=("a",)),
    target=Pixels(shape=(2, 3, 3), dtype="uint8", channels=("b", "c")),
    columns=("mass",),
    source={"name": "tiny"},
    chunk_rows=4,
    shard_rows=12,
)
ROWS = pd.DataFrame(
    {
        "id": [f"Ünï/{i} a.npy" for i in range(NUM_ROWS)],
        "label": [i % 2 for i in range(NUM_ROWS)],
        "split": ["train"] * 10 + ["val"] * 6 + ["test"] * 4,
        "group": [str(i // 2) for i in range(NUM_ROWS)],
    }
)
KINDS = ("flip", "cut", "delete")
CHOICE = st.tuples(st.integers(0, 2**16), st.integers(0, 2**32), st.integers(0, 7))
QUICK = settings(max_examples=40, derandomize=True, deadline=None, database=None)


def damage(kind, content, place, bit):
    """Return a file's bytes with one bit flipped, or cut; None where the file is deleted."""
    if kind == "delete":
        return None
    place %= len(content)
    if kind == "cut":
        return content[:place]
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def read_all(path):
    """Return all that a run can learn from a store, or the text of its refusal."""
    try:
        return read_values(path)
    except LensHpcError as error:
        return str(error)


def read_values(path):
    store = open_store(path)
    return {
        "hash": store.content_hash,
        "rows": store.rows.to_csv(),
        "attributes": store.attributes,
        "names": [store.stored.read(name) for name in ("channel", "target_channel")],
        "shards": store.stored.read("shard_sha256").tobytes(),
        "arrays": [
            array.tobytes()
            for array in (
                *map(store.column, ("moments", "size", "pixel_sha256")),
                store.stored.read("shard_sha256"),
                store.read_raw(slice(None)),
                store.read_raw_targets(slice(None)),
            )
        ],
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Write a store of pairs; return its folder, its files, and all that it says."""
    path = tmp_path_factory.mktemp("fuzz") / "store"
    random = np.random.default_rng(0)
    images = random.normal(size=(NUM_ROWS, 1, 6, 5)).astype(np.float32)
    targets = random.integers(0, 256, (NUM_ROWS, 2, 3, 3), dtype=np.uint8)
    write_rows(path, SPEC, ROWS, images, targets, random.random((NUM_ROWS, 1)))
    verify(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    assert len(files) == 1 + 4 + 2 + 2 * 14, "root, shards, their arrays, columns and names"
    return path, files, read_all(path)


def check_damage(kind, store, choice, read=read_all):
    path, files, expected = store
    number, place, bit = choice
    file = files[number % len(files)]
    content = file.read_bytes()
    try:
        damaged = damage(kind, content, place, bit)
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        found = read(path)
        if found == expected:
            assert kind == "flip", "nothing that is missing goes unseen"
        else:
            assert str(file.relative_to(path)) in found
            assert "remove" not in found
    finally:
        file.write_bytes(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def check_document(store, is_sealed, choice):
    """Put another value into zarr.json, with its seal or without: it opens or is refused."""
    path, _, expected = store
    number, value = choice
    file = path / "zarr.json"
    content = file.read_bytes()
    document = json.loads(content)
    attributes = document["attributes"]
    key = [*attributes, *document][number % (len(attributes) + len(document))]
    (attributes if key in attributes else document)[key] = value
    if is_sealed and isinstance(document.get("attributes"), dict):
        attributes["seal"] = seal(document)
    try:
        file.write_text(json.dumps(document))
        found = read_all(path)
        if isinstance(found, str):
            assert "\n" not in found
        else:
            assert is_sealed or found == expected
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_other_document_of_a_store_is_refused_in_one_line(is_sealed, store):
    choices = st.tuples(st.integers(0, 99), JSON)
    given(choices)(QUICK(lambda choice: check_document(store, is_sealed, choice)))()


@pytest.mark.slow
@pytest.mark.parametrize("is_sealed", [False, True])
def test_other_document_of_a_store_is_refused_in_one_line_in_thousands(is_sealed, store):
    choices, thorough = st.tuples(st.integers(0, 99), JSON), settings(QUICK, max_examples=10000)
    given(choices)(thorough(lambda choice: check_document(store, is_sealed, choice)))()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_of_a_store_is_named(kind, store):
    given(CHOICE)(QUICK(lambda choice: check_damage(kind, store, choice)))()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_of_a_store_is_named_in_thousands_of_tries(kind, store):
    thorough = settings(QUICK, max_examples=2000)
    given(CHOICE)(thorough(lambda choice: check_damage(kind, store, choice)))()


def check_verified(kind, store, choice):
    """Damage a file: `verify` names it, whatever it is, and whether or not a run would read it."""

    def read(path):
        try:
            verify(path)
        except LensHpcError as error:
            return str(error)
        return "nothing"

    check_damage(kind, store, choice, read)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_of_a_store_is_named_by_verify(kind, store):
    given(CHOICE)(QUICK(lambda choice: check_verified(kind, store, choice)))()
