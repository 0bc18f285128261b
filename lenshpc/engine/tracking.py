"""Tell trackers of a training while it goes on: TensorBoard, MLflow, Weights & Biases.

Each is told the same events, in a thread of its own that nothing waits for. One that raises is
dropped, one that hangs is left behind after some seconds: no training ends or waits for it.
How many epochs each was told stands beside its files, so that an attempt which goes on tells none
of them again.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.lease import Superseded
from lenshpc.engine.loop import GivenUp
from lenshpc.engine.signals import Stopped
from lenshpc.errors import one_line
from lenshpc.files import write_text
from lenshpc.run.differences import flatten
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan

CLOSE_S = 20.0  # for all trackers together, once a training has ended
End = Literal["trained", "stopped", "given up", "failed"]
ENDS: Mapping[type[BaseException], End] = {
    Stopped: "stopped",
    Superseded: "stopped",
    GivenUp: "given up",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingStart:
    """What a tracker is told first: who trains and how, and where it may write.

    `fingerprint` is the member's, `steps` are those of an epoch, `folder` is the tracker's own in
    the member's folder; `epochs_told` it has been told of before, in earlier attempts.
    """

    run: str
    member: str
    fingerprint: str
    recipe: Mapping[str, Any]
    steps: int
    run_folder: Path
    folder: Path
    epochs_told: int = 0

    @classmethod
    def of(cls, run: RunPaths, plan: Plan, member: Member, steps: int) -> Self:
        """Return what is to say of a member whose epochs have so many steps."""
        return cls(
            run=run.name,
            member=member.name,
            fingerprint=plan.member_fingerprint(member),
            recipe=flatten(plan.recipe_of(member)),
            steps=steps,
            run_folder=run.root,
            folder=run.member(member.name).tracking,
        )


class Tracker(Protocol):
    """What hears of a training, in a thread: its start, each epoch once and in order, its end.

    What makes one imports its packages, in the main thread: of two threads that import modules
    which import each other, Python shows one the half of a module.
    """

    def start(self, start: TrainingStart) -> None:
        """Hear who trains; files are opened here, and not before."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Hear a line of `metrics.jsonl`; epochs count from 1, and go on after a stop."""

    def end(self, how: End) -> None:
        """Hear how the attempt ended; what was told has to be on disk when this returns."""


class Follower:
    """A tracker and the thread in which it is told, of the newest history alone: nothing queues."""

    def __init__(self, name: str, tracker: Tracker, start: TrainingStart) -> None:
        self._name, self._tracker = name, tracker
        self._start = replace(start, folder=start.folder / name)
        self._history: Sequence[Mapping[str, float]] = ()
        self._end: End | None = None
        self._news = threading.Event()
        # A daemon: one that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"track-{name}", daemon=True)
        self._thread.start()

    def hear(self, history: Sequence[Mapping[str, float]]) -> None:
        """Hand over the history as it is now; returns at once."""
        self._history = history
        self._news.set()

    def close(self, end: End) -> None:
        """Say that no more comes; returns at once."""
        self._end = end
        self._news.set()

    def wait(self, seconds: float) -> None:
        """Wait so long for the tracker to end."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.warning("%s does not end: what it was not told is in metrics.jsonl", self._name)

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no training's
            _warn(self._name, error)

    def _follow(self) -> None:
        self._start.folder.mkdir(parents=True, exist_ok=True)
        marker = self._start.folder / "told"
        number = self._read_told(marker)
        self._tracker.start(replace(self._start, epochs_told=number))
        end = None
        while end is None:
            self._news.wait()
            self._news.clear()
            # Before the history: what came before the end is told with it.
            end = self._end
            # None where the training went back behind a damaged checkpoint: what comes is the same.
            for figures in self._history[number:]:
                number += 1
                self._tracker.epoch(number, figures)
                write_text(marker, f"{self._start.fingerprint} {number}\n")
        self._tracker.end(end)

    def _read_told(self, marker: Path) -> int:
        """Return how many epochs of this very training the tracker was told of."""
        if not marker.exists():
            return 0
        fingerprint, number = marker.read_text(encoding="utf-8").split()
        return int(number) if fingerprint == self._start.fingerprint else 0


@contextmanager
def track(
    trackers: Mapping[str, Callable[[], Tracker]], start: TrainingStart
) -> Iterator[Callable[[MemberProgress], None]]:
    """Yield what is to be told of each progress; the trackers hear how the block ends."""
    followers = list(_follow_all(trackers, start))

    def hear(progress: MemberProgress) -> None:
        for one in followers:
            one.hear(progress.history)

    end: End = "failed"
    try:
        yield hear
        end = "trained"
    except BaseException as error:
        end = ENDS.get(type(error), "failed")
        raise
    finally:
        for one in followers:
            one.close(end)
        deadline = time.monotonic() + CLOSE_S
        for one in followers:
            one.wait(max(0.0, deadline - time.monotonic()))


def _follow_all(
    trackers: Mapping[str, Callable[[], Tracker]], start: TrainingStart
) -> Iterator[Follower]:
    for name, build in trackers.items():
        try:
            yield Follower(name, build(), start)
        except Exception as error:  # noqa: BLE001 - as above
            _warn(name, error)


def _warn(name: str, error: Exception) -> None:
    told = one_line(f"{type(error).__name__}: {error}")
    log.warning("%s is told no more of this training, which continues: %s", name, told)
