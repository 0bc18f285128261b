"""Augment batches of training images, by albumentations on the CPU and by torch on a GPU.

Both apply the same drawn parameters to pixels in their own units: nothing is clipped.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

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
    convert,
    draw,
    standard_normal,
)
from lenshpc.data.order import Visits
from lenshpc.data.sending import Cut, cut_places
from lenshpc.run.augmentations import Augmentation
from lenshpc.run.extras import importing

Image = npt.NDArray[np.float32]


class Changes(NamedTuple):
    """What becomes of images: `drawn` of all, and then `further` of those at the places `rare`."""

    drawn: list[Any]
    rare: Any
    further: list[Any]


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

    def draw(self, epoch: int, batches: Sequence[Visits], sides: tuple[int, int]) -> Changes:
        """Return what becomes of the images (height, width) of batches in that epoch, to be sent.

        Every value is a Cut: all batches are drawn at once.
        """
        # Drawn from (seed, epoch, visit) alone: a generator kept here would tie the images to the
        # number of ranks, to the batches before, and to interruptions.
        visits, sizes = np.concatenate(batches), [len(batch) for batch in batches]
        chance = (self.seed, epoch)
        drawn = draw(self.steps, *chance, visits, sides)
        is_rare = self.is_rare[visits % len(self.is_rare)] & bool(self.rare_steps)
        rare = cut_places(is_rare, sizes)
        # By its place in the whole list: a step's numbers are told by it.
        further = draw(self.rare_steps, *chance, visits[is_rare], sides, first=len(self.steps))
        return Changes(
            drawn=convert(drawn, partial(Cut, sizes=sizes)),
            rare=rare,
            further=convert(further, partial(Cut, sizes=rare.sizes)),
        )


def change(images: Tensor, changes: Changes, *, nearest: bool = False) -> Tensor:
    """Return (B, C, H, W) float32 images after what was drawn for them, sent to their device.

    `nearest` takes the nearest pixel, where else light is interpolated linearly.
    """
    images = _apply(images, changes.drawn, nearest=nearest)
    if len(changes.rare):
        parts = images.index_select(0, changes.rare)
        further = _apply(parts, changes.further, nearest=nearest)
        images.index_copy_(0, changes.rare, further)
    return images


def move(masks: Tensor, changes: Changes) -> Tensor:
    """Return masks (B, C, H, W) float32, 0 or 1, that lie on their images as those were moved.

    What changes the light leaves them as they are.
    """
    drawn, further = (
        [one for one in some if isinstance(one, Turns | Warps)]
        for some in (changes.drawn, changes.further)
    )
    return change(masks, Changes(drawn, changes.rare, further), nearest=True)


def _apply(images: Tensor, drawn: Sequence[Drawn], *, nearest: bool) -> Tensor:
    if not drawn:
        return images
    by = on_cpu if images.device.type == "cpu" else on_device
    return by(images, drawn, nearest=nearest)


def on_cpu(images: Tensor, drawn: Sequence[Drawn], *, nearest: bool = False) -> Tensor:
    """Return the images augmented one by one, by albumentations where it does not clip."""
    import cv2

    # OpenCV's own threads would fight those of the other ranks on the node for cores.
    cv2.setNumThreads(0)
    pixels, held = images.numpy(), convert(drawn, Tensor.numpy)
    changed: Iterable[Image]
    if len(held) == 1 and isinstance(held[0], Turns):
        # The default list: read through views, and written once.
        changed = map(_view_turned, pixels, held[0].elements.tolist())
    else:
        changed = _change_each(pixels, held, nearest=nearest)
    result = np.empty_like(pixels)
    for place, image in zip(result, changed, strict=True):
        place[:] = image
    return torch.from_numpy(result)


def _view_turned(image: Image, element: int) -> Image:
    """Return the image (C, H, W) under a symmetry, in the same memory."""
    turned = image.swapaxes(1, 2) if element % 2 else image
    down = -1 if element % 4 in (1, 2) else 1
    right = -1 if (element % 4 in (2, 3)) != (element >= 4) else 1
    return turned[:, ::down, ::right]


def _change_each(images: Image, drawn: Sequence[Drawn], *, nearest: bool) -> list[Image]:
    """Return each image (C, H, W) after all that was drawn for it."""
    batch = [np.ascontiguousarray(image) for image in images.transpose(0, 2, 3, 1)]
    # Step by step and not image by image: each library then works with its code at hand.
    for what in drawn:
        batch = [_one(image, what, index, nearest=nearest) for index, image in enumerate(batch)]
    return [image.transpose(2, 0, 1) for image in batch]


@cache
def _geometric() -> Any:
    """Return albumentations' functions of flips, turns and warps."""
    # Must stand before the import, which reads it.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else its import asks the network
    with importing("albumentations"):
        from albumentations.augmentations.geometric import functional as geometric
    return geometric


