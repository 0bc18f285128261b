"""Share work among processes of this machine, with progress; the first failure ends all."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.connection import wait
from typing import Any

from lenshpc.errors import LensHpcError

SAFE_PATH = "PYTHONSAFEPATH"
Count = Callable[[int], None]  # called with the number of rows done since it was called last
Progress = Callable[[int, int], None]  # called with the number of rows done and of all
Work = Callable[[Any, Count], None]


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def share(
    work: Work, items: Sequence[Any], *, workers: int, num_rows: int, progress: Progress | None
) -> None:
    """Call `work(item, count)` for every item, on at most `workers` processes.

    `work` and the items are pickled; `progress` hears of `num_rows` rows in all.
    """
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if progress:
            progress(done, num_rows)

    if min(workers, len(items)) > 1:
        _share(work, [items[first::workers] for first in range(min(workers, len(items)))], count)
    else:
        for item in items:
            work(item, count)


def _share(work: Work, shares: Sequence[Sequence[Any]], count: Count) -> None:
    # Not fork: zarr keeps threads, which a forked process would lack. Not spawn: each process
    # would import for a second what the server of forkserver has imported once.
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", type(work).__module__])
    running: dict[Any, Any] = {}
    try:
        for items in shares:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(work, items, sender), daemon=True)
            _start(process)
            # In the parent: with its own end open, it would never see the pipe end when the process
            # dies.
            sender.close()  # so that the end of the process is the end of the pipe
            running[receiver] = process
        while running:
            for heard in wait(list(running)):
                if not _hear(heard, running[heard], count):
                    del running[heard]
    finally:
        for process in running.values():
            # On any way out, Ctrl-C too: what is half written is a draft, which the next call
            # writes over.
            process.terminate()
            process.join()


def _start(process: Any) -> None:
    try:
        with _without_current_folder():
            _start_server()
            process.start()
    except EOFError as error:  # the server of forkserver has ended
        told = "no further process can be started here; repeat the command with --workers 1"
        raise LensHpcError(told) from error


def _start_server() -> None:
    """Start the server of forkserver deaf to Ctrl-C, as all that it starts are: the parent tells.

    A traceback of the server would stand above the line that the command ends with.
    """
    resource_tracker.ensure_running()  # its start unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Have what is started import nothing from the folder that the command runs in.

    The server of forkserver is `python -c`, which would, and the folder may be everybody's.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        # Back as it was: processes that a caller starts are its own affair.
        os.environ.pop(SAFE_PATH)
        if before is not None:
            os.environ[SAFE_PATH] = before


def _hear(receiver: Any, process: Any, count: Count) -> bool:
    """Pass on one message; say whether more may come."""
    try:
        message = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode:
            raise LensHpcError(
                f"a process ended with code {process.exitcode}, perhaps for lack of memory; "
                "repeat the command with fewer --workers"
            ) from None
        return False
    if isinstance(message, BaseException):
        raise message
    count(message)
    return True


def _serve(work: Work, items: Sequence[Any], sender: Any) -> None:
    """Do one share; a parent that is gone closes the pipe, which ends this process too."""
    with suppress(BrokenPipeError):
        try:
            for item in items:
                work(item, sender.send)
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            sender.send(error)
