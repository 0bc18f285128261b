"""Losses of enlarged images, a value a row.

Shapes: B rows of a batch, C channels, H by W high-resolution pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lenshpc.data.normalisation import in_units
from lenshpc.registry import TaskSpec
from lenshpc.statistics.image_metrics import ssim

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
        # In the store's units, whose range is 1: the constants of SSIM are for that range.
        sr, hr = (in_units(images, spec.mean, spec.std) for images in (output, target))
        unlike: Tensor = 1 - ssim(sr, hr)
        return l1(output, target) + SSIM_WEIGHT * unlike.float()

    return loss
