"""One trial of a study, as one rank of its job: its point, its trainings, its end.

Rank 0 alone speaks to the study, and tells the others through files. Run again, after a preemption
or a lost node, it goes on with the trial that it began, from the last checkpoint.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import HashStore, Store

from lenshpc.config import Frozen
from lenshpc.engine import distributed, rendezvous
from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.distributed import Process
from lenshpc.engine.loop import GivenUp
from lenshpc.engine.member import run_member
from lenshpc.engine.rendezvous import FolderStore
from lenshpc.engine.signals import Signals, Stopped, cause
from lenshpc.errors import (
    ConfigError,
    DataError,
    IncompleteError,
    LaunchError,
    LensHpcError,
    one_line,
)
from lenshpc.files import make_private_folder, read_sealed
from lenshpc.run.attempts import Attempts
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan
from lenshpc.tuning.boards import Result, State, TrialBoard, open_board
from lenshpc.tuning.study import Study

Train = Callable[[RunPaths, int, Signals, Callable[[MemberProgress], bool]], None]
# What a node or a file system does to a trial: another attempt may end better.
NO_FAULT_OF_POINTS = (LaunchError, DataError, IncompleteError)
log = logging.getLogger(__name__)


class Assignment(Frozen):
    """What rank 0 tells the others: the trial's run, and the members that are to be trained."""

    run: str = ""
    members: tuple[int, ...] = ()


def run_element(study: Study, index: int, signals: Signals, train: Train = run_member) -> None:
    """Run the trial of the element `index` of a study's jobs to its end, as the rank that this is.

    Raises Stopped, with all that was done saved, where a signal asks for it, and what a node or a
    file system did to it; what its own point did to it is told as its failure.
    """
    process = distributed.from_environment()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("lenshpc").setLevel(logging.INFO if process.is_main else logging.WARNING)
    with open_talk(study, process) as talk:
        leader = begin_trial(study, index, process) if process.is_main else None
        if process.is_main:
            told = leader.assign() if leader else Assignment()
            talk.set("trial", told.model_dump_json())
        assignment = Assignment.model_validate_json(talk.get("trial"))
        state, reason = _train_all(study, assignment, signals, train, talk, process, leader)
        if leader:
            leader.end(state, reason)


def _train_all(
    study: Study,
    assignment: Assignment,
    signals: Signals,
    train: Train,
    talk: Store,
    process: Process,
    leader: "Leader | None",
) -> tuple[State, str]:
    """Train the members of a trial one after the other; return how that ended, and why so."""
    give_up = leader.give_up if leader else lambda _: False
    try:
        for member in assignment.members:
            train(RunPaths(study.trials / assignment.run), member, signals, give_up)
            # Before the next training: rank 0 has just removed the folder where its ranks will
            # meet again.
            _follow(talk, str(member), process)
    except GivenUp as given_up:
        return "PRUNED", f"given up: {given_up}"
    except Stopped as stopped:
        if leader:
            leader.note_stop(stopped, signals)
        raise
    except NO_FAULT_OF_POINTS as error:
        if leader:
            leader.attempts.append("failed", cause="error", reason=str(error))
        raise
    except (LensHpcError, torch.OutOfMemoryError) as error:
        return "FAIL", one_line(error)
    return "COMPLETE", ""


@contextmanager
def open_talk(study: Study, process: Process) -> Iterator[Store]:
    """Yield what the ranks of an attempt talk through: they have no group between trainings."""
    if process.world_size == 1:
        yield HashStore()
        return
    folder = study.base.slurm / "talk" / process.attempt
    make_private_folder(folder.parent)
    talk = FolderStore(folder)
    yield talk
    # Not after an error: the other ranks would wait in a folder that is gone.
    rendezvous.leave(folder, process.rank, process.world_size)


def _follow(talk: Store, what: str, process: Process) -> None:
    """Return once rank 0 has come here."""
    if process.is_main:
        talk.set(what, "")
    else:
        talk.wait([what])


