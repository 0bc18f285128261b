"""The thread that writes checkpoints while training goes on: each whole or absent.

Every rank has one, which writes that rank's file and then a mark with its hash. Rank 0's waits for
all marks, seals and publishes. Nothing here is a collective call: those of training, in the main
thread, would meet it in another order on each rank.
"""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lenshpc.engine.lease import Lease
from lenshpc.engine.step import Weights
from lenshpc.errors import LensHpcError
from lenshpc.files import (
    HashedFile,
    flush,
    flush_tree,
    read_sealed,
    read_umask,
    replacing,
    sha256,
    write_json,
    write_sealed,
)
from lenshpc.run.paths import HASHES

POLL_S = 0.02  # between two looks for other ranks' marks
# The SHA-256 covers all that torch's own check would, which costs a third of the writing.
torch.serialization.set_crc32_options(compute_crc32=False)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one rank is to write: its `state`, and what rank 0 publishes when all have written.

    `best` are weights for `best_path`; where there are none, those that lie there have
    `best_sha256`. `kept` are the files and folders that stay, `size` the bytes of all ranks.
    """

    state: dict[str, Any]
    arrived: Callable[[], None]
    best: Weights
    best_path: Path
    best_sha256: str
    progress: dict[str, Any]
    draft: Path
    final: Path
    kept: frozenset[Path]
    size: int
    published: Callable[[], None]


class Writer:
    """One rank's thread; at most one order is under way."""

    def __init__(self, lease: Lease, rank: int, num_ranks: int) -> None:
        self._lease, self._rank, self._num_ranks = lease, rank, num_ranks
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._given_up = threading.Event()
        self._parts: tuple[Future[str], ...] = ()

    def start(self, order: Order) -> None:
        """Begin to write; nothing else may be under way."""
        self._order = order
        self._given_up.clear()
        # Here and not in the thread: to be told, the mask of the whole process is changed.
        self._mode = 0o666 & ~read_umask()
        written = self._pool.submit(self._write, order)
        # In the same thread, hence after it.
        self._parts = (written, self._pool.submit(self._publish, order, written))

    @property
    def parts(self) -> tuple[Future[str], ...]:
        """Return what is under way: this rank's file, then, on rank 0, what all ranks wrote.

        The first results in the SHA-256 of the best weights, and so does the second.
        """
        return self._parts

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is under way."""
        return all(part.done() for part in self._parts)

    @property
    def has_failed(self) -> bool:
        """Return whether something went wrong."""
        return any(part.done() and part.exception() for part in self._parts)

    def give_up(self) -> None:
        """Wait for this rank's file, and for no other rank's; what is not whole is removed."""
        self._given_up.set()
        for part in self._parts:
            part.exception()
        # Not in the thread: another rank, which still writes, would fail of what it does not find.
        if self._parts and self._rank == 0:
            shutil.rmtree(self._order.draft, ignore_errors=True)

    def clear(self) -> None:
        """Forget what has ended well."""
        self._parts = ()

    def _write(self, order: Order) -> str:
        path = order.draft / rank_file(self._rank)
        try:
            order.arrived()
            # Before the checkpoint that names this epoch as the best is published: killed between
            # the two, the epoch is repeated and the weights are written over. In the other order a
            # checkpoint would name weights that are not there.
            best = self._save_best(order) if order.best else order.best_sha256
            digest = _save(order.state, path)
            # Last: by this rank 0 knows that the file is whole, and on disk.
            write_sealed(_mark(path), {"state": digest})
        except OSError as error:
            raise write_error(order.final, error, order.size) from error
        return best

    def _save_best(self, order: Order) -> str:
        """Write weights; return their SHA-256, taken before anybody else could alter them."""
        with replacing(order.best_path) as temporary:
            # Row after row: a GPU may hold them in another order.
            rows = {name: value.contiguous() for name, value in order.best.items()}
            save_file(rows, temporary)
            temporary.chmod(self._mode)  # 0600 by safetensors, whatever the umask says
            return sha256(temporary)

    def _publish(self, order: Order, written: Future[str]) -> str:
        best = written.result()
        if self._rank == 0:
            try:
                self._seal(order, best)
            except OSError as error:
                raise write_error(order.final, error, order.size) from error
            order.published()
        return best

    def _seal(self, order: Order, best: str) -> None:
        names = [rank_file(rank) for rank in range(self._num_ranks)]
        hashes = {name: self._await_mark(_mark(order.draft / name)) for name in names}
        self._lease.check()
        write_json(order.draft / PROGRESS, order.progress)
        hashes[PROGRESS] = sha256(order.draft / PROGRESS)
        files = {f"{order.final.name}/{name}": digest for name, digest in hashes.items()}
        if best:
            files[order.best_path.name] = best
        write_sealed(order.draft / HASHES, {"files": files})
        _publish(order.draft, order.final)
        # Only now: until the rename is on disk the older checkpoint is all that a killed run has.
        # And never the one before, which is gone on from should this one be damaged.
        remove_all_but(order.final.parent, order.kept)

    def _await_mark(self, path: Path) -> str:
        """Return the hash in another rank's mark, and remove the mark."""
        while not path.is_file():
            if self._given_up.wait(POLL_S):
                raise LensHpcError(f"{path.parent} was abandoned: {path.stem} was not written")
        digest: str = read_sealed(path)["state"]
        path.unlink()
        return digest


PROGRESS = "progress.json"


def rank_file(rank: int) -> str:
    """Return the name of what a rank writes."""
    return f"rank-{rank:04d}.pt"


def remove_all_but(folder: Path, kept: frozenset[Path]) -> None:
    """Remove all else from a folder."""
    for path in set(folder.iterdir()) - kept:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def find_shortage(folder: Path, size: int) -> str:
    """Return what is wrong where so many bytes do not fit into a folder's file system."""
    free = shutil.disk_usage(folder).free
    if size <= free:
        return ""
    # In the system's words, by which a failure is recognised.
    reason = f"{os.strerror(errno.ENOSPC)} ({free / 1e6:.0f} MB are free)"
    return _describe_shortage(folder, size, reason)


def write_error(path: Path, error: OSError, size: int) -> LensHpcError:
    """Return the error of a checkpoint of so many bytes that could not be written."""
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return LensHpcError(_describe_shortage(path, size, reason))
    return LensHpcError(
        f"{path} cannot be written: {reason}; the checkpoint before it is kept: check the folder's "
        "permissions and the file system, then resume the run"
    )


def _describe_shortage(path: Path, size: int, reason: str) -> str:
    return (
        f"{path} cannot be written: {reason}; a checkpoint needs {size / 1e6:.0f} MB, and earlier "
        "ones are kept: free as much, or have your quota raised, then resume the run"
    )


def _save(state: dict[str, Any], path: Path) -> str:
    """Write a rank's state, on disk when this returns; return its SHA-256."""
    with HashedFile(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch closes its archive after a failed write, and then tells of that alone.
            raise file.error or error from None
    flush(path)
    return file.sha256.hexdigest()


def _publish(draft: Path, final: Path) -> None:
    # All bytes on disk before the name that makes them count.
    flush_tree(draft)
    # One of that name is damaged: training went on from an older one.
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    flush(final.parent)


def _mark(path: Path) -> Path:
    return path.with_suffix(".json")
