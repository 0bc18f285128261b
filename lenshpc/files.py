"""Write files so that a reader never sees half of one: temporary name, flush, rename; and locks."""

import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from lenshpc.errors import DataError, IncompleteError, LaunchError, one_line, read_error

SEAL = "sha256"  # the key of a sealed file that holds the hash of all its other keys
SETTLED_S = 2.0  # after which a file system's times tell that a file was written
_HASHED: dict[tuple[int, ...], str] = {}  # device, inode, size, times → SHA-256
# What `flock` says where the file system has none, or its lock daemon does not answer.
_NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


def unique_name(path: Path, end: str) -> Path:
    """Return a hidden name beside `path` that no other process of any host has."""
    # Process ids are equal on two hosts, and come again on one. The dot and `.tmp` are what
    # `remove_drafts` knows a killed writer's draft by.
    maker = f"{socket.gethostname()[:32]}.{os.getpid()}.{secrets.token_hex(4)}"
    return path.with_name(f".{path.name.lstrip('.')}.{maker}.{end}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flushed and renamed over it when the block succeeds."""
    temporary = unique_name(path, "tmp")
    try:
        yield temporary
        # The bytes go to disk before the name does: else a power cut may leave the name on an empty
        # file. The folder after it, since the rename lies in the folder.
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def link_file(source: Path, target: Path) -> None:
    """Have `target` be the same file as `source`, or a copy of it where links cannot be made.

    Safe for files that are only ever replaced by a rename, as all of lenshpc's are. The name is not
    flushed.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that takes its place when the block succeeds."""
    put_back(path)
    fresh, old = unique_name(path, "tmp"), unique_name(path, "old")
    fresh.mkdir()
    try:
        yield fresh
        # A folder cannot be renamed over one that holds files, so the old one steps aside first.
        # Two renames with nothing between them: a kill there leaves no folder at `path`, never half
        # of one, and the next call puts the old one back.
        if path.exists():
            path.rename(old)
        fresh.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        put_back(path)


def put_back(path: Path) -> None:
    """Repair what `replacing_folder` left that was killed between its renames or after."""
    for old in path.parent.glob(f".{path.name.lstrip('.')}.*.old"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)


def read_umask() -> int:
    """Return this process's umask."""
    umask = os.umask(0o077)  # tells it only by taking another
    os.umask(umask)
    return umask


def make_open_folder(path: Path) -> None:
    """Make a folder, unless it is there, in which the umask alone says who reads what is made."""
    umask = read_umask()
    with suppress(FileExistsError):
        path.mkdir(mode=0o777 & ~umask, parents=True)
        # A default ACL, as folders of projects have it, stands in for the umask: others could write
        # below. The mode that is given cuts it down for the folder itself.
        with suppress(OSError):
            os.removexattr(path, "system.posix_acl_default")


def make_private_folder(path: Path) -> None:
    """Make a folder that only this user can read or write.

    Raises LaunchError where something else has the name: a link, a file, another user's folder or
    one that is open to others.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    # After it was made, and of the name itself: whoever was first, this is what others can do now.
    found = path.lstat()
    what = ""
    if not stat.S_ISDIR(found.st_mode):
        what = "is a link or a file"
    elif found.st_uid != os.geteuid():
        what = f"belongs to user {found.st_uid}"
    elif found.st_mode & 0o077:
        what = f"is open to others (mode {stat.S_IMODE(found.st_mode):o})"
    if what:
        raise LaunchError(
            f"{path} {what}, where a folder of user {os.geteuid()} with mode 700 is expected: "
            "find out who made it, move it away and repeat the command"
        )


def remove_drafts(folder: Path) -> None:
    """Remove the temporary files and folders that a killed writer left in `folder`."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock whose file is `path` as long as the block runs; never wait for it.

    Raise IncompleteError where another process holds it, FileNotFoundError without its folder. The
    lock is the kernel's (`flock`), which on a network file system must hold between hosts or fail.
    Where it fails, a file `path`.held is made by `link`, which such file systems do for one caller
    alone; it names its maker, and what a dead process of this host left is taken over.
    """
    with ExitStack() as stack:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file that is locked, not only its name: the holder before may have removed it.
            if not os.path.samestat(path.stat(), os.fstat(descriptor)):
                raise _busy(path, "another process")
        except BlockingIOError as error:
            raise _busy(path, "another process") from error
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            stack.enter_context(_holding(path.with_name(f"{path.name}.held")))
        yield


def _busy(path: Path, holder: str) -> IncompleteError:
    return IncompleteError(
        f"{path.parent} is in use by {holder}; wait until that has ended, then repeat the command"
    )


@contextmanager
def _holding(held: Path) -> Iterator[None]:
    """Hold the file of a lock, made whole at once, unless a process that lives holds it."""
    draft = unique_name(held, "tmp")
    pid = str(os.getpid())
    draft.write_text("\n".join((socket.gethostname(), pid, _start_of(pid))), encoding="utf-8")
    try:
        if held.exists():
            _remove_stale(held)
        os.link(draft, held)
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        raise _busy(held, f"whoever made {held} (if that is dead, remove it)") from error
    finally:
        draft.unlink(missing_ok=True)
    try:
        yield
    finally:
        held.unlink(missing_ok=True)


def _remove_stale(held: Path) -> None:
    """Remove the file of a lock whose maker, of this host, is dead; else raise."""
    theirs = held.read_text(encoding="utf-8")
    host, pid, start = theirs.split("\n")
    if host != socket.gethostname():
        raise _busy(held, f"process {pid} of {host} (if that is dead, remove {held})")
    if start == _start_of(pid):
        raise _busy(held, f"process {pid}")
    # Renamed before it is judged once more: another process may have taken it over by now.
    aside = unique_name(held, "tmp")
    held.rename(aside)
    if aside.read_text(encoding="utf-8") != theirs:
        os.link(aside, held)
    aside.unlink()


def _start_of(pid: str) -> str:
    """Return when a process of this host began, with the host's boot; empty if there is none."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    return f"{boot} {after_name.split()[19]}"


def flush(path: Path) -> None:
    """Make a file's bytes, or the renames inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(root: Path) -> None:
    """Make a folder and all that it holds survive a power cut."""
    # Folders too: a name lies in its folder, and is lost with it.
    for path in [*root.rglob("*"), root]:
        if not path.is_symlink():  # it lies in its folder, and what it names is not ours
            flush(path)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as indented JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def open_regular(path: Path) -> BufferedReader:
    """Return a file opened for reading; DataError where it is a pipe, a device or a folder.

    Those might never end, or never begin.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path} is damaged: it is not a file; restore it")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file."""
    with open_regular(path) as stream:
        return stream.read()


