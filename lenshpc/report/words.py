"""Figures in words: how numbers, intervals and durations stand in HTML and Markdown alike."""

from collections.abc import Mapping
from typing import Any

ABSENT = "–"


def word_number(value: float | None, digits: int = 4) -> str:
    """Return a number with fixed digits, or a dash for one that is not known."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def word_auc(scores: Mapping[str, Any]) -> str:
    """Return the AUC with its interval: `0.9812 [0.9750, 0.9863]`."""
    if scores["auc"] is None:
        return ABSENT
    low, high = word_number(scores["auc_low"]), word_number(scores["auc_high"])
    return f"{word_number(scores['auc'])} [{low}, {high}]"


def word_covered(scores: Mapping[str, Any]) -> str:
    """Return how many rows the figures rest on, as `120 of 150` where some are not covered."""
    covered, rows = scores["num_covered"], scores["num_rows"]
    return f"{covered:,}" if covered == rows else f"{covered:,} of {rows:,}"


def word_duration(seconds: float | None) -> str:
    """Return seconds as people say them: `1 h 05 min`, `3 min 12 s`, `45 s`."""
    if seconds is None:
        return ABSENT
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def word_missing(one: Mapping[str, Any]) -> str:
    """Return which member is missing and what it lacks."""
    title = f"{one['model']} fold {one['fold']} seed {one['seed']}"
    return f"member {one['index']} ({title}) {one['lack']}"


def word_reading(report: Mapping[str, Any]) -> str:
    """Return one sentence on what the run is."""
    recipe = report["recipe"]
    parts = [
        _count(len(recipe["models"]), "model"),
        "one hold-out split" if recipe["folds"] == 1 else _count(recipe["folds"], "fold"),
        _count(len(recipe["seeds"]), "seed"),
    ]
    shape = " × ".join(map(str, report["image_shape"]))
    kinds = ", ".join(report["classes"])
    return (
        f"{report['task']} on {report['dataset']} ({shape} images of {kinds}): "
        f"{', '.join(parts)}, {_count(report['num_members'], 'member')} in all."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested keys as dotted ones with their values as text."""
    pairs: list[tuple[str, str]] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            pairs += flatten(inner, f"{prefix}{key}.")
        else:
            listed = isinstance(inner, (list, tuple))
            text = ", ".join(map(str, inner)) if listed else str(inner)
            pairs.append((f"{prefix}{key}", ABSENT if inner is None else text))
    return pairs
