"""Pre-training of an encoder by a masked autoencoder."""

from lenshpc.registry import TaskKind
from lenshpc.tasks.foundation.settings import Foundation

FOUNDATION = TaskKind(
    settings=Foundation,
    task="lenshpc.tasks.foundation.task:MaskedPretraining",
    evaluate="lenshpc.tasks.foundation.judge:evaluate",
    report="lenshpc.tasks.foundation.report:build",
    recipe="foundation",
    readout="lenshpc.tasks.foundation.readout:EmbeddingReadout",
    measure="lenshpc.tasks.foundation.judge:measure_rows",
)
