"""Anomaly detection: a model of the normal class, and how badly it fits each image.

Shapes: B rows of a batch. Other classes never reach training or validation: the Plan
excludes them, and the task refuses them.
"""

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.normalisation import dtype_that_holds, in_units
from lenshpc.errors import DataError
from lenshpc.registry import Batch, TaskSpec, build_component
from lenshpc.statistics.image_metrics import ssim
from lenshpc.tasks.anomaly.scorers import Scorer, row_mean
from lenshpc.tasks.anomaly.settings import Anomaly

TURNED = "rot90_"


class AnomalyDetection:
    """Learn the normal class; score every image by what is left of it after reconstruction."""

    num_phases = 1

    def __init__(self, spec: TaskSpec) -> None:
        self._spec, self._classes = spec, spec.classes
        self._normal = Anomaly.of(spec.settings).normal_label(spec.classes)
        # Three times, at training, at validation and here: one anomaly among the normal rows, and
        # the model learns what it shall find.
        self._check_classes(np.flatnonzero(spec.class_counts))
        self._kept = dtype_that_holds(spec.mean, spec.std)
        self._trained = torch.zeros(len(spec.classes), dtype=torch.bool)

    def build_model(self, name: str) -> nn.Module:
        """Return the model for this task's images."""
        network: nn.Module = build_component("networks", self._spec, name)
        return network

    def _in_units(self, images: Tensor) -> Tensor:
        return in_units(images, self._spec.mean, self._spec.std)

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss of normal images; any other is refused after the epoch."""
        # Noted, and looked at in `summarise`: to read labels here a GPU would be waited for.
        label = batch["label"]
        self._trained = self._trained.to(label.device).index_fill_(0, label, value=True)
        return {"loss": model(batch["image"], batch.get("progress")).mean()}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of each row."""
        return {"loss": model(batch["image"])}

    def infer(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, all scores, those of the image turned by 90° and the reconstruction.

        Scores: `mse`, `rel_mse` (over the mean square of the image) and `ssim_error` (1 - SSIM), in
        the store's units.
        """
        image, scorer = batch["image"], cast(Scorer, model)
        columns = {"loss": scorer(image)}
        upright, drawn = self._scores(scorer, image)
        turned, _ = self._scores(scorer, torch.rot90(image, dims=(2, 3)))
        renamed = {f"{TURNED}{name}": values for name, values in turned.items()}
        return columns | upright | renamed | {"reconstruction": drawn.to(self._kept)}

    def apply(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the scores of the images as they are."""
        scores, _ = self._scores(cast(Scorer, model), batch["image"])
        return scores

    def summarise(
        self, labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return the mean loss of normal images; any other is refused, so it chooses no epoch."""
        self._check_classes(np.union1d(labels, np.flatnonzero(self._trained.cpu())))
        return {"loss": float(predictions["loss"].mean(dtype=np.float64))}

    def _scores(self, scorer: Scorer, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the scores (B,) and the reconstruction, in the store's units."""
        there, drawn = (self._in_units(each) for each in (image, scorer.reconstruct(image)))
        mse = row_mean((there - drawn) ** 2)
        # An empty image has a score, if a large one, instead of NaN, which would stop the report.
        energy = row_mean(there**2).clamp(min=torch.finfo(mse.dtype).tiny)
        unlike = (1 - ssim(there, drawn)).float()
        return {"mse": mse, "rel_mse": mse / energy, "ssim_error": unlike}, drawn

    def _check_classes(self, labels: npt.NDArray[np.int64]) -> None:
        others = [self._classes[label] for label in labels if label != self._normal]
        if others:
            raise DataError(
                f"rows of class {', '.join(others)} came to training or validation, where only "
                f"{self._classes[self._normal]} belongs; submit the recipe again"
            )
