"""The page of a comparison: verdicts, figures, cost beside quality, what differs, notes."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from lenshpc.errors import ConfigError
from lenshpc.files import write_text
from lenshpc.report.comparison import LIMIT, Comparison
from lenshpc.report.comparison_tables import (
    UNDECIDED,
    describe_rows,
    find_headline,
    tabulate_differences,
    tabulate_lines,
    tabulate_pairs,
    tabulate_runs,
)
from lenshpc.report.content import Block, Figure, Notes, Prose, Report, Section
from lenshpc.report.figures import PALETTE, POWERS, add_legend, draw_figure
from lenshpc.report.format import format_count
from lenshpc.report.html import render_html
from lenshpc.statistics.results import LEVEL, NUM_RESAMPLES

MARKERS = "osD^vPX*"


def write_page(comparison: Comparison, path: Path) -> None:
    """Write a comparison as one page that needs no other file, replacing an earlier one."""
    check_place(path)
    write_text(path, render_html(build_page(comparison)))


def check_place(path: Path) -> None:
    """Refuse a place where no page can be written: ConfigError."""
    if path.suffix != ".html":
        raise ConfigError(f"cannot write a report at {path}: give a name that ends in .html")
    if not path.parent.is_dir():
        raise ConfigError(
            f"cannot write a report at {path}: {path.parent} is not a folder; make it first"
        )


def build_page(comparison: Comparison) -> Report:
    """Return a comparison as a report."""
    return Report(
        title=f"Comparison of {format_count(len(comparison.runs), 'run')}",
        reading=describe_rows(comparison),
        banners=(),
        headline=find_headline(comparison),
        overview=tabulate_lines(comparison),
        sections=tuple(_sections(comparison)),
        content=comparison.as_json(),
        predictions=pd.DataFrame(),
    )


def _sections(one: Comparison) -> Iterator[Section]:
    yield Section(
        title="Which is better", blocks=(Notes(lines=one.verdicts), Prose(text=UNDECIDED))
    )
    pairs = [tabulate_pairs("Headlines", one.headlines)]
    if one.models:
        pairs.append(tabulate_pairs("Single models", one.models))
    yield Section(title="Scores", blocks=(tabulate_lines(one), *pairs))
    yield Section(title="Quality and cost", blocks=(draw_costs(one), tabulate_runs(one)))
    yield Section(title="What differs", blocks=tuple(_differences(one)))
    yield Section(title="How to read this", blocks=(Notes(lines=tuple(list_notes(one))),))


def _differences(one: Comparison) -> Iterator[Block]:
    if one.differences:
        yield tabulate_differences(one)
    else:
        yield Prose(text="Nothing: the runs were planned from the same recipe on the same store.")


def draw_costs(one: Comparison) -> Figure:
    """Return the first measure of each line over its hours; a line joins those on the front."""
    name = one.measures[0].name
    front = sorted((line for line in one.lines if line.name in one.front), key=lambda x: x.hours)

    def draw(axes: Axes) -> None:
        for at, run in enumerate(one.runs):
            for line in (each for each in one.lines if each.run == run.letter):
                figure = line.figures[0]
                reach = [[figure.value - figure.low], [figure.high - figure.value]]
                axes.errorbar(
                    [line.hours],
                    [figure.value],
                    reach,
                    marker=MARKERS[at % len(MARKERS)],
                    markersize=8 if line.is_headline else 5,
                    color=PALETTE[at % len(PALETTE)],
                    label=f"{run.letter} {run.name}" if line.is_headline else None,
                    linestyle="none",
                    elinewidth=0.8,
                    alpha=0.85,
                )
                axes.annotate(
                    line.line,
                    (line.hours, figure.value),
                    xytext=(6, 4),
                    textcoords="offset points",
                    fontsize=8,
                )
        axes.plot(
            [line.hours for line in front],
            [line.figures[0].value for line in front],
            color=PALETTE[-1],
            linestyle=":",
            drawstyle="steps-post",
            zorder=0,
        )
        hours = [line.hours for line in one.lines]
        if min(hours) > 0 and max(hours) > 10 * min(hours):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(POWERS)
        axes.margins(x=0.18, y=0.1)  # room for the names
        axes.set(xlabel=f"{one.unit}-hours of training", ylabel=f"Test {name}")
        axes.set_title("Quality and cost")
        add_legend(axes)

    caption = (
        f"Test {name} of each line with its {LEVEL:.0%} interval, against the {one.unit}-hours "
        "that its members trained; larger marks are the runs' headlines. The dotted line joins "
        "those that no other line beats at the same cost or less."
    )
    return draw_figure("cost", caption, draw)


def list_notes(one: Comparison) -> Iterator[str]:
    """Yield what a reader must know to believe the figures, a sentence or two each."""
    if one.is_partial:
        counts = ", ".join(f"{run.letter} has {run.num_test:,}" for run in one.runs)
        yield (
            f"The runs have different test rows ({counts}). They are compared on the "
            f"{format_count(one.num_rows, 'row')} with the same image and label in all of them; "
            "each was held out by every run. The scores are not those of the runs' own reports."
        )
    yield (
        "Everything is computed from the members' predictions. A difference is paired: it uses "
        f"the same rows, and the same {NUM_RESAMPLES:,} resamples of them, drawn within each "
        f"class; rows of one group stay together. Intervals are {LEVEL:.0%} percentiles. They "
        "include the scatter from the choice of rows, not the scatter between trainings: if each "
        "run has a single seed, that scatter is part of the difference. To measure it, compare "
        "two runs of the same recipe with different --seeds."
    )
    tests = dict.fromkeys(f"{measure.name}: {measure.test}" for measure in one.measures)
    yield (
        f"p: two-sided ({'; '.join(tests)}). p (Holm) is corrected for all pairs in its table, "
        f"for each measure separately. Lines count as different where it is below {LIMIT}, and "
        "then stand out in the tables."
    )
    smallest = [measure.name for measure in one.measures if measure.best < 0]
    yield (
        f"The smallest value is best for: {', '.join(smallest)}. For other measures the largest is."
        if smallest
        else "The largest value is best."
    )
    if one.num_oof is None:
        yield (
            "The runs have different out-of-fold rows, so each of these scores uses its own "
            "run's rows, and there is no paired difference."
        )
    else:
        yield (
            f"Out-of-fold differences use the {format_count(one.num_oof, 'row')} that all runs "
            "have, each predicted by members that did not train on it; ± is the standard error."
        )
    yield (
        f"Cost: the {one.unit}-hours that members trained, by their own clocks; those of all "
        "attempts are what the jobs of a run were allocated, where this is known."
    )
