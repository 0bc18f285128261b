"""The report of a classification: classes told apart, and what pre-training is worth."""

from lenshpc.report.content import Report
from lenshpc.run.results import RunResults
from lenshpc.tasks.classification.label_fractions import pretraining_section
from lenshpc.tasks.supervised.judge import RunEvaluation
from lenshpc.tasks.supervised.report import Extra
from lenshpc.tasks.supervised.report import build as build_supervised


def build(results: RunResults, found: RunEvaluation) -> Report:
    """Return the report of a run of lens finding or any other classification."""
    sections = tuple(pretraining_section(results.plan, found.scores))
    return build_supervised(results, found, Extra(sections=sections))
