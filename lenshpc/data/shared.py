"""One decoded copy of a store's images a node, for all processes of the user that read it.

A compressed store is many times slower at random rows than a mapped file, whose pages the kernel
holds in memory once for all processes. The first process fills the file, the others wait; the last
one to leave removes it. A kernel lock (flock) says who uses it, and ends with its process however
that ends, so that a file left behind is known as such: the next process takes it over if it is
whole, or removes it. TMPDIR is shared with other users: only private files of our own are read.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from lenshpc import __version__
from lenshpc.data.decoded import Decoded, Images
from lenshpc.errors import DataError

RETRY_S = 0.01


@contextmanager
def open_shared_images(decoded: Decoded) -> Iterator[Images]:
    """Yield all images (N, C, H, W) of a store, mapped read-only; filled by whoever comes first."""
    path = _path(decoded)
    # Before filling: what a killed process left takes the memory that this one needs.
    _remove_unused(path)
    try:
        descriptor = _lock_whole(path, decoded)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(path, decoded) from error
        raise _unusable(path, error.strerror or str(error)) from error
    try:
        # Read-only: a stray write would change the images of all processes on the node.
        pages = mmap.mmap(descriptor, decoded.num_bytes, access=mmap.ACCESS_READ)
        yield np.frombuffer(pages, decoded.dtype).reshape(-1, *decoded.shape)
    finally:
        _remove_if_unused(path, descriptor)


def _path(decoded: Decoded) -> Path:
    """Return the file of this user, content, size, dtype and way of decoding."""
    content = (decoded.store.content_hash, decoded.array)
    # All that decides a byte of the file; two stores or settings under one name would train on each
    # other's images. The version, since decoding may change with it.
    facts = (content, decoded.settings.crop, decoded.shape, decoded.dtype.name, __version__)
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
    return Path(tempfile.gettempdir()) / f"{_prefix()}{digest}"


def _prefix() -> str:
    return f"lenshpc-images-{os.getuid()}-"


def _lock_whole(path: Path, decoded: Decoded) -> int:
    """Return the open file, whole and under a shared lock."""
    while True:
        descriptor = _open_private(path)
        try:
            if _is_held_whole(path, descriptor, decoded):
                return descriptor
        except BaseException:
            # Interrupts too: a half-filled file must not stay under its name, nor the lock in a
            # process that goes on.
            _remove_if_unused(path, descriptor)
            raise
        # Which lets the lock go too. Anew from the open: the file under this name may be another
        # one by now.
        os.close(descriptor)
        time.sleep(RETRY_S)


def _is_held_whole(path: Path, descriptor: int, decoded: Decoded) -> bool:
    """Lock the file, filling it if nobody else uses it; say whether that gave a whole one.

    Never waits for the exclusive lock: a user holds the shared one as long as it trains, perhaps
    waiting for us.
    """
    # flock and no pid file: the kernel lets the lock go with its process, however that ends, and
    # process ids come again.
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _is_whole(descriptor, decoded):
        try:
            # Changing the kind of a lock lets go of it for a moment: hence another look at the file
            # below, and at its links at the end.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not _is_whole(descriptor, decoded):
            _fill(path, descriptor, decoded)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return os.fstat(descriptor).st_nlink > 0  # the last user may have removed it while we waited


def _open_private(path: Path) -> int:
    """Return the file opened, made if need be; refuse one that another user could write."""
    # TMPDIR is often /tmp: NOFOLLOW, the owner and the mode keep another user from handing us a
    # file of theirs. CLOEXEC, since a child that inherits the descriptor would keep the lock.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    facts = os.fstat(descriptor)
    is_plain = stat.S_ISREG(facts.st_mode) and facts.st_nlink <= 1
    if not is_plain or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        os.close(descriptor)
        raise _unusable(path, "it is not a private file of yours")
    return descriptor


def _unusable(path: Path, reason: str) -> DataError:
    return DataError(
        f"cannot use {path} for decoded images: {reason}; set TMPDIR to a folder of the node that "
        "only you can write to"
    )


def _trailer() -> bytes:
    """Return what ends a whole file: the pages of an earlier boot may never have been written."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes()


def _is_whole(descriptor: int, decoded: Decoded) -> bool:
    trailer = _trailer()
    found = os.pread(descriptor, len(trailer) + 1, decoded.num_bytes)
    return found == trailer


def _fill(path: Path, descriptor: int, decoded: Decoded) -> None:
    """Write the images in order, then the trailer."""
    # Whatever lies there is not whole; above all its trailer must go before the first new byte.
    os.ftruncate(descriptor, 0)
    if decoded.num_bytes > shutil.disk_usage(path.parent).free:
        raise _no_space(path, decoded)
    os.lseek(descriptor, 0, os.SEEK_SET)
    # A duplicate shares the lock; closing the stream must not close the descriptor that holds it.
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        for images in decoded.read_chunks(range(decoded.num_chunks)):
            stream.write(np.ascontiguousarray(images).data)
        # Last: a file that ends with it is whole.
        stream.write(_trailer())


def _no_space(path: Path, decoded: Decoded) -> DataError:
    free_gb = shutil.disk_usage(path.parent).free / 1e9
    return DataError(
        f"{path.parent} has {free_gb:.1f} GB free and the decoded images need "
        f"{decoded.num_bytes / 1e9:.1f} GB, held in memory; set TMPDIR to a larger folder of the "
        "node, or use --set data.loading=stream"
    )


def _remove_if_unused(path: Path, descriptor: int) -> None:
    """Close the file; remove it if nobody else holds its lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        facts = os.fstat(descriptor)
        # The same file, not only the same name: somebody may have removed ours and made another.
        if path.exists() and os.path.samestat(path.lstat(), facts):
            path.unlink()
    finally:
        os.close(descriptor)


def _remove_unused(kept: Path) -> None:
    """Remove what killed processes left behind of other stores."""
    for path in kept.parent.glob(f"{_prefix()}*"):
        with suppress(DataError, OSError):  # a foreign file of such a name is left alone
            if path != kept:
                _remove_if_unused(path, _open_private(path))
