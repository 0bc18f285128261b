"""Serve what needs no library of data sets, as rivals.py does: python plain.py WHAT PATH."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import labelled_files
from measure import BATCH_SIZE, NUM_PROCESSES, counted, serve
from torch.utils.data import DataLoader, Dataset


def load_memmap(path: Path, *, normalised: bool = False) -> Callable[[str], int]:
    """Load random rows of one mapped array."""
    images = np.load(path, mmap_mode="r")
    labels = torch.arange(len(images)) % 2
    mean, std = torch.full((3, 1, 1), 0.2), torch.full((3, 1, 1), 0.1)

    def batches(epoch: int) -> Iterator[tuple[Any, Any]]:
        order = np.random.default_rng(epoch).permutation(len(images))
        for rows in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
            batch = torch.from_numpy(images[rows])
            yield batch.sub_(mean).div_(std) if normalised else batch, labels[rows]

    return counted(batches)


class Files(Dataset[Any]):
    """Loose .npy files."""

    def __init__(self, root: Path) -> None:
        self.sources = labelled_files(root)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.sources)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        """Return image and label."""
        file, label = self.sources[row]
        return np.load(file), label


def load_npy(path: Path) -> Callable[[str], int]:
    """Load loose files by torch's DataLoader."""
    loader = DataLoader(
        Files(path), BATCH_SIZE, shuffle=True, num_workers=NUM_PROCESSES, persistent_workers=True
    )
    return counted(lambda _: loader)


SERVED: dict[str, Callable[[Path], Callable[[str], int]]] = {
    "memmap": load_memmap,
    "memmap-normalised": partial(load_memmap, normalised=True),
    "npy": load_npy,
}

if __name__ == "__main__":
    torch.set_num_threads(1)  # as in a rank of lenshpc on CPUs
    serve(SERVED[sys.argv[1]](Path(sys.argv[2])))
