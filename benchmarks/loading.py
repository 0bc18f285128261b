"""Time shuffled epochs of batches of 32: lenshpc's loaders and their rivals.

Each gives torch tensors (32,3,64,64) float32 and labels; data in the page cache, one turn to warm
up, two worker processes each (lenshpc: two threads). Nothing is augmented.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from images import labelled_files, make_images
from measure import (
    BATCH_SIZE,
    LOADING_PYTHON,
    NUM_PROCESSES,
    Cost,
    Table,
    Target,
    arguments,
    report,
    rounds,
    scratch,
    served,
    spread,
    target_table,
)

from lenshpc.prep.convert import Options, convert
from lenshpc.prep.dataset import load_dataset

MEMMAP, RAM, RAM_NORMALISED = "mapped array", "lenshpc in RAM", "lenshpc in RAM, normalised"
MEMMAP_NORMALISED = "mapped array, normalised"
STREAM, STREAM_NORMALISED = "lenshpc streamed", "lenshpc streamed, normalised"
UNCOMPRESSED = "lenshpc streamed, --codec none"
NPY, MDS, WDS = "DataLoader of .npy", "mosaicml-streaming", "webdataset"
Contestant = tuple[Path | str, str, str, str]  # Python, script, what it serves, data

IN_RAM: dict[str, Contestant] = {
    MEMMAP: (sys.executable, "plain.py", "memmap", "images.npy"),
    MEMMAP_NORMALISED: (sys.executable, "plain.py", "memmap-normalised", "images.npy"),
    RAM: (sys.executable, "ours.py", "resident-none", "store"),
    RAM_NORMALISED: (sys.executable, "ours.py", "resident-fold", "store"),
}
STREAMED: dict[str, Contestant] = {
    STREAM: (sys.executable, "ours.py", "stream-none", "store"),
    STREAM_NORMALISED: (sys.executable, "ours.py", "stream-fold", "store"),
    UNCOMPRESSED: (sys.executable, "ours.py", "stream-none", "store-none"),
    NPY: (sys.executable, "plain.py", "npy", "source"),
    MDS: (LOADING_PYTHON, "rivals.py", "mds", "mds"),
    WDS: (LOADING_PYTHON, "rivals.py", "wds", "wds"),
}
EPOCHS_IN_RAM = 10  # a turn, since one takes some 0.06 s


def make_data(folder: Path, num: int) -> None:
    """Write the same images in every rival's way."""
    source = make_images(folder / "source", num)
    images = np.stack([np.load(file) for file, _ in labelled_files(source)])
    np.save(folder / "images.npy", images)
    for name, options in (("store", Options()), ("store-none", Options(codec="none"))):
        dataset = load_dataset("lens_finding")
        convert(dataset, source, folder / name, options, workers=NUM_PROCESSES)
    for name in ("mds", "wds"):
        with served(
            LOADING_PYTHON, "rivals.py", f"write-{name}", source, num_images=num
        ) as written:
            written(str(folder / name))


def measured(
    contestants: Mapping[str, Contestant], folder: Path, num: int, epochs: int, repeats: int
) -> dict[str, list[float]]:
    """Return the seconds of an epoch in each round."""
    with ExitStack() as held:
        turns: dict[str, Callable[[], Cost]] = {}
        for name, (python, script, what, data) in contestants.items():
            server = served(python, script, what, folder / data, num_images=num * epochs)
            turns[name] = partial(held.enter_context(server), str(epochs))
            turns[name]()  # imports, worker processes, page cache
        costs = rounds(turns, repeats)
    return {name: [cost.seconds / epochs for cost in found] for name, found in costs.items()}


def rows(found: Mapping[str, Sequence[float]], num: int, rival: str) -> list[list[str]]:
    """Return a row each, with its speed against a rival's."""
    return [
        [
            name,
            *spread([1000 * value for value in values], digits=0),
            f"{num / median(values):.0f}",
            f"{median(found[rival]) / median(values):.2f}",
        ]
        for name, values in found.items()
    ]


def targets(times: Mapping[str, float]) -> list[Target]:
    """Return what is aimed at."""
    library = min((MDS, WDS), key=times.__getitem__)
    return [
        Target(f"{ours} / {rival}", times[rival] / times[ours], least)
        for ours, rival, least in (
            (RAM, MEMMAP, 0.8),
            (RAM_NORMALISED, MEMMAP_NORMALISED, 0.8),
            (STREAM, NPY, 10),
            (STREAM_NORMALISED, NPY, 10),
            (STREAM, library, 2),
            (STREAM_NORMALISED, library, 2),
        )
    ]


def main() -> None:
    """Measure and print."""
    wanted = arguments("Time loading.", num=20_000, repeats=5)
    num = wanted.num // BATCH_SIZE * BATCH_SIZE  # lenshpc leaves out the rest below a step
    with scratch(wanted.folder) as folder:
        make_data(folder, num)
        in_ram = measured(IN_RAM, folder, num, EPOCHS_IN_RAM, wanted.repeats)
        streamed = measured(STREAMED, folder, num, 1, wanted.repeats)
    what = f"shuffled batches of {BATCH_SIZE} of {num} images (3,64,64) float32"
    header = ("", "ms an epoch", "min–max", "images/s")
    tables = [
        Table(f"In RAM: {what}", (*header, "speed / array"), rows(in_ram, num, MEMMAP)),
        Table(f"Streamed: {what}", (*header, "speed / DataLoader"), rows(streamed, num, NPY)),
    ]
    times = {name: median(values) for name, values in (in_ram | streamed).items()}
    report([*tables, target_table(targets(times))], as_json=wanted.json)


if __name__ == "__main__":
    main()
