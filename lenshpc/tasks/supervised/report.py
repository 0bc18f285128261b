"""The report of a classification: judged lines, curves, mistakes, maps."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lenshpc.errors import DataError
from lenshpc.report.common import common_sections, format_overview, open_or_tell, partial_banner
from lenshpc.report.content import (
    Block,
    Column,
    Headline,
    Prose,
    Report,
    Row,
    Section,
    Table,
)
from lenshpc.report.embedding import MIN_ROWS, draw_embedding, draw_rows, map_embedding
from lenshpc.report.format import format_count, format_coverage, format_number
from lenshpc.report.remarks import NO_BOUND, ON_BOUND, describe_perfect, is_perfect
from lenshpc.report.summary import summarise, without_nan
from lenshpc.report.verdict import find_verdict
from lenshpc.run.plan import Plan
from lenshpc.run.predictions import read_array
from lenshpc.run.results import RunResults
from lenshpc.statistics.results import LEVEL, NUM_RESAMPLES, ClassificationScores, Evaluation
from lenshpc.statistics.scores import find_groups, find_mistakes
from lenshpc.store import Store
from lenshpc.tasks.supervised import tables
from lenshpc.tasks.supervised.baselines import explain_constant
from lenshpc.tasks.supervised.curves import (
    draw_comparison,
    draw_confusions,
    draw_curves,
    headline_of,
)
from lenshpc.tasks.supervised.evidence import describe_classes, weigh_classes
from lenshpc.tasks.supervised.judge import RunEvaluation
from lenshpc.tasks.supervised.merge import Merged
from lenshpc.tasks.supervised.numbers import draw_numbers, read_numbers
from lenshpc.tasks.supervised.pictures import draw_galleries
from lenshpc.tasks.supervised.variants_report import variants_content, variants_section

NUM_MISTAKES = 20  # named in the table; the galleries show more
NOTE_ON_MEANS = (
    "Test probabilities are the mean over a model's members (folds and seeds). Nothing was chosen "
    "on test rows."
)
NOTE_ON_FOLDS = (
    "Out-of-fold scores use, for each row, the members that did not train on it. Each member's "
    "best epoch was chosen on those same rows, so out-of-fold scores are slightly optimistic; "
    "test scores are not."
)
NOTE_ON_INTERVALS = (
    f"Intervals: {LEVEL:.0%} percentile intervals over {NUM_RESAMPLES:,} resamples of the rows, "
    "drawn within each class. They include the scatter from the choice of rows, not the scatter "
    "between trainings."
)

NOTE_ON_BASELINES = (
    "Baselines do not see the images, only a few numbers computed from each, on the same folds. "
    "A network that does not beat them may have learnt no more than a brightness or a radius."
)


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What a task adds: sections of the page, and keys of report.json."""

    sections: tuple[Section, ...] = ()
    content: Mapping[str, Any] = field(default_factory=dict)


NOTHING = Extra()


def build(results: RunResults, found: RunEvaluation, extra: Extra = NOTHING) -> Report:
    """Return the report of a run that tells classes apart; `extra` is what its task adds to it."""
    plan, merged, scores = results.plan, found.merged, found.scores
    mistakes = _all_mistakes(merged, headline_of(scores))
    content = {
        **_content(results, scores, mistakes, found.absent),
        **without_nan({**variants_content(found.variants), **extra.content}),
    }
    binary, reasons = len(plan.classes) == 2, explain_constant(results.splits)
    return Report(
        title=results.run.name,
        reading=format_overview(content, f" of {', '.join(plan.classes)}"),
        banners=partial_banner(content),
        headline=_headline(content, _describe_order(found), binary=binary),
        overview=tables.models_table(scores, "test", reasons, binary=binary),
        sections=(
            *_sections(results, merged, scores, mistakes, reasons),
            *variants_section(found.variants),
            *extra.sections,
            *common_sections(results, content),
        ),
        content=content,
        predictions=prediction_table(merged),
        verdict=find_verdict(weigh_classes(results, found)),
        method=describe_classes(results.plan),
    )


def prediction_table(merged: Merged) -> pd.DataFrame:
    """Return id, row, label, split and a column a model and class, such as `resnet18:p_lens`."""
    columns = {
        f"{name}:p_{kind}": values[:, label]
        for name, values in merged.probabilities.items()
        for label, kind in enumerate(merged.classes)
    }
    return pd.concat([merged.rows[["id", "row", "label", "split"]], pd.DataFrame(columns)], axis=1)


def _all_mistakes(merged: Merged, head: Evaluation) -> pd.DataFrame:
    """Return the test rows that the headline decides wrongly, the least probable class first."""
    values = merged.probabilities[head.name]
    return find_mistakes(merged.rows, values, head.threshold, num_shown=len(merged.rows))