# The eight symmetries by albumentations' names: quarter turns, and those mirrored.
_SYMMETRIES = ("e", "r90", "r180", "r270", "h", "hvt", "v", "t")


def _one(image: Image, what: Drawn, index: int, *, nearest: bool) -> Any:
    """Return the image (H, W, C) after what was drawn for it at its place in the batch."""
    import cv2

    match what:
        case Turns():
            # albumentations' own: how it lays out memory decides how a mean is rounded later.
            return _geometric().d4(image, _SYMMETRIES[what.elements[index]])
        case Warps():
            how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
            return _geometric().warp_affine(
                image,
                np.vstack([what.matrices[index], [0, 0, 1]]),
                interpolation=how | cv2.WARP_INVERSE_MAP,
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
            field = standard_normal(torch.from_numpy(what.keys[[index]]), image.size).numpy()
            field = field.reshape(image.shape[2], *image.shape[:2]).transpose(1, 2, 0)
            return image + np.float32(what.stds[index]) * field
        case Stretches():
            mean = image.mean(axis=(0, 1))
            factor, added = (np.float32(x[index]) for x in (what.factors, what.added))
            return mean + factor * (image - mean) + added


def on_device(images: Tensor, drawn: Sequence[Drawn], *, nearest: bool = False) -> Tensor:
    """Return the images augmented together, where they and what was drawn lie."""
    for what in drawn:
        match what:
            case Turns():
                images = _turn(images, what.elements)
            case Warps():
                images = _warp(images, what.matrices, "nearest" if nearest else "bilinear")
            case Blurs():
                images = _blur(images, what.kernels)
            case AddedNoise():
                field = standard_normal(what.keys, images[0].numel())
                images = images + _column(what.stds) * field.view_as(images)
            case Stretches():
                mean = images.mean(dim=(2, 3), keepdim=True)
                stretched = _column(what.factors) * (images - mean)
                images = mean + stretched + _column(what.added)
    return images


def _column(values: Tensor) -> Tensor:
    """Return one value an image, as (B, 1, 1, 1)."""
    # float32: a float64 factor would make the whole batch float64.
    return values.float()[:, None, None, None]


@cache
def _symmetries(height: int, width: int, device: torch.device) -> Tensor:
    """Return which pixel comes to each place (8, H * W) under each symmetry."""
    places = torch.arange(height * width, device=device).view(height, width)
    turned = [torch.rot90(places, quarters) for quarters in range(4)]
    # Odd turns of images that are not square mean nothing, and are drawn for none.
    return torch.stack([one.flatten() for one in (*turned, *(part.flip(1) for part in turned))])


def _turn(images: Tensor, elements: Tensor) -> Tensor:
    """Turn and mirror all images in one gather."""
    height, width = images.shape[2:]
    sources = _symmetries(height, width, images.device).index_select(0, elements)
    return (
        images.flatten(2)
        .gather(2, sources[:, None].expand(-1, images.shape[1], -1))
        .view_as(images)
    )


def _warp(images: Tensor, matrices: Tensor, mode: str) -> Tensor:
    """Interpolate; outside, the image is reflected about the centres of its edge pixels.

    With `align_corners` -1 and 1 are these centres.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    # Sums of products, not a matrix product: rounded to TF32, a place would be off by a thirtieth
    # of a pixel.
    along_x, along_y, constant = matrices.float()[..., None, None].unbind(2)
    old_x, old_y = (along_x * x + along_y * y + constant).unbind(1)
    grid = torch.stack([2 * old_x / (width - 1) - 1, 2 * old_y / (height - 1) - 1], dim=-1)
    # align_corners with reflection about the centres of edge pixels is OpenCV's BORDER_REFLECT_101.
    return functional.grid_sample(images, grid, mode, "reflection", align_corners=True)


def _blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each image with its own kernel along x, then y.

    Sums of products, not a convolution: cuDNN's would be rounded to TF32.
    """
    reach = kernels.shape[1] // 2
    for axis, margins in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        padded = functional.pad(images, margins, mode="reflect")
        blurred = torch.zeros_like(images)
        for place, taps in enumerate(kernels.unbind(1)):
            blurred += _column(taps) * padded.narrow(axis, place, images.shape[axis])
        images = blurred
    return images
