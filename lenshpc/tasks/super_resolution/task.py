"""Super-resolution of pairs: the model's image beside the true one, in the units of the store.

Shapes: B rows of a batch, C channels, H by W high-resolution pixels.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.batches import Batch
from lenshpc.errors import ConfigError
from lenshpc.models.importing import declare_missing_torchvision_ops
from lenshpc.tasks.base import TaskSpec
from lenshpc.tasks.super_resolution.networks import build
from lenshpc.tasks.super_resolution.settings import SuperResolution as Settings
from lenshpc.tasks.super_resolution.settings import scale_of

SSIM_WEIGHT = 0.1
AMPLITUDE_WEIGHT = 0.1
DATA_RANGE = 1.0

RowLoss = Callable[[Tensor, Tensor], Tensor]


class SuperResolution:
    """A network that enlarges images; losses are of normalised pixels, metrics of the store's."""

    num_phases = 1

    def __init__(self, spec: TaskSpec) -> None:
        if not isinstance(spec.method, Settings):
            raise ConfigError(f"super-resolution cannot have the method {spec.method.kind}")
        if spec.target_shape is None:
            raise ConfigError("super-resolution learns from pairs, and the store holds none")
        self._method, self._channels = spec.method, spec.image_shape[0]
        self._scale = scale_of(spec.image_shape, spec.target_shape)
        self._in_units = spec.in_units  # both halves of a pair share one normalisation

    def build_model(self, name: str) -> nn.Module:
        """Return a network of the method's size that equals bicubic interpolation at first."""
        return build(
            name,
            channels=self._channels,
            scale=self._scale,
            width=self._method.width,
            blocks=self._method.blocks,
            vit=self._method.vit,
        )

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss over the rows, of whole images or of a patch of each."""
        image, target = self._patches(batch["image"], batch["target"])
        return {"loss": self._losses(model(image), target).mean()}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, and `psnr`, `ssim` and `mse` in the store's units, a row."""
        return self._measured(model(batch["image"]), batch["target"])

    def infer(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the same, and the image `sr` (B, C, H, W) in the store's units."""
        output = model(batch["image"])
        return {**self._measured(output, batch["target"]), "sr": self._in_units(output)}

    def summarise(
        self, _labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return the means over the images."""
        keys = ("loss", "psnr", "ssim")
        return {key: float(predictions[key].mean(dtype=np.float64)) for key in keys}

    def _measured(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        sr, hr = self._in_units(output), self._in_units(target)
        mse = (sr - hr).square().mean(dim=(1, 2, 3))
        return {
            "loss": self._losses(output, target),
            "psnr": 10 * torch.log10(DATA_RANGE**2 / mse),
            "ssim": ssim(sr, hr),
            "mse": mse,
        }

    def _losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the method's loss of each row (B,)."""
        losses = LOSSES[self._method.loss](output.float(), target)
        if self._method.loss != "l1_ssim":
            return losses
        return losses + SSIM_WEIGHT * (1 - ssim(self._in_units(output), self._in_units(target)))

    def _patches(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same random part of both halves of each pair."""
        side, scale = self._method.patch, self._scale
        if side is None:
            return image, target
        tops = torch.randint(image.shape[2] - side + 1, (len(image),)).tolist()
        lefts = torch.randint(image.shape[3] - side + 1, (len(image),)).tolist()
        corners = list(zip(tops, lefts, strict=True))
        return _cut(image, corners, side), _cut(
            target, [(scale * top, scale * left) for top, left in corners], scale * side
        )


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of each row."""
    return (output - target).abs().mean(dim=(1, 2, 3))


def l2(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of each row."""
    return (output - target).square().mean(dim=(1, 2, 3))


def fourier(output: Tensor, target: Tensor) -> Tensor:
    """Return L1 plus 0.1 times the mean difference of Fourier amplitudes, which know no phase.

    The transform is orthonormal, so amplitudes have the pixels' scale.
    """
    spectra = [torch.fft.rfft2(images, norm="ortho").abs() for images in (output, target)]
    return l1(output, target) + AMPLITUDE_WEIGHT * l1(*spectra)


# l1_ssim is L1 + 0.1 (1 - SSIM); the second part is of other pixels than the first.
LOSSES: Mapping[str, RowLoss] = MappingProxyType(
    {"l1": l1, "l2": l2, "l1_ssim": l1, "fourier": fourier}
)


def ssim(image: Tensor, other: Tensor) -> Tensor:
    """Return the structural similarity (B,): Gaussian window of 11 px, sigma 1.5, data range 1."""
    declare_missing_torchvision_ops()
    from torchmetrics.functional.image import structural_similarity_index_measure

    rows = structural_similarity_index_measure(
        image, other, sigma=1.5, data_range=DATA_RANGE, reduction="none"
    )
    return cast(Tensor, rows)


def _cut(images: Tensor, corners: list[tuple[int, int]], side: int) -> Tensor:
    return torch.stack(
        [
            image[:, top : top + side, left : left + side]
            for image, (top, left) in zip(images, corners, strict=True)
        ]
    )
