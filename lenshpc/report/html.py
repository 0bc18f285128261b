"""Render the report as one HTML page that needs no other file and no network."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lenshpc.report.words import (
    flatten,
    word_auc,
    word_covered,
    word_duration,
    word_missing,
    word_number,
    word_reading,
)

CAPTIONS = {
    "roc": "ROC curves on the test rows.",
    "roc_log": "The same over a logarithmic false positive rate, where a survey works.",
    "precision_recall": "Precision against recall on the test rows.",
    "scores": "Scores of the test rows by true class; dashed: the threshold.",
    "confusion_test": "Confusion matrix of the test rows; shares are of the true class.",
    "confusion_oof": "Confusion matrix of the out-of-fold rows.",
    "history_loss": "Loss of every member by epoch.",
    "history_auc": "Validation AUC of every member by epoch.",
}


def render_html(summary: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """Return the page of a report's content and its figures as SVG."""
    inlined = {
        name: {"caption": CAPTIONS[name], "svg": Markup(_scalable(svg))}  # noqa: S704 - our own SVG
        for name, svg in figures.items()
    }
    return _environment().get_template("report.html").render(report=summary, figures=inlined)


def _scalable(svg: str) -> str:
    """Drop the fixed size of the root element, so that the page decides."""
    head, close, rest = svg.partition(">")
    return re.sub(r'\s(width|height)="[^"]*"', "", head) + close + rest


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "auc": word_auc,
        "covered": word_covered,
        "duration": word_duration,
        "flatten": flatten,
        "missing": word_missing,
        "number": word_number,
        "reading": word_reading,
    }
    return environment
