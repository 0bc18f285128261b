"""What happened to a job of a member, over all its attempts: one JSON line an event.

Written by the member's first process and by the batch script, one after the other; read to decide
whether the job is requeued, and by whoever accounts for its time.
"""

import os
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt

from lenshpc.config import Frozen
from lenshpc.run.records import read_lines

What = Literal["started", "saved", "stopped", "failed", "requeued", "ended"]
Cause = Literal["timeout", "preemption", "crash", "error"]


class Event(Frozen):
    """One event of an attempt; `restart` is 0 for the first attempt.

    `started`: the first process of `member` began. `saved`: there is a checkpoint, `step` steps
    into `epoch`; the first of an attempt is the one that it goes on from. `stopped`: it was told
    to, and saved. `failed`: an error that would come again. `requeued`, `ended`: the decision after
    the attempt, with the failure's name, the line of a log that tells it, the log's end, and the
    node to blame.
    """

    what: What
    restart: NonNegativeInt
    time: float
    member: NonNegativeInt | None = None
    epoch: NonNegativeInt = 0
    step: NonNegativeInt = 0
    cause: Cause | None = None
    reason: str = ""
    failure: str = ""
    line: str = ""
    tail: tuple[str, ...] = ()
    node: str = ""

    @property
    def place(self) -> tuple[int, int]:
        """Return how far training had come."""
        return self.epoch, self.step


class Attempts:
    """The events of one job, under the number of the attempt that this is."""

    def __init__(self, path: Path, restart: int) -> None:
        self._path, self.restart = path, restart

    def append(
        self,
        what: What,
        *,
        place: tuple[int, int] = (0, 0),
        cause: Cause | None = None,
        reason: str = "",
        **facts: Any,
    ) -> None:
        """Add an event, on disk when this returns."""
        epoch, step = place
        event = Event(
            what=what,
            restart=self.restart,
            time=time.time(),
            epoch=epoch,
            step=step,
            cause=cause,
            reason=reason,
            **facts,
        )
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as stream:
            # the line before may be half written, by a process that was killed
            stream.write(f"\n{event.model_dump_json(exclude_defaults=True)}\n")
            stream.flush()
            # The node may be lost the next moment, and what it did decides whether the job comes
            # back.
            os.fsync(stream.fileno())

    def events(self) -> list[Event]:
        """Return all events of the job, oldest first."""
        return read_events(self._path)


def read_events(path: Path) -> list[Event]:
    """Return the events in a file, oldest first; none where there is no file."""
    return read_lines(Event, path)