def begin_trial(study: Study, index: int, process: Process) -> "Leader | None":
    """Return the trial of an element; None where it has ended, or never begins."""
    board = open_board(study, index)
    trial = board.take()
    if trial is None:
        log.info("no trial is due for element %d", index)
        return None
    values = ", ".join(f"{key}={leaf}" for key, leaf in trial.values.items())
    log.info("trial %d: %s", trial.number, values)
    try:
        run, plan = study.plan_trial(trial.number, dict(trial.values))
    except ConfigError as error:
        log.warning("trial %d fails: %s", trial.number, error)
        board.tell(trial.model_copy(update={"state": "FAIL", "reason": one_line(error)}))
        return None
    members = tuple(map(plan.member_fingerprint, plan.members))
    trial = trial.model_copy(update={"members": members})
    twin = next((one for one in board.others() if _is_equal(one, trial)), None)
    if twin is not None:
        log.info(
            "trial %d has the point of trial %d, whose result it takes", trial.number, twin.number
        )
        taken = {"number": trial.number, "same_as": twin.number}
        board.tell(twin.model_copy(update=taken))
        return None
    attempts = Attempts(study.base.attempts(process.job), process.restart)
    return Leader(study=study, board=board, trial=trial, run=run, plan=plan, attempts=attempts)


def _is_equal(one: Result, trial: Result) -> bool:
    return one.members == trial.members and one.state in {"COMPLETE", "PRUNED"}


@dataclass(frozen=True, kw_only=True)
class Leader:
    """Rank 0 of a trial: it alone asks the study, and tells it."""

    study: Study
    board: TrialBoard
    trial: Result
    run: RunPaths
    plan: Plan
    attempts: Attempts

    def assign(self) -> Assignment:
        """Note that this attempt begins, and return what is left to be trained."""
        self.attempts.append("started", member=self.trial.number)
        # What this attempt goes on from: by it a later one is known to have come further.
        curves = self._note_place(0, 0)
        left = self.plan.members[len(curves) :]
        return Assignment(run=self.run.name, members=tuple(member.index for member in left))

    def give_up(self, progress: MemberProgress) -> bool:
        """Tell the study of an epoch, and return whether the trial promises nothing."""
        curves = self._note_place(progress.epochs_done, 0)
        return self.board.report(self._measure([*curves, self._curve(progress)]))

    def end(self, state: State, reason: str) -> None:
        """Tell the study how the trial has ended."""
        told: dict[str, Any] = {"state": state, "reason": reason}
        if state == "COMPLETE":
            curves = self._read_curves()
            value = sum(curve[-1] for curve in curves) / len(curves)
            told |= {"value": value, "steps": self._measure(curves)}
        log.info("trial %d: %s %s", self.trial.number, state, told.get("value", reason))
        self.board.tell(self.trial.model_copy(update=told))

    def note_stop(self, stopped: Stopped, signals: Signals) -> None:
        """Note how far a trial came that was told to stop, and why it was."""
        events = Attempts(self.run.attempts(self.process.job), self.attempts.restart).events()
        saved = [one.place for one in events if one.what == "saved"]
        self._note_place(*(saved[-1] if saved else (0, 0)))
        why = cause(stopped.number, signals.running_s, self.plan.recipe.resources)
        self.attempts.append("stopped", cause=why, reason=str(stopped))

    @property
    def process(self) -> Process:
        """Return the process that this is."""
        return distributed.from_environment()

    def _note_place(self, epochs: int, steps: int) -> list[list[float]]:
        """Note how far the trial is, in epochs of all its members; return the ended ones."""
        curves = self._read_curves()
        self.attempts.append("saved", place=(sum(map(len, curves)) + epochs, steps))
        return curves

    def _read_curves(self) -> list[list[float]]:
        """Return the objective by epoch of each member whose training has ended, in order."""
        paths = (self.run.member(member.name).progress for member in self.plan.members)
        ended = itertools.takewhile(Path.is_file, paths)
        return [self._curve(MemberProgress.model_validate(read_sealed(path))) for path in ended]

    def _curve(self, progress: MemberProgress) -> list[float]:
        return best_so_far(progress.history, self.plan.recipe.monitor, self.study.objective[0])

    def _measure(self, curves: list[list[float]]) -> dict[int, float]:
        """Return step → mean objective over the members so far; a step is an epoch of a member."""
        steps, before = {}, list[float]()
        for place, curve in enumerate(curves):
            for epoch, value in enumerate(curve):
                step = place * self.plan.recipe.train.epochs + epoch
                steps[step] = sum([*before, value]) / (len(before) + 1)
            before.append(curve[-1])
        return steps


def best_so_far(
    history: Iterable[Mapping[str, float]], monitor: tuple[str, int], objective: str
) -> list[float]:
    """Return, after each epoch, the objective of the epoch that the monitored metric has picked."""
    name, sign = monitor
    best, curve = -math.inf, list[float]()
    for line in history:
        metric = sign * line[f"val_{name}"]
        curve.append(line[f"val_{objective}"] if metric > best else curve[-1])
        best = max(best, metric)
    return curve
