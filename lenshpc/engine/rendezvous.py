"""Where the ranks of a member meet: in a folder that nobody else can read or write.

No port is opened for it: a TCPStore lets whoever reaches it list, read and overwrite all keys. What
is relied upon: the folder's owner and mode, renames that are whole, and a new file that all nodes
see within minutes (a network file system may keep an absent name for one).
"""

import contextlib
import ctypes
import fcntl
import hashlib
import hmac
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Self

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, HashStore, Store  # where they have types

from lenshpc.errors import LaunchError
from lenshpc.files import make_private_folder, replacing

# torch's own for a group on CPUs: ranks load modules before they come, some from a slow disk
PATIENCE = timedelta(minutes=30)
ANSWER = timedelta(minutes=5)  # the ranks have met by then
LEAVE = timedelta(seconds=30)  # they end together, unless one is killed
POLL_S, SLOW_POLL_S = 0.01, 0.5
NUM_BYTES = 32  # of a secret, and of what is made from it


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """What the ranks of a member share: a store for their addresses, and a secret."""

    store: Store
    secret: bytes


class FolderStore(Store):
    """A store whose keys are files of a folder: it needs no lock, and no port."""

    def __init__(self, folder: Path, patience: timedelta = PATIENCE) -> None:
        super().__init__()
        make_private_folder(folder)
        self._folder, self._patience = folder, patience

    def set(self, key: str, value: str | bytes) -> None:
        """Set the value of a key, which only one rank may do."""
        with replacing(self._path(key)) as temporary:
            temporary.write_bytes(value.encode() if isinstance(value, str) else value)

    def get(self, key: str) -> bytes:
        """Return the value of a key as soon as there is one."""
        self.wait([key])
        return self._path(key).read_bytes()

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all keys have a value."""
        return all(self._path(key).is_file() for key in keys)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Return when all keys have a value. Raises LaunchError where they never get one."""
        _wait_until(lambda: self.check(keys), self._folder, timeout or self._patience)

    def clone(self) -> Self:
        """Return the store for another thread: it holds no connection and no state."""
        return self

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(key.encode()).hexdigest()


def _wait_until(is_so: Callable[[], bool], folder: Path, patience: timedelta) -> None:
    began, limit_s = time.monotonic(), patience.total_seconds()
    while not is_so():
        spent_s = time.monotonic() - began
        if spent_s > limit_s:
            raise LaunchError(
                f"not all ranks came to {folder} within {limit_s:g} s: read the logs of all "
                "ranks, and check that all nodes see this folder; then resume"
            )
        if spent_s > SLOW_POLL_S:
            # A change of ours makes a network file system ask again for names it holds absent.
            os.utime(folder)
        time.sleep(min(SLOW_POLL_S, POLL_S + spent_s / 10))


def meet(folder: Path, rank: int, world_size: int, patience: timedelta = PATIENCE) -> Meeting:
    """Meet the other ranks in a folder that is this attempt's alone; all of them call this.

    Raises LaunchError where somebody else could read the folder or write into it, and where not all
    come within `patience`.
    """
    if world_size == 1:
        return Meeting(store=HashStore(), secret=b"")
    make_private_folder(folder.parent)
    make_private_folder(folder)
    talk = FolderStore(folder / "talk", patience)
    with (folder / "lock").open("ab") as lock:
        store, secret = _lead(talk, lock, world_size) if rank == 0 else _follow(talk, lock, rank)
    return Meeting(store=_open_store(folder / store, world_size, patience), secret=secret)


def _lead(talk: FolderStore, lock: IO[bytes], world_size: int) -> tuple[str, bytes]:
    """Find out whether rank 0's lock holds for the others; say where all meet, and the secret."""
    _is_held_elsewhere(lock)
    talk.set("locked", "")
    answers = [talk.get(f"answer/{rank}") for rank in range(1, world_size)]
    # Asked and not read from an error: where locks are each node's own, they succeed on all of
    # them, and two appends to one file would overwrite each other.
    kind = "file" if set(answers) == {b"True"} else "folder"
    # A name of its own, since a store that is used again holds addresses of ranks that are dead.
    store, secret = f"{kind}-{secrets.token_hex(8)}", secrets.token_bytes(NUM_BYTES)
    talk.set("store", store)
    talk.set("secret", secret)
    return store, secret


