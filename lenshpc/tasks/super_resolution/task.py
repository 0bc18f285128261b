"""Super-resolution of pairs: the model's image beside the true one, in the units of the store.

Shapes: B rows of a batch, C channels, H by W high-resolution pixels.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.normalisation import in_units
from lenshpc.errors import ConfigError
from lenshpc.registry import Batch, TaskSpec, build_component
from lenshpc.statistics.image_metrics import ssim
from lenshpc.tasks.super_resolution.losses import DATA_RANGE, RowLoss
from lenshpc.tasks.super_resolution.settings import SuperResolution, scale_of


class Enlargement:
    """A network that enlarges images; losses are of normalised pixels, metrics of the store's."""

    num_phases = 1

    def __init__(self, spec: TaskSpec) -> None:
        if spec.target_shape is None:
            raise ConfigError("super-resolution learns from pairs, and the store holds none")
        self._spec, self._settings = spec, SuperResolution.of(spec.settings)
        self._scale = scale_of(spec.image_shape, spec.target_shape)
        self._loss: RowLoss = build_component("losses", spec, self._settings.loss)

    def build_model(self, name: str) -> nn.Module:
        """Return a network of the settings' size."""
        network: nn.Module = build_component("networks", self._spec, name)
        return network

    def _in_units(self, images: Tensor) -> Tensor:
        """Return images in the store's units: both halves of a pair share one normalisation."""
        return in_units(images, self._spec.mean, self._spec.std)

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss over the rows, of whole images or of a patch of each."""
        image, target = self._patches(batch["image"], batch["target"])
        return {"loss": self._losses(model(image), target).mean()}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, and `psnr`, `ssim` and `mse` in the store's units, a row."""
        return self._measure(model(batch["image"]), batch["target"])

    def infer(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the same, and the image `sr` (B, C, H, W) in the store's units."""
        output = model(batch["image"])
        return {**self._measure(output, batch["target"]), "sr": self._in_units(output)}

    def apply(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the image `sr` (B, C, H, W) in the store's units; no target is needed."""
        return {"sr": self._in_units(model(batch["image"]))}

    def summarise(
        self, _labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return the means over the images."""
        keys = ("loss", "psnr", "ssim")
        return {key: float(predictions[key].mean(dtype=np.float64)) for key in keys}

    def _measure(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        # Measured in float32 and the store's units, whatever the precision of training.
        sr, hr = self._in_units(output), self._in_units(target)
        mse = (sr - hr).square().mean(dim=(1, 2, 3))
        return {
            "loss": self._losses(output, target),
            "psnr": 10 * torch.log10(DATA_RANGE**2 / mse),
            "ssim": ssim(sr, hr).float(),
            "mse": mse,
        }

    def _losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each row (B,)."""
        # float32: a network under autocast gives bfloat16, in which small differences vanish.
        return self._loss(output.float(), target)

    def _patches(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same random part of both halves of each pair."""
        side, scale = self._settings.patch, self._scale
        if side is None:
            return image, target
        # Corners are drawn at low resolution and multiplied, so both halves of a pair are cut at
        # the same place.
        tops = torch.randint(image.shape[2] - side + 1, (len(image),)).tolist()
        lefts = torch.randint(image.shape[3] - side + 1, (len(image),)).tolist()
        corners = list(zip(tops, lefts, strict=True))
        return _cut(image, corners, side), _cut(
            target, [(scale * top, scale * left) for top, left in corners], scale * side
        )


def _cut(images: Tensor, corners: list[tuple[int, int]], side: int) -> Tensor:
    return torch.stack(
        [
            image[:, top : top + side, left : left + side]
            for image, (top, left) in zip(images, corners, strict=True)
        ]
    )
