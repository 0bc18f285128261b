"""What trackers hear of a training, and that no training hears of them."""

import json
import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ranks import planned, recipe

from lenshpc.engine import tracking
from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.loop import GivenUp
from lenshpc.engine.member import run_member
from lenshpc.engine.pace import MEASURED
from lenshpc.engine.signals import Signals, Stopped
from lenshpc.engine.tracking import TrainingStart, track
from lenshpc.run.completion import is_done
from lenshpc.run.differences import flatten
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan
from lenshpc.store import Store

NAMES = ["lr", "train_loss", "val_loss", "val_auc", "val_pr_auc", "val_accuracy"]


class Recorder:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def start(self, start: TrainingStart) -> None:
        self.events.append(("start", start))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        self.events.append(("epoch", number, dict(figures)))

    def end(self, how: str) -> None:
        self.events.append(("end", how))


class Raising(Recorder):
    """A tracker whose disk is full after its first epoch."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        if number == 2:
            raise OSError(28, "No space left on device")
        super().epoch(number, figures)


class Hanging(Recorder):
    """A tracker whose network does not answer until `answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = threading.Event()

    def start(self, start: TrainingStart) -> None:
        self.answer.wait()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def history(run: RunPaths, plan: Plan) -> list[dict[str, float]]:
    lines = run.member(plan.members[0].name).metrics.read_text().splitlines()
    return [json.loads(line) for line in lines]


def started(run: RunPaths, plan: Plan, epochs_told: int = 0) -> tuple[str, TrainingStart]:
    """Return the first event of the tracker `one` of the first member."""
    member = plan.members[0]
    return "start", TrainingStart(
        run=run.name,
        member=member.name,
        fingerprint=plan.member_fingerprint(member),
        recipe=flatten(plan.recipe),
        steps=4,
        run_folder=run.root,
        folder=run.root / "members" / member.name / "tracking" / "one",
        epochs_told=epochs_told,
    )


def a_start(folder: Path) -> TrainingStart:
    return TrainingStart(
        run="lens-9f2c51ab",
        member="000-resnet18-fold0-seed0",
        fingerprint="0123456789abcdef" * 4,
        recipe={"train.lr": 0.001, "models": ["resnet18"]},
        steps=10,
        run_folder=folder,
        folder=folder / "tracking",
    )


def progress(num_epochs: int, fingerprint: str = "f") -> MemberProgress:
    lines = tuple({"epoch": float(at), "val_auc": 0.5 + at / 10} for at in range(num_epochs))
    return MemberProgress(fingerprint=fingerprint, world_size=1, history=lines)


def test_tracker_hears_of_a_training_and_of_nothing_else(spots: Store, tmp_path: Path) -> None:
    run, plan = planned(tmp_path, spots, recipe(train__epochs=2))
    one = Recorder()
    run_member(run, 0, Signals(), trackers={"one": lambda: one})
    lines = history(run, plan)
    assert one.events == [
        started(run, plan),
        ("epoch", 1, lines[0]),
        ("epoch", 2, lines[1]),
        ("end", "trained"),
    ]
    assert [sorted(line) for line in lines] == [
        sorted(["epoch", *NAMES, *MEASURED - {"peak_share", "gpu_busy", "gpu_gb"}])
    ] * 2
    run_member(run, 0, Signals(), trackers={"one": lambda: one})
    assert len(one.events) == 4, "what is done is not told again"


def test_member_that_stops_and_goes_on_tells_every_epoch_once(spots: Store, tmp_path: Path) -> None:
    run, plan = planned(tmp_path, spots, recipe(train__epochs=3))
    attempts = [Recorder(), Recorder()]
    signals = Signals()

    def stop(progress: MemberProgress) -> bool:
        signals.received = signal.SIGUSR2 if progress.epochs_done == 1 else 0
        return False

    with pytest.raises(Stopped):
        run_member(run, 0, signals, stop, {"one": lambda: attempts[0]})
    run_member(run, 0, Signals(), trackers={"one": lambda: attempts[1]})
    lines = history(run, plan)
    assert attempts[0].events == [started(run, plan), ("epoch", 1, lines[0]), ("end", "stopped")]
    assert attempts[1].events == [
        started(run, plan, epochs_told=1),
        ("epoch", 2, lines[1]),
        ("epoch", 3, lines[2]),
        ("end", "trained"),
    ]
    assert is_done(run, plan, plan.members[0], verify=True)


@pytest.mark.parametrize(
    ("error", "told"),
    [(GivenUp("epoch 1/2"), "given up"), (Stopped(15), "stopped"), (ValueError("no"), "failed")],
)
def test_tracker_hears_how_a_training_ended(tmp_path: Path, error: Exception, told: str) -> None:
    one = Recorder()

    def train() -> None:
        with track({"one": lambda: one}, a_start(tmp_path)) as hear:
            hear(progress(1))
            raise error

    with pytest.raises(type(error)):
        train()
    assert one.events[1:] == [("epoch", 1, {"epoch": 0.0, "val_auc": 0.5}), ("end", told)]


def test_what_was_missed_is_told_later_and_what_was_told_is_not(tmp_path: Path) -> None:
    start = a_start(tmp_path)
    heard = []
    # a kill behind a damaged checkpoint, epochs that nobody heard, another training in its place
    for number, fingerprint in ((2, "a"), (1, "a"), (4, "a"), (2, "b")):
        one = Recorder()
        its = TrainingStart(**{**vars(start), "fingerprint": fingerprint})
        with track({"one": lambda one=one: one}, its) as hear:
            hear(progress(number))
        heard.append([event[1] for event in one.events[1:-1]])
    assert heard == [[1, 2], [], [3, 4], [1, 2]]


def test_tracker_that_raises_is_dropped_with_one_warning(
    spots: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, plan = planned(tmp_path, spots, recipe(train__epochs=3))
    full, whole = Raising(), Recorder()

    def absent() -> Recorder:
        raise ImportError("No module named 'tensorboard'")

    run_member(
        run,
        0,
        Signals(),
        trackers={"absent": absent, "full": lambda: full, "whole": lambda: whole},
    )
    assert [event[0] for event in full.events] == ["start", "epoch"]
    assert [event[0] for event in whole.events] == ["start", "epoch", "epoch", "epoch", "end"]
    assert sorted(warnings_in(caplog)) == [
        "absent is told no more of this training, which continues: "
        "ImportError: No module named 'tensorboard'",
        "full is told no more of this training, which continues: "
        "OSError: [Errno 28] No space left on device",
    ]
    assert is_done(run, plan, plan.members[0], verify=True)


def test_tracker_that_hangs_is_left_behind(
    spots: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CLOSE_S", 0.2)
    run, plan = planned(tmp_path, spots, recipe(train__epochs=2))
    silent, whole = Hanging(), Recorder()
    run_member(run, 0, Signals(), trackers={"silent": lambda: silent, "whole": lambda: whole})
    assert silent.events == []
    assert [event[0] for event in whole.events] == ["start", "epoch", "epoch", "end"]
    assert warnings_in(caplog) == ["silent does not end: what it was not told is in metrics.jsonl"]
    assert is_done(run, plan, plan.members[0], verify=True)
    silent.answer.set()
