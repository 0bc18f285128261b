"""Where the points of a study come from, and where its results go: a journal, or rounds.

A `Journal` is asked by every trial as it starts, and tells all of them what others reached. It
needs a lock among the hosts: a file that is made by O_EXCL, which NFS keeps since version 3.
`Rounds` need none: one job alone asks, and a trial reads and writes files that are its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from lenshpc.config import Frozen, validate
from lenshpc.errors import DataError, IncompleteError, one_line, printable
from lenshpc.files import read_sealed, write_sealed
from lenshpc.run.search import Search
from lenshpc.tuning.points import Values, as_parameters, draw, own_values
from lenshpc.tuning.study import Study

NAME = "study"  # the only one in its journal
State = Literal["COMPLETE", "PRUNED", "FAIL", "RUNNING"]


class Result(Frozen):
    """How a trial stands: its point, what was measured after each step, the value at its end.

    `members` are the fingerprints of its trainings, `reason` why it has no value, `same_as` the
    trial whose trainings it took over; `noted` is what the pruner keeps.
    """

    number: int
    values: Mapping[str, Any]
    state: State = "RUNNING"
    value: float | None = None
    steps: Mapping[int, float] = {}
    members: tuple[str, ...] = ()
    reason: str = ""
    same_as: int | None = None
    noted: Mapping[str, Any] = {}


class TrialBoard(Protocol):
    """What a trial that runs sees of its study."""

    def take(self) -> Result | None:
        """Return the trial that is to be run; None where there is nothing left to do."""

    def report(self, steps: Mapping[int, float]) -> bool:
        """Tell what was measured so far, and return whether the trial promises nothing."""

    def tell(self, result: Result) -> None:
        """Tell how the trial has ended."""

    def others(self) -> list[Result]:
        """Return the other trials, as far as they are known here."""


class Journal:
    """The journal, as the element of an array sees it."""

    def __init__(self, study: Study, element: int = 0) -> None:
        self._study, self._element = study, element
        self._optuna = open_journal(study, element)
        self._trial: optuna.Trial | None = None

    def take(self) -> Result | None:
        """Return this element's trial: the one that it began, or one that it asks for."""
        mine = [one for one in self._optuna.get_trials() if self._owns(one)]
        if mine and mine[0].state.is_finished():
            return None
        if mine:
            self._trial = optuna.Trial(self._optuna, mine[0]._trial_id)
        elif self._study.has_spent_all():
            return None
        else:
            self._trial = self._optuna.ask()
            # By this it is found again after a requeue; killed before, the trial stays without an
            # element, which `release` ends.
            self._trial.set_user_attr("element", self._element)
        values = draw(self._trial, self._study.search)
        self._trial.set_user_attr("values", values)
        return Result(number=self._trial.number, values=values)

    def _owns(self, trial: FrozenTrial) -> bool:
        return trial.user_attrs.get("element") == self._element

    def report(self, steps: Mapping[int, float]) -> bool:
        """Tell what was measured, and ask the pruner."""
        return _report(_require(self._trial), steps)

    def tell(self, result: Result) -> None:
        """Tell the result; at once where others told it."""
        trial = _require(self._trial)
        for key in ("members", "reason", "same_as"):
            trial.set_user_attr(key, getattr(result, key))
        _report(trial, result.steps)
        value = result.value if result.state == "COMPLETE" else None
        self._optuna.tell(trial, value, TrialState[result.state], skip_if_finished=True)

    def others(self) -> list[Result]:
        """Return the other trials, as they stand now."""
        return [
            one for one in read_journal(self._optuna) if one.number != _require(self._trial).number
        ]


