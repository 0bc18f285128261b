"""Where new images come from: a store, or files as `prepare` takes them, without their labels."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.errors import UNREADABLE, DataError, read_error
from lenshpc.prep.bands import (
    band_paths,
    group_by_folder,
    image_file,
    join_path,
    list_objects,
)
from lenshpc.prep.catalogue import join
from lenshpc.prep.content import BROKEN_LINK, access_error
from lenshpc.prep.cutouts import MosaicReader
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import Defect, refusal
from lenshpc.prep.folders import ScanFindings, escape_name
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.labelling import POSITION as DEGREES
from lenshpc.prep.labels import list_stack_rows
from lenshpc.prep.mosaics import MosaicObjects, list_cutouts
from lenshpc.prep.read import SourceReader
from lenshpc.prep.rows import TEXT, file_rows, join_rows, stack_rows
from lenshpc.prep.stacks import count_rows, find_stacks
from lenshpc.prep.tiles import tile_files
from lenshpc.store import Store, open_store

POSITION = ("ra", "dec")  # degrees; columns of the tables where a source has them


@dataclass(frozen=True, kw_only=True)
class ImageBlock:
    """Some rows of a source: ids, pixels (n, C, H, W) as they lie there, and positions.

    `masks` is 1 where bad pixels were filled, None where they are refused. `faults` says what is
    wrong with images that cannot be read, by their place; their pixels are 0.
    """

    rows: range
    ids: NDArray[np.object_]
    pixels: NDArray[Any]
    masks: NDArray[np.uint8] | None
    columns: Mapping[str, NDArray[np.float64]]
    faults: Mapping[int, str] = field(default_factory=dict)

    @property
    def with_gaps(self) -> NDArray[Any]:
        """Return the pixels with NaN where they were filled, for networks that fill themselves."""
        return self.pixels if self.masks is None else np.where(self.masks, np.nan, self.pixels)


class ImageSource(Protocol):
    """Images in a fixed order; `digest` tells two sources apart."""

    @property
    def path(self) -> Path:
        """Return where the images lie."""

    @property
    def num_rows(self) -> int:
        """Return the number of images."""

    @property
    def digest(self) -> str:
        """Return a SHA-256 of what the source holds, or of its files' names, sizes and times."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the names of the channels, in their order."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the pixels."""

    @property
    def told(self) -> tuple[str, ...]:
        """Return what is worth knowing of the source, a line each."""

    def read(self, rows: range) -> ImageBlock:
        """Return some rows."""


@dataclass(frozen=True)
class StoreSource:
    """The rows of a store, whatever their split and label."""

    store: Store
    told: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Return where the store lies."""
        return self.store.path

    @property
    def num_rows(self) -> int:
        """Return the number of images."""
        return self.store.num_rows

    @property
    def digest(self) -> str:
        """Return the store's content hash."""
        return self.store.content_hash

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the names of the channels."""
        return self.store.channels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        return self.store.image_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the pixels."""
        return self.store.dtype

    def read(self, rows: range) -> ImageBlock:
        """Return some rows."""
        some = slice(rows.start, rows.stop)
        known = _find_position(self.store.columns)
        return ImageBlock(
            rows=rows,
            ids=self.store.text("id", some).to_numpy(zero_copy_only=False),
            pixels=self.store.read_raw(some),
            masks=None if self.store.masks is None else self.store.read_masks(some),
            columns={name: self.store.column(place, some) for name, place in known.items()},
        )