def read_json(path: Path) -> Any:
    """Return the JSON value in a file; DataError where its bytes are none, OSError as it comes."""
    content = read_bytes(path)
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged: it is not valid JSON ({one_line(error)[:80]})"
        ) from error


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Replace the file at `path` by `value` as JSON with a hash of itself."""
    write_json(path, {**value, SEAL: hash_value(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` wrote; DataError where it was altered, OSError as it comes."""
    return unseal(path, read_json(path))


def unseal(path: Path, value: Any) -> dict[str, Any]:
    """Return a sealed value without its seal; `path` names it where it was altered: DataError."""
    if isinstance(value, dict) and isinstance(value.get(SEAL), str):
        content = {key: inner for key, inner in value.items() if key != SEAL}
        if value[SEAL] == hash_value(content):
            return content
    raise DataError(f"{path} is damaged or was edited: it does not match the hash that it contains")


def hash_value(value: dict[str, Any]) -> str:
    """Return the SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_whole(path: Path) -> bytes:
    """Return a file's bytes; DataError where the system does not hand them out."""
    try:
        return read_bytes(path)
    except OSError as error:
        raise read_error(path, error) from error


def check_hash(path: Path, digest: str) -> None:
    """Refuse a file that has not this SHA-256; DataError too where the system hands out none."""
    try:
        found = recall_sha256(path)
    except OSError as error:
        raise read_error(path, error) from error
    if found != digest:
        raise _damage_error(path)


def _damage_error(path: Path) -> DataError:
    return DataError(f"{path} is damaged: its SHA-256 is not the one that it was written with")


def read_checked(path: Path, digest: str) -> bytes:
    """Return a file's bytes, which must have this SHA-256: what is parsed is what was checked."""
    content = read_whole(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damage_error(path)
    return content


class HashedFile(io.BufferedWriter):
    """A file that hashes and counts what is written to it, and keeps the error that ended it."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0
        self.error: OSError | None = None

    def write(self, part: Any) -> int:
        """Write and hash some bytes, or a contiguous array."""
        self.sha256.update(part)
        self.num_bytes += memoryview(part).nbytes
        try:
            return super().write(part)
        except OSError as error:
            self.error = error
            raise


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def recall_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, which this process hashes once as long as it stays the same."""
    with open_regular(path) as stream:
        found = os.fstat(stream.fileno())
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if state not in _HASHED:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            # One that was just written may be written again without its times telling it.
            if time.time() - max(found.st_mtime, found.st_ctime) < SETTLED_S:
                return digest
            _HASHED[state] = digest
        return _HASHED[state]
