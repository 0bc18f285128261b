"""Write simulated images as the files that a dataset declares."""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lenshpc.prep.dataset import Dataset, ImageFormat, SplitName
from lenshpc.prep.simulation.draws import Stream

_JPEG_QUALITY = 75  # the quantisation tables of the Strong Lensing Challenge's files


def write_image(
    root: Path, dataset: Dataset, stream: Stream, number: int, image: NDArray[Any]
) -> str:
    """Write an image in [0, 1] to its folder, and return its id.

    Of a pair, `image` becomes the target, and the means of its blocks of pixels the image.
    """
    assert dataset.simulate is not None  # noqa: S101 - for mypy: the caller has looked
    split: SplitName = stream.split
    stem = f"{dataset.simulate.file_prefix}{number + 1}"
    if dataset.target:
        folder = PurePosixPath(dataset.target.folders[split])
        _write(root / folder / stem, image, dataset.target)
        image = _binned(image, image.shape[1] // dataset.image.shape[1])
    folders = next(entry.folders for entry in dataset.classes if entry.name == stream.name)
    identifier = PurePosixPath(folders[split]) / (stem + dataset.image.suffixes[0])
    _write(root / identifier, image, dataset.image)
    return str(identifier)


def _binned(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """Return the means of blocks of `factor` by `factor` pixels."""
    channels, height, width = image.shape
    blocks = image.reshape(channels, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(2, 4)))


def _write(path: Path, image: NDArray[Any], declared: ImageFormat) -> None:
    path = path.with_suffix(declared.suffixes[0])
    if declared.format == "image":
        levels = np.rint(image[0] * 255).astype(np.uint8)
        Image.fromarray(levels).save(path, quality=_JPEG_QUALITY)
    else:
        np.save(path, image.astype(declared.dtype).reshape(declared.stored_shape))
