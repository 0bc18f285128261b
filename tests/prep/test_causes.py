"""Why files cannot be used: each says its cause, in one list, and none is to be lost."""

import csv

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from source_sets import TINY, fill, tiny, write_yaml

from lenshpc.cli.main import main
from lenshpc.errors import DataError
from lenshpc.inference.sources import open_source
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.read import SourceReader
from lenshpc.prep.rows import join_rows, stack_rows

PIXELS = np.zeros((2, 6, 5), np.float32)


def write(array):
    return lambda path: np.save(path, array, allow_pickle=True)


FAULTS = {
    "Git LFS pointer": lambda path: path.write_bytes(
        b"version https://git-lfs.github.com/spec/v1\n"
    ),
    "web page": lambda path: path.write_bytes(b"<!DOCTYPE html><html><title>Log in</title></html>"),
    "another format": lambda path: path.write_bytes(b"SIMPLE  =                    T"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "damaged": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "too large": write(np.zeros((3, 900, 500), np.float32)),
    "wrong shape": write(PIXELS[:1]),
    "wrong dtype": write(PIXELS.astype(complex)),
    "bad pixels": write(PIXELS * np.nan),
    "pickled": write(np.array([None, None])),
    "link to nothing": lambda path: path.unlink() or path.symlink_to("gone"),
}


@pytest.fixture
def refused(tmp_path):
    """Return the rows of the list of a set with two files of each fault, and what was told."""
    fill(tmp_path / "source", num_images=len(FAULTS) + 1)
    for number, break_file in enumerate(FAULTS.values()):
        for name in ("no", "yes"):
            break_file(tmp_path / f"source/train/{name}/{number}.npy")
    dataset = write_yaml(tmp_path / "tiny.yaml", TINY)
    arguments = ["prepare", str(dataset), str(tmp_path / "source"), str(tmp_path / "store")]
    result = CliRunner().invoke(main, [*arguments, "--workers", "1"])
    assert result.exit_code == 2, result.output
    with (tmp_path / "store.refused.csv").open(newline="") as stream:
        return list(csv.DictReader(stream)), result.stderr


def test_each_fault_has_its_cause(refused):
    rows, told = refused
    expected = [
        (f"train/{name}/{number}.npy", cause)
        for number, cause in enumerate(FAULTS)
        for name in ("no", "yes")
    ]
    assert sorted((row["file"], row["cause"]) for row in rows) == sorted(expected)
    assert told.splitlines()[-1].startswith(
        f"lenshpc: {2 * len(FAULTS)} sources cannot be used: 2 "
    )
    assert all(f"2 {cause}" in told.splitlines()[-1] for cause in FAULTS)


def test_no_advice_loses_a_file(refused):
    rows, _ = refused
    for row in rows:
        advice = row["message"].partition("; ")[2]
        assert advice
        assert not {"remove", "delete", "away"} & set(advice.split())


def test_hdf5_that_is_cut_or_lacks_a_filter_says_so(tmp_path):
    image = TINY["image"] | {"format": "hdf5", "key": "images"}
    dataset = Dataset.model_validate(
        {"name": "one", "image": image, "classes": [{"name": "a", "train": "."}]}
    )
    with h5py.File(tmp_path / "cut.h5", "w") as file:
        file["images"] = PIXELS[None]
    content = (tmp_path / "cut.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[:-9])
    with h5py.File(tmp_path / "filter.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((1, 2, 6, 5))
        plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 4, 240, 5, 1, 0))  # blosc
        space = h5py.h5s.create_simple((1, 2, 6, 5))
        h5py.h5d.create(file.id, b"images", h5py.h5t.IEEE_F32LE, space, plan)
    reader = SourceReader(dataset, tmp_path, scratch=tmp_path)
    for name, cause in (("cut", "truncated"), ("filter", "missing filter")):
        (defect,) = reader.read(join_rows([stack_rows(f"{name}.h5", 1, label=0)])).defects
        assert defect.cause == cause
        assert defect.error.startswith(f"{tmp_path}/{name}.h5 is ")


def test_prediction_stops_at_a_link_to_nothing(tmp_path):
    fill(tmp_path)
    (tmp_path / "train/no/0.npy").unlink()
    (tmp_path / "train/no/0.npy").symlink_to("not-mounted/0.npy")
    source = open_source(tmp_path, tiny())
    told = f"^{tmp_path}/train/no/0.npy is a broken link; mount or copy the file that it"
    with pytest.raises(DataError, match=told):
        source.read(range(source.num_rows))
    with pytest.raises(DataError, match=told):
        _ = source.digest
