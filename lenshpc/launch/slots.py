"""The slots of this machine: a locked file each in a private folder, so that no two queues meet."""

import fcntl
import os
import stat
import tempfile
from pathlib import Path
from typing import IO

from lenshpc.errors import LaunchError
from lenshpc.launch.sites import Site, local_slots


def take_slots(site: Site, count: int) -> dict[int, IO[bytes]]:
    """Return `count` locked slots, or none; a lock ends with its process or when it is closed.

    Raises LaunchError where the folder of the slots is not ours alone.
    """
    taken: dict[int, IO[bytes]] = {}
    folder = _open_folder()
    try:
        for slot in local_slots(site):
            lock = _try_lock(folder, slot)
            if lock is not None:
                taken[slot] = lock
            if len(taken) == count:
                return taken
    finally:
        os.close(folder)
    for lock in taken.values():
        lock.close()
    return {}


def note_holder(lock: IO[bytes], process: str) -> None:
    """Note the process that uses a slot: it keeps the slot if the queue is killed before it."""
    lock.truncate(0)
    lock.write(process.encode())
    lock.flush()


def _open_folder() -> int:
    """Return the open folder of the slots, which nobody else can have made, nor write to."""
    # Not XDG_RUNTIME_DIR, which ends with the last login and is absent from some: queues of one
    # user would lock different files.
    path = Path(tempfile.gettempdir()) / f"lenshpc-slots-{os.geteuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise _refusal(path, f"is no folder that can be used ({error.strerror})") from error
    status = os.fstat(folder)
    if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
        return folder
    os.close(folder)
    if status.st_uid != os.geteuid():
        raise _refusal(path, "belongs to somebody else")
    mode = stat.S_IMODE(status.st_mode)
    raise _refusal(path, f"may be written by others (mode {mode:04o})")


def _refusal(path: Path, fault: str) -> LaunchError:
    return LaunchError(f"{path} {fault}; set TMPDIR to a folder of your own, then resume")


def _try_lock(folder: int, slot: int) -> IO[bytes] | None:
    # In the folder that was looked at, whatever its path leads to by now, and never through a link.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        lock = os.fdopen(os.open(str(slot), flags, 0o600, dir_fd=folder), "ab+")
    except OSError as error:
        raise LaunchError(f"the file of slot {slot} cannot be opened: {error.strerror}") from error
    # flock and no pid file alone: the kernel frees the slot of a queue that is killed.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    lock.seek(0)
    if _is_member(lock.read(20).decode("ascii", "replace")):
        lock.close()
        return None
    return lock


def _is_member(process: str) -> bool:
    """Return whether a process is a job of submitit's: a queue that was killed left it behind."""
    if not process.isdecimal():
        return False
    try:
        return b"submitit" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
