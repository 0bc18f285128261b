"""Augment batches of training images, by albumentations on the CPU and by torch on a GPU.

Both apply the same drawn parameters to pixels in their own units: nothing is clipped.
"""

import os
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from lenshpc.data.draws import (
    AddedNoise,
    Blurs,
    Drawn,
    Stretches,
    Turns,
    Warps,
    draw,
    standard_normal,
)
from lenshpc.data.order import Visits
from lenshpc.run.augmentations import Augmentation
from lenshpc.run.extras import importing

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Augmenter:
    """The recipe's list of augmentations under one seed, and what is added for rare classes.

    `is_rare` has a flag for each of the rows that visits are counted by.
    """

    steps: tuple[Augmentation, ...]
    seed: int
    rare_steps: tuple[Augmentation, ...] = ()
    is_rare: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1, bool))

    @property
    def has_steps(self) -> bool:
        """Return whether images are changed at all."""
        return bool(self.steps or self.rare_steps)

    def __call__(self, images: Tensor, epoch: int, visits: Visits) -> Tensor:
        """Return (B, C, H, W) float32 images as that epoch sees those visits."""
        height, width = images.shape[2:]
        # Drawn from (seed, epoch, visit) alone: a generator kept here would tie the images to the
        # number of ranks, to the batches before, and to interruptions.
        images = _apply(images, draw(self.steps, self.seed, epoch, visits, (height, width)))
        rare = self.is_rare[visits % len(self.is_rare)]
        if self.rare_steps and rare.any():
            steps = (*self.steps, *self.rare_steps)
            # All steps are drawn and the first ones dropped: a step's numbers are told by its place
            # in the list.
            drawn = draw(steps, self.seed, epoch, visits[rare], (height, width))
            which = torch.from_numpy(rare).to(images.device)
            images[which] = _apply(images[which], drawn[len(self.steps) :])
        return images


def _apply(images: Tensor, drawn: list[Drawn]) -> Tensor:
    if not drawn:
        return images
    return on_cpu(images, drawn) if images.device.type == "cpu" else on_device(images, drawn)


def on_cpu(images: Tensor, drawn: list[Drawn]) -> Tensor:
    """Return the images augmented one by one, by albumentations where it does not clip."""
    import cv2

    # OpenCV's own threads would fight those of the other ranks on the node for cores.
    cv2.setNumThreads(0)
    batch = [np.ascontiguousarray(image) for image in images.permute(0, 2, 3, 1).numpy()]
    for what in drawn:
        batch = [_one(image, what, index) for index, image in enumerate(batch)]
    together = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
    return together.clone(memory_format=torch.contiguous_format)


@cache
def _geometric() -> Any:
    """Return albumentations' functions of flips, turns and warps."""
    # Must stand before the import, which reads it.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else its import asks the network
    with importing("albumentations"):
        from albumentations.augmentations.geometric import functional as geometric
    return geometric


# The eight symmetries by albumentations' names: quarter turns, and those mirrored.
_TURNED = ("e", "r90", "r180", "r270")
_MIRRORED = ("h", "hvt", "v", "t")


def _one(image: Image, what: Drawn, index: int) -> Any:
    """Return the image (H, W, C) after what was drawn for it at its place in the batch."""
    import cv2

    match what:
        case Turns():
            names = _MIRRORED if what.mirrored[index] else _TURNED
            return _geometric().d4(image, names[what.quarters[index]])
        case Warps():
            return _geometric().warp_affine(
                image,
                np.vstack([what.matrices[index], [0, 0, 1]]),
                interpolation=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                # Interpolation, border and inverse map are those of `_warped`: the two back ends
                # must give the same images.
                fill=0,
                border_mode=cv2.BORDER_REFLECT_101,
                output_shape=image.shape[:2],
            )
        case Blurs():
            kernel = what.kernels[index].astype(np.float32)
            return cv2.sepFilter2D(image, -1, kernel, kernel).reshape(image.shape)
        case AddedNoise():
            # In the order (C, H, W), in which a GPU draws it, then turned to (H, W, C): else the
            # noise would differ by device.
            field = standard_normal(what.keys[[index]], image.size, torch.device("cpu")).numpy()
            field = field.reshape(image.shape[2], *image.shape[:2]).transpose(1, 2, 0)
            return image + np.float32(what.stds[index]) * field
        case Stretches():
            mean = image.mean(axis=(0, 1))
            factor, added = (np.float32(x[index]) for x in (what.factors, what.added))
            return mean + factor * (image - mean) + added


def on_device(images: Tensor, drawn: list[Drawn]) -> Tensor:
    """Return the images augmented together, where they lie."""
    for what in drawn:
        match what:
            case Turns():
                images = _turn(images, what)
            case Warps():
                images = _warp(images, what)
            case Blurs():
                images = _blur(images, what)
            case AddedNoise():
                field = standard_normal(what.keys, images[0].numel(), images.device)
                images = images + _column(what.stds, images) * field.view_as(images)
            case Stretches():
                mean = images.mean(dim=(2, 3), keepdim=True)
                stretched = _column(what.factors, images) * (images - mean)
                images = mean + stretched + _column(what.added, images)
    return images


def _column(values: npt.NDArray[np.float64], images: Tensor) -> Tensor:
    """Return one value an image, as (B, 1, 1, 1) on the device."""
    # float32: a float64 factor would make the whole batch float64.
    return torch.from_numpy(values.astype(np.float32)).to(images.device)[:, None, None, None]


def _turn(images: Tensor, what: Turns) -> Tensor:
    turned = torch.empty_like(images)
    elements = what.quarters + 4 * what.mirrored
    for element in np.unique(elements):
        rows = torch.from_numpy(np.flatnonzero(elements == element)).to(images.device)
        part = torch.rot90(images[rows], int(element) % 4, (2, 3))
        turned[rows] = part.flip(3) if element >= 4 else part
    return turned


def _warp(images: Tensor, what: Warps) -> Tensor:
    """Interpolate linearly; outside, the image is reflected about the centres of its edge pixels.

    With `align_corners` -1 and 1 are these centres.
    """
    height, width = images.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).to(images.device, torch.float32)
    matrices = torch.from_numpy(what.matrices.astype(np.float32)).to(images.device)
    old = torch.einsum("bij,hwj->bhwi", matrices, points)
    half = torch.tensor([width - 1, height - 1], device=images.device) / 2
    # align_corners with reflection about the centres of edge pixels is OpenCV's BORDER_REFLECT_101.
    return functional.grid_sample(
        images, old / half - 1, padding_mode="reflection", align_corners=True
    )


def _blur(images: Tensor, what: Blurs) -> Tensor:
    """Convolve each image with its own kernel along x, then y.

    Sums of products, not a convolution: cuDNN's would be rounded to TF32.
    """
    reach = what.kernels.shape[1] // 2
    for axis, margins in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        padded = functional.pad(images, margins, mode="reflect")
        blurred = torch.zeros_like(images)
        for place, taps in enumerate(what.kernels.T):
            blurred += _column(taps, images) * padded.narrow(axis, place, images.shape[axis])
        images = blurred
    return images
