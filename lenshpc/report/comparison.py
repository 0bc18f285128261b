"""Compare the models of several runs of a task on the same test rows, each pair on paired rows.

Runs are called A, B, … in the order in which they were named; of each its models and its headline's
ensemble are lines. Nothing is chosen on test rows: out-of-fold figures stand beside.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from operator import le
from string import ascii_uppercase
from typing import Any

from lenshpc.errors import ConfigError
from lenshpc.registry import find_task, load
from lenshpc.report.comparison_rows import MatchedRows, check_rows, match_rows
from lenshpc.report.format import format_count, format_p_value
from lenshpc.report.summary import without_nan
from lenshpc.run.differences import find_differences
from lenshpc.run.results import RunResults
from lenshpc.statistics.bootstrap import draw
from lenshpc.statistics.delong import MeasuredLines, measure_lines
from lenshpc.statistics.measures import RowMeasure, RowValues
from lenshpc.statistics.results import NUM_RESAMPLES, Floats, LineDifference

LIMIT = 0.05  # p (Holm) below which two lines are told apart
SECONDS_AN_HOUR = 3600

Found = Sequence[tuple[RunResults, RowValues]]


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run by its letter; `hours` are of its members' training, `paid_hours` of all its attempts.

    `paid_hours` is None where no attempt is known here.
    """

    letter: str
    name: str
    folder: str
    headline: str
    num_members: int
    num_test: int
    num_oof: int
    hours: float
    paid_hours: float | None


@dataclass(frozen=True, kw_only=True)
class LineFigure:
    """A measure of a line on the compared test rows with its interval, and out-of-fold."""

    measure: str
    value: float
    low: float
    high: float
    oof: float


@dataclass(frozen=True, kw_only=True)
class ComparedLine:
    """A model or an ensemble of a run: what it cost to train, and its figures."""

    run: str
    line: str
    is_headline: bool
    hours: float
    figures: tuple[LineFigure, ...]

    @property
    def name(self) -> str:
        """Return what it is called beside lines of other runs."""
        return name_line(self.run, self.line)


