"""Simulate a dataset in its original layout, with the truth beside the images."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from lenshpc.errors import ConfigError, DataError
from lenshpc.files import flush
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.parallel import Count, Progress, share
from lenshpc.prep.simulation.camera import SceneRenderer
from lenshpc.prep.simulation.counts import Counts
from lenshpc.prep.simulation.darkroom import HaloRenderer
from lenshpc.prep.simulation.difficulty import ease
from lenshpc.prep.simulation.draws import Stream
from lenshpc.prep.simulation.layout import write_sample
from lenshpc.prep.simulation.sample import Simulator
from lenshpc.prep.simulation.survey import Survey
from lenshpc.prep.simulation.truth import join_parts, write_part

_BLOCK = 64  # images that a process makes at a time
_PARTS = ".parts"
_FREED_BYTES = 24 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """Some images of a stream; `place` is the block's in the order of all."""

    place: int
    stream: Stream
    numbers: range


def simulate(
    dataset: Dataset,
    out: Path,
    counts: Counts,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> int:
    """Return the number of images (or pairs) written under `out`, which must not hold anything yet.

    Each depends on the seed, its class, its split and its number alone: neither `workers` nor
    asking for more changes the first ones.
    """
    if dataset.simulate is None:
        raise ConfigError(f"{dataset.name} has no simulator; its file lacks the key simulate")
    blocks = list(_blocks(counts, seed))
    num_images = sum(len(block.numbers) for block in blocks)
    with _new_folder(out) as root:
        for folder in (_PARTS, *(name for split in counts for name in dataset.folders(split))):
            (root / folder).mkdir(parents=True, exist_ok=True)
        work = partial(_make_block, dataset, root)
        share(work, blocks, workers=workers, num_rows=num_images, progress=progress)
        # In the order of the blocks, whichever process made them: truth.csv must not depend on
        # `jobs`.
        join_parts(root / _PARTS, root)
        shutil.rmtree(root / _PARTS)
    return num_images


def simulator(dataset: Dataset) -> Simulator:
    """Return the simulator of a dataset that has one."""
    num_pixels = dataset.image.shape[1]
    if isinstance(dataset.simulate, Survey):
        return SceneRenderer(survey=ease(dataset.simulate), num_pixels=num_pixels)
    assert dataset.simulate is not None  # noqa: S101 - for mypy: the caller has looked
    binning = dataset.target.shape[1] // num_pixels if dataset.target else 1
    return HaloRenderer(settings=dataset.simulate, num_pixels=binning * num_pixels, binning=binning)


def _blocks(counts: Counts, seed: int) -> Iterator[_Block]:
    place = 0
    for split, numbers in counts.items():
        for name, number in numbers.items():
            for first in range(0, number, _BLOCK):
                numbers_here = range(first, min(first + _BLOCK, number))
                yield _Block(place=place, stream=Stream(seed, split, name), numbers=numbers_here)
                place += 1


def _make_block(dataset: Dataset, root: Path, block: _Block, count: Count) -> None:
    make = simulator(dataset).make
    # Until a large block has been freed, glibc gives memory back after every image: half the speed.
    np.empty(_FREED_BYTES, np.uint8)
    known = {}
    with threadpool_limits(1):  # else each process would take all cores for its matrix products
        for number in block.numbers:
            sample = make(block.stream, number)
            identifier = write_sample(root, dataset, block.stream, number, sample)
            known[identifier] = sample
    write_part(root / _PARTS / f"{block.place:09}", known)
    count(len(block.numbers))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` when the block ends well, else vanishes."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
            raise DataError(f"{out} exists and is not an empty folder; use another name")
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(out)
        flush(out.parent)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}; nothing was left behind") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
