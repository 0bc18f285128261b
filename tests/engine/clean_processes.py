"""Processes forked from a server of one thread that has imported torch once, which takes seconds.

A fork of pytest's own process, which holds the threads of many tests, may crash or stand still.
"""

import ctypes
import faulthandler
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

Say = Callable[[object], None]
CONTEXT = get_context("forkserver")
SERVER = forkserver.ForkServer()  # not the process's own one, which others start without torch
SERVER.set_forkserver_preload(["pytest", "lenshpc.engine.distributed"])


@dataclass(frozen=True)
class Child:
    """A process and what it says."""

    process: BaseProcess
    said: Connection

    def hear(self) -> object:
        """Return the next thing that it says; fail at once where it ends without a word."""
        try:
            return self.said.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise AssertionError(f"a process ended with code {code} and no result") from None

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.join()


def start(work: Callable[..., object], *arguments: object, network: str = "") -> Child:
    """Begin `work(say, *arguments)`, which says what it returned or raised at its end.

    All three are pickled; the environment is that of the server.
    """
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_call, args=(theirs, network, work, arguments), daemon=True)
    with patch.object(forkserver, "connect_to_new_process", SERVER.connect_to_new_process):
        process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    return Child(process, ours)


def run_ranks(
    work: Callable[..., object],
    num: int,
    *arguments: object,
    before: Callable[[], None] | None = None,
    networks: Sequence[str] = (),
) -> list[Any]:
    """Return what `work(rank, *arguments)` returned or raised in a process of its own each."""
    ranks: dict[Any, tuple[int, Child]] = {}
    found = {}
    try:
        for rank in range(num):
            network = networks[rank] if networks else ""
            child = start(_run_rank, before, work, rank, *arguments, network=network)
            ranks[child.said] = rank, child
        while len(found) < num:
            for said in wait([said for said, (rank, _) in ranks.items() if rank not in found]):
                rank, child = ranks[said]
                found[rank] = child.hear()
    finally:
        for _, child in ranks.values():
            child.end()
    return [found[rank] for rank in range(num)]


def _run_rank(
    _say: Say,
    before: Callable[[], None] | None,
    work: Callable[..., object],
    rank: int,
    *arguments: object,
) -> object:
    os.environ.pop("GLOO_SOCKET_IFNAME", None)
    if before:
        before()
    return work(rank, *arguments)


def _call(
    theirs: Connection, network: str, work: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    faulthandler.enable()  # a crash tells where
    _enter(network)
    try:
        theirs.send(work(theirs.send, *arguments))
    except Exception as error:  # noqa: BLE001 (whatever it is, the test looks at it)
        theirs.send(f"{type(error).__name__}: {error}")
    os._exit(0)


def _enter(network: str) -> None:
    """Move this process into a network of `ip netns`; `""` is where it is."""
    if network:
        with Path(f"/run/netns/{network}").open("rb") as stream:
            assert ctypes.CDLL(None).setns(stream.fileno(), 0) == 0