class Rounds:
    """The rounds, as the trial of a number sees them."""

    def __init__(self, study: Study, number: int) -> None:
        self._study, self._number = study, number
        self._earlier: list[list[Result]] = []
        self._trial: optuna.Trial | None = None

    def take(self) -> Result | None:
        """Return the trial of this number, if a round has asked for it and it has not ended."""
        if find_result(self._study, self._number):
            return None
        for points in read_rounds(self._study):
            mine = [point for point in points if point.number <= self._number]
            if mine and mine[-1].number == self._number:
                self._trial = self._replay_to(mine)
                return mine[-1]
            self._earlier.append(_add_results(self._study, points))
        return None

    def _replay_to(self, points: Sequence[Result]) -> optuna.Trial:
        """Return the last of the points as a trial that has seen the rounds before, no more."""
        # What trials beside this one have reached depends on which of them was first.
        replayed = replay(self._study, self._earlier)
        for point in points:
            replayed.add_trial(_freeze(self._study.search, point))
        return optuna.Trial(replayed, replayed.trials[-1]._trial_id)

    def report(self, steps: Mapping[int, float]) -> bool:
        """Ask the pruner of what was measured."""
        return _report(_require(self._trial), steps)

    def tell(self, result: Result) -> None:
        """Write the result."""
        trial = _require(self._trial)
        _report(trial, result.steps)
        seen = _look_up(trial)
        kept = {"steps": seen.intermediate_values, "noted": seen.system_attrs}
        told = result.model_copy(update=kept)
        write_result(self._study, told)

    def others(self) -> list[Result]:
        """Return the trials of earlier rounds; of this one, which have ended is a chance."""
        return [result for results in self._earlier for result in results]


def open_board(study: Study, index: int) -> TrialBoard:
    """Return what the element `index` of a study's jobs sees."""
    return Journal(study, index) if study.search.round_size is None else Rounds(study, index)


def read_trials(study: Study) -> list[Result]:
    """Return all trials of a study by number, ended or not."""
    if study.search.round_size is not None:
        return read_results(study)
    return read_journal(open_journal(study)) if study.journal.is_file() else []


def begin(study: Study) -> None:
    """Make what a study asks from: the journal, with the recipe's own point as the first trial."""
    if study.search.round_size is None and not (opened := open_journal(study)).trials:
        opened.enqueue_trial(as_parameters(study.search, own_values(study.settings.recipe)))


def list_due(study: Study) -> tuple[int, ...]:
    """Return the elements that have a trial to run: not asked for yet, or not ended."""
    if study.search.round_size is not None:
        return tuple(one.number for one in read_results(study) if one.state == "RUNNING")
    trials = open_journal(study).get_trials(deepcopy=False)
    ended = {one.user_attrs.get("element") for one in trials if one.state.is_finished()}
    return tuple(element for element in range(study.search.trials) if element not in ended)


def release(study: Study) -> None:
    """Repair what a lost job left in the journal; no job of the study may be there.

    A trial that was asked for by a job which was killed before it noted so belongs to nobody.
    """
    if study.search.round_size is not None:
        return
    content = study.journal.read_bytes()
    if not content.endswith(b"\n"):  # a line that a lost node has written in part
        os.truncate(study.journal, content.rfind(b"\n") + 1)
    opened = open_journal(study)
    for one in opened.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if "element" not in one.user_attrs:
            opened.tell(one.number, state=TrialState.FAIL)


def open_journal(study: Study, element: int = 0) -> optuna.Study:
    """Return the study in its journal; DataError where that is damaged."""
    path = str(study.journal)
    try:
        storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
        # A seed a element: with one for all, each would ask for the same point.
        return _create(study, element, storage)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged: a line is not valid JSON ({one_line(error)}); restore it, or "
            f"start another study with: --set search.seed={study.search.seed + 1}"
        ) from error


