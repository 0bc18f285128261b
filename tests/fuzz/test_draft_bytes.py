"""Every file of a draft, a bit flipped, cut or deleted: the same command ends in the same store."""

import shutil

import pytest
from hypothesis import given, settings
from source_sets import fill, tiny
from test_store_bytes import CHOICE, KINDS, QUICK, damage

from lenshpc.prep.convert import Options, convert, convert_shards, draft_store

DATASET = tiny(holdout=None)
OPTIONS = Options(chunk_rows=4, shard_rows=8)
STATES = ("converted", "killed while joining")


def files_of(path):
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def write_files(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


@pytest.fixture(scope="module")
def drafts(tmp_path_factory):
    """Return a folder with sources, the files of the store, and those of two kinds of drafts."""
    root = tmp_path_factory.mktemp("drafts")
    fill(root / "source", num_images=3)
    draft = draft_store(DATASET, root / "source", root / "store", OPTIONS)
    convert_shards(draft, range(len(draft.blocks)), workers=1)
    converted = files_of(draft.folder)
    assert {name.split("/")[0] for name in converted} == {
        "order.json",
        "rows.parquet",
        "parts",
        "shards",
    }
    draft.finish()
    whole = files_of(root / "store")
    # A call that is killed before its last rename has moved the shards and written the rest.
    joined = {name: content for name, content in converted.items() if name[:7] != "shards/"}
    joined |= {f"store/{name}": content for name, content in whole.items()}
    shutil.rmtree(root / "store")
    return root, draft.folder, whole, dict(zip(STATES, (converted, joined), strict=True))


def check_damage(kind, state, drafts, choice):
    root, folder, whole, states = drafts
    number, place, bit = choice
    files = states[state]
    name = sorted(files)[number % len(files)]
    damaged = damage(kind, files[name], place, bit)
    write_files(folder, {key: content for key, content in files.items() if key != name})
    if damaged is not None:
        write_files(folder, {name: damaged})
    try:
        convert(DATASET, root / "source", root / "store", OPTIONS)
        assert files_of(root / "store") == whole
        assert sorted(path.name for path in root.iterdir()) == ["source", "store"]
    finally:
        shutil.rmtree(root / "store", ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_of_a_draft_is_made_again(kind, state, drafts):
    few = settings(QUICK, max_examples=3)
    given(CHOICE)(few(lambda choice: check_damage(kind, state, drafts, choice)))()


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_of_a_draft_is_made_again_in_thousands_of_tries(kind, state, drafts):
    thorough = settings(QUICK, max_examples=1000)
    given(CHOICE)(thorough(lambda choice: check_damage(kind, state, drafts, choice)))()
