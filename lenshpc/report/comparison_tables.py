"""A comparison in words and tables, for terminals, notebooks and the page."""

from lenshpc.report.comparison import LIMIT, Comparison, PairFigure
from lenshpc.report.content import Column, Headline, Row, Table
from lenshpc.report.format import (
    ABSENT,
    format_count,
    format_interval,
    format_number,
    format_p_value,
    format_value,
)
from lenshpc.statistics.results import LEVEL

UNDECIDED = (
    "Do not choose the best of several lines by its test score, which would make that score too "
    "good: choose by the out-of-fold scores beside it, or name the line beforehand. Intervals do "
    "not include the scatter between trainings, which several seeds show."
)


def describe_rows(one: Comparison) -> str:
    """Return one sentence on what is compared."""
    rows = format_count(one.num_rows, "test row")
    whose = "that all runs have in common" if one.is_partial else "that are the same in all runs"
    return f"{one.task}: {', '.join(run.name for run in one.runs)}, on {rows} {whose}."


def find_headline(one: Comparison) -> Headline:
    """Return the number that stands for a comparison: of two runs their difference."""
    pairs = [pair for pair in one.headlines if pair.measure == one.measures[0].name]
    if len(pairs) > 1:
        apart = sum(pair.are_apart for pair in pairs)
        return Headline(
            label="Pairs of runs that are told apart",
            value=f"{apart} of {len(pairs)}",
            range=f"by {one.measures[0].name}, p (Holm) below {LIMIT}",
            measure="told apart",
        )
    (pair,) = pairs
    return Headline(
        label=f"Test {pair.measure} of {pair.first} minus that of {pair.second}",
        value=f"{pair.difference:+.4f}",
        range=f"{LEVEL:.0%} interval {pair.low:+.4f} to {pair.high:+.4f}, p (Holm) "
        f"{format_p_value(pair.p_holm)}: {'' if pair.are_apart else 'not '}told apart",
        measure=f"{pair.first} − {pair.second}, {pair.measure}",
    )


def tabulate_runs(one: Comparison) -> Table:
    """Return a line a run: what its letter stands for, its rows and its cost."""
    titles = ("Run", "Name", "Headline", "Members", "Test rows", "Out-of-fold rows")
    rows = (
        Row(
            cells=(
                run.letter,
                run.name,
                run.headline,
                *(f"{number:,}" for number in (run.num_members, run.num_test, run.num_oof)),
                format_number(run.hours, 3),
                format_number(run.paid_hours, 3),
            )
        )
        for run in one.runs
    )
    return Table(
        columns=(
            *(Column(title=title, words=title in {"Name", "Headline"}) for title in titles),
            Column(title=f"{one.unit}-hours"),
            # Of attempts the cores that were asked for are known, not the processes.
            Column(title="of all attempts" if one.unit == "GPU" else "core-hours, all"),
        ),
        rows=tuple(rows),
    )


def tabulate_lines(one: Comparison) -> Table:
    """Return a line a model and ensemble: its measures on test rows and out-of-fold, its cost."""
    names = [measure.name for measure in one.measures]
    titles = [words for name in names for words in (f"Test {name} [interval]", "Out-of-fold")]
    rows = (
        Row(
            cells=(
                line.name,
                *(
                    word
                    for each in line.figures
                    for word in (
                        format_interval(each.value, each.low, each.high),
                        format_number(each.oof),
                    )
                ),
                format_number(line.hours, 3),
            ),
            look="strong" if line.is_headline else "",
        )
        for line in one.lines
    )
    return Table(
        title="Models and ensembles",
        columns=tuple(Column(title=t) for t in ("Line", *titles, f"{one.unit}-hours")),
        rows=tuple(rows),
    )


def tabulate_pairs(title: str, pairs: tuple[PairFigure, ...]) -> Table:
    """Return the paired differences, a line a pair and measure."""
    titles = (
        "Difference",
        "Measure",
        "Test [interval]",
        "p",
        "p (Holm)",
        "Out-of-fold ± std. err.",
    )
    rows = (
        Row(
            cells=(
                f"{one.first} − {one.second}",
                one.measure,
                format_interval(one.difference, one.low, one.high),
                format_p_value(one.p_value),
                format_p_value(one.p_holm),
                format_oof(one),
            ),
            look="strong" if one.are_apart else "",
        )
        for one in pairs
    )
    columns = tuple(Column(title=one, words=one == "Measure") for one in titles)
    return Table(title=title, columns=columns, rows=tuple(rows))


def format_oof(one: PairFigure) -> str:
    """Return the out-of-fold difference with its standard error."""
    if one.oof_difference is None:
        return ABSENT
    return f"{format_number(one.oof_difference)} ± {format_number(one.oof_std)}"


def tabulate_differences(one: Comparison) -> Table:
    """Return what differs in recipes, store and version, key by key."""
    return Table(
        columns=tuple(
            Column(title=title, words=True) for title in ("Key", *(run.letter for run in one.runs))
        ),
        rows=tuple(
            Row(cells=(key, *map(format_value, values))) for key, values in one.differences.items()
        ),
    )