def _follow(talk: FolderStore, lock: IO[bytes], rank: int) -> tuple[str, bytes]:
    talk.wait(["locked"])
    talk.set(f"answer/{rank}", str(_is_held_elsewhere(lock)))
    return talk.get("store").decode(), talk.get("secret")


def _is_held_elsewhere(lock: IO[bytes]) -> bool:
    """Take the lock, and return whether another process was seen to hold it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        pass
    return False


def _open_store(path: Path, world_size: int, patience: timedelta) -> Store:
    if path.name.startswith("folder-"):
        return FolderStore(path, patience)
    store = FileStore(str(path), world_size)
    store.set_timeout(patience)
    # Never freed: its end looks for the file and then opens it. Where rank 0 has removed the folder
    # in between, that waits for the file for `patience`, and aborts.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))
    return store


def prove(secret: bytes) -> None:
    """Have each pair of ranks of the default group show each other that both know the secret.

    gloo takes the first connection that names a pair's number, whoever opened it. Collective;
    raises LaunchError before anything that came over the group is believed.
    """
    ranks = range(dist.get_world_size())
    said = [_token(secret, dist.get_rank(), other) for other in ranks]
    _compare(_exchange(said), [_token(secret, other, dist.get_rank()) for other in ranks])


def prove_further(group: dist.ProcessGroup) -> None:
    """Do the same for another group of all ranks: what is asked over the first is answered there.

    Such a group has connections of its own.
    """
    asked = [secrets.token_bytes(NUM_BYTES) for _ in range(dist.get_world_size())]
    _compare(_exchange(_exchange(asked), group), asked)


def _token(secret: bytes, sender: int, receiver: int) -> bytes:
    # By direction, else a stranger could send back what it was sent.
    return hmac.digest(secret, f"{sender} to {receiver}".encode(), "sha256")


def _exchange(said: Sequence[bytes], group: dist.ProcessGroup | None = None) -> list[bytes]:
    """Send each rank its 32 bytes, and return what each rank sent."""
    sent = torch.tensor(list(b"".join(said)), dtype=torch.uint8)
    heard = torch.empty_like(sent)
    # Within minutes, where a collective call has half an hour: a stranger may just stay silent.
    asked = dist.all_to_all_single(heard, sent, group=group, async_op=True)
    asked.wait(ANSWER)
    return [row.numpy().tobytes() for row in heard.view(len(said), NUM_BYTES)]


def _compare(told: Sequence[bytes], expected: Sequence[bytes]) -> None:
    for rank, pair in enumerate(zip(told, expected, strict=True)):
        if not hmac.compare_digest(*pair):
            raise LaunchError(
                f"the program that answers rank {dist.get_rank()} as rank {rank} does not know "
                "this run's secret, so it is not part of the run; tell the site, then resume"
            )


def end_talk(folder: Path) -> None:
    """Remove the secret, once all ranks have proved that they know it."""
    shutil.rmtree(folder / "talk", ignore_errors=True)


def leave(folder: Path, rank: int, world_size: int, patience: timedelta = LEAVE) -> None:
    """Have rank 0 remove a folder where ranks met, once none has anything to do in it.

    All ranks call this. Where one never does, the folder stays.
    """
    left = [folder / f"left-{other}" for other in range(world_size)]
    left[rank].touch()  # and nothing after it in this folder
    if rank == 0:
        with contextlib.suppress(LaunchError):
            _wait_until(lambda: all(path.exists() for path in left), folder, patience)
            shutil.rmtree(folder, ignore_errors=True)
