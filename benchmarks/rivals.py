"""Serve other libraries' writers and loaders: python rivals.py WHAT PATH, a line for each run.

Writers turn the .npy files under PATH into a new folder, the line, on two processes; loaders give
shuffled batches of 32 images with labels of what lies at PATH, by two worker processes, for as
many epochs as the line says.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from images import Labelled, labelled_files
from measure import BATCH_SIZE, IMAGE_SHAPE, NUM_PROCESSES, counted, serve
from torch.utils.data import DataLoader

SHUFFLED_ROWS = 2048  # as many as lenshpc's stream mixes
FILES_A_TAR = 1000
WORKERS = {"num_workers": NUM_PROCESSES, "persistent_workers": True}

# The registration lives as long as this object.
_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
if not hasattr(torch.ops.torchvision, "nms"):
    # mosaicml-streaming imports torchvision, which beside a CPU build of torch lacks its operators
    # (pytorch/vision#9085); nothing here calls them.
    _TORCHVISION.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _TORCHVISION.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import streaming  # noqa: E402


def write(part: Callable[[Path, Sequence[Labelled]], None], root: Path, target: str) -> int:
    """Write a folder of parts, a process each, and return the number of images."""
    found = labelled_files(root)
    parts = [(Path(target, str(i)), found[i::NUM_PROCESSES]) for i in range(NUM_PROCESSES)]
    with get_context("fork").Pool(NUM_PROCESSES) as pool:
        pool.starmap(part, parts)
    return len(found)


def mds_part(target: Path, files: Sequence[Labelled], **options: Any) -> None:
    """Write one process's files by mosaicml-streaming."""
    columns = {"image": f"ndarray:float32:{','.join(map(str, IMAGE_SHAPE))}", "label": "int"}
    with streaming.MDSWriter(out=str(target), columns=columns, **options) as out:
        for file, label in files:
            out.write({"image": np.load(file), "label": label})


def write_mds(root: Path, target: str, **options: Any) -> int:
    """Write by mosaicml-streaming, the way its documentation has for several processes."""
    num_images = write(partial(mds_part, **options), root, target)
    streaming.base.util.merge_index(target, keep_local=True)
    return num_images


def wds_part(target: Path, files: Sequence[Labelled]) -> None:
    """Write one process's files by webdataset: tars of the .npy files and labels."""
    target.mkdir(parents=True)
    with webdataset.ShardWriter(f"{target}/%06d.tar", maxcount=FILES_A_TAR, verbose=0) as out:
        for file, label in files:
            key = f"{file.parent.name}/{file.stem}"
            out.write({"__key__": key, "npy": file.read_bytes(), "cls": label})


def load_mds(path: Path) -> Callable[[str], int]:
    """Load by mosaicml-streaming."""
    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(local=str(path), shuffle=True, batch_size=BATCH_SIZE)
    loader = DataLoader(dataset, BATCH_SIZE, **WORKERS)
    return counted(lambda _: ((batch["image"], batch["label"]) for batch in loader))


def load_wds(path: Path) -> Callable[[str], int]:
    """Load by webdataset: tars in random order, rows mixed by a buffer."""
    tars = sorted(map(str, path.rglob("*.tar")))
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=len(tars))
        .shuffle(SHUFFLED_ROWS)
        .decode()
        .to_tuple("npy", "cls")
        .batched(BATCH_SIZE)
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, **WORKERS)
    return counted(lambda _: loader)


SERVED: dict[str, Callable[[Path], Callable[[str], int]]] = {
    "write-mds": lambda root: partial(write_mds, root),
    "write-mds-checked": lambda root: partial(
        write_mds, root, compression="zstd", hashes=["sha256"]
    ),
    "write-wds": lambda root: partial(write, wds_part, root),
    "mds": load_mds,
    "wds": load_wds,
}

if __name__ == "__main__":
    torch.set_num_threads(1)  # as in a rank of lenshpc on CPUs
    serve(SERVED[sys.argv[1]](Path(sys.argv[2])))
