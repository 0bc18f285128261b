"""The part of report.json that is the same for every task; what is not known is None, never NaN."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from lenshpc.run.completion import resume_command
from lenshpc.run.records import read_provenance
from lenshpc.run.results import RunResults, Training, val_metrics

SCHEMA_VERSION = 3  # 2: members' best_epoch was counted from 0
MEMBER_FACTS = (
    *("best_epoch", "epochs", "seconds", "num_processes", "device", "strategy", "adopted"),
    *("precision", "tf32", "deterministic"),
)


def summarise(results: RunResults) -> dict[str, Any]:
    """Return what is said of a run of any task."""
    run, plan = results.run, results.plan
    metrics = val_metrics(results.trainings)
    return {
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
        "counts": count_rows(results.splits, plan.classes),
        "num_unlabelled": int((results.splits["split"] == "unlabelled").sum()),
        "unlabelled_learnt": plan.recipe.method.unlabelled is not None,
        "num_members": len(plan.members),
        "missing": [
            {**member.model_dump(), "lack": lack} for member, lack in results.lacks.items()
        ],
        "resume_command": resume_command(run),
        "members": [_member(training, metrics) for training in results.trainings],
        "usage": results.usage,
        "failures": [dict(one) for one in results.failures],
        "provenance": read_provenance(run),
    }


def without_nan(value: Any) -> Any:
    """Return `value` with every number that JSON cannot hold replaced by None."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    # JSON has no NaN: `write_json` refuses it, rather than write what other readers cannot parse.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def count_rows(splits: pd.DataFrame, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return each class's rows: those that only train, are out-of-fold, excluded, or for test."""
    parts = {
        "training": (splits["split"] == "dev") & (splits["fold"] < 0),
        "oof": splits["fold"] >= 0,
        "excluded": splits["split"] == "excluded",
        "test": splits["split"] == "test",
    }
    return [
        {"class": name}
        | {part: int((flags & (splits["label"] == label)).sum()) for part, flags in parts.items()}
        for label, name in enumerate(classes)
    ]


def _member(training: Training, metrics: list[str]) -> dict[str, Any]:
    done, member = training.done, training.member
    return {
        **member.model_dump(),
        **{f"val_{metric}": training.best(f"val_{metric}") for metric in metrics},
        **{key: done.get(key) for key in MEMBER_FACTS},
        "best_epoch": None if (best := done.get("best_epoch")) is None else best + 1,
    }
