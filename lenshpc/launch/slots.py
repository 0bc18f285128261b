"""The slots of this machine: a locked file each in a private folder, so that no two queues meet."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote_from_bytes

from lenshpc.errors import LaunchError, printable

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
KFD = Path("/sys/class/kfd/kfd/topology/nodes")  # where AMD's driver tells of its GPUs


class Slot(NamedTuple):
    """A GPU by the name that CUDA_VISIBLE_DEVICES has for it, or a core, which is one of many."""

    kind: str  # gpu, core
    name: str

    def __str__(self) -> str:
        """Return it for people."""
        return printable(f"{self.kind} {self.name}")

    @property
    def file(self) -> str:
        """Return a name for its file: of one part, whatever the environment calls a GPU."""
        return f"{self.kind}-{quote_from_bytes(os.fsencode(self.name), safe='')}"


def local_slots(limit: int | None, *, on_gpus: bool) -> list[Slot]:
    """Return this machine's slots: its GPUs, or cores for members that ask for none.

    Cores too where there is no GPU; `limit` is the site's `slots`, and cores may be fewer than it.
    """
    gpus = local_gpus() if on_gpus else []
    if gpus:
        return [Slot("gpu", name) for name in gpus[:limit]]
    cores = len(os.sched_getaffinity(0)) if limit is None else limit
    return [Slot("core", str(number)) for number in range(cores)]


def local_gpus() -> list[str]:
    """Return the GPUs that this process may use, as the environment or by number."""
    nvidia = len(list(Path("/dev").glob("nvidia[0-9]*")))
    amd = sum(int(path.read_text()) != 0 for path in KFD.glob("*/gpu_id"))
    return visible_gpus(os.environ, nvidia, amd)


def visible_gpus(environment: Mapping[str, str], nvidia: int, amd: int) -> list[str]:
    """Return the GPUs that an environment shows, of a machine that has so many of each maker.

    They stay as they are written: numbers, GPU-<uuid>, MIG-<uuid>.
    """
    is_rocm = amd > 0 and nvidia == 0
    for variable in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if is_rocm else VARIABLES[:1]:
        if variable in environment:
            return _entries(environment[variable])
    if is_rocm and "ROCR_VISIBLE_DEVICES" in environment:
        # HIP counts among those, so a member's number is a place in that list.
        amd = len(_entries(environment["ROCR_VISIBLE_DEVICES"]))
    return [str(number) for number in range(nvidia or amd)]


def _entries(visible: str) -> list[str]:
    """Return what a variable shows: as for CUDA, the first that is no GPU ends the list."""
    given = (entry.strip() for entry in visible.split(","))
    shown = takewhile(lambda entry: entry not in {"", "NoDevFiles"} and entry[0] != "-", given)
    return list(dict.fromkeys(shown))


def visibility(slots: Iterable[Slot]) -> dict[str, str]:
    """Return the variables by which a process sees the GPUs among these slots and no other."""
    shown = ",".join(slot.name for slot in slots if slot.kind == "gpu") or "-1"
    return dict.fromkeys(VARIABLES, shown)


def take_slots(slots: Iterable[Slot], count: int) -> dict[Slot, IO[bytes]]:
    """Return `count` of the slots, locked, or none; a lock ends with its process or when closed.

    Raises LaunchError where the folder of the slots is not ours alone.
    """
    taken: dict[Slot, IO[bytes]] = {}
    folder = _open_folder()
    try:
        for slot in slots:
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


def list_holders(kind: str) -> list[Path]:
    """Return the folders whose jobs hold slots of a kind, as far as this process can see."""
    try:
        folder = _open_folder()
    except LaunchError:
        return []
    try:
        with os.scandir(folder) as files:
            names = sorted(file.name for file in files if file.name.startswith(f"{kind}-"))
        found = [_find_job_folder(_read_holder(folder, name)) for name in names]
    finally:
        os.close(folder)
    return list(dict.fromkeys(one for one in found if one is not None))


def _read_holder(folder: int, name: str) -> str:
    """Return the process that a slot's file names, without a lock: its queue may want it now."""
    try:
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
            return file.read(20).decode("ascii", "replace")
    except OSError:
        return ""


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


def _try_lock(folder: int, slot: Slot) -> IO[bytes] | None:
    # In the folder that was looked at, whatever its path leads to by now, and never through a link.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        lock = os.fdopen(os.open(slot.file, flags, 0o600, dir_fd=folder), "ab+")
    except OSError as error:
        raise LaunchError(f"the file of {slot} cannot be opened: {error.strerror}") from error
    # flock and no pid file alone: the kernel frees the slot of a queue that is killed.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    lock.seek(0)
    if _find_job_folder(lock.read(20).decode("ascii", "replace")) is not None:
        lock.close()
        return None
    return lock


def _find_job_folder(process: str) -> Path | None:
    """Return the folder of a member's controller: a queue that was killed left it behind.

    None where the process has ended, or is another one.
    """
    if not process.isdecimal():
        return None
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return None
    return Path(os.fsdecode(words[-1])) if b"lenshpc.launch.controller" in words else None
