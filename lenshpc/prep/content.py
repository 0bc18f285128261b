"""The bytes of a source file: read without waiting, unpacked, and told from what is no image."""

import bz2
import math
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lenshpc.errors import DataError, LensHpcError, one_line, read_error
from lenshpc.prep.formats import ImageFormat

BROKEN_LINK = "link to nothing"  # the cause where what it leads to is perhaps not mounted
_HEAD_BYTES = 512
_PIECE_BYTES = 2**14
_MAX_REASON = 200
# A file may be this much larger than its pixels as float128: headers, tables, other images.
_MARGIN_BYTES = 2**20
_DECLARE = "set `image.format` in DATASET as the files are"
_EXPECTED = {  # of each format, its name and what to do where a file is of another one
    "npy": (".npy", _DECLARE),
    "image": ("JPEG or PNG", _DECLARE),
    "fits": ("FITS", _DECLARE),
    "npz": (".npz", _DECLARE),
    "hdf5": ("HDF5", _DECLARE),
    "csv": ("a table as CSV", "save it so"),
    "parquet": ("a table as Parquet", "save it so"),
    "fits table": ("a table as FITS", "save it so"),
    "votable": ("a VOTable", "save it so"),
}
# How a file begins, what that makes it, what to do or the format that it is right for, and the
# kind of the fault.
_LFS, _PAGE, _FORMAT = "Git LFS pointer", "web page", "another format"
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file with: git lfs pull", _LFS),
    (b"<!doctype html", "a web page (HTML)", "download the file again", _PAGE),
    (b"<html", "a web page (HTML)", "download the file again", _PAGE),
    (b"\x1f\x8b", "packed by gzip", "unpack it", _FORMAT),
    (b"\x1f\x9d", "packed by compress", "unpack it with: gunzip", _FORMAT),
    (b"BZh", "packed by bzip2", "unpack it", _FORMAT),
    (b"\xfd7zXZ\0", "packed by xz", "unpack it", _FORMAT),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it", _FORMAT),
    (b"GIF8", "a GIF image", "save it as PNG", _FORMAT),
    (b"II*\0", "a TIFF image", "save it as PNG", _FORMAT),
    (b"MM\0*", "a TIFF image", "save it as PNG", _FORMAT),
    (b"\x93NUMPY", "a .npy array", "npy", _FORMAT),
    (b"PK\x03\x04", "a zip archive such as .npz", "npz", _FORMAT),
    (b"\x89HDF\r\n\x1a\n", "HDF5", "hdf5", _FORMAT),
    (b"SIMPLE  =", "FITS", "fits", _FORMAT),
    (b"\x89PNG", "a PNG image", "image", _FORMAT),
    (b"\xff\xd8\xff", "a JPEG image", "image", _FORMAT),
    (b"PAR1", "a table as Parquet", "parquet", _FORMAT),
)
# Packings of whole files that are taken off by `unpack`, by the formats that come in them.
_UNPACKERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZh": bz2.BZ2Decompressor,
}
_PACKED_FORMATS = ("fits",)


def largest_bytes(image: ImageFormat) -> int:
    """Return the size in bytes above which a file is none of one such image."""
    # 16 bytes a pixel is float128, the widest that a file may hold.
    return 16 * math.prod(image.shape) + _MARGIN_BYTES


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


def unpack(path: str, content: bytes, most: int) -> bytes:
    """Return the bytes that a file packs as a whole, at most `most`; those of others as they are.

    What follows the packed streams, such as the padding of tapes, does not count.
    """
    at, unpacked = 0, bytearray()
    while stream := _open_stream(content, at):
        # In pieces: a stream hands back what follows its end, which may be as many streams as fit.
        while not stream.eof and at < len(content):
            piece = content[at : at + _PIECE_BYTES]
            try:
                unpacked += stream.decompress(piece, most + 1 - len(unpacked))
            except (zlib.error, OSError) as error:  # bzip2 has no error of its own
                raise damage_error(path, first_line(error)) from error
            if len(unpacked) > most:
                raise DataError(
                    f"{path} unpacks to more than the {most} bytes that one such image may take; "
                    "check `image` in DATASET",
                    cause="too large",
                )
            at += len(piece) - len(stream.unused_data)
        if not stream.eof:
            raise truncation_error(path, "within its packed bytes")
    return bytes(unpacked) if at else content


def _open_stream(content: bytes, at: int) -> Any:
    """Return what unpacks the stream that begins there, or None."""
    for signature, make in _UNPACKERS.items():
        if content.startswith(signature, at):
            return make()
    return None


def damage_error(path: str, reason: str) -> DataError:
    """Return the error of bytes that are wrong, or too few where the reason says so."""
    cause = "truncated" if "truncated" in reason else "damaged"
    return DataError(f"{path} is damaged: {reason}; copy it again", cause=cause)


def truncation_error(path: str, where: str) -> DataError:
    """Return the error of a file that ends too early."""
    return DataError(f"{path} is truncated {where}; copy it again", cause="truncated")


@contextmanager
def naming_defects(path: str) -> Iterator[None]:
    """Turn whatever a library raises on the bytes of a file into one error with file and cause."""
    try:
        yield
    except LensHpcError:
        raise
    except MemoryError as error:
        raise DataError(
            f"{path} cannot be read: it needs more memory than this machine has free; check "
            "`image` in DATASET, or use fewer --workers",
            cause="no memory",
        ) from error
    except Exception as error:
        # Only the system numbers its errors; libraries raise OSError for wrong bytes, too.
        if isinstance(error, OSError) and error.errno:
            raise read_error(path, OSError(error.errno, os.strerror(error.errno))) from error
        raise damage_error(path, first_line(error)) from error


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
                raise DataError(f"{path} is not a regular file; move it away", cause="no file")
            yield descriptor, status.st_size
        finally:
            os.close(descriptor)
    except OSError as error:
        raise access_error(path, error) from error


def access_error(path: str, error: OSError) -> DataError:
    """Return the error of a file that the system does not hand out, or of a link to none."""
    if not Path(path).is_symlink() or os.path.exists(path):  # noqa: PTH110 - raises nothing
        return read_error(path, error)
    return DataError(
        f"{path} is a broken link; mount or copy the file that it points to",
        cause=BROKEN_LINK,
    )


def _check_kind(path: str, head: bytes, form: str) -> None:
    """Raise on an empty file, and on one that is known to be something else."""
    if not head:
        raise DataError(f"{path} is empty (0 bytes); copy it again", cause="empty")
    plain = head.lstrip().lower()
    expected, declare = _EXPECTED[form]
    for signature, kind, remedy, cause in _SIGNATURES:
        begins = (plain if signature.startswith(b"<") else head).startswith(signature)
        fits = remedy == form.removesuffix(" table") or (
            form in _PACKED_FORMATS and signature in _UNPACKERS
        )
        if begins and not fits:
            advice = declare if remedy in _EXPECTED else remedy
            raise DataError(f"{path} is {kind}, expected {expected}; {advice}", cause=cause)


def _bytes_of(descriptor: int, most: int) -> bytes:
    """Return at most that many bytes; network file systems give a file in several pieces."""
    content = os.read(descriptor, most)
    while 0 < len(content) < most and (more := os.read(descriptor, most - len(content))):
        content += more
    return content
