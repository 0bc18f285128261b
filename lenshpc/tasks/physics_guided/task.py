"""Classification guided by physics: the features must also give the lens that drew the image.

Shapes: B rows of a batch, P parameters of a lens.
"""

from typing import cast

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from lenshpc.models.backbones import Backbone
from lenshpc.registry import Batch, Task, TaskSpec
from lenshpc.tasks.physics_guided.lens_layer import LensRenderer
from lenshpc.tasks.physics_guided.networks import GuidedBackbone
from lenshpc.tasks.physics_guided.settings import Physics, PhysicsGuided
from lenshpc.tasks.supervised.task import SupervisedTask, answer_columns


def make_task(spec: TaskSpec) -> Task:
    """Return the guided classification, or a plain one where the settings have no physics."""
    physics = PhysicsGuided.of(spec.settings).physics
    return SupervisedTask(spec) if physics is None else GuidedClassifier(spec, physics)


class GuidedClassifier(SupervisedTask):
    """The classification's loss, and by a curriculum the misfit of the image redrawn by a lens."""

    def __init__(self, spec: TaskSpec, physics: Physics) -> None:
        super().__init__(spec)
        self._physics = physics
        scale = spec.zoom * physics.pixel_scale_arcsec
        self._layer = LensRenderer(physics, spec.image_shape[1], scale)

    def build_model(self, name: str) -> nn.Module:
        """Return the classification's network with a second last layer for the lens."""
        built = cast(Backbone, super().build_model(name))
        return GuidedBackbone(
            built.network, self._physics.num_parameters, linear_probe=self._settings.linear_probe
        )

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the classification's loss plus that of the lenses of the labelled images.

        While the weight is 0 no gradient of the lens reaches the features.
        """
        images, target, between = self._inputs(batch)
        # One forward pass gives both, since DDP allows no second one.
        outputs = model(images, *between, with_lens=True)
        raw_BP = outputs[: len(batch["image"]), -self._physics.num_parameters :]
        loss = self._loss_of(outputs[:, : -self._physics.num_parameters], target, batch)
        physics = self._losses(batch["image"], raw_BP).mean()
        return {"loss": loss + self.weight(batch["progress"]) * physics, "physics_loss": physics}

    def weight(self, progress: Tensor) -> Tensor:
        """Return the weight of the physics term at a part of the training in [0, 1]."""
        begin, whole = self._physics.curriculum
        return self._physics.weight * ((progress - begin) / (whole - begin)).clamp(0, 1)

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the classification's columns, and `physics_loss`."""
        raw_BP = self._raw(model, batch)
        return {
            **super().predict(model, batch),
            "physics_loss": self._losses(batch["image"], raw_BP),
        }

    def infer(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the same of what the files keep, and the parameters of the lens."""
        raw_BP = self._raw(model, batch)
        return {
            **super().infer(model, batch),
            **self._layer.lens(raw_BP)._asdict(),
            "physics_loss": self._losses(batch["image"], raw_BP),
        }

    def apply(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what the classification says, and the parameters of the lens."""
        features, views = self._look(model, batch["image"])
        lens = self._layer.lens(cast(GuidedBackbone, model).lens_of(features))
        return {**answer_columns(features, views), **lens._asdict()}

    def summarise(
        self, labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return the classification's metrics, and the mean of `physics_loss`."""
        # float64 sums, as for every mean over rows.
        mean = float(predictions["physics_loss"].mean(dtype=np.float64))
        return {**super().summarise(labels, predictions), "physics_loss": mean}

    def reconstruct(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `light` and `render` (B, H, W), 0 outside the ring, and `source` (B, S, S)."""
        layer = self._layer.to(batch["image"].device)
        found = layer.reconstruct(batch["image"], layer.lens(self._raw(model, batch)))
        drawn = {name: layer.draw(getattr(found, name)) for name in ("light", "render")}
        return {**drawn, "source": found.source}

    def _raw(self, model: nn.Module, batch: Batch) -> Tensor:
        guided = cast(GuidedBackbone, model)
        return guided.lens_of(guided.features(batch["image"]))

    def _losses(self, image: Tensor, raw_BP: Tensor) -> Tensor:
        """Return the layer's loss of each row (B,), in float32 whatever the precision."""
        layer = self._layer.to(image.device)
        return layer.losses(image, layer.lens(raw_BP))