def _content(
    results: RunResults, scores: ClassificationScores, mistakes: pd.DataFrame, absent: str | None
) -> Mapping[str, Any]:
    """Return what report.json holds."""
    head = headline_of(scores)
    keys = ("auc", "auc_low", "auc_high", "num_rows", "num_covered")
    content: Mapping[str, Any] = without_nan(
        {
            **summarise(results),
            "headline": {"name": head.name} | {key: getattr(head.test, key) for key in keys},
            "models": [_model(one) for one in scores.evaluations],
            "comparisons": [asdict(one) for one in scores.comparisons],
            "weights": scores.weights,
            "test_prior": scores.test_prior,
            "oof_prior": scores.oof_prior,
            "mistakes": _mistakes(mistakes.head(NUM_MISTAKES), results.plan.classes),
            "num_mistakes": len(mistakes),
            "interval": {"level": LEVEL, "num_resamples": NUM_RESAMPLES, "kind": "stratified"},
            "notes": [*format_notes(results.plan, head, absent), *scores.notes],
        }
    )
    return content


def _model(one: Evaluation) -> dict[str, Any]:
    """Return a line's figures; its curves stay in the predictions table."""
    return {
        "name": one.name,
        "kind": one.kind,
        "threshold": one.threshold,
        "oof": asdict(one.oof),
        "test": asdict(one.test),
        "corrected": asdict(one.corrected) if one.corrected else None,
        "rotation": asdict(one.rotation) if one.rotation else None,
    }


def _mistakes(mistakes: pd.DataFrame, classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "row": line["row"],
            "id": line["id"],
            "class": classes[line["label"]],
            "predicted": classes[line["predicted"]],
            "p_class": line["p_true"],
            "p_predicted": line["p_predicted"],
        }
        for line in mistakes.to_dict("records")
    ]


def _describe_order(found: RunEvaluation) -> str:
    """Return what must be said of a headline that puts no test row out of order."""
    merged, head = found.merged, headline_of(found.scores)
    if not is_perfect(head.test):
        return ""
    covered = np.isfinite(merged.probabilities[head.name]).all(axis=1)
    rows = merged.rows[covered & (merged.rows["split"] == "test").to_numpy()]
    if len(merged.classes) > 2:
        return f"No test image is out of order among {format_count(len(rows), 'row')}."
    return describe_perfect(rows["label"].to_numpy() == 1, find_groups(rows))


def _headline(content: Mapping[str, Any], note: str, *, binary: bool) -> Headline:
    head = content["headline"]
    whose = "the ensemble" if head["name"] == "ensemble" else head["name"]
    kind = "" if binary else " (mean over classes, each against the rest)"
    covered = format_coverage(head["num_covered"], head["num_rows"])
    low, high = format_number(head["auc_low"]), format_number(head["auc_high"])
    return Headline(
        label=f"Test ROC AUC{kind} of {whose}",
        measure="AUC",
        value=format_number(head["auc"]),
        range=f"{LEVEL:.0%} interval {low} to {high}, {covered} test images",
        note=note,
    )


def _sections(
    results: RunResults,
    merged: Merged,
    scores: ClassificationScores,
    mistakes: pd.DataFrame,
    reasons: Mapping[str, str],
) -> Iterator[Section]:
    """Yield the sections that have something to show."""
    say, classes = results.say, merged.classes
    say("drawing the curves")
    yield Section(title="Models", blocks=tuple(_models(scores, classes, reasons)))
    yield Section(title="Curves", blocks=tuple(draw_curves(scores, merged)))
    blocks: Iterable[Block] = draw_confusions(scores, classes)
    report = tables.per_class_table(scores, classes)
    yield Section(title="Confusion matrices", blocks=(*blocks, report))
    store, absent = open_or_tell(results, "No images")
    yield Section(
        title="Most confident mistakes",
        blocks=tuple(_worst(results, store, mistakes, scores)) + absent,
    )
    looked = (*_numbers(store, merged, scores, results), *_embedding(results, merged))
    if looked:
        yield Section(title="Images and features", blocks=looked)


def _models(
    scores: ClassificationScores, classes: Sequence[str], reasons: Mapping[str, str]
) -> Iterator[Block]:
    binary = len(classes) == 2
    yield tables.models_table(scores, "test", reasons, binary=binary, title="On the test rows")
    yield tables.rare_table(scores, binary=binary)
    if not binary:
        yield tables.classes_auc_table(scores, classes)
    yield tables.models_table(scores, "oof", reasons, binary=binary, title="Out-of-fold")
    yield from draw_comparison(scores)
    if binary:
        yield tables.thresholds_table(scores)
    optional = (
        tables.combinations_table(scores),
        tables.comparisons_table(scores),
        tables.rotation_table(scores),
    )
    yield from (table for table in optional if table.rows)


