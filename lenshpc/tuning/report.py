"""The report of a study: the page, its trials as JSON, and the best recipe, ready for `submit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lenshpc.files import replacing_folder, write_json, write_text
from lenshpc.report.content import (
    Block,
    Column,
    Figure,
    Headline,
    KeyValues,
    Prose,
    Report,
    Row,
    Section,
    Table,
)
from lenshpc.report.figures import GREY, INK, PALETTE, add_legend, draw_figure
from lenshpc.report.format import (
    ABSENT,
    format_count,
    format_duration,
    format_metric,
    format_number,
)
from lenshpc.report.html import render_html
from lenshpc.run.search import Span
from lenshpc.tuning.boards import Result, replay
from lenshpc.tuning.study import Study
from lenshpc.tuning.summary import Findings, find, format_value

STATES = {"COMPLETE": "whole", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "runs or waits"}
IMPORTANCE = (
    "Share of the variance of the objective among completed trials that each key explains, by "
    "fANOVA (Hutter et al. 2014) as implemented in Optuna, for keys that every trial has."
)


def write_report(study: Study) -> Path | None:
    """Write the report's folder, replacing an earlier one; return the best recipe, if any."""
    findings = find(study)
    report = compose(findings)
    with replacing_folder(study.report) as folder:
        (folder / "figures").mkdir()
        for figure in report.figures():
            write_text(folder / "figures" / f"{figure.name}.svg", figure.svg)
        write_json(folder / "trials.json", report.content)
        write_text(folder / "report.html", render_html(report))
        if findings.best:
            recipe = study.best_recipe(dict(findings.best.values))
            text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
            write_text(folder / "best.yaml", text)
    return study.report / "best.yaml" if findings.best else None


def compose(findings: Findings) -> Report:
    """Return the page of a study."""
    study, best = findings.study, findings.best
    metric = format_metric(study.objective[0])
    sections = [Section(title="The best point", blocks=tuple(_draw_best(findings)))]
    if len(findings.measured) > 1:
        figures = (_draw_history(findings), *_draw_importance(findings), _draw_parallel(findings))
        sections.append(Section(title="The search", blocks=figures))
    sections.append(Section(title="Trials", blocks=(_tabulate(findings),)))
    sections.append(Section(title="The study", blocks=(_describe(findings),)))
    num = len(study.plan.members)
    return Report(
        title=study.root.name,
        reading="All values are from validation rows; no trial has predicted a test row.",
        banners=(),
        headline=Headline(
            label=f"Best validation {metric}, mean of {format_count(num, 'training')}",
            value=format_number(best.value if best else None),
            range=_compare(findings),
            measure=metric,
        ),
        overview=_tabulate(findings),
        sections=tuple(sections),
        content=findings.as_json(),
        predictions=pd.DataFrame(),
    )


def _compare(findings: Findings) -> str:
    best, own = findings.best, findings.own
    if best is None or own is None or best.value is None or own.value is None:
        return ""
    return (
        f"trial {best.number}; the recipe itself has {format_number(own.value)} "
        f"({best.value - own.value:+.4f})"
    )


def _draw_best(findings: Findings) -> list[Block]:
    best, own = findings.best, findings.own
    if best is None:
        return [Prose(text="No trial has a value yet.", soft=False)]
    values = dict(own.values) if own else {}
    lines = [
        (key, format_value(values.get(key, ABSENT)), format_value(best.values.get(key, ABSENT)))
        for key in findings.study.search.keys
    ]
    text = (
        "The best of many trials looks better than it is, because it was selected by these "
        "values; the run of best.yaml measures it on test rows."
    )
    return [Table.of(("key", "the recipe", "best"), lines), Prose(text=text)]


def _draw_history(findings: Findings) -> Figure:
    """Draw the value of each trial, and the best so far."""
    metric, sign = format_metric(findings.study.objective[0]), findings.sign
    measured, own = findings.measured, findings.own

    def draw(axes: Axes) -> None:
        numbers = [one.number for one in measured]
        values = np.array([one.value for one in measured], float)
        axes.plot(numbers, values, "o", markersize=4, color=PALETTE[0], label="whole")
        best = sign * np.maximum.accumulate(sign * values)
        axes.step(numbers, best, where="post", color=PALETTE[1], label="best so far")
        pruned = [one for one in findings.trials if one.state == "PRUNED" and one.steps]
        lasts = [one.steps[max(one.steps)] for one in pruned]
        axes.plot(
            [one.number for one in pruned], lasts, "x", color=GREY, label="pruned, at its end"
        )
        if own and own.value is not None:
            axes.axhline(own.value, color=INK, linestyle=":", label="the recipe itself")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="Trial", ylabel=f"Validation {metric}")
        axes.set_title("Values by trial")
        add_legend(axes)

    return draw_figure("history", f"Validation {metric} of each trial.", draw)


