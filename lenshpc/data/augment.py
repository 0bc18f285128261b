"""Augment training images on the CPU, each by a random stream of its own.

The stream is seeded by (seed, epoch, row), so an image's augmentation does not depend on the number
of ranks or workers, nor on whether the run was interrupted.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]


class Augmenter:
    """Geometric transforms of albumentations: they keep the pixel values' scale."""

    def __init__(self, names: Sequence[str], seed: int) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else its import asks the network
        import albumentations
        import cv2

        cv2.setNumThreads(0)
        self._seed = seed
        self._pipeline = albumentations.Compose([_transform(name) for name in names])

    def __call__(self, image: Image, epoch: int, row: int) -> Image:
        """Return the (C, H, W) image as that epoch sees that row."""
        stream = np.random.SeedSequence([self._seed, epoch, row])
        self._pipeline.set_random_seed(int(stream.generate_state(1)[0]))
        turned = self._pipeline(image=np.ascontiguousarray(image.transpose(1, 2, 0)))["image"]
        return np.ascontiguousarray(turned.transpose(2, 0, 1))


def _transform(name: str) -> Any:
    import albumentations
    import cv2

    transforms = {
        "d4": lambda: albumentations.D4(p=1.0),
        "affine": lambda: albumentations.Affine(
            scale=(0.9, 1.1),
            translate_percent=(-0.05, 0.05),
            rotate=(-180, 180),
            border_mode=cv2.BORDER_REFLECT_101,
            p=1.0,
        ),
    }
    return transforms[name]()
