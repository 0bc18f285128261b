"""All bad files are found in one pass: ten are shown, all are counted and listed."""

import csv
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from source_sets import TINY, fill, tiny, write_yaml

from lenshpc.cli.main import main
from lenshpc.errors import DataError
from lenshpc.prep.convert import Options, convert, convert_shards, draft_store
from lenshpc.prep.verify import verify
from lenshpc.worker import convert_share, join_shards

OPTIONS = Options(shard_rows=32)


@pytest.fixture
def bad(tmp_path):
    """Break 12 of 160 images; return path → what is wrong with it."""
    images = fill(tmp_path / "source", num_images=40)
    wrong = {}
    for number in range(4):
        for split, cause in (("train/no", "empty"), ("train/yes", "truncated"), ("val/no", "NaN")):
            name = f"{split}/{7 * number}.npy"
            path = tmp_path / "source" / name
            if cause == "NaN":
                np.save(path, np.full_like(images[name], np.nan))
            else:
                path.write_bytes(path.read_bytes()[: -1 if cause == "truncated" else 0])
            wrong[name] = cause
    return wrong


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def prepare(tmp_path, *options):
    dataset = write_yaml(tmp_path / "tiny.yaml", TINY)
    arguments = [str(dataset), str(tmp_path / "source"), str(tmp_path / "store")]
    return CliRunner().invoke(main, ["prepare", *arguments, "--shard-rows", "32", *options])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_all_bad_files_are_told_at_once(workers, bad, tmp_path):
    result = prepare(tmp_path, "--workers", workers)
    *shown, last = result.stderr.splitlines()
    assert (result.exit_code, len(shown)) == (2, 10)
    listed = read(tmp_path / "store.refused.csv")
    assert {row["file"] for row in listed} == set(bad)
    lines = {row["message"] for row in listed}
    assert set(shown) <= lines
    assert len(lines) == 12
    for row in listed:
        assert row["message"].startswith(f"{tmp_path}/source/{row['file']} ")
        assert bad[row["file"]] in row["message"]
    assert last.startswith("lenshpc: 12 sources cannot be used: ")
    assert f", all of them in {tmp_path}/store.refused.csv; correct them" in last


def test_list_goes_where_the_sources_are_mended(bad, tmp_path):
    assert prepare(tmp_path).exit_code == 2
    for name in [*bad][1:]:
        shutil.copy(tmp_path / "source/train/no/1.npy", tmp_path / "source" / name)
    result = prepare(tmp_path)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert [row["file"] for row in read(tmp_path / "store.refused.csv")] == [next(iter(bad))]
    shutil.copy(tmp_path / "source/train/no/1.npy", tmp_path / "source" / next(iter(bad)))
    assert prepare(tmp_path).exit_code == 0
    assert not (tmp_path / "store.refused.csv").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "store", "tiny.yaml"]


def test_sound_shards_stay_where_others_are_refused(tmp_path):
    images = fill(tmp_path / "source", num_images=40)
    draft = draft_store(tiny(), tmp_path / "source", tmp_path / "store", OPTIONS)
    for name in draft.rows(1)["id"].to_pylist()[5:8]:
        (tmp_path / "source" / name).write_bytes(b"")
    with pytest.raises(DataError, match="3 sources cannot be used"):
        convert_shards(draft, range(len(draft.blocks)), workers=1)
    assert draft.missing() == [1]
    for name in draft.rows(1)["id"].to_pylist()[5:8]:
        np.save(tmp_path / "source" / name, images[name])
    parts = {path.name: path.stat().st_mtime_ns for path in (draft.folder / "parts").iterdir()}
    draft = draft_store(tiny(), tmp_path / "source", tmp_path / "store", OPTIONS)
    convert_shards(draft, range(len(draft.blocks)), workers=1)
    found = {path.name: path.stat().st_mtime_ns for path in (draft.folder / "parts").iterdir()}
    assert parts.items() <= found.items()
    assert draft.missing() == []


def test_joining_job_tells_what_all_elements_refused(bad, tmp_path):
    draft = draft_store(tiny(), tmp_path / "source", tmp_path / "store", OPTIONS)
    told = []
    for element in range(2):
        with pytest.raises(DataError) as error:
            convert_share(str(draft.folder), element, 2, 1)
        told += [int(str(error.value).split()[0])]
    assert sum(told) == 12
    with pytest.raises(DataError, match="12 sources cannot be used") as error:
        join_shards(str(draft.folder))
    assert len(error.value.__notes__) == 10
    assert {row["file"] for row in read(tmp_path / "store.refused.csv")} == set(bad)


def test_stack_that_cannot_be_read_is_one_line(tmp_path):
    image = TINY["image"] | {"format": "npz", "key": "images"}
    for name in ("no", "yes"):
        (tmp_path / "source/train" / name).mkdir(parents=True)
        rows = np.random.default_rng(0).normal(size=(50, 2, 6, 5)).astype(np.float32)
        np.savez(tmp_path / f"source/train/{name}/s.npz", images=rows)
    dataset = tiny(image=image, holdout=None)
    draft = draft_store(dataset, tmp_path / "source", tmp_path / "store", OPTIONS)
    path = tmp_path / "source/train/no/s.npz"
    status = path.stat()
    path.write_bytes(b"PK\3\4 and so on".ljust(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"no/s.npz is damaged") as error:
        convert_shards(draft, range(len(draft.blocks)), workers=1)
    assert len(error.value.defects) == 1
    with pytest.raises(DataError):
        convert(dataset, tmp_path / "source", tmp_path / "store", OPTIONS)


def test_target_that_cannot_be_written_is_named(tmp_path):
    fill(tmp_path / "source")
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match=r"file/store cannot be written: (Not a dir|File exists)"):
        convert(tiny(), tmp_path / "source", tmp_path / "file/store")


def test_file_of_the_user_s_own_is_no_list_and_stays(tmp_path):
    fill(tmp_path / "source")
    mine = tmp_path / "store.refused.csv"
    mine.write_text("my own table\n")
    with pytest.raises(DataError) as caught:
        convert(tiny(), tmp_path / "source", tmp_path / "store")
    assert str(caught.value) == (
        f"{mine} was not written by lenshpc, and the list of refused files would replace it; move "
        "it away, or give STORE another name"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", mine.name]
    mine.rename(tmp_path / "mine.csv")
    store = convert(tiny(), tmp_path / "source", tmp_path / "store")
    (tmp_path / "mine.csv").rename(mine)
    assert verify(store.path).num_rows == store.num_rows
    assert mine.read_text() == "my own table\n"


def test_store_of_any_name_leaves_nothing_but_itself(tmp_path):
    fill(tmp_path / "source")
    convert(tiny(), tmp_path / "source", tmp_path / "st[1]*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "st[1]*"]
