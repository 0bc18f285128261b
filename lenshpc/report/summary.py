"""The report as one JSON value with stable keys; HTML and Markdown are renderings of it."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from lenshpc.aggregate.baseline import BASELINE
from lenshpc.aggregate.classification import LEVEL, NUM_RESAMPLES, Evaluation
from lenshpc.aggregate.merge import ENSEMBLE
from lenshpc.completion import resume_command
from lenshpc.files import read_json
from lenshpc.paths import RunPaths
from lenshpc.plan import Plan
from lenshpc.report.findings import Findings, Training

SCHEMA_VERSION = 1


def summarise(run: RunPaths, plan: Plan, findings: Findings) -> dict[str, Any]:
    """Return the report's content; what is not known is None, never NaN."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "run": run.name,
        "fingerprint": plan.fingerprint(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": plan.recipe.task,
        "dataset": plan.dataset,
        "classes": list(plan.classes),
        "image_shape": list(plan.image_shape),
        "store": str(plan.store),
        "store_hash": plan.store_hash,
        "splits_hash": plan.splits_hash,
        "code_version": plan.code_version,
        "recipe": plan.recipe.model_dump(mode="json"),
        "counts": count_rows(findings.splits, plan.classes),
        "num_members": len(plan.members),
        "missing": _missing(findings),
        "resume_command": resume_command(run),
        "headline": _headline(findings),
        "models": [_model(one) for one in findings.evaluations],
        "members": [_member(training) for training in findings.trainings],
        "mistakes": _mistakes(findings, plan.classes),
        "num_mistakes": _num_mistakes(findings.headline),
        "interval": {"level": LEVEL, "num_resamples": NUM_RESAMPLES, "kind": "stratified"},
        "notes": list(word_notes(plan, findings)),
        "provenance": read_json(run.provenance) if run.provenance.is_file() else {},
    }
    clean: dict[str, Any] = without_nan(content)
    return clean


def without_nan(value: Any) -> Any:
    """Return `value` with every number that JSON cannot hold replaced by None."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def count_rows(splits: pd.DataFrame, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return each class's rows: those that only train, the out-of-fold ones, the test ones."""
    testing = splits["split"] == "test"
    parts = {"training": ~testing & (splits["fold"] < 0), "oof": splits["fold"] >= 0}
    parts["test"] = testing
    return [
        {"class": name}
        | {part: int((flags & (splits["label"] == label)).sum()) for part, flags in parts.items()}
        for label, name in enumerate(classes)
    ]


def _headline(findings: Findings) -> dict[str, Any]:
    scores = findings.headline.test
    keys = ("auc", "auc_low", "auc_high", "num_rows", "num_covered")
    return {"name": findings.headline.name} | {key: getattr(scores, key) for key in keys}


def _model(one: Evaluation) -> dict[str, Any]:
    kind = {ENSEMBLE: "ensemble", BASELINE: "baseline"}.get(one.name, "model")
    return {
        "name": one.name,
        "kind": kind,
        "threshold": one.threshold,
        "oof": asdict(one.oof),
        "test": asdict(one.test),
    }


def _member(training: Training) -> dict[str, Any]:
    done, member = training.done, training.member
    keys = ("best_epoch", "epochs", "seconds", "num_processes", "device", "strategy")
    return {
        "index": member.index,
        "model": member.model,
        "fold": member.fold,
        "seed": member.seed,
        "val_auc": training.best("val_auc"),
        "val_loss": training.best("val_loss"),
        **{key: done.get(key) for key in keys},
    }


def _missing(findings: Findings) -> list[dict[str, Any]]:
    return [
        {"index": one.index, "model": one.model, "fold": one.fold, "seed": one.seed, "lack": lack}
        for one, lack in findings.lacks.items()
    ]


def _mistakes(findings: Findings, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "row": line["row"],
            "id": line["id"],
            "class": classes[line["label"]],
            "predicted": classes[line["predicted"]],
            "p_class": line["p_true"],
            "p_predicted": line["p_predicted"],
        }
        for line in findings.mistakes.to_dict("records")
    ]


def _num_mistakes(one: Evaluation) -> int:
    right = sum(line[label] for label, line in enumerate(one.test.confusion))
    return one.test.num_covered - right


def word_notes(plan: Plan, findings: Findings) -> tuple[str, ...]:
    """Return what a reader must know to believe the figures, a sentence or two each."""
    notes = [
        _note_on_decision(plan),
        "Test probabilities are the mean over a model's members (folds and seeds); the ensemble is "
        "the mean over models with equal weights. Nothing was chosen on test rows.",
        "An out-of-fold row is judged by the members that did not train on it. Each member's best "
        "epoch was chosen on those same rows, so out-of-fold figures lean to the good side; test "
        "figures do not.",
        f"Intervals: {LEVEL:.0%} percentile interval over {NUM_RESAMPLES:,} resamples of the rows, "
        "drawn within each class. They hold the scatter of the rows, not that of the training.",
        "Baseline: a logistic regression on the mean and deviation of each channel, over the same "
        "folds. A network that does not beat it has learnt brightness."
        if findings.baseline_absent is None
        else f"No baseline stands in the table: {findings.baseline_absent}.",
    ]
    if findings.headline.test.auc_low == 1:
        notes.append(
            f"The test AUC is 1: no pair among {findings.headline.test.num_covered} rows is in "
            "the wrong order. Resampling such rows gives an interval of no width; the true AUC "
            "may be lower."
        )
    return tuple(notes)


def _note_on_decision(plan: Plan) -> str:
    if len(plan.classes) == 2:
        return (
            f"Threshold: the score of {plan.classes[1]} with the largest F1 on out-of-fold rows, "
            "chosen for each line of the table, then frozen. F1, precision and recall are those "
            f"of {plan.classes[1]}. Out-of-fold scores come from one fold's members, test "
            "scores are means over all folds and so less spread: what is best for the one need not "
            "be best for the other."
        )
    return (
        "The most probable class is taken; there is no threshold. AUC, PR AUC, F1, precision and "
        "recall are means over the classes, each against the rest."
    )
