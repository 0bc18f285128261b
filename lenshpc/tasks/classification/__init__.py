"""Lens finding and any other classification."""

from lenshpc.registry import TaskKind
from lenshpc.tasks.classification.settings import Classification

LENS_FINDING, MULTICLASS = (
    TaskKind(
        settings=Classification,
        task="lenshpc.tasks.supervised.task:SupervisedTask",
        evaluate="lenshpc.tasks.supervised.judge:evaluate",
        report="lenshpc.tasks.classification.report:build",
        recipe=recipe,
        readout="lenshpc.tasks.supervised.readout:ProbabilityReadout",
        measure="lenshpc.tasks.supervised.judge:measure_rows",
        tools={"explain": "lenshpc.tasks.supervised.explain:grad_cam"},
    )
    for recipe in ("lens_finding", "multiclass")
)