def _create(study: Study, seed: int, storage: JournalStorage | None = None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = study.search
    steps = len(study.plan.members) * study.plan.recipe.train.epochs
    return optuna.create_study(
        storage=storage,
        study_name=NAME,
        direction=study.direction,
        sampler=make_sampler(search, seed),
        pruner=make_pruner(search, steps),
        load_if_exists=True,
    )


def make_sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of an element or round; each has random numbers of its own."""
    seed = (search.seed + 1_000_003 * number) % 2**32
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def make_pruner(search: Search, steps: int) -> optuna.pruners.BasePruner:
    """Return the pruner of trials that take so many steps: an epoch of a fold each."""
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=steps)
    return (
        optuna.pruners.MedianPruner() if search.pruner == "median" else optuna.pruners.NopPruner()
    )


def ask_round(study: Study) -> int | None:
    """Ask for the points of the next round and write them; return its number.

    None where no further point is due. IncompleteError where trials of the rounds before have not
    ended, whose results decide.
    """
    rounds = read_rounds(study)
    results = [_add_results(study, points) for points in rounds]
    missing = [one.number for some in results for one in some if one.state == "RUNNING"]
    if missing:
        raise IncompleteError(
            f"{len(missing)} trials of {study.root.name} have not ended, such as trial "
            f"{missing[0]}; once no job of the study is left, use: lenshpc tune --resume "
            f"{study.root}"
        )
    begun = sum(map(len, rounds))
    size = min(study.search.round_size or 1, study.search.trials - begun)
    if size <= 0 or study.has_spent_all():
        return None
    replayed = replay(study, results, seed=len(rounds))
    if not begun:
        replayed.enqueue_trial(as_parameters(study.search, own_values(study.settings.recipe)))
    points = []
    for _ in range(size):
        trial = replayed.ask()
        points.append({"number": trial.number, "values": draw(trial, study.search)})
    write_sealed(study.rounds / f"round-{len(rounds):03d}.json", {"points": points})
    return len(rounds)


def read_rounds(study: Study) -> list[list[Result]]:
    """Return the points of each round that was asked."""
    paths = sorted(study.rounds.glob("round-*.json"))
    return [
        [validate(Result, one, str(path)) for one in read_sealed(path)["points"]] for path in paths
    ]


def replay(study: Study, rounds: Iterable[Sequence[Result]], seed: int = 0) -> optuna.Study:
    """Return a study in memory that has seen the trials of rounds, in the order of numbers."""
    replayed = _create(study, seed)
    for results in rounds:
        for result in results:
            replayed.add_trial(_freeze(study.search, result))
    return replayed


def read_results(study: Study) -> list[Result]:
    """Return the trials of all rounds, ended or not."""
    rounds = read_rounds(study)
    return [result for points in rounds for result in _add_results(study, points)]


def _add_results(study: Study, points: Iterable[Result]) -> list[Result]:
    """Return the trials of a round, with how they have ended."""
    return [find_result(study, point.number) or point for point in points]


def find_result(study: Study, number: int) -> Result | None:
    """Return how a trial of a round has ended; None before."""
    path = study.rounds / f"trial-{number:03d}.json"
    return validate(Result, read_sealed(path), str(path)) if path.is_file() else None


def write_result(study: Study, result: Result) -> None:
    """Write how a trial of a round has ended."""
    path = study.rounds / f"trial-{result.number:03d}.json"
    write_sealed(path, result.model_dump(mode="json"))


def read_journal(opened: optuna.Study) -> list[Result]:
    """Return the trials of a journal that were asked for."""
    trials = opened.get_trials(deepcopy=False)
    return [_thaw(one) for one in trials if one.state != TrialState.WAITING]


def _require(trial: optuna.Trial | None) -> optuna.Trial:
    assert trial is not None, "asked of a board that has no trial"  # noqa: S101
    return trial


def _report(trial: optuna.Trial, steps: Mapping[int, float]) -> bool:
    """Report the steps that are new, one by one as if each had just been taken."""
    gives_up = False
    for step in sorted(steps.keys() - _look_up(trial).intermediate_values.keys()):
        trial.report(steps[step], step)
        gives_up = trial.should_prune()
    return gives_up


def _look_up(trial: optuna.Trial) -> FrozenTrial:
    return trial.storage.get_trial(trial._trial_id)


def _freeze(search: Search, result: Result) -> FrozenTrial:
    """Return a trial as Optuna has it."""
    return optuna.trial.create_trial(
        state=TrialState[result.state],
        value=result.value if result.state == "COMPLETE" else None,
        params=as_parameters(search, dict(result.values)),
        distributions=_distributions(search, result.values),
        intermediate_values=dict(result.steps),
        system_attrs=dict(result.noted),
    )


def _distributions(
    search: Search, values: Mapping[str, Any]
) -> dict[str, optuna.distributions.BaseDistribution]:
    # Asked of a trial whose values are fixed, so that ranges are told to Optuna in one place.
    fixed = optuna.trial.FixedTrial(as_parameters(search, Values(values)))
    draw(fixed, search)
    return fixed.distributions


def _thaw(trial: FrozenTrial) -> Result:
    facts = trial.user_attrs
    return Result(
        number=trial.number,
        values=facts.get("values", trial.params),
        state=cast(State, trial.state.name),
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        steps=trial.intermediate_values,
        members=tuple(facts.get("members", ())),
        reason=printable(facts.get("reason", "")),
        same_as=facts.get("same_as"),
    )
