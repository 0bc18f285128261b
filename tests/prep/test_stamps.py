"""A stack or its labels that change while `prepare` runs are one line, and no store is made."""

import gc
import os

import h5py
import numpy as np
import pytest
from source_sets import write_yaml

from lenshpc.cli.main import main
from lenshpc.errors import DataError
from lenshpc.prep import convert as converting
from lenshpc.prep.convert import Options, convert
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.read import SourceReader
from lenshpc.store import Draft

ROWS = np.random.default_rng(5).normal(size=(64, 4, 3)).astype(np.float32)
LABELS = np.arange(64) % 2
OPTIONS = Options(chunk_rows=4, shard_rows=8)


def npy(path, rows, labels):
    np.save(path, rows)


def fortran(path, rows, labels):
    np.save(path, np.asfortranarray(rows))


def npz(path, rows, labels):
    np.savez(path, images=rows)


def deflated(path, rows, labels):
    np.savez_compressed(path, images=rows)


def hdf5(path, rows, labels):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=rows, chunks=(1, 4, 3), compression="gzip")
        file["label"] = labels


FORMS = {"npy": npy, "npy transposed": fortran, "npz": npz, "npz deflated": deflated, "hdf5": hdf5}


def declare(form):
    kind = form.split()[0]
    image = {"format": kind, "shape": [1, 4, 3], "axes": "hw", "dtype": "float32"}
    image |= {"stack": True} if kind == "npy" else {"key": "images"}
    labels = "labels.npy" if kind != "hdf5" else "label"
    return {
        "name": "mine",
        "image": image | {"channels": ["i"]},
        "classes": [{"name": "no"}, {"name": "yes"}],
        "stacks": [{"file": "rows.*", "arrays": {"label": labels}}],
    }


def write(root, form, rows=ROWS, labels=LABELS, later_s=0):
    """Write a stack and its labels over those before, in their files; return the stack's path."""
    root.mkdir(exist_ok=True)
    kind = form.split()[0]
    path = root / f"rows.{'h5' if kind == 'hdf5' else kind}"
    fresh = root.with_suffix(path.suffix)
    FORMS[form](fresh, rows, labels)
    path.write_bytes(fresh.read_bytes())  # in place, also where it is open
    fresh.unlink()
    np.save(root / "labels.npy", labels)
    status = path.stat()
    # File systems count time in ticks: what is written next must not fall into the same one.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + later_s * 10**9))
    return path


def act_before(monkeypatch, owner, name, number, act):
    """Have `act` be called before a function is called for this time."""
    real, calls = getattr(owner, name), []

    def call(*args):
        calls.append(args)
        if len(calls) == number:
            act()
        return real(*args)

    monkeypatch.setattr(owner, name, call)


MOMENTS = {
    "between scan and reading": (converting, "order_rows", 1),
    "while rows are read": (SourceReader, "read", 3),
}


def check_refused(root, form, path):
    told = f"{path} changed while the command ran; repeat it when the file no longer changes"
    with pytest.raises(DataError) as caught:
        convert(Dataset.model_validate(declare(form)), root, root.parent / "store", OPTIONS)
    assert (str(caught.value), caught.value.exit_code) == (told, 2)
    names = [one.name for one in root.parent.iterdir() if not one.name.endswith(".partial")]
    assert names == [root.name]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("form", FORMS)
def test_stack_that_is_overwritten_makes_no_store(form, moment, tmp_path, monkeypatch):
    root = tmp_path / "source"
    path = write(root, form)
    act_before(
        monkeypatch, *MOMENTS[moment], lambda: write(root, form, ROWS[::-1], 1 - LABELS, later_s=1)
    )
    check_refused(root, form, path)
    monkeypatch.undo()
    # HDF5 hands out the chunks of a file that the first call, kept by its traceback, has open.
    gc.collect()
    store = convert(Dataset.model_validate(declare(form)), root, tmp_path / "store", OPTIONS)
    at = [int(name.rpartition("#")[2]) for name in store.text("id").to_pylist()]
    np.testing.assert_array_equal(store.read_raw(slice(0, 64))[:, 0], ROWS[::-1][at])
    np.testing.assert_array_equal(store.rows["label"], (1 - LABELS)[at])


@pytest.mark.parametrize("form", ["npy", "npy transposed"])
def test_stack_that_is_cut_while_it_is_read_is_one_line(form, tmp_path, monkeypatch):
    path = write(tmp_path / "source", form)
    act_before(monkeypatch, SourceReader, "read", 3, lambda: os.truncate(path, 1000))
    check_refused(tmp_path / "source", form, path)


def test_labels_that_change_after_the_scan_make_no_store(tmp_path, monkeypatch):
    write(tmp_path / "source", "npy")
    path = tmp_path / "source/labels.npy"
    act_before(monkeypatch, SourceReader, "read", 3, lambda: os.utime(path, (1, 1)))
    check_refused(tmp_path / "source", "npy", path)


def read_times(draft):
    return {part.name: part.stat().st_mtime_ns for part in draft.glob("parts/*")}


def test_stack_that_only_was_touched_between_commands_is_gone_on_with(tmp_path, monkeypatch):
    path = write(tmp_path / "source", "npz")
    dataset = Dataset.model_validate(declare("npz"))

    def stop():
        raise KeyboardInterrupt

    act_before(monkeypatch, SourceReader, "read", 3, stop)
    with pytest.raises(KeyboardInterrupt):
        convert(dataset, path.parent, tmp_path / "store", OPTIONS)
    monkeypatch.undo()
    os.utime(path, (1, 1))
    (draft,) = tmp_path.glob(".store.*.partial")
    written = read_times(draft)
    assert len(written) == 2
    act_before(monkeypatch, Draft, "finish", 1, lambda: kept.update(read_times(draft)))
    kept = {}
    convert(dataset, path.parent, tmp_path / "store", OPTIONS)
    assert {name: kept[name] for name in written} == written
    assert sorted(one.name for one in tmp_path.iterdir()) == ["source", "store"]


def test_command_line_tells_it_in_one_line(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "source", "npy")
    dataset = write_yaml(tmp_path / "mine.yaml", declare("npy"))
    act_before(monkeypatch, converting, "order_rows", 1, lambda: os.utime(path, (1, 1)))
    words = ["prepare", str(dataset), str(path.parent), str(tmp_path / "store"), "--workers", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--chunk-rows", "4", "--shard-rows", "8"])
    assert ended.value.code == 2
    told = "changed while the command ran; repeat it when the file no longer changes"
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"{path} {told}")