def _draw_importance(findings: Findings) -> list[Block]:
    """Draw how much each key matters; nothing where no key can be told from others."""
    shares = measure_importance(findings)
    if not shares:
        return []

    def draw(axes: Axes) -> None:
        names = list(reversed(shares))
        axes.barh(range(len(names)), [shares[name] for name in names], color=PALETTE[0])
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="Share of the variance")
        axes.set_title("Importance of the keys")

    return [draw_figure("importance", IMPORTANCE, draw)]


def measure_importance(findings: Findings) -> dict[str, float]:
    """Return key → share of the variance that it explains, the largest first (fANOVA)."""
    import optuna

    values = {one.value for one in findings.measured}
    if len(values) < 2:
        return {}
    seen = replay(findings.study, [findings.trials])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=findings.study.search.seed)
    return dict(optuna.importance.get_param_importances(seen, evaluator=evaluator))


def _draw_parallel(findings: Findings) -> Figure:
    """Draw each whole trial as a line over the keys, the best one on top."""
    spans, best = findings.study.search.keys, findings.best
    metric = format_metric(findings.study.objective[0])
    values = np.array([one.value for one in findings.measured], float)
    low, width = values.min(), max(float(np.ptp(values)), 1e-12)

    def draw(axes: Axes) -> None:
        for one in sorted(findings.measured, key=lambda one: findings.sign * (one.value or 0.0)):
            heights = [place_on(spans[key], one.values.get(key)) for key in spans]
            height = ((one.value or 0.0) - low) / width
            good = height if findings.sign > 0 else 1 - height
            is_best = one is best
            axes.plot(
                range(len(spans) + 1),
                [*heights, height],
                color=PALETTE[3] if is_best else PALETTE[0],
                alpha=1.0 if is_best else 0.15 + 0.5 * good,
                linewidth=2.4 if is_best else 1.0,
                marker="o",
                markersize=3,
            )
        titles = [_title_axis(key, span) for key, span in spans.items()]
        ends = f"\n{low:.4g} to {values.max():.4g}"
        axes.set_xticks(range(len(spans) + 1), [*titles, metric + ends], fontsize=8.5)
        axes.set_yticks([])
        axes.set_title("Points and values; the best in red")

    caption = (
        "Each line is a completed trial, from its values to the objective; a gap means that the "
        "trial does not have this key."
    )
    return draw_figure("parallel", caption, draw, (max(5.2, 1.3 * (len(spans) + 1)), 3.7))


def _title_axis(key: str, span: Span) -> str:
    low, high = span.tried[0], span.tried[-1]
    return f"{key}\n{format_value(low)} to {format_value(high)}"


def place_on(span: Span, value: Any) -> float:
    """Return where a value stands between the ends of its range, in [0, 1]; NaN without one."""
    if value is None:
        return math.nan
    if span.choice is not None:
        return span.choice.index(value) / max(1, len(span.choice) - 1)
    low, high, at = (math.log(one) if span.kind == "log" else one for one in (*span.tried, value))
    return float((at - low) / (high - low))


def _tabulate(findings: Findings) -> Table:
    keys = list(findings.study.search.keys)
    titles = ("trial", "state", format_metric(findings.study.objective[0]), "hours", *keys)
    rows = [
        Row(
            cells=(
                str(one.number),
                _tell_state(one),
                format_number(one.value),
                format_number(findings.hours.get(one.number, 0.0), 3),
                *(format_value(one.values.get(key, ABSENT)) for key in keys),
            ),
            look="strong" if one is findings.best else "" if one.value is not None else "weak",
        )
        for one in findings.trials
    ]
    columns = tuple(Column(title=title, words=title == "state") for title in titles)
    return Table(columns=columns, rows=tuple(rows))


def _tell_state(one: Result) -> str:
    if one.same_as is not None:
        return f"as trial {one.same_as}"
    return f"{STATES[one.state]}: {one.reason}" if one.state == "FAIL" else STATES[one.state]


def _describe(findings: Findings) -> KeyValues:
    study, search = findings.study, findings.study.search
    objective, sign = study.objective
    how = "at a time" if search.round_size else "each as its trial starts"
    told: Sequence[tuple[str, str]] = [
        ("objective", f"{objective}, the {'largest' if sign > 0 else 'smallest'} is best"),
        ("sampler, pruner", f"{search.sampler}, {search.pruner}; seed {search.seed}"),
        ("points asked", f"{search.round_size or ''} {how}".strip()),
        ("trials", ", ".join(f"{num} {state}" for state, num in findings.counts.items())),
        ("trainings of a trial", str(len(study.plan.members))),
        ("time of all trials", format_duration(3600 * sum(findings.hours.values()))),
        ("store", f"{study.plan.store} ({study.plan.dataset})"),
        ("recipe", f"{study.settings.recipe.name}, task {study.plan.recipe.task}"),
    ]
    return KeyValues(title="What was searched and how", pairs=tuple(told), is_open=True)
