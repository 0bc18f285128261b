"""Classification of images into two or more classes; lens finding is the case of two.

Shapes: B rows of a batch, U of its unlabelled images, K classes, D features.
"""

import math
from dataclasses import replace
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.models import backbones
from lenshpc.models.backbones import Backbone
from lenshpc.models.d4 import NUM_SYMMETRIES, transform
from lenshpc.models.weights import check_unchanged
from lenshpc.registry import Batch, TaskSpec, build_component, find_component
from lenshpc.statistics.metrics import pr_auc, roc_auc
from lenshpc.tasks.supervised import losses
from lenshpc.tasks.supervised.settings import Supervised

QUARTER_TURN = 1
VIEWS: tuple[Literal["weak", "strong"], ...] = ("weak", "strong")


class SupervisedTask:
    """Softmax over K outputs, or a sigmoid of a single one, with the method's loss and mixing."""

    def __init__(self, spec: TaskSpec) -> None:
        self._spec, self._settings = spec, Supervised.of(spec.settings)
        self._loss: losses.Loss = build_component("losses", spec, self._settings.loss)
        self._weights = torch.tensor(_class_weights(self._settings, spec.class_counts))

    @property
    def num_phases(self) -> int:
        """Return the steps a batch: two of complement objective training, else one."""
        return 2 if self._settings.loss == "complement" else 1

    def build_model(self, name: str) -> nn.Module:
        """Return a network with one output a class, or one in all for the binary loss."""
        check_unchanged(self._settings.weights, self._settings.weights_sha256)
        spec = self._spec
        make = find_component("networks", self._settings.family, name, spec.code)
        return backbones.build(
            name,
            image_shape=spec.image_shape,
            num_outputs=spec.num_outputs,
            own=None if make is None else lambda shape: make(replace(spec, image_shape=shape)),
            weights=self._settings.weights,
            drop_path=self._settings.drop_path,
            linear_probe=self._settings.linear_probe,
        )

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss over the rows, and that of unlabelled images with its weight.

        All images pass the network in one call, since DDP allows one a step; batch norm sees them
        together. The mean is not over the sum of class weights: so the mean over equal shares of a
        batch is the mean over the batch.
        """
        images, target, between = self._inputs(batch)
        return {"loss": self._loss_of(model(images, *between), target, batch)}

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the images of the one call, labelled ones first, their targets, what to mix."""
        image, target, between = self._mix(batch)
        views = _views(batch)
        return torch.cat([image, *views]) if views else image, target, between

    def _loss_of(self, outputs: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the outputs of that call."""
        logits, sizes = losses.two_logits(outputs), [len(view) for view in _views(batch)]
        labelled, *unlabelled = torch.split(logits, [len(batch["image"]), *sizes])
        self._weights = weights = self._weights.to(logits.device)  # copied once
        if self.num_phases > 1 and batch["phase"] > 0:
            # Negative, since this step raises the entropy of the wrong classes.
            return -losses.complement_entropy(labelled, weights * target).mean()
        loss = self._loss(labelled, target, weights).mean()
        if unlabelled and (settings := self._settings.consistency) is not None:
            weak, strong = unlabelled
            loss = loss + settings.weight * losses.consistency(weak, strong, settings.threshold)
        return loss

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `logp_0`, `logp_1`, …: each class's log-probability a row."""
        logp_BK = losses.two_logits(model(batch["image"])).log_softmax(dim=1)
        return _columns("logp", logp_BK)

    def infer(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what `apply` does, and `rot90_logp_k` of the image turned by 90°."""
        image = batch["image"]
        features, views = self._look(model, image)
        found = answer_columns(features, views)
        if image.shape[2] != image.shape[3]:
            return found
        turned = views[1] if len(views) > 1 else self._predict_turned(model, image, QUARTER_TURN)
        embedding = found.pop("embedding")  # last of all, as it always was
        return {**found, **_columns("rot90_logp", turned), "embedding": embedding}

    def apply(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `logp_k` and `embedding` (D,).

        With test-time augmentation `logp_k` is the log of the mean probability over D4; the
        embedding never has it.
        """
        return answer_columns(*self._look(model, batch["image"]))

    def _look(self, model: nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return features (B, D) and log-probabilities (B, K), of one view or of all eight."""
        backbone = cast(Backbone, model)
        features = backbone.features(image)
        views = [losses.two_logits(backbone.head(features)).log_softmax(dim=1)]
        if self._settings.tta == "d4":
            symmetries = range(QUARTER_TURN, NUM_SYMMETRIES)
            views += [self._predict_turned(model, image, one) for one in symmetries]
        return features, views

    def _predict_turned(self, model: nn.Module, image: Tensor, symmetry: int) -> Tensor:
        """Return log-probabilities (B, K) of the images under one of the eight symmetries."""
        return losses.two_logits(model(transform(image, symmetry))).log_softmax(dim=1)

    def summarise(
        self, labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return the unweighted log-loss, ROC AUC, average precision and accuracy."""
        columns = [predictions[f"logp_{k}"] for k in range(len(self._spec.classes))]
        # float64: a mean of hundreds of thousands of rows picks the epoch.
        logp_NK = np.stack(columns, axis=1).astype(np.float64)
        probabilities = np.exp(logp_NK)
        return {
            "loss": float(-logp_NK[np.arange(len(labels)), labels].mean()),
            "auc": roc_auc(labels, probabilities),
            "pr_auc": pr_auc(labels, probabilities),
            "accuracy": float((logp_NK.argmax(axis=1) == labels).mean()),
        }

    def _mix(self, batch: Batch) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return images, soft targets, and what the network shall mix between features."""
        settings, image = self._settings, batch["image"]
        num_classes = len(self._spec.classes)
        target = losses.soft_targets(batch["label"], num_classes, settings.label_smoothing)
        if settings.smote is not None and "partner" in batch:
            partner, mix = batch["partner"], batch["mix"].to(image.dtype)
            if settings.smote.space == "feature":
                return image, target, (partner, mix, batch["mixed"])
            image = torch.lerp(image, partner, mix[:, None, None, None])
        return *self._mix_up(image, target), ()

    def _mix_up(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch after mixup or CutMix; each for half of the batches if both are set."""
        settings = self._settings
        alphas = {losses.mixup: settings.mixup_alpha, losses.cutmix: settings.cutmix_alpha}
        chosen = [(mixing, alpha) for mixing, alpha in alphas.items() if alpha > 0]
        if not chosen:
            return image, target
        mixing, alpha = chosen[int(torch.randint(len(chosen), ()))]
        return mixing(image, target, alpha)


def _views(batch: Batch) -> list[Tensor]:
    """Return the views of unlabelled images that a batch holds."""
    return [batch[view] for view in VIEWS if view in batch]


def answer_columns(features: Tensor, views: list[Tensor]) -> dict[str, Tensor]:
    """Return the columns of what a network sees in some views of the images."""
    logp = views[0]
    if len(views) > 1:
        # The mean of probabilities: a mean of logarithms would be another forecast, and not add
        # up to 1.
        logp = torch.stack(views).logsumexp(dim=0) - math.log(len(views))
    # Half precision for embeddings only: they are shown and measured, while log-probabilities
    # decide.
    return {**_columns("logp", logp), "embedding": features.half()}


def _columns(name: str, values_BK: Tensor) -> dict[str, Tensor]:
    return {f"{name}_{k}": column for k, column in enumerate(values_BK.unbind(dim=1))}


def _class_weights(settings: Supervised, counts: tuple[int, ...]) -> list[float]:
    """Return 1 for all, or weights inverse to the class counts with mean 1 over the rows."""
    if settings.class_weights == "none":
        return [1.0] * len(counts)
    return [sum(counts) / (len(counts) * count) for count in counts]
