"""The bytes of a source file: read without waiting, and told apart from what is no image."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lenshpc.errors import DataError, LensHpcError, one_line, read_error

_HEAD_BYTES = 512
_MAX_REASON = 200
_DECLARE = "set `image.format` in DATASET as the files are"
_EXPECTED = {  # of each format, its name and what to do where a file is of another one
    "npy": (".npy", _DECLARE),
    "image": ("JPEG or PNG", _DECLARE),
    "fits": ("FITS", _DECLARE),
    "npz": (".npz", _DECLARE),
    "hdf5": ("HDF5", _DECLARE),
    "csv": ("a table as CSV", "save it so"),
}
# How a file begins, what that makes it, and what to do or the format that it is right for.
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file with: git lfs pull"),
    (b"<!doctype html", "a web page (HTML)", "download the file again"),
    (b"<html", "a web page (HTML)", "download the file again"),
    (b"\x1f\x8b", "packed by gzip", "unpack it"),
    (b"BZh", "packed by bzip2", "unpack it"),
    (b"\xfd7zXZ\0", "packed by xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it"),
    (b"GIF8", "a GIF image", "save it as PNG"),
    (b"II*\0", "a TIFF image", "save it as PNG"),
    (b"MM\0*", "a TIFF image", "save it as PNG"),
    (b"\x93NUMPY", "a .npy array", "npy"),
    (b"PK\x03\x04", "a zip archive such as .npz", "npz"),
    (b"\x89HDF\r\n\x1a\n", "HDF5", "hdf5"),
    (b"SIMPLE  =", "FITS", "fits"),
    (b"\x89PNG", "a PNG image", "image"),
    (b"\xff\xd8\xff", "a JPEG image", "image"),
)


def read_content(path: str, form: str, most: int) -> bytes:
    """Return the bytes of a file, at most `most` and one; raise if they are none of `form`."""
    with _opening(path) as (descriptor, size):
        content = _bytes_of(descriptor, min(size, most) + 1)
    _check_kind(path, content[:_HEAD_BYTES], form)
    return content


def check_content(path: str, form: str) -> int:
    """Return the size of a file in bytes; raise if its beginning is none of `form`."""
    with _opening(path) as (descriptor, size):
        head = _bytes_of(descriptor, _HEAD_BYTES)
    _check_kind(path, head, form)
    return size


@contextmanager
def naming_defects(path: str) -> Iterator[None]:
    """Turn whatever a library raises on the bytes of a file into one error with file and cause."""
    try:
        yield
    except LensHpcError:
        raise
    except MemoryError as error:
        raise DataError(
            f"{path} cannot be read: it needs more memory than there is; "
            "check `image` in DATASET, or use fewer --workers"
        ) from error
    except Exception as error:
        # Only the system numbers its errors; libraries raise OSError for wrong bytes, too.
        if isinstance(error, OSError) and error.errno:
            raise read_error(path, OSError(error.errno, os.strerror(error.errno))) from error
        raise DataError(f"{path} is damaged: {first_line(error)}; copy it again") from error


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says, which may be long, several or nothing."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0])[:_MAX_REASON] if lines else type(error).__name__


@contextmanager
def _opening(path: str) -> Iterator[tuple[int, int]]:
    """Yield descriptor and size of a regular file; the system's refusals are named."""
    try:
        # NONBLOCK: opening a named pipe would wait for a writer, before anything could look at what
        # it is.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):  # a pipe would never end
                raise DataError(f"{path} is not a regular file; move it away")
            yield descriptor, status.st_size
        finally:
            os.close(descriptor)
    except OSError as error:
        if Path(path).is_symlink() and not os.path.exists(path):  # noqa: PTH110 - raises nothing
            raise link_error(path) from error
        raise read_error(path, error) from error


def link_error(path: str) -> DataError:
    """Return the error of a link that leads to no file."""
    return DataError(
        f"{path} is a link that leads to no file; mount or copy what it leads to, or move it away"
    )


def _check_kind(path: str, head: bytes, form: str) -> None:
    """Raise on an empty file, and on one that is known to be something else."""
    if not head:
        raise DataError(f"{path} is empty (0 bytes); copy it again")
    plain = head.lstrip().lower()
    expected, declare = _EXPECTED[form]
    for signature, kind, remedy in _SIGNATURES:
        begins = (plain if signature.startswith(b"<") else head).startswith(signature)
        if begins and remedy != form:
            advice = declare if remedy in _EXPECTED else remedy
            raise DataError(f"{path} is {kind}, expected {expected}; {advice}")


def _bytes_of(descriptor: int, most: int) -> bytes:
    """Return at most that many bytes; network file systems give a file in several pieces."""
    content = os.read(descriptor, most)
    while 0 < len(content) < most and (more := os.read(descriptor, most - len(content))):
        content += more
    return content
