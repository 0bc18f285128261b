"""Small source folders that the tests of preparation share."""

from types import SimpleNamespace

import numpy as np
import yaml

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset

TINY = {
    "name": "tiny",
    "image": {"format": "npy", "shape": [2, 6, 5], "dtype": "float32", "channels": ["a", "b"]},
    "classes": [
        {"name": "no", "train": "train/no", "val": "val/no"},
        {"name": "yes", "train": "train/yes", "val": "val/yes"},
    ],
    "holdout": {"fraction": 0.5, "from": "val", "to": "test"},
}


def tiny(**changes):
    """Return the tiny dataset with some top-level keys replaced."""
    return Dataset.model_validate(TINY | changes)


def fill(root, num_images=8, splits=("train", "val")):
    """Write `num_images` random images for each class and split; return {id: array}."""
    random = np.random.default_rng(0)
    images = {}
    for split in splits:
        for name in ("no", "yes"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(num_images):
                image = random.normal(size=(2, 6, 5)).astype(np.float32)
                np.save(folder / f"{number}.npy", image)
                images[f"{split}/{name}/{number}.npy"] = image
    return images


def write_yaml(path, value):
    """Write a dataset file."""
    path.write_text(yaml.safe_dump(value))
    return path


def read_images(reader, rows):
    """Return id → what a reader finds of each row; raise the first defect."""
    block = reader.read(rows)
    for defect in block.defects:
        raise DataError(defect.error, cause=defect.cause)
    return {
        identifier: SimpleNamespace(
            pixels=block.pixels[at],
            target=None if block.targets is None else block.targets[at],
            sha256=block.sha256[at].tobytes(),
            size=int(block.size[at]),
            values=block.values[at].tolist(),
        )
        for at, identifier in enumerate(rows["id"].to_pylist())
    }
