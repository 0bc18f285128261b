"""Images enlarged, learnt from pairs."""

from lenshpc.registry import TaskKind
from lenshpc.tasks.super_resolution.settings import SuperResolution

SUPER_RESOLUTION = TaskKind(
    settings=SuperResolution,
    task="lenshpc.tasks.super_resolution.task:Enlargement",
    evaluate="lenshpc.tasks.super_resolution.judge:evaluate",
    report="lenshpc.tasks.super_resolution.report:build",
    recipe="super_resolution",
    readout="lenshpc.tasks.super_resolution.readout:ImageReadout",
    measure="lenshpc.tasks.super_resolution.judge:measure_rows",
)
