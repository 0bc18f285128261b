"""Classification of images into two or more classes; lens finding is the case of two."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from lenshpc.data.batches import Batch
from lenshpc.metrics import roc_auc
from lenshpc.models import backbones
from lenshpc.tasks.base import TaskSpec


class Classification:
    """Cross-entropy over k outputs, or binary cross-entropy on one, with optional class weights."""

    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec
        self._weights = torch.tensor(_class_weights(spec))

    def build_model(self, name: str) -> nn.Module:
        """Return a timm network with one output a class, or one in all for the binary loss."""
        num_outputs = 1 if self._spec.train.loss == "bce" else len(self._spec.classes)
        return backbones.build(name, image_shape=self._spec.image_shape, num_outputs=num_outputs)

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted negative log-likelihood, divided by the number of images.

        Not by the sum of weights: so the mean over equal shares is the mean over the batch.
        """
        logp_BK, label_B = _log_probabilities(model, batch), batch["label"]
        nll_B = functional.nll_loss(logp_BK, label_B, reduction="none")
        weights = self._weights.to(nll_B.device)
        return {"loss": (weights[label_B] * nll_B).mean()}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `logp_0`, `logp_1`, …: each class's log-probability a row."""
        logp_BK = _log_probabilities(model, batch)
        return {f"logp_{k}": column for k, column in enumerate(logp_BK.unbind(dim=1))}

    def summarise(
        self, labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return the unweighted log-loss and the ROC AUC."""
        columns = [predictions[f"logp_{k}"] for k in range(len(self._spec.classes))]
        logp_NK = np.stack(columns, axis=1).astype(np.float64)
        nll = -logp_NK[np.arange(len(labels)), labels].mean()
        return {"loss": float(nll), "auc": roc_auc(labels, np.exp(logp_NK))}


def _log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Return (B, K) log-probabilities in float32, from K outputs or from a single logit."""
    logits = model(batch["image"]).float()
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return functional.log_softmax(logits, dim=1)


def _class_weights(spec: TaskSpec) -> list[float]:
    """Return 1 for all, or weights inverse to the class counts with mean 1 over the rows."""
    counts = spec.class_counts
    if spec.train.class_weights == "none":
        return [1.0] * len(counts)
    return [sum(counts) / (len(counts) * count) for count in counts]
