"""The members' images: opened, checked, merged block by block.

Shapes: N evaluated rows, n rows of a block, C channels, H by W high-resolution pixels.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.errors import DataError
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.predictions import (
    ENSEMBLE,
    evaluated_rows,
    mask_predicted,
    open_array,
    read_predictions,
)
from lenshpc.run.recipe import is_variant
from lenshpc.store import Store, pixel_scale

BLOCK_BYTES = 24_000_000
CHUNK_ROWS, MAX_BLOCK_ROWS = 32, 1024  # of the merged images; a block is one shard

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Block = slice | Rows


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Images (n, C, H, W): the mean over members, their deviation, and how many there are (n,).

    The mean is NaN where no member covers a row; the deviation where fewer than two do.
    """

    mean: Floats
    std: Floats
    count: npt.NDArray[np.int64]


class ImageSums:
    """Sums over members of images and their squares."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.total, self.square = np.zeros(shape), np.zeros(shape)
        self.count = np.zeros(shape[0], np.int64)

    def add(self, mine: Flags, images: Floats) -> None:
        """Add one member's images of some of the rows."""
        self.total[mine] += images
        # float64 for sums and squares: the members agree so closely that float32 would leave no
        # digit of their spread.
        self.square[mine] += images.astype(np.float64) ** 2
        self.count[mine] += 1

    def join(self, other: "ImageSums") -> None:
        """Add what another sum holds."""
        self.total += other.total
        self.square += other.square
        self.count += other.count

    def stack(self) -> Stack:
        """Return mean and deviation."""
        num = self.count[:, None, None, None].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.total / num
            variance = np.maximum(self.square - num * mean**2, 0) / (num - 1)
        few = self.count < 2
        variance[few] = np.nan
        return Stack(mean=mean.astype(np.float32), std=np.sqrt(variance), count=self.count)


@dataclass(frozen=True, kw_only=True)
class MemberImages:
    """A member's images on disk: the array and which of its places hold the evaluated rows."""

    member: Member
    array: Any
    places: Rows
    test_psnr: float

    def read(self, block: Block) -> tuple[Flags, Floats]:
        """Return which of some evaluated rows the member predicts, and their images."""
        places = self.places[block]
        mine = places >= 0
        ascending, where = np.unique(places[mine], return_inverse=True)
        if not len(ascending):
            return mine, np.empty((0, *self.array.shape[1:]), np.float32)
        first, stop = int(ascending[0]), int(ascending[-1]) + 1
        if stop - first <= 2 * len(ascending):
            return mine, np.asarray(self.array[first:stop])[ascending - first][where]
        return mine, np.asarray(self.array.oindex[ascending])[where]


@dataclass(frozen=True, kw_only=True)
class RunImages:
    """All that is merged: the rows, the store of the pairs, the images of each model's members."""

    rows: pd.DataFrame
    store: Store
    models: Mapping[str, tuple[MemberImages, ...]]

    @property
    def headline(self) -> str:
        """Return the name that stands for the run: the ensemble, or the one model."""
        return ENSEMBLE if len(self.combined) > 1 else next(iter(self.models))

    @property
    def combined(self) -> tuple[str, ...]:
        """Return the models whose mean is the ensemble: those that are no variants."""
        return tuple(model for model in self.models if not is_variant(model))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the (C, H, W) of a high-resolution image."""
        shape = self.store.target_shape
        if shape is None:
            raise DataError(f"{self.store.path} holds no pairs")
        return shape

    @property
    def block_rows(self) -> int:
        """Return how many rows are worked on together, a multiple of a chunk's."""
        chunks = BLOCK_BYTES // (4 * int(np.prod(self.shape)) * CHUNK_ROWS)
        return CHUNK_ROWS * min(max(1, chunks), MAX_BLOCK_ROWS // CHUNK_ROWS)

    def blocks(self) -> Iterator[slice]:
        """Yield the blocks of the evaluated rows, in order."""
        for start in range(0, len(self.rows), self.block_rows):
            yield slice(start, min(start + self.block_rows, len(self.rows)))

    def pairs(self, block: Block) -> tuple[Floats, Floats]:
        """Return low and high resolution of some evaluated rows, in the store's units."""
        rows = self.rows["row"].to_numpy()[block]
        high = self.store.read_raw_targets(rows)
        scale = pixel_scale(high.dtype.name)
        return self.store.read(rows), high.astype(np.float32) * np.float32(scale)

    def merge(self, block: Block) -> dict[str, Stack]:
        """Return the images of each model, and of the ensemble of several, of some rows."""
        num = len(self.rows["row"].to_numpy()[block])
        sums = {}
        for name, members in self.models.items():
            sums[name] = ImageSums((num, *self.shape))
            for one in members:
                sums[name].add(*one.read(block))
        merged = {name: one.stack() for name, one in sums.items()}
        if len(self.combined) > 1:
            mean = np.mean([merged[name].mean for name in self.combined], axis=0)
            together = ImageSums((num, *self.shape))
            for name in self.combined:
                together.join(sums[name])
            merged[ENSEMBLE] = replace(together.stack(), mean=mean)
        return merged


def open_images(
    run: RunPaths,
    plan: Plan,
    splits: pd.DataFrame,
    store: Store,
    missing: Collection[Member] = (),
) -> RunImages:
    """Return the members' images, each checked to have the rows that it must have predicted."""
    rows = evaluated_rows(splits)
    models = {
        model: tuple(_open_member(run, plan, splits, one, rows) for one in members)
        for model, members in plan.ensembles(missing).items()
    }
    return RunImages(rows=rows, store=store, models=models)


def _open_member(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, member: Member, rows: pd.DataFrame
) -> MemberImages:
    frame = read_predictions(run, plan, splits, member, ["psnr"])
    array, order = open_array(run, member, "sr")
    # Only rows that it did not train on, whatever lies in its array.
    places = np.where(mask_predicted(member, rows), order.get_indexer(pd.Index(rows["row"])), -1)
    test_psnr = float(frame.loc[frame["split"] == "test", "psnr"].mean())
    return MemberImages(member=member, array=array, places=places, test_psnr=test_psnr)
