"""Serve lenshpc's conversion and loading as rivals.py does: python ours.py WHAT PATH."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import BATCH_SIZE, NUM_PROCESSES, counted, serve

from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import load_dataset


def write(root: Path, target: str) -> int:
    """Convert a folder as `lenshpc prepare` does, its start not included."""
    return convert(load_dataset("lens_finding"), root, Path(target), workers=NUM_PROCESSES).num_rows


def load(path: Path, held: ExitStack, *, loading: Any, normalise: Any) -> Callable[[str], int]:
    """Load a store as the engine does, without augmentation."""
    # Here, since the processes of a conversion import this module and need no torch.
    import torch

    from lenshpc.data.batches import BatchSource, Preparation
    from lenshpc.data.decoded import Decoded
    from lenshpc.data.order import TrainingOrder, window_rows
    from lenshpc.data.readers import open_readers
    from lenshpc.run.sections import Data
    from lenshpc.store import channel_statistics, open_store

    torch.set_num_threads(1)  # as in a rank on CPUs
    store, device = open_store(path), torch.device("cpu")
    decoded = Decoded(store, Data(loading=loading, normalise=normalise, augment=()))
    order = TrainingOrder(
        rows=np.arange(store.num_rows),
        labels=store.rows["label"].to_numpy(np.int64),
        batch_size=BATCH_SIZE,
        seed=0,
        window=window_rows(decoded.image_bytes) if loading == "stream" else None,
    )
    mean, std = (
        channel_statistics(store.column("moments"))
        if normalise == "fold"
        else (np.zeros(3), np.ones(3))
    )
    (reader,) = held.enter_context(open_readers([decoded], device))
    source = BatchSource(
        reader=reader,
        labels=order.labels,
        preparation=Preparation(
            scale=decoded.scale,
            mean=mean.astype(np.float32),
            std=std.astype(np.float32),
        ),
        device=device,
    )

    def batches(epoch: int) -> Iterator[tuple[Any, Any]]:
        visits = order.batches(epoch, rank=0, world_size=1)
        return ((batch["image"], batch["label"]) for batch in source.batches(visits))

    return counted(batches)


def main(what: str, path: Path) -> None:
    """Serve until standard input ends."""
    with ExitStack() as held:
        if what == "write":
            serve(partial(write, path))
        else:
            loading, normalise = what.split("-")
            serve(load(path, held, loading=loading, normalise=normalise))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
