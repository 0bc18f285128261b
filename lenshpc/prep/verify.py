"""Prove that a store is what was written and, where the sources still lie, what was read."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.cutouts import begin_stacks, open_reader
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import (
    Defect,
    RefusedError,
    ShardLists,
    list_path,
    refusal,
    remove_list,
)
from lenshpc.prep.parallel import Count, Progress, share
from lenshpc.prep.read import SourceReader, block_rows
from lenshpc.prep.rules import order_rows
from lenshpc.prep.scan import scan
from lenshpc.store import Store, open_store
from lenshpc.store.identity import RowTally, pixel_hashes, sum_sources
from lenshpc.store.layout import SPLITS, count_filled, damage_error, pixel_moments
from lenshpc.store.planned import PlannedRows

_PLANNED = ("id", "label", "split", "group")


def verify(
    path: Path,
    *,
    against: Path | None = None,
    allow_pickle: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Store:
    """Return the store at `path` if every hash holds and every pixel equals its source's bits.

    All that was computed from pixels is computed again: each row's hash and moments, statistics,
    counts, and the content hash.
    """
    store = open_store(path)
    store.stored.check_files()
    _check_derived(store)
    with TemporaryDirectory(prefix="lenshpc-verify-") as name:
        work = _Verification(path, against, allow_pickle, Path(name))
        if against:
            work.plan(store, against, workers)
        shards = range(store.num_shards)
        share(work, shards, workers=workers, num_rows=store.num_rows, progress=progress)
        _refuse(path, lambda: work.refused.read(shards))
    with suppress(OSError):  # where stores are kept, nobody may write
        remove_list(path)
    return store


def _refuse(path: Path, read: Callable[[], Iterable[Defect]]) -> None:
    """Raise with all defects that are read, listed beside the store if that can be written."""
    if any(True for _ in read()):
        told, remedy = f"are not as {path} has them", "prepare under another name"
        try:
            raise refusal(read(), list_path(path), told=told, remedy=remedy)
        except OSError:
            raise refusal(read(), told=told, remedy=remedy) from None


def _have_rows(store: Store, table: pa.Table, order: NDArray[np.uint32]) -> bool:
    """Tell whether some rows in their order are those of a store."""
    if len(order) != store.num_rows:
        return False
    done = 0
    for block in store.blocks(*_PLANNED):
        rows = table.take(order[done : done + len(block["id"])])
        done += rows.num_rows
        if any(rows[name].combine_chunks() != pa.array(block[name]) for name in _PLANNED):
            return False
    return True


def _compare_rows(store: Store, table: pa.Table, root: Path) -> Iterator[Defect]:
    """Yield what differs between the rows of a store and those of a source folder, by their ids."""
    columns = {name: pa.array(store.column(name)) for name in ("label", "split")}
    columns |= {name: store.text(name) for name in ("id", "group")}
    kept = pa.table(columns).to_pandas()
    both = kept.merge(table.select(_PLANNED).to_pandas(), "outer", "id", indicator="where")
    for row in both.to_dict("records"):
        if row["where"] != "both":
            places = (store.path, root) if row["where"] == "left_only" else (root, store.path)
            told, cause = f"is in {places[0]}, but not in {places[1]}", "in one of the two only"
        else:
            ours, theirs = (
                (int(row[f"label_{side}"]), SPLITS[int(row[f"split_{side}"])], row[f"group_{side}"])
                for side in ("x", "y")
            )
            if ours == theirs:
                continue
            told = f"is {ours} in {store.path}, {theirs} in {root}"
            cause = "of another label, split or group"
        line = f"{row['id']} {told}; prepare under another name"
        yield Defect(path=row["id"], cause=cause, error=line)


def _check_derived(store: Store) -> None:
    """Raise unless the store's attributes follow from its columns, and no file is a stranger."""
    tally, brightest = RowTally(store.classes), 0.0
    for block in store.blocks(*store.row_columns):
        tally.add(block, sum_sources(block["id"], block["size"], block["sha256"]))
        brightest = max(brightest, float(np.sqrt(block["moments"][..., 1].max())))
    for name, found in tally.summary().items():
        kept = store.attributes[name]
        if found != kept and not _is_close(found, kept, brightest):
            raise damage_error(store.path, f"{name} is {kept}, its rows give {found}")
    if tally.content_hash(store.attributes) != store.content_hash:
        raise damage_error(store.path, "the content hash is not that of its columns")
    strangers = store.strangers()
    if strangers:
        raise DataError(
            f"{strangers[0]} does not belong to the store {store.path}, nor do "
            f"{len(strangers) - 1} more; move them elsewhere"
        )


def _is_close(found: Any, kept: Any, brightest: float) -> bool:
    """Return whether statistics agree; another processor may sum in another order."""
    if not isinstance(kept, list):
        return False
    # A deviation near 0 is a difference of large numbers.
    return np.allclose(found, kept, 1e-6, 1e-7 * brightest, equal_nan=True)


def _dataset(store: Store) -> Dataset:
    return Dataset.model_validate(store.attributes["source"])