@dataclass(frozen=True)
class FileSource:
    """Images in files of a folder and of those in it, in the order of their names."""

    path: Path
    dataset: Dataset
    num_threads: ClassVar[int] = 4

    @property
    def num_rows(self) -> int:
        """Return the number of images."""
        return int(self._sources.num_rows)

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of names, sizes and times; the files are not read for it."""
        files = [_identify(self.path, name) for name in self._files]
        told = json.dumps([files, self.dataset.image.model_dump(mode="json")])
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the names of the channels, as the dataset file has them."""
        return self.dataset.image.channels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        return self.dataset.image.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the pixels."""
        return np.dtype(self.dataset.image.dtype)

    def read(self, rows: range) -> ImageBlock:
        """Return some rows; DataError where the system does not hand out a file."""
        sources = self._sources.slice(rows.start, len(rows))
        step = -(-len(rows) // self.num_threads) or 1
        parts = [sources.slice(start, step) for start in range(0, len(rows), step)]
        with ThreadPoolExecutor(self.num_threads) as pool:
            blocks = list(pool.map(self._reader.read, parts))
        faults = {
            part * step + defect.at: defect
            for part, block in enumerate(blocks)
            for defect in block.defects
        }
        for defect in faults.values():
            # What the system does not hand out says nothing of the image: the command stops, and
            # goes on from here once it does.
            if defect.cause in {UNREADABLE, BROKEN_LINK}:
                raise DataError(defect.error)
        return ImageBlock(
            rows=rows,
            ids=sources["id"].to_numpy(),
            pixels=np.concatenate([block.pixels for block in blocks]),
            masks=_join_masks([block.masks for block in blocks]),
            columns={name: sources[place].to_numpy() for name, place in self._known.items()},
            faults={at: defect.error for at, defect in faults.items()},
        )

    @property
    def _files(self) -> list[str]:
        names: list[str] = self._sources["file"].unique().to_pylist()
        return [path for name in names for path in band_paths(name, self.dataset.image)]

    @cached_property
    def _known(self) -> dict[str, str]:
        found, rows = _find_position(self._sources.column_names), self._sources
        return {a: b for a, b in found.items() if not np.isnan(rows[b].to_numpy()).all()}

    @cached_property
    def _reader(self) -> SourceReader:
        if not self.dataset.image.is_stack:
            return SourceReader(self.dataset, self.path)
        scratch = Path(mkdtemp(prefix="lenshpc-predict-"))
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        return SourceReader(self.dataset, self.path, scratch=scratch)

    @property
    def told(self) -> tuple[str, ...]:
        """Return how many images tables name."""
        return self._scanned[1]

    @property
    def _sources(self) -> pa.Table:
        return self._scanned[0]

    @cached_property
    def _scanned(self) -> tuple[pa.Table, tuple[str, ...]]:
        """Return the rows, in their order, and what is worth knowing of them."""
        image, stacks = self.dataset.image, _list_named_stacks(self.path, self.dataset)
        if stacks is not None:
            return join(self.path, self.dataset, stacks)
        tables = self.dataset.tables
        files = sorted(set(_walk(self.path, image.suffixes)) - tables)
        if not files:
            raise DataError(
                f"{self.path} holds no {' '.join(image.suffixes)} files; give a store, a folder of "
                "such images, or the file of another format as --dataset"
            )
        if image.bands:
            rows = _object_rows(files, image)
        elif not image.is_stack:
            rows = file_rows(pa.array(files, TEXT), None, label=0)
        else:
            counts = [count_rows(f"{self.path}/{file}", image) for file in files]
            found = zip(files, counts, strict=True)
            rows = join_rows([stack_rows(file, num, label=0) for file, num in found])
        return join(self.path, self.dataset, rows)


@dataclass(frozen=True)
class MosaicSource(FileSource):
    """The objects of a catalogue in mosaics, tile by tile; each is cut when it is read."""

    # One, since it goes through a tile from the top to the bottom.
    num_threads: ClassVar[int] = 1

    @property
    def _files(self) -> list[str]:
        tiles = self._objects.plan.rows
        files = [file for tile in tiles for file in tile_files(self.dataset, tile)]
        return [*sorted(self.dataset.tables), *files]

    @cached_property
    def _reader(self) -> SourceReader:
        return MosaicReader(self.dataset, self.path, self._objects.plan)

    @cached_property
    def _scanned(self) -> tuple[pa.Table, tuple[str, ...]]:
        objects, num = self._objects, self._objects.outside.num_rows
        table, told = join(self.path, self.dataset, objects.table)
        outside = (f"{num} objects lie outside of all tiles and are left out",) if num else ()
        return table, (*objects.told, *outside, *told)

    @cached_property
    def _objects(self) -> MosaicObjects:
        return list_cutouts(self.path, self.dataset)


def _list_named_stacks(root: Path, dataset: Dataset) -> pa.Table | None:
    """Return the rows of the stacks that a dataset file names; None where none of them is there."""
    there = [entry for entry in dataset.stacks if find_stacks(root, entry.file)]
    if not there:
        return None
    given = dataset.model_copy(update={"stacks": tuple(there)})
    return list_stack_rows(root, given, ScanFindings())


def _object_rows(files: list[str], image: ImageFormat) -> pa.Table:
    """Return a row for each object of several files, one a band, folder by folder."""
    ids, paths, defects = [], [], list[Defect]()
    for folder, names in sorted(group_by_folder(files, image).items()):
        objects = list_objects(folder, names, image)
        defects += objects.defects
        ids += [join_path(folder, name) for name in objects.names]
        paths += [image_file(folder, name, image) for name in objects.names]
    if defects:
        raise refusal(defects)
    return file_rows(pa.array(paths, TEXT), ids=pa.array(ids, TEXT), label=0)


def _find_position(columns: Collection[str]) -> dict[str, str]:
    """Return column of a table → column of a source that has it."""
    pairs = zip(POSITION, DEGREES, strict=True)
    found = {name: place if place in columns else name for name, place in pairs}
    return {name: place for name, place in found.items() if place in columns}


def _join_masks(masks: Sequence[NDArray[np.uint8] | None]) -> NDArray[np.uint8] | None:
    found = [mask for mask in masks if mask is not None]
    return np.concatenate(found) if found else None


def _identify(root: Path, name: str) -> tuple[str, int, int]:
    """Return what tells a file from another of its name: size, and second of the last change.

    Arrays have one size whatever is in them, so the size alone would pass files that were made
    anew, in other units say.
    """
    try:
        found = (root / name).stat()
    except OSError as error:
        raise access_error(str(root / name), error) from error
    return name, found.st_size, int(found.st_mtime)


def _walk(root: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the files with these endings below a folder; hidden ones do not count."""

    def refuse(error: OSError) -> None:
        raise read_error(error.filename or root, error) from error

    for folder, inner, names in os.walk(root, onerror=refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or not name.lower().endswith(suffixes):
                continue
            file = os.path.relpath(os.path.join(folder, name), root)  # noqa: PTH118 - ten times as fast
            if not file.isprintable():
                raise DataError(f"cannot use the file name {escape_name(file)}; rename it")
            yield file


def is_store(path: Path) -> bool:
    """Say whether a folder is a store, not one of images."""
    return (path / "zarr.json").exists()


def open_source(path: Path, dataset: Dataset | None) -> ImageSource:
    """Return the images of a store (`dataset` None), or of files in any folders, as it has them."""
    if dataset is None:
        return StoreSource(open_store(path))
    if not path.is_dir():
        raise DataError(f"{path} is neither a store nor a folder of images; give one of these")
    # Neither labels nor targets, whatever the dataset file says of them.
    alone = {"target": None, "holdout": None, "unlabelled": None}
    plain = dataset.classes[0].model_copy(update={"pickled": None})
    unnamed = {"label": None, "split": None, "group": None}
    stacks = tuple(
        one.model_copy(update={"split": "test", "arrays": one.arrays.model_copy(update=unnamed)})
        for one in dataset.stacks
    )
    table = dataset.catalogue
    if table and os.path.lexists(path / table.file):
        # It may know the positions of some.
        changed = {**unnamed, "columns": (), "unmatched": "unlabelled"}
        table = table.model_copy(update=changed)
    else:
        table = None
    changes = {**alone, "classes": (plain,), "stacks": stacks, "catalogue": table}
    if dataset.mosaics and dataset.catalogue and table is None:
        raise DataError(
            f"{path} has no catalogue {dataset.catalogue.file} of the objects to cut from "
            "mosaics; add it, or describe the files with --dataset"
        )
    kind = MosaicSource if dataset.mosaics else FileSource
    return kind(path, dataset.model_copy(update=changes))
