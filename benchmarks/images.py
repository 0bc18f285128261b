"""Source folders for the benchmarks: .npy files of (3,64,64) float32 in two classes."""

from pathlib import Path

import numpy as np
from measure import IMAGE_SHAPE

FOLDERS = ("train_nonlenses", "train_lenses")  # of the dataset lens_finding
BLOCK_ROWS = 500

Labelled = tuple[Path, int]


def make_images(root: Path, num: int) -> Path:
    """Write `num` images and return the folder.

    They are Gaussian sources in noise, normalised to [0, 1] a channel: lz4 takes 19 % off, as it
    does off DeepLense's lens finding files, which are of that kind.
    """
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for start in range(0, num, BLOCK_ROWS):
        for place, image in enumerate(_images(generator)[: num - start], start):
            np.save(_path(root, place), image)
    return root


def labelled_files(root: Path) -> list[Labelled]:
    """Return each file with its class."""
    return [(file, label) for label, name in enumerate(FOLDERS) for file in (root / name).iterdir()]


def _path(root: Path, place: int) -> Path:
    return root / FOLDERS[place % 2] / f"{place:06d}.npy"


def _images(generator: np.random.Generator) -> np.ndarray:
    """Return a block of images (n, 3, 64, 64)."""
    y, x = np.mgrid[:64, :64].astype(np.float32) - 31.5
    width = generator.uniform(3, 12, (BLOCK_ROWS, 3, 1, 1)).astype(np.float32)
    images = 20 * np.exp(-(x**2 + y**2) / (2 * width**2))
    images += generator.standard_normal((BLOCK_ROWS, *IMAGE_SHAPE), dtype=np.float32)
    low, high = (edge(images, axis=(2, 3), keepdims=True) for edge in (np.min, np.max))
    return (images - low) / (high - low)