@dataclass(frozen=True)
class _Verification:
    """The work of one process."""

    path: Path
    root: Path | None
    allow_pickle: bool
    scratch: Path

    def plan(self, store: Store, root: Path, workers: int) -> None:
        """Keep the source of each row; raise unless the folder gives just the rows of the store."""
        try:
            sources = scan(root, _dataset(store))
        except RefusedError as error:
            defects = error.defects
            _refuse(self.path, lambda: defects)
            raise
        table = sources.table
        order = order_rows(table, store.attributes["seed"])
        if not _have_rows(store, table, order):
            _refuse(self.path, lambda: _compare_rows(store, table, root))
        PlannedRows(table, order, store.shard_rows).write(self._planned)
        if sources.mosaics:
            stacks = begin_stacks(self.scratch, root, _dataset(store), sources.mosaics.plan)
            stacks.make(stacks.missing(), workers=workers)

    @property
    def refused(self) -> ShardLists:
        """Return the lists of sources that are not as the store has them."""
        return ShardLists(self.scratch / "refused")

    def __call__(self, shard: int, count: Count) -> None:
        self._store.check_shard(shard)
        first, step = shard * self._store.shard_rows, self._block_rows
        end = min(self._store.num_rows, first + self._store.shard_rows)
        sources = self._sources.read_row_group(shard) if self._sources else None
        defects: list[Defect] = []
        for start in range(first, end, step):
            rows = slice(start, min(start + step, end))
            pixels = self._read_pixels(rows)
            self._check_computed(rows, pixels)
            if sources is not None:
                planned = sources.slice(start - first, step)
                defects += self._compare_sources(rows, pixels, planned)
            count(rows.stop - rows.start)
        self.refused.write(shard, defects)

    def _read_pixels(self, rows: slice) -> dict[str, NDArray[Any]]:
        """Decode some rows, which checks each chunk's crc32c."""
        pixels = {"images": self._store.read_raw(rows)}
        if self._store.targets is not None:
            pixels["targets"] = self._store.read_raw_targets(rows)
        if self._store.masks is not None:
            pixels["masks"] = self._store.read_masks(rows)
        return pixels

    def _check_computed(self, rows: slice, pixels: Mapping[str, NDArray[Any]]) -> None:
        """Raise unless hashes and moments of some rows are those of their decoded pixels."""
        moments = pixel_moments(pixels["images"], self._store.scale)
        same = (pixel_hashes(pixels) == self._store.column("pixel_sha256", rows)).all(axis=1)
        # Not bit for bit: another processor may sum in another order.
        room = 1e-9 * np.sqrt(moments[..., 1:])
        same &= np.isclose(moments, self._store.column("moments", rows), 1e-9, room).all(
            axis=(1, 2)
        )
        if "masks" in pixels:
            num_filled = self._store.column("num_filled", rows)
            same &= (count_filled(pixels["masks"]) == num_filled).all(axis=1)
        if not same.all():
            name = self._store.text("id", rows)[int(same.argmin())]
            raise damage_error(self.path, f"{name} has not the pixels, or moments, of its row")

    def _compare_sources(
        self, rows: slice, pixels: Mapping[str, NDArray[Any]], sources: pa.Table
    ) -> Iterator[Defect]:
        """Yield which sources of some rows are not as the store has them."""
        found = self._reader.read(sources)
        yield from found.defects
        same = np.ones(len(found.sha256), bool)
        for name, array in found.arrays.items():
            same &= _equal_bits(array, pixels[name])
        for place, name in enumerate(self._store.columns):
            ours, theirs = found.values[:, place], self._store.column(name, rows)
            same &= (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        # The file first: where that is another one, its pixels would differ too, and say less.
        is_known = (found.sha256 == self._store.column("sha256", rows)).all(axis=1)
        for at in np.flatnonzero(~(same & is_known)).tolist():
            if any(at == defect.at for defect in found.defects):
                continue
            name, file = (sources[column][at].as_py() for column in ("id", "file"))
            told, cause = f"{name} in {self.path} differs from its source", "different"
            if not is_known[at]:
                told, cause = f"{file} is not the file that was prepared", "another file"
            yield Defect(path=name, cause=cause, error=f"{told}; prepare under another name")

    @cached_property
    def _store(self) -> Store:
        return open_store(self.path)

    @property
    def _planned(self) -> Path:
        return self.scratch / "rows.parquet"

    @cached_property
    def _sources(self) -> pq.ParquetFile | None:
        return pq.ParquetFile(self._planned) if self.root else None

    @cached_property
    def _block_rows(self) -> int:
        """Return how many rows are compared at once: whole chunks."""
        row_bytes = sum(
            math.prod(a.shape[1:]) * a.dtype.itemsize for a in self._store.arrays.values()
        )
        return block_rows(self._store.chunk_rows, row_bytes)

    @cached_property
    def _reader(self) -> SourceReader:
        assert self.root is not None  # noqa: S101 - for mypy: there are sources
        dataset = _dataset(self._store)
        return open_reader(dataset, self.root, self.scratch, allow_pickle=self.allow_pickle)


def _equal_bits(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows agree in each bit: -0.0 is not 0.0."""
    first, second = (
        np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8) for rows in (one, other)
    )
    same: NDArray[np.bool_] = (first == second).all(axis=1)
    return same