def _worst(
    results: RunResults, store: Store | None, mistakes: pd.DataFrame, scores: ClassificationScores
) -> Iterator[Block]:
    head, classes = headline_of(scores), results.plan.classes
    covered = format_coverage(head.test.num_covered, head.test.num_rows)
    if mistakes.empty:
        yield Prose(text=f"None among {covered} test images.", soft=False)
        return
    text = f"{head.name} misclassifies {len(mistakes):,} of {covered} test images."
    if len(mistakes) > NUM_MISTAKES:
        text += f" The table lists the {NUM_MISTAKES} that it was most confident about."
    yield Prose(text=text)
    if store is not None:
        yield from draw_galleries(results, store, mistakes, classes)
    yield _mistakes_table(mistakes.head(NUM_MISTAKES), classes)


def _mistakes_table(mistakes: pd.DataFrame, classes: Sequence[str]) -> Table:
    words = ("Image", "True class", "Predicted class")
    rows = (
        Row(
            cells=(
                one["id"],
                one["class"],
                one["predicted"],
                format_number(one["p_class"]),
                format_number(one["p_predicted"]),
            )
        )
        for one in _mistakes(mistakes, classes)
    )
    return Table(
        columns=(
            *(Column(title=title, words=True) for title in words),
            *tables.columns("P(true class)", "P(predicted class)"),
        ),
        rows=tuple(rows),
    )


def _numbers(
    store: Store | None, merged: Merged, scores: ClassificationScores, results: RunResults
) -> Iterator[Block]:
    if store is not None:
        results.say("drawing scores against what is known of the images")
        yield from draw_numbers(merged, scores.headline, read_numbers(store))


def _embedding(results: RunResults, merged: Merged) -> Iterator[Block]:
    """Yield the map of the first member's embeddings, if its files hold any."""
    if not results.trainings:
        return
    member = results.trainings[0].member
    rows = merged.rows[merged.rows["split"] == "test"]
    labels = rows["label"].to_numpy()
    drawn = draw_rows(labels)
    if len(drawn) < MIN_ROWS:
        return
    asked = rows["row"].to_numpy()[drawn]
    if not results.run.member(member.name).arrays.exists():
        return
    try:
        embedding = read_array(results.run, member, "embedding", asked)
    except DataError as error:
        yield Prose(text=f"No map of the features: {error}.")
        return
    results.say("mapping the embeddings")
    whose = f"{member.model}, fold {member.fold}, seed {member.seed}"
    yield draw_embedding(
        map_embedding(embedding.astype(np.float64)), labels[drawn], merged.classes, whose
    )


def format_notes(plan: Plan, head: Evaluation, absent: str | None) -> Iterator[str]:
    """Yield what a reader must know to believe the figures, a sentence or two each."""
    yield _note_on_decision(plan)
    yield from (NOTE_ON_MEANS, NOTE_ON_FOLDS, NOTE_ON_INTERVALS)
    yield f"The table has no baselines: {absent}." if absent else NOTE_ON_BASELINES
    yield from _notes_on_figures(head, binary=len(plan.classes) == 2)
    if is_perfect(head.test):
        yield ON_BOUND if len(plan.classes) == 2 else NO_BOUND


def _notes_on_figures(head: Evaluation, *, binary: bool) -> Iterator[str]:
    if binary:
        yield (
            "TPR₀ is the recall before the first false positive, TPR₁₀ that before the tenth, "
            f"here with {head.test.num_negatives[0]:,} negatives: both fall as the number of "
            "negatives grows, so compare them only at equal numbers. Ties count against the "
            "model."
        )
    if head.corrected is not None:
        yield (
            "The prior-corrected threshold changes the odds of the first one from the share of "
            "positives in out-of-fold rows to the share that the recipe declares for test "
            "objects; it uses no test label."
        )
    yield (
        "ECE: mean distance between the predicted probability and the observed share, over 15 "
        "bins with equally many rows. p (DeLong): two-sided, for rows that both models predict; "
        "p (Holm) is corrected for all comparisons in the table. If the AUC falls on images "
        "turned by 90°, the model has learnt orientation."
    )


def _note_on_decision(plan: Plan) -> str:
    if len(plan.classes) == 2:
        return (
            f"Threshold: the score of {plan.classes[1]} with the largest F1 on out-of-fold rows, "
            "chosen for each line of the table and then fixed. F1, precision and recall are "
            f"those of {plan.classes[1]}. Out-of-fold scores come from one fold's members, while "
            "test scores are means over all folds and scatter less, so the best threshold for "
            "one need not be the best for the other."
        )
    return (
        "The decision is the most probable class; there is no threshold. AUC, PR AUC, F1, "
        "precision and recall are means over the classes, each against the rest."
    )
