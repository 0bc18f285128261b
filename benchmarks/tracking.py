"""Time what trackers cost a training: the same member, trained in turn with and without them.

All turns are in this process, on one thread, a tracker at a time. What counts is an epoch after the
first, with its validation and checkpoint: its seconds, the processor's seconds of this process and
of those that it has started, and of them those that the tracker's thread spends on hearing of it.
On a busy machine the last is the only one that is not noise. What does not grow with the training
is told beside it: the first import, and how long a member waits at its end.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from measure import Table, report, rounds, scratch, spread
from noise import make_store

from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.member import run_member
from lenshpc.engine.monitor import cpu_seconds
from lenshpc.engine.signals import Signals
from lenshpc.engine.trackers import TRACKERS
from lenshpc.engine.tracking import Tracker
from lenshpc.files import unique_name
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import save_plan
from lenshpc.run.planning import PlannedRun, plan_run
from lenshpc.run.recipe import Recipe
from lenshpc.store import open_store

NONE = "none"
SIDE = 32


@dataclass(frozen=True)
class Turn:
    """One training: of its median epoch the seconds, the processor's and the tracker's of them."""

    seconds: float
    cpu_seconds: float
    tracker_seconds: float
    end_seconds: float


class Timed:
    """A tracker whose thread's processor time is noted, a call an epoch."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker, self.seconds = tracker, list[float]()
        self.start, self.end = tracker.start, tracker.end

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Pass it on."""
        began = time.thread_time()
        self._tracker.epoch(number, figures)
        self.seconds.append(time.thread_time() - began)


def plan(folder: Path, num: int, epochs: int) -> PlannedRun:
    """Return a planned run of one small network on a store of noise."""
    make_store(folder / "store", num, SIDE, ("g",))
    recipe = Recipe(
        name="tracked",
        task="lens-finding",
        models=("test_resnet",),
        folds=1,
        train={"epochs": epochs, "batch_size": 32, "lr": 1e-3},
        resources={"gpus_per_node": 0},
    )
    return plan_run(recipe, open_store(folder / "store"), folder / "runs")


def train(planned: PlannedRun, name: str) -> Turn:
    """Train the member from its first epoch on, followed by a tracker or by none."""
    timed = Timed(TRACKERS[name]()) if name in TRACKERS else None
    # A folder of its own: MLflow keeps what it has opened.
    run = RunPaths(unique_name(planned.paths.root, name) / planned.paths.name)
    run.root.mkdir(parents=True)
    save_plan(run, planned.plan, planned.splits)
    stamps: list[tuple[float, float]] = []

    def look(_: MemberProgress) -> bool:
        stamps.append((time.perf_counter(), cpu_seconds()))
        return False

    run_member(run, 0, Signals(), look, {name: lambda: timed} if timed else {})
    ended = time.perf_counter()
    pairs = list(pairwise(stamps))
    return Turn(
        seconds=median(after[0] - before[0] for before, after in pairs),
        cpu_seconds=median(after[1] - before[1] for before, after in pairs),
        tracker_seconds=median(timed.seconds[1:]) if timed else 0.0,
        end_seconds=ended - stamps[-1][0],
    )


def time_imports() -> dict[str, float]:
    """Return the seconds in which each tracker is made for the first time."""
    seconds = {NONE: 0.0}
    for name, build in TRACKERS.items():
        began = time.perf_counter()
        build()
        seconds[name] = time.perf_counter() - began
    return seconds


def _ratio(values: Sequence[float], others: Sequence[float]) -> str:
    """Return the median of the ratios of turns that followed each other."""
    pairs = zip(values, others, strict=True)
    return f"{median(one / other for one, other in pairs):.3f}"


def main() -> None:
    """Print a table, a line a tracker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=4000, help="images (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    imports = time_imports()
    with scratch(None) as folder:
        planned = plan(folder, asked.num, asked.epochs)
        turns = {name: partial(train, planned, name) for name in (NONE, *TRACKERS)}
        train(planned, NONE)  # what is compiled and allocated once
        found = rounds(turns, asked.repeats)
    alone = found[NONE]
    rows = [
        [
            name,
            *spread([one.seconds for one in turns]),
            _ratio([one.seconds for one in turns], [one.seconds for one in alone]),
            _ratio([one.cpu_seconds for one in turns], [one.cpu_seconds for one in alone]),
            f"{1000 * median(one.tracker_seconds for one in turns):.1f}",
            f"{median(one.tracker_seconds / one.cpu_seconds for one in turns):.2%}",
            f"{imports[name]:.1f}",
            f"{median(one.end_seconds for one in turns):.2f}",
        ]
        for name, turns in found.items()
    ]
    title = f"{asked.epochs} epochs of {asked.num} images, {asked.repeats} turns each"
    header = ["tracker", "s an epoch", "range", "ratio", "ratio of CPU"]
    header += ["its thread, CPU ms an epoch", "share of the epoch's CPU", "import, s", "end, s"]
    report([Table(title, header, rows)], as_json=asked.json)


if __name__ == "__main__":
    main()
