"""A small store that can be learnt: spots, brighter the higher the class."""

from pathlib import Path

import numpy as np
import pandas as pd
from stores import write_rows

from lenshpc.store import Pixels, Store, StoreSpec, open_store

SIDE = 32


def write_store(path: Path, labels: np.ndarray, splits: list[str], seed: int = 0) -> Store:
    """Write images whose centre is brighter the higher the class; return the opened store."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    spot = np.exp(-(x**2 + y**2) / 40)
    images = (
        rng.normal(0.3, 0.1, (len(labels), 1, SIDE, SIDE))
        + 0.4 * labels[:, None, None, None] * spot
    )
    rows = pd.DataFrame({"label": labels, "split": splits})
    rows["id"] = [f"{split}/{index}.npy" for index, split in enumerate(splits)]
    rows["group"] = rows["id"]
    spec = StoreSpec(
        dataset="spots",
        classes=tuple(f"class{label}" for label in range(labels.max() + 1)),
        image=Pixels(shape=(1, SIDE, SIDE), dtype="float32", channels=("grey",)),
        seed=seed,
    )
    write_rows(path, spec, rows, images.astype(np.float32))
    return open_store(path)