@dataclass(frozen=True, kw_only=True)
class PairFigure(LineDifference):
    """The paired difference of two lines of different runs on test rows, and out-of-fold.

    `oof_difference` has the standard error `oof_std`; they are None where out-of-fold rows differ.
    """

    measure: str
    oof_difference: float | None
    oof_std: float | None

    @property
    def are_apart(self) -> bool:
        """Return whether chance is no likely reason of the difference."""
        return self.p_holm < LIMIT


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that is said of several runs.

    `measures` are those of the task, the headline's first. `headlines` has the pairs of the runs'
    headlines, `models` those of single models of different runs; each is corrected by Holm for its
    own number of pairs, a measure. `differences` has key → value of each run, of what differs.
    """

    task: str
    measures: tuple[RowMeasure, ...]
    unit: str
    runs: tuple[ComparedRun, ...]
    lines: tuple[ComparedLine, ...]
    headlines: tuple[PairFigure, ...]
    models: tuple[PairFigure, ...]
    differences: Mapping[str, tuple[Any, ...]]
    num_rows: int
    num_oof: int | None

    @property
    def is_partial(self) -> bool:
        """Return whether a run has test rows that are not compared."""
        return any(run.num_test > self.num_rows for run in self.runs)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Return a sentence a pair of runs: which is better and by how much, or neither."""
        first = self.measures[0]
        pairs = (one for one in self.headlines if one.measure == first.name)
        return tuple(describe_pair(one, first) for one in pairs)

    @property
    def front(self) -> frozenset[str]:
        """Return the lines that no other beats at the same cost or less, by the first measure."""
        best = self.measures[0].best
        marks = {one.name: (one.hours, -best * one.figures[0].value) for one in self.lines}
        return frozenset(
            name
            for name, mine in marks.items()
            if not any(all(map(le, other, mine)) for other in marks.values() if other != mine)
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        content: dict[str, Any] = without_nan(asdict(self))
        front = self.front
        lines = [
            {**told, "on_front": one.name in front}
            for told, one in zip(content["lines"], self.lines, strict=True)
        ]
        return {**content, "lines": lines, "verdicts": list(self.verdicts)}


def name_line(letter: str, line: str) -> str:
    """Return what a run's line is called beside those of other runs."""
    return f"{letter} {line}"


def describe_pair(one: PairFigure, measure: RowMeasure) -> str:
    """Return in words what a pair of lines comes to."""
    if not one.are_apart:
        bounds = f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
        told = f"{one.first} and {one.second} are not told apart"
        return f"{told}: {measure.name} {bounds}, p (Holm) {format_p_value(one.p_holm)}"
    sign = 1 if one.difference > 0 else -1
    low, high = sorted((sign * one.low, sign * one.high))
    is_first = one.difference * measure.best > 0
    better, other = (one.first, one.second) if is_first else (one.second, one.first)
    way = "higher" if measure.best > 0 else "lower"
    return (
        f"{better} is better than {other}: {measure.name} {way} by {abs(one.difference):.4f} "
        f"[{low:.4f}, {high:.4f}], p (Holm) {format_p_value(one.p_holm)}"
    )


def check_comparable(plans: Sequence[Any], folders: Sequence[Any]) -> None:
    """Refuse what cannot be compared, before any prediction is read: ConfigError."""
    if len(set(folders)) < max(2, len(folders)):
        named = folders[0] if folders else "no run"
        raise ConfigError(f"compare needs two or more different runs, and got {named}; give others")
    if len(folders) > len(ascii_uppercase):
        raise ConfigError(f"compare takes {len(ascii_uppercase)} runs at most, not {len(folders)}")
    tasks = {plan.recipe.task: plan.run_name for plan in plans}
    if len(tasks) > 1:
        told = ", ".join(f"{name} of task {task}" for task, name in tasks.items())
        raise ConfigError(
            f"runs of different tasks cannot be compared ({told}); give runs of one task"
        )
    if len({plan.classes for plan in plans}) > 1:
        told = ", ".join(f"{plan.run_name} has {'/'.join(plan.classes)}" for plan in plans)
        raise ConfigError(f"runs of different classes cannot be compared: {told}")
    task = next(iter(tasks))
    if find_task(task).measure is None:
        raise ConfigError(
            f"task {task} has no values for single rows, by which runs are compared; put their "
            "reports side by side"
        )


def compare_results(several: Sequence[RunResults], *, common: bool = False) -> Comparison:
    """Return the comparison of runs that are done and were found comparable.

    ConfigError where their test rows differ and those in `common` were not asked for.
    """
    measure_rows = load(find_task(several[0].plan.recipe.task).measure or "")
    found = [(results, measure_rows(results)) for results in several]
    letters = ascii_uppercase[: len(found)]
    test, oof = match_rows(found, "test"), match_rows(found, "oof")
    check_rows(letters, test, common=common)
    is_paired = oof.num_common > 0 and (common or oof.are_equal)
    several[0].say("comparing the runs")
    judged = [
        _judge_measure(found, letters, at, test, oof if is_paired else None)
        for at in range(len(found[0][1].measures))
    ]
    return Comparison(
        task=several[0].plan.recipe.task,
        measures=found[0][1].measures,
        unit=_find_unit(several),
        runs=tuple(_describe_runs(found, letters)),
        lines=tuple(_describe_lines(found, letters, judged)),
        headlines=tuple(one for each in judged for one in each.headlines),
        models=tuple(one for each in judged for one in each.models),
        differences=_tabulate_differences(several),
        num_rows=test.num_common,
        num_oof=oof.num_common if is_paired else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A measure of all lines on the test rows, of each run's own out-of-fold rows, and of pairs."""

    measure: RowMeasure
    test: MeasuredLines
    oof: Mapping[str, float]
    headlines: tuple[PairFigure, ...]
    models: tuple[PairFigure, ...]


def _judge_measure(
    found: Found, letters: str, at: int, test: MatchedRows, oof: MatchedRows | None
) -> _Judged:
    measure = found[0][1].measures[at]
    measured = _measure(found, letters, at, test, num_resamples=NUM_RESAMPLES)
    if measured is None:
        raise ConfigError(
            f"{measure.name} is not defined on the {format_count(test.num_common, 'test row')} "
            "that are compared, such as rows of one class; compare runs on other rows"
        )
    paired = None if oof is None else _measure(found, letters, at, oof, num_resamples=0)
    heads = [name_line(x, one.headline) for x, (_, one) in zip(letters, found, strict=True)]
    singles = [
        [name_line(x, name) for name, parts in one.parts.items() if parts == (name,)]
        for x, (_, one) in zip(letters, found, strict=True)
    ]
    models = [
        (mine, theirs)
        for one, other in combinations(singles, 2)
        for mine in one
        for theirs in other
    ]
    pairs = list(combinations(heads, 2))
    return _Judged(
        measure=measure,
        test=measured,
        oof=_measure_own(found, letters, at),
        headlines=_compare(measure, measured, paired, pairs),
        models=() if models == pairs else _compare(measure, measured, paired, models),
    )


def _compare(
    measure: RowMeasure,
    test: MeasuredLines,
    oof: MeasuredLines | None,
    pairs: Sequence[tuple[str, str]],
) -> tuple[PairFigure, ...]:
    others = oof.compare(pairs) if oof else [None] * len(pairs)
    return tuple(
        PairFigure(
            measure=measure.name,
            oof_difference=None if other is None else other.difference,
            oof_std=None if other is None else other.std,
            **asdict(one),
        )
        for one, other in zip(test.compare(pairs), others, strict=True)
    )


def _measure(
    found: Found, letters: str, at: int, rows: MatchedRows, *, num_resamples: int
) -> MeasuredLines | None:
    """Return the lines of all runs on rows that all have; without resamples no intervals."""
    first = found[0][1].rows.iloc[rows.places[0]]
    labels = first["label"].to_numpy()
    groups = first["group"].to_numpy(object) if "group" in first else None
    lines: dict[str, Floats] = {
        name_line(letter, name): values[at][places]
        for letter, (_, one), places in zip(letters, found, rows.places, strict=True)
        for name, values in one.values.items()
    }
    drawn = draw(labels, groups, num_resamples=num_resamples, seed=0) if num_resamples else None
    return measure_lines(labels, lines, drawn, groups, found[0][1].measures[at])


def _measure_own(found: Found, letters: str, at: int) -> dict[str, float]:
    """Return the measure of each line on its own run's out-of-fold rows."""
    told = {}
    for letter, (_, one) in zip(letters, found, strict=True):
        out = (one.rows["split"] == "oof").to_numpy()
        labels = one.rows["label"].to_numpy()[out]
        for name, values in one.values.items():
            told[name_line(letter, name)] = one.measures[at].find(labels, values[at][out])
    return told


def _describe_runs(found: Found, letters: str) -> Iterator[ComparedRun]:
    for letter, (results, values) in zip(letters, found, strict=True):
        total = (results.usage or {}).get("total", {})
        counts = values.rows["split"].value_counts()
        yield ComparedRun(
            letter=letter,
            name=results.run.name,
            folder=str(results.run.root),
            headline=values.headline,
            num_members=len(results.trainings),
            num_test=int(counts.get("test", 0)),
            num_oof=int(counts.get("oof", 0)),
            hours=_sum_hours(results, results.plan.recipe.models),
            paid_hours=total["hours"] if total.get("attempts") else None,
        )


def _describe_lines(
    found: Found, letters: str, judged: Sequence[_Judged]
) -> Iterator[ComparedLine]:
    for letter, (results, values) in zip(letters, found, strict=True):
        for line, parts in values.parts.items():
            name = name_line(letter, line)
            yield ComparedLine(
                run=letter,
                line=line,
                is_headline=line == values.headline,
                hours=_sum_hours(results, parts),
                figures=tuple(_describe_figure(one, name) for one in judged),
            )


def _describe_figure(one: _Judged, name: str) -> LineFigure:
    low, high = one.test.interval(name)
    return LineFigure(
        measure=one.measure.name,
        value=one.test.found[name],
        low=low,
        high=high,
        oof=one.oof[name],
    )


def _sum_hours(results: RunResults, models: Sequence[str]) -> float:
    """Return what the members of some models trained, in hours of all their processes."""
    # Of the members' own clocks: accounting knows no member that was trained for another run.
    done = (one.done for one in results.trainings if one.member.model in models)
    return float(sum(one["seconds"] * one["num_processes"] for one in done)) / SECONDS_AN_HOUR


def _find_unit(several: Sequence[RunResults]) -> str:
    devices = {one.done["device"] for results in several for one in results.trainings}
    return "process" if "cpu" in devices else "GPU"


def _tabulate_differences(several: Sequence[RunResults]) -> dict[str, tuple[Any, ...]]:
    """Return key → value of each run, of the keys that differ between any of them."""
    first = several[0].plan
    found = [find_differences(first, one.plan) for one in several]
    keys = {key: pair[0] for one in found for key, pair in one.items()}
    return {
        key: tuple(one[key][1] if key in one else own for one in found) for key, own in keys.items()
    }
