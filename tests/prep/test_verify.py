"""Verification: it passes what is equal and names what is not."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from source_sets import fill, tiny

from lenshpc.cli.verify import verify as command
from lenshpc.errors import DataError
from lenshpc.prep.convert import Options, convert
from lenshpc.prep.read import SourceReader
from lenshpc.prep.verify import verify

OPTIONS = Options(shard_rows=32)


@pytest.fixture
def folders(tmp_path):
    fill(tmp_path / "source", num_images=20)
    convert(tiny(), tmp_path / "source", tmp_path / "store", OPTIONS)
    return tmp_path / "source", tmp_path / "store"


@pytest.mark.parametrize("workers", [1, 2])
def test_whole_store_equals_its_source(workers, folders):
    source, store = folders
    seen = []
    found = verify(
        store,
        against=source,
        workers=workers,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (found.num_rows, found.num_shards, seen[-1]) == (80, 3, (80, 80))


def test_command_says_what_it_has_proved(folders):
    source, store = folders
    result = CliRunner().invoke(command, [str(store), "--workers", "1"], catch_exceptions=False)
    assert result.stderr.endswith(f"{store} is intact: 80 images in 3 shards\n")
    result = CliRunner().invoke(
        command, [str(store), "--against", str(source), "--workers", "1"], catch_exceptions=False
    )
    assert result.stderr.endswith(f"; every pixel equals {source}, bit for bit\n")


def test_flipped_bit_in_a_shard_is_named(folders):
    _, store = folders
    shard = store / "images/c/1/0/0/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="damaged: images/c/1/0/0/0 does not match its hash"):
        verify(store)


CHANGES = {
    "another pixel": (
        lambda source: np.save(source / "train/no/3.npy", np.zeros((2, 6, 5), np.float32)),
        "train/no/3.npy is not the file that was prepared; prepare under another name",
    ),
    "a file less": (
        lambda source: (source / "train/no/3.npy").unlink(),
        "train/no/3.npy is in .*/store, but not in .*/source; prepare under another name",
    ),
    "a file more": (
        lambda source: np.save(source / "val/no/x.npy", np.zeros((2, 6, 5), np.float32)),
        "val/no/x.npy is in .*/source, but not in .*/store; prepare under another name",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_source_is_named(name, folders):
    source, store = folders
    change, complaint = CHANGES[name]
    change(source)
    with pytest.raises(DataError, match=complaint):
        verify(store, against=source)


def test_all_that_differs_is_told_at_once(folders):
    source, store = folders
    names = [f"train/{name}/{number}.npy" for name in ("no", "yes") for number in range(9)]
    for name in names:
        np.save(source / name, np.zeros((2, 6, 5), np.float32))
    (source / "val/yes/4.npy").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"19 sources are not as .*/store has them: 18 another file, 1 e"
    ):
        verify(store, against=source, workers=2)
    with (store.parent / "store.refused.csv").open(newline="") as stream:
        assert {row["file"] for row in csv.DictReader(stream)} == {*names, "val/yes/4.npy"}


def test_list_of_what_differed_goes_where_nothing_does(folders):
    source, store = folders
    content = (source / "val/yes/4.npy").read_bytes()
    (source / "val/yes/4.npy").rename(source / "val/yes/x.npy")
    with pytest.raises(DataError, match=r"2 sources are not as .*: 2 in one of the two only, all"):
        verify(store, against=source)
    (source / "val/yes/x.npy").unlink()
    (source / "val/yes/4.npy").write_bytes(content)
    verify(store, against=source)
    assert sorted(path.name for path in store.parent.iterdir()) == ["source", "store"]


def test_wrong_pixel_in_a_store_is_found_by_comparing_bits(folders, monkeypatch):
    """Hashes of sources and shards all hold: only the pixels tell -0.0 from 0.0."""
    source, _ = folders
    for path in source.rglob("*.npy"):
        np.save(path, np.zeros((2, 6, 5), np.float32))
    convert(tiny(), source, source.parent / "zeros", OPTIONS)
    verify(source.parent / "zeros", against=source)
    read = SourceReader.read

    def read_wrongly(self, rows):
        block = read(self, rows)
        wrong = [name.endswith("7.npy") for name in rows["id"].to_pylist()]
        block.pixels[wrong] *= -1
        return block

    monkeypatch.setattr(SourceReader, "read", read_wrongly)
    convert(tiny(), source, source.parent / "wrong", OPTIONS)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"7.npy in .*wrong differs from its source; prepare under"):
        verify(source.parent / "wrong", against=source)
