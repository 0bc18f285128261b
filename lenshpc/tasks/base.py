"""What the engine knows of a task."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from lenshpc.data.batches import Batch
from lenshpc.recipe import Train


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What a task is built from: `class_counts` are of the member's own training rows."""

    train: Train
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    image_shape: tuple[int, int, int]


class Task(Protocol):
    """A model, a loss and what is measured; no loop, no file, no rank.

    Predictions are values a row. Ranks merge them row by row, so a metric of the whole set (an AUC,
    say) is the same for any number of ranks; that is why nothing here returns a metric of a batch.
    """

    def build_model(self, name: str) -> nn.Module:
        """Return the network of that name for this task's images."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, the mean over the batch, and further scalars to log."""

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return values a row, each of shape (B,)."""

    def summarise(
        self, labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return metrics of a whole set, `loss` among them."""
