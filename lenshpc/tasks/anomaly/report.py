"""The report of an anomaly detection: scores of each class, curves, the strangest images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from lenshpc.report.common import common_sections, format_overview, open_or_tell, partial_banner
from lenshpc.report.content import (
    Column,
    Figure,
    Headline,
    KeyValues,
    Report,
    Row,
    Section,
    Table,
)
from lenshpc.report.figures import GREY, INK, PALETTE, add_legend, draw_figure, model_looks
from lenshpc.report.format import format_interval, format_number
from lenshpc.report.methods import BOOTSTRAP
from lenshpc.report.references import cite
from lenshpc.report.remarks import ON_BOUND, describe_perfect, is_perfect, note_constant
from lenshpc.report.summary import summarise, without_nan
from lenshpc.report.verdict import find_verdict
from lenshpc.run.plan import Plan
from lenshpc.run.predictions import ENSEMBLE
from lenshpc.run.results import RunResults
from lenshpc.statistics import radial
from lenshpc.statistics.bootstrap import find_notes
from lenshpc.statistics.results import LEVEL, NUM_RESAMPLES, Floats
from lenshpc.statistics.scores import find_groups
from lenshpc.tasks.anomaly.baselines import explain_constant
from lenshpc.tasks.anomaly.evidence import weigh_scores
from lenshpc.tasks.anomaly.judge import (
    FALSE_POSITIVE_RATE,
    ResultRow,
    RunEvaluation,
    roc_points,
)
from lenshpc.tasks.anomaly.merge import PARTS, MergedScores
from lenshpc.tasks.anomaly.pictures import draw_strangest
from lenshpc.tasks.anomaly.settings import Anomaly

LOOKS = {"ensemble": "strong", "model": "", "score": "weak", "baseline": "weak"}
FIGURES = {
    "average_precision": "Average precision",
    "tpr_at_fpr": f"TPR at FPR {FALSE_POSITIVE_RATE}",
    "wasserstein": "Wasserstein distance",
    "false_positives": "Normal flagged",
    "recall": "Anomalies flagged",
}
NUM_BINS = 50
TAIL = 0.98  # quantile of the scores at which histograms end


def build(results: RunResults, found: RunEvaluation) -> Report:
    """Return the report of a run that learnt one class."""
    plan, merged, lines = results.plan, found.merged, found.lines
    content, reasons = _content(results, lines, merged), explain_constant(results.splits)
    return Report(
        title=results.run.name,
        reading=format_overview(content, f", learning {_normal(plan)} alone"),
        banners=partial_banner(content),
        headline=_headline(lines[0], merged),
        overview=figures_table(lines, "test", reasons),
        sections=(
            *_sections(results, found),
            *common_sections(results, content),
        ),
        content=content,
        predictions=_prediction_table(merged),
        verdict=find_verdict(weigh_scores(results, found)),
        method=_describe(plan),
    )


def _normal(plan: Plan) -> str:
    return plan.classes[Anomaly.of(plan.recipe.method).normal_label(plan.classes)]


def _headline(line: ResultRow, merged: MergedScores) -> Headline:
    test = line.parts["test"]
    asked = merged.part("test") & np.isfinite(merged.values[line.name])
    groups = find_groups(merged.rows[asked])
    return Headline(
        label=f"Test ROC AUC of {'the ensemble' if line.name == ENSEMBLE else line.name}",
        measure="AUC",
        value=format_number(test.auc),
        range=f"{LEVEL:.0%} interval {format_number(test.auc_low)} to "
        f"{format_number(test.auc_high)}, {test.num_normal:,} normal and "
        f"{test.num_anomalous:,} anomalous images",
        note=describe_perfect(merged.anomalous[asked], groups) if is_perfect(test) else "",
    )


def _content(
    results: RunResults, lines: Sequence[ResultRow], merged: MergedScores
) -> Mapping[str, Any]:
    """Return what report.json holds."""
    head = lines[0]
    test = asdict(head.parts["test"])
    bounded = [ON_BOUND] if is_perfect(head.parts["test"]) else []
    content: Mapping[str, Any] = without_nan(
        {
            **summarise(results),
            "headline": {"name": head.name, **test},
            "lines": [asdict(line) for line in lines],
            "heads": dict(merged.heads),
            "normal": _normal(results.plan),
            "interval": {"level": LEVEL, "num_resamples": NUM_RESAMPLES, "kind": "stratified"},
            "notes": [*format_notes(results.plan), *bounded, *_note_large(merged)],
        }
    )
    return content


def _note_large(merged: MergedScores) -> list[str]:
    """Return how large parts are resampled, and that baselines saw some of the images."""
    judged = [merged.rows[merged.part(part)] for part in ("validation", "test")]
    notes = find_notes(map(find_groups, judged), map(len, judged))
    return [*notes, radial.SAMPLE_NOTE] if len(merged.rows) > radial.MAX_IMAGES else notes


def format_notes(plan: Plan) -> Iterator[str]:
    """Yield what a reader must know to believe the figures."""
    normal, quantile = _normal(plan), Anomaly.of(plan.recipe.method).quantile
    yield (
        f"Only {normal} was learnt. Epochs were chosen by the loss on {normal} rows of the "
        f"validation fold; the threshold is the {quantile:.0%} quantile of the out-of-fold scores "
        f"of {normal}. Rows of other classes outside the test split are excluded: they are "
        "scored, but are not used to train, normalise or choose anything."
    )
    yield (
        "Each member's score is rescaled by its own out-of-fold normal rows, (score - median) / "
        "interquartile range, then averaged over the members. Validation compares those rows, "
        "scored by members that did not train on them, with the excluded rows, scored by all. "
        "Training compares the normal rows that a member did train on with the same excluded "
        "rows."
    )
    yield (
        "The score that represents a model is fixed beforehand: the relative error. The other "
        "scores are shown, but not chosen from."
    )
    yield (
        f"Intervals: {LEVEL:.0%} percentile intervals over {NUM_RESAMPLES:,} resamples of the "
        "rows, drawn within each class. They include the scatter from the choice of rows, not "
        "the scatter between trainings."
    )
    yield (
        "The radius of a ring is no sign of structure within it: compare each score with that "
        "baseline. Boosting is given the labels and shows how far a few numbers go with them."
    )


def _describe(plan: Plan) -> str:
    """Return what was done to find anomalies, for the paragraph on methods."""
    quantile = Anomaly.of(plan.recipe.method).quantile
    return (
        f"Images of {_normal(plan)} alone were learnt; the score of an image is the squared error "
        "of its reconstruction over its own mean square, scaled by median and interquartile range "
        "of the out-of-fold normal scores and averaged over trainings. The threshold is the "
        f"{quantile:.0%} quantile of those scores. We give the area under the ROC curve (AUC)"
        f"{cite('statistic/auc')}. {BOOTSTRAP} Differences from baselines are paired"
        f"{cite('statistic/delong')}."
    )


def _prediction_table(merged: MergedScores) -> pd.DataFrame:
    """Return id, row, label, split and a column a line; the turned ones begin with rot90."""
    turned = {f"rot90 {line}": values for line, values in merged.turned.items()}
    rows = merged.rows[["id", "row", "label", "split"]]
    return pd.concat([rows, pd.DataFrame({**merged.values, **turned})], axis=1)


def _sections(results: RunResults, found: RunEvaluation) -> Iterator[Section]:
    """Yield the sections that are of this task alone."""
    merged, lines, baselines = found.merged, found.lines, found.baselines
    store, absent = open_or_tell(results, "No baselines and no images")
    results.say("drawing the scores")
    reasons = explain_constant(results.splits)
    tables = [
        figures_table(lines, part, reasons, f"On the {part} rows") for part in reversed([*PARTS])
    ]
    yield Section(title="Scores", blocks=(*tables, turns_table(lines), *absent))
    yield Section(title="ROC curves", blocks=tuple(draw_rocs(merged, lines, baselines)))
    shown = dict.fromkeys([*merged.heads.values(), *_errors(merged), merged.headline])
    yield Section(
        title="Distributions",
        blocks=tuple(
            draw_distribution(merged, line, part, results.plan.classes, lines)
            for line in shown
            for part in PARTS
        ),
    )
    if store is not None:
        results.say("drawing the strangest images")
        blocks = tuple(draw_strangest(results, merged, store))
        yield Section(title="Most and least anomalous", blocks=blocks)
    files = (list_deliverables(results, merged), _exports(results))
    yield Section(title="The models as files", blocks=files)


def _errors(merged: MergedScores) -> list[str]:
    """Return the lines of the reconstruction loss, which the challenge asks for."""
    return [line for line in merged.values if line.endswith(" mse")]


def figures_table(
    lines: Sequence[ResultRow], part: str, reasons: Mapping[str, str], title: str = ""
) -> Table:
    """Return the figures of all lines on one part; `reasons`: why a line may have one score."""
    rows = (
        Row(
            cells=(
                line.name,
                format_interval(found.auc, found.auc_low, found.auc_high),
                *(format_number(getattr(found, key)) for key in FIGURES),
                format_number(line.threshold),
                f"{found.num_normal:,} + {found.num_anomalous:,}",
            ),
            look=LOOKS[line.kind],
        )
        for line in lines
        if (found := line.parts.get(part))
    )
    heads = ("Score", "AUC [interval]", *FIGURES.values(), "Threshold", "Normal + anomalous")
    judged = {line.name: line.parts[part] for line in lines if part in line.parts}
    return Table(
        title=title,
        columns=tuple(Column(title=one) for one in heads),
        rows=tuple(rows),
        note=note_constant(judged, reasons),
    )


def turns_table(lines: Sequence[ResultRow]) -> Table:
    """Return the AUC on images turned by 90°."""
    rows = (
        Row(
            cells=(
                line.name,
                format_number(line.parts["test"].auc),
                format_number(line.rotation.auc),
                format_interval(
                    line.rotation.change, line.rotation.change_low, line.rotation.change_high
                ),
            ),
            look=LOOKS[line.kind],
        )
        for line in lines
        if line.rotation is not None
    )
    heads = ("Score", "Test AUC", "Turned by 90°", "Change [interval]")
    columns = tuple(Column(title=one) for one in heads)
    return Table(title="Images turned by 90°", columns=columns, rows=tuple(rows))


def draw_rocs(
    merged: MergedScores, lines: Sequence[ResultRow], baselines: Mapping[str, Floats]
) -> Iterator[Figure]:
    """Yield the ROC curves of each part: models, ensemble, baselines where they were not fitted."""
    looks = model_looks(line.name for line in lines if line.kind == "model")
    looks |= {ENSEMBLE: {"color": INK, "linestyle": "-", "linewidth": 2.0}}
    looks |= {
        name: {"color": GREY, "linestyle": dashes}
        for name, dashes in zip(baselines, (":", "--", "-.", (0, (1, 4))), strict=False)
    }
    drawn = [line for line in lines if line.kind != "score"]

    for part in PARTS:
        mine = merged.part(part)

        def draw(axes: Axes, part: str = part, mine: npt.NDArray[np.bool_] = mine) -> None:
            for line in drawn:
                if part not in line.parts or np.isnan(line.parts[part].auc):
                    continue
                values = {**merged.values, **baselines}[line.name]
                look = looks[line.name]
                label = f"{line.name.split(' (')[0]}: {line.parts[part].auc:.3f}"
                axes.plot(*roc_points(merged.anomalous[mine], values[mine]), label=label, **look)
            axes.set(xlabel="False positive rate", ylabel="True positive rate")
            axes.set_title(f"ROC curves, {part} rows (AUC)", color=INK)
            add_legend(axes)

        yield draw_figure(f"roc_{part}", f"ROC curves on the {part} rows.", draw)


def draw_distribution(
    merged: MergedScores, line: str, part: str, classes: Sequence[str], lines: Sequence[ResultRow]
) -> Figure:
    """Return histograms of a score on one part, one a class."""
    mine = merged.part(part) & np.isfinite(merged.values[line])
    values, labels = merged.values[line][mine], merged.rows["label"].to_numpy()[mine]
    threshold = next(one.threshold for one in lines if one.name == line)

    def draw(axes: Axes) -> None:
        tops = [np.quantile(values[labels == label], TAIL) for label in np.unique(labels)]
        low = values.min(initial=0)
        edges = np.linspace(low, max([*tops, threshold, low + 1e-6]), NUM_BINS).tolist()
        for label in np.unique(labels):
            some = np.clip(values[labels == label], None, edges[-1])
            color = PALETTE[label % len(PALETTE)]
            density, _ = np.histogram(some, edges, density=True)
            axes.stairs(density, edges, fill=True, alpha=0.5, color=color, label=classes[label])
        axes.axvline(threshold, color=INK, linestyle="--", linewidth=1, label="threshold")
        axes.set(xlabel=f"{line} (0: the normal median)", ylabel="Density")
        axes.set_title(f"{line}, {part} rows", color=INK)
        add_legend(axes)

    name = f"scores_{part}_{line.replace(' ', '_')}"
    caption = f"Distribution of {line} of each class on the {part} rows; the last bin has the rest."
    return draw_figure(name, caption, draw)


def list_deliverables(results: RunResults, merged: MergedScores) -> Table:
    """Return which file is what the Strong Lensing Challenge of ML4SCI asks for."""
    name, asked = results.run.name, ("training", "validation")
    losses = [line.replace(" ", "_") for line in _errors(merged)]
    figures = ", ".join(
        f"figures/scores_{part}_{line}.svg (.pdf)" for line in losses for part in asked
    )
    rocs = ", ".join(f"figures/roc_{part}.svg (.pdf)" for part in asked)
    scores = ", ".join(f"tables/scores-on-the-{part}-rows.csv (.tex)" for part in asked)
    lines = {
        "Distribution of the reconstruction loss": figures,
        "ROC curve": rocs,
        "AUC": scores,
        "Loss of each image": "predictions.parquet",
        "Weights of each member": f"{results.run.root}/members/*/model.safetensors",
        "Architecture and weights in one file": f"lenshpc export {name} DIR --program torch: "
        "DIR/programs/ensemble.pt2",
    }
    columns = (Column(title="What is asked for"), Column(title="File", words=True))
    rows = tuple(Row(cells=line) for line in lines.items())
    return Table(title="Deliverables of the challenge", columns=columns, rows=rows)


def _exports(results: RunResults) -> KeyValues:
    """Return where each member's weights lie, and the call that makes the model of them."""
    call = f'lenshpc.engine.load.load_model("{results.run.root}", member)'
    weights = {
        f"member {one.member.index}, {one.member.name}": str(
            results.run.member(one.member.name).weights
        )
        for one in results.trainings
    }
    told = {"model and weights, ready to use": call, **weights}
    return KeyValues(title="Architecture and weights", pairs=tuple(told.items()))
