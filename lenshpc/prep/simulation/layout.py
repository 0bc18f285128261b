"""Write simulated images as the files that a dataset declares."""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lenshpc.prep.dataset import Dataset
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.labelling import SplitName
from lenshpc.prep.simulation.draws import Stream
from lenshpc.prep.simulation.sample import Sample

_JPEG_QUALITY = 75  # the quantisation tables of the Strong Lensing Challenge's files


def write_sample(root: Path, dataset: Dataset, stream: Stream, number: int, sample: Sample) -> str:
    """Write the image of a sample, and its target, to their folders; return the image's id."""
    assert dataset.simulate is not None  # noqa: S101 - for mypy: the caller has looked
    split: SplitName = stream.split
    stem = f"{dataset.simulate.file_prefix}{number + 1}"
    if dataset.target and sample.target is not None:
        folder = PurePosixPath(dataset.target.folders[split])
        _write(root / folder / stem, sample.target, dataset.target)
    folders = next(entry.folders for entry in dataset.classes if entry.name == stream.name)
    identifier = PurePosixPath(folders[split]) / (stem + dataset.image.suffixes[0])
    _write(root / identifier, sample.image, dataset.image)
    return str(identifier)


def _write(path: Path, image: NDArray[Any], declared: ImageFormat) -> None:
    path = path.with_suffix(declared.suffixes[0])
    if declared.format == "image":
        levels = np.rint(image[0] * 255).astype(np.uint8)
        Image.fromarray(levels).save(path, quality=_JPEG_QUALITY)
    else:
        np.save(path, image.astype(declared.dtype).reshape(declared.stored_shape))
