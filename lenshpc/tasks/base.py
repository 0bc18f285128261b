"""What the engine knows of a task."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.batches import Batch
from lenshpc.run.recipe import Train
from lenshpc.tasks.settings_table import Method

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What a task is built from.

    `class_counts` are of the member's own training rows. A batch's images are (pixels - mean) /
    deviation of the stretched pixels, a channel each; targets (C', H', W') of pairs have the same
    scale. `zoom` is the side of an image's pixel in pixels of the store.
    """

    method: Method
    train: Train
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    image_shape: Shape
    target_shape: Shape | None = None
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    stretch: str = "none"
    zoom: float = 1.0

    def in_units(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) without their normalisation, in float32."""
        mean, deviation = (
            torch.tensor(values, device=images.device).view(-1, 1, 1)
            for values in (self.mean, self.deviation)
        )
        return images.float() * deviation + mean


class Task(Protocol):
    """A model, a loss and what is measured; no loop, no file, no rank.

    Predictions are values a row. Ranks merge them row by row, so a metric of the whole set (an AUC,
    say) is the same for any number of ranks; that is why nothing here returns a metric of a batch.
    """

    @property
    def num_phases(self) -> int:
        """Return how many optimiser steps a batch takes; `batch["phase"]` counts them from 0."""

    def build_model(self, name: str) -> nn.Module:
        """Return the network of that name for this task's images."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, the mean over the batch, and further scalars to log.

        `model` may be wrapped by DDP or DeepSpeed: only its `forward` may be called.
        """

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return values a row, each of shape (B,): what `summarise` needs after every epoch."""

    def infer(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return all that the files keep of each row, (B,) or (B, …), from the best weights."""

    def summarise(
        self, labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return metrics of a whole set, `loss` among them."""
