"""One class is learnt; what it does not explain is found."""

from lenshpc.registry import TaskKind
from lenshpc.tasks.anomaly.settings import Anomaly

ANOMALY = TaskKind(
    settings=Anomaly,
    task="lenshpc.tasks.anomaly.task:AnomalyDetection",
    evaluate="lenshpc.tasks.anomaly.judge:evaluate",
    report="lenshpc.tasks.anomaly.report:build",
    recipe="anomaly",
    readout="lenshpc.tasks.anomaly.readout:ScoreReadout",
    measure="lenshpc.tasks.anomaly.judge:measure_rows",
)
