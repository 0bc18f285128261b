"""Figures in words: how numbers, intervals, durations and names stand in every report."""

from collections.abc import Iterable, Mapping
from typing import Any

from lenshpc.run.durations import format_seconds

ABSENT = "–"
METRICS = {
    "auc": "AUC",
    "pr_auc": "PR AUC",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "mse": "MSE",
    "mae": "MAE",
    "fid": "FID",
}


def format_number(value: float | None, digits: int = 4) -> str:
    """Return a number with fixed digits, or a dash for one that is not known."""
    return ABSENT if value is None or value != value else f"{value:z.{digits}f}"


def format_interval(value: float | None, low: float | None, high: float | None) -> str:
    """Return a figure with its interval: `0.9812 [0.9750, 0.9863]`."""
    if format_number(value) == ABSENT or format_number(low) == format_number(high) == ABSENT:
        return format_number(value)
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]"


def format_coverage(covered: int, rows: int) -> str:
    """Return how many rows the figures rest on, as `120 of 150` where some are not covered."""
    return f"{covered:,}" if covered == rows else f"{covered:,} of {rows:,}"


def format_p_value(value: float | None) -> str:
    """Return a probability of chance: `0.031`, `< 0.001`."""
    if format_number(value) == ABSENT or value is None:
        return ABSENT
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def format_duration(seconds: float | None) -> str:
    """Return seconds as people say them, or a dash."""
    return ABSENT if seconds is None else format_seconds(seconds)


def format_metric(name: str) -> str:
    """Return a metric's name as people write it: `pr_auc` → `PR AUC`."""
    return METRICS.get(name, name.replace("_", " "))


def format_count(number: int, noun: str) -> str:
    """Return a number of things: `1 fold`, `1,200 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_value(value: Any) -> str:
    """Return a value of a recipe, the usage or the provenance."""
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {format_value(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(format_value, value)) or "none"
    return str(value)


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield nested keys as dotted ones with their values as text."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", format_value(inner)
