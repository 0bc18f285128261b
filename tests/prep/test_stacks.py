"""Rows of stacks are those of numpy's and h5py's arrays, in any order, however they are packed."""

import zipfile

import h5py
import numpy as np
import pytest

from lenshpc.errors import DataError
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.stacks import count_rows, drop_damaged, find_stacks, open_rows, stand_in

ROWS = np.random.default_rng(3).normal(size=(50, 2, 4, 3)).astype(np.float32)
ASKED = np.array([49, 3, 4, 5, 3, 0, 17])


def npy(path):
    np.save(path, ROWS)


def big_endian(path):
    np.save(path, ROWS.astype(">f4"))


def fortran(path):
    np.save(path, np.asfortranarray(ROWS))


def npz(path):
    np.savez(path, other=np.zeros(9), images=ROWS)


def deflated(path):
    np.savez_compressed(path, images=ROWS)


def deflated_fortran(path):
    np.savez_compressed(path, images=np.asfortranarray(ROWS))


def hdf5(**options):
    def write(path):
        with h5py.File(path, "w", userblock_size=512 if not options else 0) as file:
            file.create_dataset("images", data=ROWS, **options)

    return write


def compact(path):
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(ROWS.shape)
        h5py.h5d.create(file.id, b"images", h5py.h5t.IEEE_F32LE, space, plan)
        file["images"][...] = ROWS


FORMS = {
    "npy": npy,
    "npy big endian": big_endian,
    "npy transposed": fortran,
    "npz": npz,
    "npz deflated": deflated,
    "npz deflated and transposed": deflated_fortran,
    "hdf5": hdf5(),
    "hdf5 big endian": hdf5(dtype=">f4"),
    "hdf5 compact": compact,
    "hdf5 a chunk a row": hdf5(chunks=(1, 2, 4, 3), compression="gzip"),
    "hdf5 chunks of rows": hdf5(chunks=(7, 1, 4, 3), compression="gzip", shuffle=True),
    "hdf5 half as wide": hdf5(dtype="f2"),
}


def declare(form):
    form = form.split()[0]
    return ImageFormat(
        format=form,
        shape=(2, 4, 3),
        dtype="float32",
        channels=("a", "b"),
        stack=form == "npy",
        key=None if form == "npy" else "images",
    )


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_given_in_the_order_asked_for(form, tmp_path):
    image, path = declare(form), tmp_path / f"stack.{form.split()[0]}"
    FORMS[form](path)
    (tmp_path / "scratch").mkdir()
    assert count_rows(str(path), image) == 50
    for _ in range(2):  # unpacked, and from what was unpacked
        found = open_rows(str(path), image, tmp_path / "scratch").take(ASKED)
        expected = ROWS.astype(np.float16) if "half" in form else ROWS
        np.testing.assert_array_equal(found, expected[ASKED])


@pytest.mark.parametrize("form", ["npz deflated", "hdf5 chunks of rows"])
@pytest.mark.parametrize("cut", [0, 8])
def test_what_was_unpacked_and_damaged_is_unpacked_again(form, cut, tmp_path):
    image, path = declare(form), tmp_path / f"stack.{form.split()[0]}"
    FORMS[form](path)
    (tmp_path / "scratch").mkdir()
    open_rows(str(path), image, tmp_path / "scratch")
    (unpacked,) = (tmp_path / "scratch").glob("*.npy")
    content = unpacked.read_bytes()
    unpacked.write_bytes(content[: -1 - cut] + bytes([content[-1] ^ 1]))
    drop_damaged(tmp_path / "scratch")
    assert not unpacked.exists()
    found = open_rows(str(path), image, tmp_path / "scratch").take(ASKED)
    np.testing.assert_array_equal(found, ROWS[ASKED])
    drop_damaged(tmp_path / "scratch")
    assert unpacked.read_bytes() == content


@pytest.mark.parametrize("form", ["npz", "npz deflated"])
def test_flipped_byte_of_an_archive_is_found_before_a_row_is_given(form, tmp_path):
    image, path = declare(form), tmp_path / "stack.npz"
    FORMS[form](path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.getinfo("images.npy").header_offset + 2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        open_rows(str(path), image, tmp_path)


def test_stack_that_is_cut_is_named_by_its_header(tmp_path):
    npy(tmp_path / "X.npy")
    content = (tmp_path / "X.npy").read_bytes()
    for changed, told in ((content[:-1], "is truncated"), (content + b"x", "is too long")):
        (tmp_path / "X.npy").write_bytes(changed)
        with pytest.raises(
            DataError, match=f"{told}: its header declares 4800 bytes, the file holds"
        ):
            count_rows(str(tmp_path / "X.npy"), declare("npy"))


def test_stack_that_is_cut_while_it_is_open_is_an_error_and_no_signal(tmp_path):
    npy(tmp_path / "X.npy")
    rows = open_rows(str(tmp_path / "X.npy"), declare("npy"), tmp_path)
    with (tmp_path / "X.npy").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(DataError, match="became shorter"):
        rows.take(ASKED)


def test_patterns_name_files_in_folders_and_arrays_beside_them(tmp_path):
    for name in ("a/X-1.npy", "a/X-10.npy", "a/y-1.npy", "b/X-2.npy", "X-[1].npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_stacks(tmp_path, "*/X-?.npy") == ["a/X-1.npy", "b/X-2.npy"]
    assert find_stacks(tmp_path, "X-[1].npy") == ["X-[1].npy"]
    assert stand_in("a/X-10.npy", "*/X-*.npy", "y-*.npy") == "a/y-10.npy"
    assert stand_in("X-1_g.npy", "X-?_*.npy", "y-?.npy") == "y-1.npy"
    assert stand_in("a/X.npy", "a/X.npy", "y.npy") == "a/y.npy"
