"""Losses of enlarged images, a value a row; and the structural similarity.

Shapes: B rows of a batch, C channels, H by W high-resolution pixels.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from lenshpc.data.normalisation import in_units
from lenshpc.models.importing import declare_missing_torchvision_ops
from lenshpc.registry import TaskSpec

SSIM_WEIGHT = 0.1
AMPLITUDE_WEIGHT = 0.1
DATA_RANGE = 1.0

# output (B, C, H, W), target (B, C, H, W), both normalised → (B,)
RowLoss = Callable[[Tensor, Tensor], Tensor]


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


def ssim(image: Tensor, other: Tensor) -> Tensor:
    """Return the structural similarity (B,): Gaussian window of 11 px, sigma 1.5, data range 1."""
    declare_missing_torchvision_ops()
    from torchmetrics.functional.image import structural_similarity_index_measure

    rows = structural_similarity_index_measure(
        image, other, sigma=1.5, data_range=DATA_RANGE, reduction="none"
    )
    return cast(Tensor, rows)


def build_l1(_: TaskSpec) -> RowLoss:
    """Return the loss of `l1`."""
    return l1


def build_l2(_: TaskSpec) -> RowLoss:
    """Return the loss of `l2`."""
    return l2


def build_fourier(_: TaskSpec) -> RowLoss:
    """Return the loss of `fourier`."""
    return fourier


def build_l1_ssim(spec: TaskSpec) -> RowLoss:
    """Return L1 of normalised pixels plus 0.1 (1 - SSIM) of the store's."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        sr, hr = (in_units(images, spec.mean, spec.std) for images in (output, target))
        return l1(output, target) + SSIM_WEIGHT * (1 - ssim(sr, hr))

    return loss
